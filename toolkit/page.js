"use strict";
// What results.html does. All names and values are data of others: they become text nodes, never markup.
(() => {
const byId = id => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const { columns, rows, picture } = data;
const ROW_HEIGHT = 34, SPARE_ROWS = 10, PICK_WIDTH = 40, MOST_CHOSEN = 16, MOST_DOTS = 6000, MOST_LINES = 1000, SHADES = 12;
const coarse = matchMedia("(pointer: coarse)").matches;  // a finger, which scrolls the page and draws no boxes
const PALETTES = {
    light: ["#1f5fc4", "#d55e00", "#00825f", "#a3417f", "#8a6d00", "#007fa6", "#7a4fd0", "#6b7280"],
    dark: ["#7fb0ff", "#ff9d57", "#3fd0a4", "#f08cc8", "#e3c34a", "#56c8f0", "#b79bff", "#a9b3c1"],
};
const state = {
    order: [],          // numbers of the rows that are shown, sorted
    sort: { column: columns.findIndex(column => column.name === data.metric), sign: data.mode === "max" ? -1 : 1 },
    kept: new Set(),    // what the filter keeps
    ranges: new Map(),  // of the parallel coordinates: number of an axis -> [low, high]
    chosen: new Map(),  // number of a row -> place in the palette
    current: 0,         // the row that the keys act on
    shown: null,        // the row with its details shown
    renderedAt: 0,      // where the table was scrolled to when its rows were made
};

// ---- small things

function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
        if (name in element) element[name] = value;
        else element.setAttribute(name, value);
    }
    element.append(...children.filter(child => child !== null).map(child => child instanceof Node ? child : String(child)));
    return element;
}

const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const escaped = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");  // for Plotly's labels
const shorten = (text, longest) => text.length <= longest ? text : `${text.slice(0, longest >> 1)}…${text.slice(-((longest - 1) >> 1))}`;
const nameOf = i => rows[i].cells[0];
const STATUS = columns.findIndex(column => column.kind === "status"), statusOf = i => rows[i].cells[STATUS];
const colorOf = i => PALETTES[document.documentElement.dataset.theme][state.chosen.get(i) % 8];

function numberOf(value) {  // NaN and the infinities are texts in JSON
    return typeof value === "number" ? value : ["NaN", "Infinity", "-Infinity"].includes(value) ? Number(value) : undefined;
}

function textOf(value, kind) {
    const number = numberOf(value);
    if (value === null || value === undefined) return "–";
    if (number === undefined) return String(value);
    if (kind === "metric") return number.toFixed(4);
    if (Number.isInteger(number)) return String(number);
    return Math.abs(number) < 1e-4 ? String(Number(number.toPrecision(4)).toExponential()) : String(Number(number.toPrecision(4)));
}

function tableOf(headers, lines, numeric = []) {
    const cell = (tag, value, c) => {
        const text = value instanceof Node ? value : textOf(value);
        return make(tag, { className: numeric.includes(c) ? "number" : "", title: value instanceof Node ? "" : String(value ?? "") }, text);
    };
    return make("div", { className: "box" }, make("table", { className: "plain" },
        make("thead", {}, make("tr", {}, ...headers.map((header, c) => cell("th", header, c)))),
        make("tbody", {}, ...lines.map(line => make("tr", {}, ...line.map((value, c) => cell("td", value, c)))))));
}

// ---- the table: sorted, filtered, and only those rows are in the page that can be seen

const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

function compareValues(a, b, sign) {  // numbers, texts, not-a-numbers, missing ones: in this order, whatever the direction
    const x = numberOf(a), y = numberOf(b);
    const rank = (value, number) => value === null ? 3 : number === undefined ? 1 : Number.isNaN(number) ? 2 : 0;
    const ranks = rank(a, x) - rank(b, y);
    if (ranks || rank(a, x) > 1) return ranks;
    return sign * (x === undefined ? collator.compare(a, b) : x < y ? -1 : x > y ? 1 : 0);
}

function parseFilter(text) {  // a list of functions of a row's number; throws what is to be said
    return (text.match(/(?:[^\s"]|"[^"]*"?)+/g) || []).map(term => {
        const parts = term.match(/^("[^"]*"|[^"<>=!]+)(<=|>=|!=|=|<|>)(.*)$/);
        const plain = (parts ? parts[3] : term).replaceAll('"', "").toLowerCase();
        if (!parts) return i => rowText(i).includes(plain);
        const name = parts[1].replaceAll('"', ""), sign = parts[2];
        let column = columns.findIndex(one => one.name === name);
        if (column < 0) column = columns.findIndex(one => one.name.toLowerCase() === name.toLowerCase());
        if (column < 0) throw `no column “${name}”; there are ${columns.map(one => one.name).join(", ")}`;
        const number = plain.trim() === "" ? NaN : Number(plain);
        if (sign === "=" || sign === "!=") {
            const equal = value => value === null ? plain === "-" || plain === "–" : numberOf(value) === undefined || Number.isNaN(number)
                ? String(value).toLowerCase() === plain : numberOf(value) === number;
            return i => equal(rows[i].cells[column]) === (sign === "=");
        }
        if (Number.isNaN(number)) throw `${name}${sign}: a number has to follow`;
        const test = { "<": x => x < number, "<=": x => x <= number, ">": x => x > number, ">=": x => x >= number }[sign];
        return i => test(numberOf(rows[i].cells[column]) ?? NaN);
    });
}

function rowText(i) {
    return rows[i].text ??= rows[i].cells.map(value => value === null ? "-" : value).join("\n").toLowerCase();
}

function filter() {
    const field = byId("filter"), count = byId("count");
    let tests;
    try {
        tests = parseFilter(field.value);
    } catch (problem) {
        if (typeof problem !== "string") throw problem;
        count.textContent = problem;
        count.className = "error";
        field.setAttribute("aria-invalid", "true");
        return;
    }
    field.removeAttribute("aria-invalid");
    state.kept = new Set([...rows.keys()].filter(i => tests.every(test => test(i))));
    arrange();
    redraw("panels", "parallel");
}

function passes(i) {  // the ranges of the parallel coordinates
    if (!state.ranges.size) return true;
    const place = places.get(i), at = a => picture.axes[a].fractions[place];
    return place !== undefined && [...state.ranges].every(([a, [low, high]]) => at(a) >= low && at(a) <= high);
}

function arrange() {
    const { column, sign } = state.sort;
    state.order = [...state.kept].filter(passes);
    state.order.sort((a, b) => compareValues(rows[a].cells[column] ?? null, rows[b].cells[column] ?? null, sign) || a - b);
    if (!state.order.includes(state.current)) state.current = state.order[0] ?? 0;
    byId("count").className = "muted";
    byId("count").textContent = state.order.length === rows.length ? `${rows.length.toLocaleString("en")} rows`
        : `${state.order.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
    byId("table").setAttribute("aria-rowcount", state.order.length + 1);
    byId("table").querySelectorAll("thead th[data-column]").forEach(header => {
        const mine = Number(header.dataset.column) === column;
        header.setAttribute("aria-sort", mine ? (sign < 0 ? "descending" : "ascending") : "none");
        header.querySelector("span").textContent = mine ? (sign < 0 ? " ↓" : " ↑") : "";
    });
    byId("box").scrollTop = 0;
    render();
}

function sortBy(column) {
    const first = columns[column].mode === "max" ? -1 : 1;
    state.sort = { column, sign: state.sort.column === column ? -state.sort.sign : first };
    arrange();
}

function makeHeader() {
    const table = byId("table");
    const pen = document.createElement("canvas").getContext("2d"), wide = matchMedia("(min-width: 760px)").matches;
    pen.font = `600 ${getComputedStyle(table).fontSize} ${getComputedStyle(table).fontFamily}`;
    const widths = columns.map((column, c) => {
        const texts = [`${column.name} ↓`, ...rows.map((row, i) => textOf(row.cells[c], column.kind) + spreadOf(row, column) + (i === data.best && !c ? "★ " : ""))];
        const longest = texts.reduce((most, text) => text.length > most.length ? text : most);
        return Math.min(pen.measureText(longest).width + 30, c ? 260 : wide ? 420 : 190);
    });
    const width = widths.reduce((sum, one) => sum + one, PICK_WIDTH);
    table.style.minWidth = `${width}px`;
    table.querySelector("colgroup").append(make("col", { style: `width: ${PICK_WIDTH}px` }),
        ...widths.map((one, c) => make("col", { style: c === 0 && wide ? "" : `width: ${one}px` })));
    table.querySelector("thead").append(make("tr", { "aria-rowindex": 1 }, make("th", { className: "pick", scope: "col", "aria-label": "chosen" }),
        ...columns.map((column, c) => make("th", { className: classOf(column), scope: "col", "data-column": c },
            make("button", { type: "button", title: column.name, onclick: () => sortBy(c) }, column.name, make("span", {}))))));
}

const classOf = column => column.kind === "name" ? "name" : column.numeric ? "number" : "";

function spreadOf(row, column) {
    const spread = row.spreads && Object.hasOwn(row.spreads, column.name) ? row.spreads[column.name] : null;
    return spread === null || column.kind !== "metric" ? "" : typeof spread === "number" ? ` ± ${spread.toFixed(4)}`
        : ` (${spread.map(end => textOf(end, "metric")).join("–")})`;
}

function makeRow(i, position) {
    const row = rows[i], chosen = state.chosen.has(i);
    const box = make("input", { type: "checkbox", tabIndex: -1, checked: chosen, "aria-label": `choose ${nameOf(i)}` });
    if (chosen) box.style.accentColor = colorOf(i);
    const element = make("tr", { id: `row-${i}`, className: (chosen ? "chosen " : "") + (i === state.current ? "current" : ""),
        "aria-rowindex": position + 2, "aria-selected": chosen }, make("td", { className: "pick" }, box));
    columns.forEach((column, c) => {
        const text = textOf(row.cells[c], column.kind), spread = spreadOf(row, column);
        const cell = make("td", { className: classOf(column), title: c === 0 ? "" : text + spread }, text);
        if (c === 0 && i === data.best) cell.prepend(make("span", { className: "best", title: "the best that is finished" }, "★ "));
        if (column.kind === "status" && text !== "finished") cell.classList.add(text === "failed" ? "failed" : "muted");
        if (spread) cell.append(make("span", { className: "spread" }, spread));
        element.append(cell);
    });
    return element;
}

function render(everything = false) {
    const box = byId("box"), count = state.order.length;
    const first = everything ? 0 : Math.max(0, Math.floor(box.scrollTop / ROW_HEIGHT) - SPARE_ROWS);
    const last = everything ? count : Math.min(count, first + Math.ceil(box.clientHeight / ROW_HEIGHT) + 2 * SPARE_ROWS);
    state.renderedAt = box.scrollTop;
    const gap = height => make("tr", { className: "gap", "aria-hidden": true }, make("td", { colSpan: columns.length + 1, style: `height: ${height}px` }));
    byId("table").tBodies[0].replaceChildren(gap(first * ROW_HEIGHT),
        ...state.order.slice(first, last).map((i, k) => makeRow(i, first + k)), gap((count - last) * ROW_HEIGHT));
    box.setAttribute("aria-activedescendant", `row-${state.current}`);
}

function moveTo(position) {
    if (!state.order.length) return;
    const at = Math.max(0, Math.min(state.order.length - 1, position)), box = byId("box"), head = byId("table").tHead.offsetHeight;
    state.current = state.order[at];
    if (at * ROW_HEIGHT < box.scrollTop) box.scrollTop = at * ROW_HEIGHT;
    if ((at + 1) * ROW_HEIGHT + head > box.scrollTop + box.clientHeight - 16)
        box.scrollTop = (at + 1) * ROW_HEIGHT + head - box.clientHeight + 16;
    render();
    const place = byId(`row-${state.current}`).getBoundingClientRect();
    peek(state.current, Math.min(place.right, innerWidth) - 340, place.bottom);
}

// ---- the choice

function choose(i, on = !state.chosen.has(i)) {
    if (on && !state.chosen.has(i)) {
        if (state.chosen.size >= MOST_CHOSEN) return;
        const taken = [...state.chosen.values()];
        state.chosen.set(i, [...Array(MOST_CHOSEN).keys()].find(place => !taken.includes(place)));
    } else if (!on) state.chosen.delete(i);
    showChoice();
}

function showChoice() {
    byId("chips").replaceChildren(...[...state.chosen.keys()].map(i => {
        const swatch = make("span", { className: "swatch" });
        swatch.style.background = colorOf(i);
        return make("button", { className: "chip", type: "button", title: `${nameOf(i)}: choose no longer`, onclick: () => choose(i, false) },
            swatch, make("span", {}, nameOf(i)));
    }));
    if (!state.chosen.size) byId("chips").append(make("span", { className: "muted" }, "No row is chosen."));
    if (state.chosen.size >= MOST_CHOSEN) byId("chips").append(make("span", { className: "muted" }, `${MOST_CHOSEN} at most.`));
    byId("compare-button").disabled = state.chosen.size < 2;
    byId("clear").disabled = !state.chosen.size;
    render();
    redraw("curves", "panels");
}

function clearChoice() {
    state.chosen.clear();
    showChoice();
}

// ---- a small picture of the curve of a row under the pointer

function peek(i, x, y) {
    const panel = byId("peek"), curves = rows[i].curves, lines = curves ? [0, 1].map(s => curves.values[s] || []) : [];
    const values = lines.flat().filter(value => typeof value === "number");
    panel.replaceChildren(make("div", { className: "wide" }, nameOf(i)));
    if (values.length) {
        const low = Math.min(...values), high = Math.max(...values), NS = "http://www.w3.org/2000/svg";
        const svg = document.createElementNS(NS, "svg");
        svg.setAttribute("viewBox", "-1 -2 202 104");
        svg.setAttribute("preserveAspectRatio", "none");
        for (const line of lines) {
            const path = document.createElementNS(NS, "path");
            const points = line.map((value, k) => [200 * k / Math.max(line.length - 1, 1), 100 - 100 * (value - low) / (high - low || 1)]);
            path.setAttribute("d", points.filter(point => Number.isFinite(point[1])).map((point, k) => (k ? "L" : "M") + point.join(" ")).join(""));
            svg.append(path);
        }
        panel.append(svg, make("div", { className: "muted" },
            `${data.series[0]} (dashed: train), ${textOf(low)} to ${textOf(high)}, ${curves.epochs} epochs`));
    } else panel.append(make("div", { className: "muted" }, rows[i].why || "no learning curve"));
    panel.hidden = false;
    panel.style.left = `${Math.max(8, Math.min(x + 18, innerWidth - 300))}px`;
    panel.style.top = `${y + 20 + panel.offsetHeight > innerHeight ? y - 44 - panel.offsetHeight : y + 14}px`;
}

// ---- charts: drawn when they come into view, by a library that is unpacked when the first one does

const places = new Map(picture.rows.map((i, place) => [i, place]));
const charts = { curves: { draw: drawCurves }, panels: { draw: drawPanels }, parallel: { draw: drawParallel }, confusion: { draw: drawConfusion } };
let library = null, timer = 0;

function loadLibrary() {
    return library ??= (async () => {
        const bytes = Uint8Array.from(atob(byId("plotly").textContent), letter => letter.charCodeAt(0));
        const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
        document.head.append(make("script", { textContent: text }));
    })();
}

function redraw(...names) {
    for (const name of names) charts[name].due = true;
    clearTimeout(timer);
    timer = setTimeout(drawDue, 120);
}

async function drawDue() {
    const due = Object.values(charts).filter(chart => chart.due && chart.near);
    if (!due.length) return;
    try {
        await loadLibrary();
    } catch (problem) {
        byId("curves-note").textContent = `The charts cannot be drawn by this browser: ${problem}`;
        return;
    }
    for (const chart of due.filter(chart => chart.due)) {
        chart.due = false;
        chart.drawn = true;
        chart.draw();
        await new Promise(resolve => setTimeout(resolve));  // keys and clicks in between
    }
}

const watcher = new IntersectionObserver(entries => {
    for (const entry of entries) charts[entry.target.id].near = entry.isIntersecting;
    drawDue();
}, { rootMargin: "150px" });

const axisStyle = more => ({ gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--line"), zeroline: false, automargin: true, ...more });

async function plot(id, traces, layout, handlers = {}) {
    const font = { color: css("--text"), family: "system-ui, sans-serif", size: 12 };
    const chart = await Plotly.react(id, traces, {
        width: byId(id).clientWidth, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font, showlegend: false, margin: { l: 60, r: 12, t: 10, b: 46 },
        hoverlabel: { bgcolor: css("--raised"), bordercolor: css("--line"), font }, modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--muted"), activecolor: css("--text") }, hovermode: "closest", dragmode: coarse ? false : "zoom", ...layout,
    }, { displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]], displayModeBar: coarse ? false : "hover" });
    for (const [event, handler] of Object.entries(handlers)) {
        chart.removeAllListeners(event);
        chart.on(event, handler);
    }
}

const spansOrders = values => values.length > 0 && Math.min(...values) > 0 && Math.max(...values) >= 100 * Math.min(...values);

function drawCurves() {
    const wanted = byId("series").value, traces = [];
    const chosen = [...state.chosen.keys()], having = chosen.filter(i => rows[i].curves);
    for (const i of having) for (const part of ["val", "train"]) {
        const values = rows[i].curves.values[data.series.indexOf(`${part}_${wanted}`)] || [], { epochs } = rows[i].curves;
        traces.push({
            type: "scatter", mode: values.length === 1 ? "markers" : "lines", y: values.map(value => typeof value === "number" ? value : null),
            x: values.map((_, k) => Math.floor(k * (epochs - 1) / Math.max(values.length - 1, 1)) + 1),
            line: { color: colorOf(i), width: part === "val" ? 2 : 1.2, dash: part === "train" ? "dot" : state.chosen.get(i) < 8 ? "solid" : "dash" },
            text: escaped(`${shorten(nameOf(i), 60)}, ${part}`), hovertemplate: "%{text}<br>epoch %{x}: %{y:.4g}<extra></extra>",
        });
    }
    const missing = chosen.length - having.length;
    byId("curves-note").textContent = !chosen.length ? "Choose rows of the table to see their curves."
        : `Of the rows that are chosen, validation as a line, training dotted${missing ? `; ${missing} without a curve in this file` : ""}.`;
    plot("curves", traces, {
        xaxis: axisStyle({ title: { text: "epoch" }, ...(traces.some(trace => trace.x.at(-1) > 10) ? {} : { dtick: 1 }) }),
        yaxis: axisStyle({ title: { text: escaped(wanted) }, type: spansOrders(traces.flatMap(trace => trace.y)) ? "log" : "linear" }),
    });
}

const bestOf = (some, all) => some.length < all.length ? `Drawn are the best ${some.length.toLocaleString("en")} of ${all.length.toLocaleString("en")}.` : "";

function drawPanels() {
    const axes = picture.axes.slice(0, -1), column = Number(byId("metric").value), width = byId("panels").clientWidth;
    const across = Math.min(axes.length, width < 640 ? 1 : width < 1000 ? 2 : 3), down = Math.ceil(axes.length / across);
    const drawn = picture.rows.filter(i => state.kept.has(i) && passes(i)), shown = drawn.slice(0, Math.floor(MOST_DOTS / axes.length));
    const values = shown.map(i => numberOf(rows[i].cells[column]));
    const size = shown.length > 300 ? 5 : 8, layout = { height: 40 + 270 * down, grid: { rows: down, columns: across, pattern: "independent", ygap: 0.32, xgap: 0.14 } };
    const log = columns[column].mode === "min" && spansOrders(values.filter(Number.isFinite)), traces = [];
    axes.forEach((axis, a) => {
        const number = a ? a + 1 : "", sides = { xaxis: `x${number}`, yaxis: `y${number}` };
        const at = i => axis.categorical ? axis.fractions[places.get(i)] : axis.values[places.get(i)];
        const jitter = i => axis.categorical && shown.length > 12 ? ((i * 0.618034) % 1 - 0.5) * 0.3 / Math.max(axis.ticks.length - 1, 1) : 0;
        const add = (marker, keep) => {
            const mine = shown.filter(keep);
            traces.push({ type: "scatter", mode: "markers", ...sides, marker, customdata: mine,
                x: mine.map(i => numberOf(at(i)) + jitter(i)), y: mine.map(i => numberOf(rows[i].cells[column]) ?? null),
                text: mine.map(i => escaped(shorten(nameOf(i), 60))), hovertemplate: `%{text}<br>%{y:.4f}<extra></extra>` });
        };
        add({ size, color: css("--dot"), opacity: shown.length > 300 ? 0.6 : 0.85 }, i => statusOf(i) === "finished");
        add({ size, color: css("--muted"), symbol: "circle-open" }, i => statusOf(i) !== "finished");
        const marked = shown.filter(i => state.chosen.has(i) || i === data.best);
        add({ size: marked.map(i => i === data.best ? 15 : 10), symbol: marked.map(i => i === data.best ? "star" : "circle"),
            color: marked.map(i => state.chosen.has(i) ? colorOf(i) : css("--best")), line: { color: css("--page"), width: 1.5 } }, i => marked.includes(i));
        const ticks = axis.categorical ? { tickvals: axis.ticks.map(([place]) => place), ticktext: axis.ticks.map(([, text]) => escaped(text)), range: [-0.15, 1.15] } : {};
        layout[`xaxis${number}`] = axisStyle({ title: { text: escaped(shorten(axis.name, 40)) }, nticks: 6, exponentformat: "e",
            ...(axis.log ? { type: "log", ...(spansOrders(axis.values.filter(Number.isFinite)) ? { dtick: 1 } : {}) } : {}), ...ticks });
        layout[`yaxis${number}`] = axisStyle({ type: log ? "log" : "linear", ...(a ? { matches: "y" } : {}), ...(a % across ? {} : { title: { text: escaped(columns[column].name) } }) });
    });
    byId("panels-count").textContent = bestOf(shown, drawn);
    plot("panels", traces, layout, { plotly_click: event => show(event.points[0].customdata) });
}

function drawParallel() {
    const { axes } = picture;
    const all = picture.rows.filter(i => state.kept.has(i)), kept = all.slice(0, MOST_LINES);
    const groups = new Map();  // from a shade, -1 for what the ranges leave out, to its rows: one line for all of these
    kept.forEach((i, rank) => {
        const shade = passes(i) ? Math.floor(SHADES * (1 - rank / kept.length) - 0.001) : -1;
        groups.set(shade, [i, ...groups.get(shade) ?? []]);
    });
    const traces = [...groups].sort(([a], [b]) => a - b).map(([shade, mine]) => ({
        type: "scatter", mode: "lines", line: { color: shade < 0 ? css("--none") : mixed((shade / (SHADES - 1)) ** 2), width: 1.2, simplify: false },
        opacity: kept.length > 50 && shade >= 0 ? 0.6 : 1, hoverinfo: shade < 0 ? "skip" : "all", hovertemplate: "%{text}<extra></extra>",
        x: mine.flatMap(() => [...axes.keys(), null]), y: mine.flatMap(i => [...axes.map(axis => axis.fractions[places.get(i)]), null]),
        customdata: mine.flatMap(i => Array(axes.length + 1).fill(i)), text: mine.flatMap(i => Array(axes.length + 1).fill(escaped(shorten(nameOf(i), 60)))),
    }));
    const labels = axes.flatMap((axis, a) => axis.ticks.map(([y, text]) => ({ x: a, y, text: escaped(text), showarrow: false, xanchor: "left", xshift: 3,
        bgcolor: `${css("--page")}b0`, borderpad: 1, font: { size: 11 } })));
    const box = (x0, x1, y0, y1, more) => ({ type: "rect", x0, x1, y0, y1, line: { width: 0 }, ...more });
    const shapes = [...axes.map((_, a) => box(a, a, -0.1, 1, { line: { color: css("--muted"), width: 1 }, layer: "below" })),
        ...[...state.ranges].map(([a, [low, high]]) => box(a - 0.05, a + 0.05, low, high, { fillcolor: css("--accent"), opacity: 0.35 }))];
    byId("unbrush").hidden = !state.ranges.size;
    byId("parallel").style.minWidth = `${axes.length * 105}px`;
    byId("parallel-count").textContent = bestOf(kept, all);
    plot("parallel", traces, {
        annotations: labels, shapes, selections: [], dragmode: coarse ? false : "select", newselection: { line: { color: css("--accent"), dash: "solid" } },
        margin: { l: 64, r: 64, t: 40, b: 10 }, yaxis: { visible: false, range: [-0.14, 1.05], fixedrange: true },
        xaxis: axisStyle({ side: "top", showgrid: false, showline: false, fixedrange: true, range: [-0.1, axes.length - 0.75], tickvals: [...axes.keys()],
            ticktext: axes.map(axis => escaped(shorten(axis.name, 15))), tickangle: 0, ticklabeloverflow: "allow" }),
    }, { plotly_click: event => show(event.points[0].customdata), plotly_selected: event => event?.range && keepRange(event.range) });
}

function keepRange({ x, y }) {  // a box that was drawn over one axis or several
    const [left, right] = x.toSorted((a, b) => a - b);
    picture.axes.forEach((_, a) => { if (a >= left && a <= right) state.ranges.set(a, y.toSorted((p, q) => p - q)); });
    arrange();
    redraw("panels", "parallel");
}

function mixed(fraction) {  // of the color of a weak line and that of a strong one
    const [weak, strong] = ["--weak", "--strong"].map(name => css(name).match(/[0-9a-f]{2}/gi).map(part => parseInt(part, 16)));
    return `rgb(${weak.map((part, k) => Math.round(part + (strong[k] - part) * fraction))})`;
}

function drawConfusion() {
    if (!byId("confusion")) return;  // another row is shown meanwhile
    const { confusion, classes } = rows[state.shown].report, names = classes.map(one => String(one.class));
    const fractions = confusion.map(line => { const sum = line.reduce((a, b) => a + b, 0); return line.map(count => sum ? count / sum : 0); });
    const few = names.length <= 25, ticks = { tickvals: [...names.keys()], ticktext: names.map(name => escaped(shorten(name, 14))) };
    const style = few ? ticks : { nticks: 10 };
    byId("confusion").style.height = `${Math.min(560, Math.max(320, 34 * names.length + 90))}px`;
    plot("confusion", [{
        type: "heatmap", z: fractions, zmin: 0, zmax: 1, showscale: false, xgap: few ? 2 : 0, ygap: few ? 2 : 0,
        colorscale: [[0, css("--none")], [1, css("--strong")]], text: confusion.map(line => line.map(count => few ? count || "" : "")), texttemplate: "%{text}", textfont: { size: 11 },
        customdata: confusion.map((line, t) => line.map((count, p) => `${count} of ${escaped(names[t])} taken for ${escaped(names[p])}`)),
        hovertemplate: "%{customdata}<extra></extra>",
    }], {
        xaxis: axisStyle({ title: { text: "predicted" }, showgrid: false, ...style, tickangle: names.every(name => name.length < 4) ? 0 : -45 }),
        yaxis: axisStyle({ title: { text: "true class" }, autorange: "reversed", showgrid: false, ...style }),
    });
}

// ---- one experiment, and two of them

const entriesOf = (shared, own) => new Map([...Object.entries(shared), ...Object.entries(own)]);
const paramsOf = i => entriesOf(data.params, rows[i].params);
const factsOf = i => entriesOf(data.facts, rows[i].facts);
const metricsOf = i => rows[i].details ? new Map(Object.entries(rows[i].details))
    : new Map(columns.map((column, c) => [column, rows[i].cells[c]]).filter(([column]) => column.kind === "metric").map(([column, value]) => [column.name, value]));

function metricsTable(i, keep) {  // with 95% confidence intervals, where they are known
    const metrics = metricsOf(i), names = [...metrics.keys()].filter(name => keep(name) && metrics.get(name) !== null);
    const cell = name => metrics.has(name) ? textOf(metrics.get(name), "metric") + spreadOf(rows[i], { name, kind: "metric" }) : "–";
    return tableOf(["", "validation", "test"], [...new Set(names.map(name => name.replace(/^test_/, "")))].map(name => [name, cell(name), cell(`test_${name}`)]));
}

function folded(title, content) {
    return make("details", {}, make("summary", {}, title), content);
}

function show(i) {
    state.shown = state.current = i;
    const row = rows[i], { report } = row, section = byId("details");
    const facts = [...factsOf(i)].map(([name, value]) => [name, name === "changes" ? "there were uncommitted changes" : value]);
    watcher.unobserve(byId("confusion") ?? section);
    section.replaceChildren(
        make("h2", { id: "details-title", tabIndex: -1 }, nameOf(i)), make("p", { className: "muted wide" }, `${statusOf(i)}${row.why ? `: ${row.why}` : ""} · ${row.folder}`),
        make("div", { className: "side" },
            make("div", {}, make("h3", {}, "Metrics"), metricsTable(i, name => !name.includes("/")),
                [...metricsOf(i).keys()].some(name => name.includes("/")) ? folded("of each class", metricsTable(i, name => name.includes("/"))) : null),
            make("div", {}, make("h3", {}, "Hyperparameters"), tableOf(["", "value"], Object.entries(row.params)),
                folded("the same in all", tableOf(["", "value"], Object.entries(data.params))), folded("versions, hardware, data, command", tableOf(["", "value"], facts)))));
    if (row.replicates) section.append(make("h3", {}, "Replicates"), tableOf(["name", "status", data.metric], row.replicates, [2]));
    try {
        if (report) section.append(...reportOf(row, report));
        else section.append(make("p", { className: "muted wide" }, row.replicates ? "No evaluation of the first of its replicates is in this file."
            : `No report of an evaluation is in this file; python evaluate.py --model_dir ${row.folder} writes one there.`));
    } catch (problem) {
        section.append(make("p", { className: "error" }, `Its report is not as it should be (${problem}); it is in ${row.folder}.`));
    }
    if (byId("confusion")) {
        watcher.observe(byId("confusion"));
        redraw("confusion");
    }
    section.scrollIntoView();
    byId("details-title").focus({ preventScroll: true });
    render();
}

function reportOf(row, report) {
    const percent = value => typeof value === "number" ? value.toFixed(3) : "–", parts = [];
    const calibration = typeof report.calibration_error === "number" ? ` · calibration error ${report.calibration_error.toFixed(4)}` : "";
    parts.push(make("h3", {}, `Evaluation on ${report.split}`), make("p", { className: "muted" }, `${report.checkpoint}, epoch ${report.epoch}, ${report.samples} samples${calibration}`));
    const side = make("div", { className: "side" });
    if (Array.isArray(report.confusion) && report.confusion.length === report.classes?.length) side.append(make("figure", {}, make("div", { id: "confusion" }),
        make("figcaption", {}, "Confusion matrix: a row is a true class, the numbers are counts.")));
    if (report.classes) side.append(make("div", {}, tableOf(["class", "precision", "recall", "F1", "support"],
        report.classes.map(one => [one.class, percent(one.precision), percent(one.recall), percent(one.f1), one.support]), [1, 2, 3, 4])));
    parts.push(side);
    const image = row.mistakes ? make("figure", {}, make("img", { src: row.mistakes, alt: "as evaluate.py drew them" })) : null;
    if (report.mistakes?.length) {
        const items = report.mistakes.map(one => [one.sentence === undefined ? one.item : `${one.item} (sentence ${one.sentence})`, one.label, one.prediction, percent(one.probability)]);
        const table = tableOf(["item", "label", "prediction", "probability"], items, [3]);
        parts.push(make("h3", {}, "Most confident mistakes"), image ?? table, image ? folded("as a table", table)
            : make("p", { className: "muted wide" }, `mistakes_${report.split}.png or .html in ${row.folder} shows them.`));
    } else if (image && report.kind === "regression") parts.push(make("h3", {}, "Residuals"), image);
    return parts;
}

function compare() {
    const [a, b] = [...state.chosen.keys()].slice(-2);
    if (b === undefined) return;
    const section = byId("compare"), differing = (first, second) => [...new Set([...first.keys(), ...second.keys()])]
        .filter(name => JSON.stringify(first.get(name)) !== JSON.stringify(second.get(name))).map(name => [name, first.get(name), second.get(name)]);
    const params = differing(paramsOf(a), paramsOf(b)), metrics = differing(metricsOf(a), metricsOf(b));
    const facts = differing(factsOf(a), factsOf(b)), changes = facts.find(([name]) => name === "changes");
    const headers = ["", nameOf(a), nameOf(b)].map(name => shorten(name, 40));
    const alike = new Set([...paramsOf(a).keys()]).size - params.filter(([, value]) => value !== undefined).length;
    const difference = (x, y) => { const d = numberOf(y) - numberOf(x); return Number.isFinite(d) ? `${d < 0 ? "−" : "+"}${Math.abs(d).toFixed(4)}` : "–"; };
    section.replaceChildren(
        make("div", { className: "bar" }, make("h2", { id: "compare-title", tabIndex: -1 }, "What differs"),
            make("button", { type: "button", onclick: () => { section.hidden = true; byId("box").focus(); } }, "Close")),
        make("h3", {}, "Hyperparameters"), params.length ? tableOf(headers, params) : make("p", {}, "None."),
        make("p", { className: "muted" }, `${alike} more are the same.`),
        make("h3", {}, "Metrics"), tableOf([...headers, "difference"],
            metrics.map(([name, x, y]) => [name, textOf(x, "metric"), textOf(y, "metric"), difference(x, y)]), [1, 2, 3]),
        make("h3", {}, "Code, versions, hardware, data"),
        facts.length ? tableOf(headers, facts.map(line => line[0] === "changes" ? ["uncommitted changes", ...line.slice(1).map(k => k === undefined ? "none" : "as below")] : line))
            : make("p", {}, "Nothing of it."), ...(changes ? [differenceOf(...changes.slice(1).map(k => data.changes[k] ?? ""))] : []));
    section.hidden = false;
    section.scrollIntoView();
    byId("compare-title").focus({ preventScroll: true });
}

function differenceOf(first, second) {  // lines of two sets of uncommitted changes that only one of them has
    const lines = text => text.split("\n"), only = (ours, theirs) => { const there = new Set(lines(theirs)); return lines(ours).filter(line => line && !there.has(line)); };
    return make("pre", {}, ...only(first, second).map(line => make("del", {}, `− ${line}\n`)), ...only(second, first).map(line => make("ins", {}, `+ ${line}\n`)));
}

// ---- theme, keys, and the beginning

function setTheme(theme) {
    document.documentElement.dataset.theme = theme;
    byId("theme").textContent = theme === "dark" ? "Light" : "Dark";
}

function changeTheme() {
    setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    showChoice();
    redraw("curves", "panels", "parallel", "confusion");
}

let theme = "light";

function print(wanted, everything) {  // on white paper, with all rows and what has been drawn so far
    if (everything) theme = document.documentElement.dataset.theme;
    setTheme(wanted);
    document.body.classList.toggle("printed", everything);
    showChoice();
    render(everything);
    for (const chart of Object.values(charts)) if (chart.drawn) chart.draw();
}

function clearRanges() {
    state.ranges.clear();
    arrange();
    redraw("panels", "parallel");
}

function onKey(event) {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "checkbox";
    if (event.ctrlKey || event.metaKey || event.altKey || byId("keys").open) return;
    if (event.key === "Escape") {
        byId("peek").hidden = true;
        if (event.target === byId("filter")) { event.target.value = ""; filter(); byId("box").focus(); }
        return;
    }
    if (event.target === byId("filter") && event.key === "Enter") byId("box").focus();
    if (typing) return;
    const page = Math.floor(byId("box").clientHeight / ROW_HEIGHT) - 2, at = state.order.indexOf(state.current);
    const inTable = { ArrowDown: () => moveTo(at + 1), ArrowUp: () => moveTo(at - 1), PageDown: () => moveTo(at + page), PageUp: () => moveTo(at - page),
        Home: () => moveTo(0), End: () => moveTo(Infinity), " ": () => choose(state.current), Enter: () => state.order.length && show(state.current) };
    const anywhere = { "/": () => byId("filter").focus(), c: compare, x: clearChoice, t: changeTheme, "?": () => byId("keys").showModal() };
    const action = (event.target === byId("box") && inTable[event.key]) || anywhere[event.key];
    if (action) {
        event.preventDefault();
        action();
    }
}

function begin() {
    setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    document.title = `Results: ${data.title}`;
    byId("title").textContent = data.title;
    byId("summary").textContent = `${data.below[0].split(";")[0]} · ${new Date(data.written).toLocaleString()}`;
    byId("below").append(...[...data.below, ...data.left_out.map(line => `Not in this file, for its size: ${line}`)].map(line => make("p", {}, line)));
    columns.forEach((column, c) => {
        column.numeric = column.kind !== "name" && column.kind !== "status" && rows.every(row => row.cells[c] === null || numberOf(row.cells[c]) !== undefined);
    });
    const metrics = columns.map((column, c) => [column, c]).filter(([column]) => column.kind === "metric");
    byId("metric").append(...metrics.map(([column, c]) => make("option", { value: c, selected: column.name === data.metric }, column.name)));
    byId("series").append(...[...new Set(data.series.map(name => name.replace(/^(val|train)_/, "")))].map(name => make("option", {}, name)));
    byId("panels-section").hidden = picture.axes.length < 2;
    byId("parallel-section").hidden = picture.axes.length < 3;
    makeHeader();
    rows.slice(0, 3).forEach((_, i) => state.chosen.set(i, i));
    filter();  // which a browser may have kept over a reload
    showChoice();
    for (const id of ["curves", "panels", "parallel"]) if (!byId(`${id}-section`).hidden) watcher.observe(byId(id));

    const body = byId("table").tBodies[0], rowOf = event => { const row = event.target.closest("tr[id]"); return row && Number(row.id.slice(4)); };
    byId("filter").addEventListener("input", filter);
    byId("box").addEventListener("scroll", () => {
        if (Math.abs(byId("box").scrollTop - state.renderedAt) > (SPARE_ROWS - 2) * ROW_HEIGHT) render();
        byId("peek").hidden = true;
    });
    body.addEventListener("click", event => {
        const i = rowOf(event);
        if (i === null) return;
        state.current = i;
        if (event.target.closest(".pick")) choose(i);
        else show(i);
    });
    body.addEventListener("pointerover", event => { const i = rowOf(event); if (i !== null && event.pointerType === "mouse") peek(i, event.clientX, event.clientY); });
    byId("box").addEventListener("pointerleave", () => { byId("peek").hidden = true; });
    byId("box").addEventListener("blur", () => { byId("peek").hidden = true; });
    byId("series").addEventListener("change", () => redraw("curves"));
    byId("metric").addEventListener("change", () => redraw("panels"));
    byId("compare-button").addEventListener("click", compare);
    byId("clear").addEventListener("click", clearChoice);
    byId("unbrush").addEventListener("click", clearRanges);
    byId("theme").addEventListener("click", changeTheme);
    byId("help").addEventListener("click", () => byId("keys").showModal());
    addEventListener("keydown", onKey);
    addEventListener("resize", () => { render(); redraw(...Object.keys(charts)); });
    addEventListener("beforeprint", () => print("light", true));
    addEventListener("afterprint", () => print(theme, false));
}

begin();
})();
