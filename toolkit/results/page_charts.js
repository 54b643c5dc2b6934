// The charts of results.html: drawn when they come into view, by a library that is unpacked when the first one does.

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
        chart.draw();
        await new Promise(resolve => setTimeout(resolve));  // keys and clicks in between
    }
}

const watcher = new IntersectionObserver(entries => {
    for (const entry of entries) charts[entry.target.id].near = entry.isIntersecting;
    drawDue();
}, { rootMargin: "150px" });

const axisStyle = more => ({ gridcolor: css("--line"), linecolor: css("--line"), zeroline: false, automargin: true, ...more });

async function plot(id, traces, layout, handlers = {}) {
    const font = { color: css("--text"), family: "system-ui, sans-serif", size: 12 };
    const chart = await Plotly.react(id, traces, {
        width: byId(id).clientWidth, margin: { l: 60, r: 12, t: 10, b: 46 }, font, showlegend: false,
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        hoverlabel: { bgcolor: css("--raised"), bordercolor: css("--line"), font }, hovermode: "closest",
        modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--muted"), activecolor: css("--text") },
        dragmode: coarse ? false : "zoom", ...layout,
    }, {
        displaylogo: false, displayModeBar: coarse ? false : "hover",
        modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    });
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
            type: "scatter", mode: values.length === 1 ? "markers" : "lines",
            y: values.map(value => typeof value === "number" ? value : null),
            x: values.map((_, k) => Math.floor(k * (epochs - 1) / Math.max(values.length - 1, 1)) + 1),
            line: part === "val" ? { color: colorOf(i), width: 2, dash: state.chosen.get(i) < 8 ? "solid" : "dash" }
                : { color: colorOf(i), width: 1.2, dash: "dot" },
            text: escaped(`${shorten(nameOf(i), 60)}, ${part}`),
            hovertemplate: "%{text}<br>epoch %{x}: %{y:.4g}<extra></extra>",
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

function bestOf(some, all) {
    const [drawn, there] = [some, all].map(list => list.length.toLocaleString("en"));
    return drawn === there ? "" : `Drawn are the best ${drawn} of ${there}.`;
}

function drawPanels() {
    const axes = picture.axes.slice(0, -1), column = Number(byId("metric").value), width = byId("panels").clientWidth;
    const across = Math.min(axes.length, width < 640 ? 1 : width < 1000 ? 2 : 3), down = Math.ceil(axes.length / across);
    const drawn = picture.rows.filter(i => state.kept.has(i));
    const shown = drawn.slice(0, Math.floor(MOST_DOTS / axes.length));
    const values = shown.map(i => numberOf(rows[i].cells[column]));
    const size = shown.length > 300 ? 5 : 8, traces = [];
    const grid = { rows: down, columns: across, pattern: "independent", ygap: 0.32, xgap: 0.14 };
    const layout = { height: 40 + 270 * down, grid };
    const log = columns[column].mode === "min" && spansOrders(values.filter(Number.isFinite));
    axes.forEach((axis, a) => {
        const number = a ? a + 1 : "", sides = { xaxis: `x${number}`, yaxis: `y${number}` };
        const at = i => axis.categorical ? axis.fractions[places.get(i)] : axis.values[places.get(i)];
        const spread = axis.categorical && shown.length > 12 ? 0.3 / Math.max(axis.ticks.length - 1, 1) : 0;
        const jitter = i => ((i * 0.618034) % 1 - 0.5) * spread;  // categories side by side
        const add = (marker, keep) => {
            const mine = shown.filter(keep);
            traces.push({ type: "scatter", mode: "markers", ...sides, marker, customdata: mine,
                x: mine.map(i => numberOf(at(i)) + jitter(i)), y: mine.map(i => numberOf(rows[i].cells[column]) ?? null),
                text: mine.map(i => escaped(shorten(nameOf(i), 60))), hovertemplate: `%{text}<br>%{y:.4f}<extra></extra>` });
        };
        add({ size, color: css("--dot"), opacity: shown.length > 300 ? 0.6 : 0.85 }, i => statusOf(i) === "finished");
        add({ size, color: css("--muted"), symbol: "circle-open" }, i => statusOf(i) !== "finished");
        const marked = shown.filter(i => state.chosen.has(i) || i === data.best), isBest = i => i === data.best;
        add({
            size: marked.map(i => isBest(i) ? 15 : 10), symbol: marked.map(i => isBest(i) ? "star" : "circle"),
            color: marked.map(i => state.chosen.has(i) ? colorOf(i) : css("--best")), line: { color: css("--page"), width: 1.5 },
        }, i => marked.includes(i));
        const x = { title: { text: escaped(shorten(axis.name, 40)) }, nticks: 6, exponentformat: "e" };
        if (axis.categorical) {
            x.tickvals = axis.ticks.map(([place]) => place);
            x.ticktext = axis.ticks.map(([, text]) => escaped(text));
            x.range = [-0.22, 1.22];  // the best one's star has room beyond those side by side
        } else if (axis.log) {
            x.type = "log";
            if (spansOrders(axis.values.filter(Number.isFinite))) x.dtick = 1;
        }
        const y = a % across ? {} : { title: { text: escaped(columns[column].name) } };
        layout[`xaxis${number}`] = axisStyle(x);
        layout[`yaxis${number}`] = axisStyle({ type: log ? "log" : "linear", ...(a ? { matches: "y" } : {}), ...y });
    });
    byId("panels-count").textContent = bestOf(shown, drawn);
    plot("panels", traces, layout, { plotly_click: event => show(event.points[0].customdata) });
}

function drawParallel() {
    const { axes } = picture;
    const all = picture.rows.filter(i => state.kept.has(i)), kept = all.slice(0, MOST_LINES);
    const groups = new Map();  // from a shade to its rows, the best in the last: one line for all of these
    kept.toReversed().forEach((i, rank) => {
        const shade = Math.floor(SHADES * rank / kept.length);
        groups.set(shade, [...groups.get(shade) ?? [], i]);
    });
    const traces = [...groups].map(([shade, mine]) => ({
        type: "scatter", mode: "lines", opacity: kept.length > 50 ? 0.6 : 1,
        line: { color: mixed((shade / (SHADES - 1)) ** 2), width: 1.2, simplify: false },
        hovertemplate: "%{text}<extra></extra>",
        x: mine.flatMap(() => [...axes.keys(), null]),
        y: mine.flatMap(i => [...axes.map(axis => axis.fractions[places.get(i)]), null]),
        customdata: mine.flatMap(i => Array(axes.length + 1).fill(i)),
        text: mine.flatMap(i => Array(axes.length + 1).fill(escaped(shorten(nameOf(i), 60)))),
    }));
    const labels = axes.flatMap((axis, a) => axis.ticks.map(([y, text]) => ({
        x: a, y, text: escaped(text), showarrow: false, xanchor: "left", xshift: 3,
        bgcolor: `${css("--page")}b0`, borderpad: 1, font: { size: 11 },
    })));
    const shapes = [...axes.keys()].map(a => ({ type: "line", x0: a, x1: a, y0: -0.1, y1: 1, layer: "below",
        line: { color: css("--muted"), width: 1 } }));
    byId("parallel").style.minWidth = `${axes.length * 105}px`;
    byId("parallel-count").textContent = bestOf(kept, all);
    plot("parallel", traces, {
        annotations: labels, shapes, margin: { l: 64, r: 64, t: 40, b: 10 }, dragmode: false,
        yaxis: { visible: false, range: [-0.14, 1.05], fixedrange: true },
        xaxis: axisStyle({
            side: "top", showgrid: false, showline: false, fixedrange: true, range: [-0.1, axes.length - 0.75],
            tickvals: [...axes.keys()], ticktext: axes.map(axis => escaped(shorten(axis.name, 15))), tickangle: 0,
            ticklabeloverflow: "allow",
        }),
    }, { plotly_click: event => show(event.points[0].customdata) });
}

function mixed(fraction) {  // of the color of a weak line and that of a strong one
    const [weak, strong] = ["--weak", "--strong"].map(name => css(name).match(/[0-9a-f]{2}/gi).map(part => parseInt(part, 16)));
    return `rgb(${weak.map((part, k) => Math.round(part + (strong[k] - part) * fraction))})`;
}

function drawConfusion() {
    if (!byId("confusion")) return;  // another row is shown meanwhile
    const { confusion, classes } = rows[state.shown].report, names = classes.map(one => String(one.class));
    const fractions = confusion.map(line => {
        const sum = line.reduce((a, b) => a + b, 0) || 1;
        return line.map(count => count / sum);
    });
    const few = names.length <= 25, labels = names.map(name => escaped(shorten(name, 14)));
    const style = few ? { showgrid: false, tickvals: [...names.keys()], ticktext: labels } : { showgrid: false, nticks: 10 };
    byId("confusion").style.height = `${Math.min(560, Math.max(320, 34 * names.length + 90))}px`;
    plot("confusion", [{
        type: "heatmap", z: fractions, zmin: 0, zmax: 1, showscale: false, xgap: few ? 2 : 0, ygap: few ? 2 : 0,
        colorscale: [[0, css("--none")], [1, css("--strong")]],
        text: confusion.map(line => line.map(count => few && count || "")), texttemplate: "%{text}", textfont: { size: 11 },
        customdata: confusion.map((line, t) => line.map((count, p) =>
            `${count} of ${escaped(names[t])} taken for ${escaped(names[p])}`)),
        hovertemplate: "%{customdata}<extra></extra>",
    }], {
        xaxis: axisStyle({ title: { text: "predicted" }, ...style, tickangle: names.every(name => name.length < 4) ? 0 : -45 }),
        yaxis: axisStyle({ title: { text: "true class" }, autorange: "reversed", ...style }),
    });
}
