"use strict";
// The table of results.html. All names and values are data of others: they become text nodes, never markup.

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
            const equal = value => {
                if (value === null) return plain === "-" || plain === "–";
                if (numberOf(value) === undefined || Number.isNaN(number)) return String(value).toLowerCase() === plain;
                return numberOf(value) === number;
            };
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

function arrange() {
    const { column, sign } = state.sort;
    state.order = [...state.kept].sort((a, b) => compareValues(rows[a].cells[column] ?? null, rows[b].cells[column] ?? null, sign) || a - b);
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
        const star = i => i === data.best && c === 0 ? "★ " : "";
        const texts = rows.map((row, i) => star(i) + textOf(row.cells[c], column.kind) + spreadOf(row, column));
        texts.push(`${column.name} ↓`);
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

function render() {
    const box = byId("box"), count = state.order.length;
    const first = Math.max(0, Math.floor(box.scrollTop / ROW_HEIGHT) - SPARE_ROWS);
    const last = Math.min(count, first + Math.ceil(box.clientHeight / ROW_HEIGHT) + 2 * SPARE_ROWS);
    state.renderedAt = box.scrollTop;
    const gap = height => make("tr", { className: "gap", "aria-hidden": true },
        make("td", { colSpan: columns.length + 1, style: `height: ${height}px` }));
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
