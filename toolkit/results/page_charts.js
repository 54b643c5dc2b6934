// The charts of results.html, drawn by plotly, which is unpacked in the background.

const MOST_DRAWN = 1000, SHADES = 12, MOST_TICKS = 12;  // rows, and of the parallel coordinates the shades and ticks
const charts = { curves: drawCurves, panels: drawPanels, parallel: drawParallel, confusion: drawConfusion };
const due = new Set();
let library = null, timer = 0;

function loadLibrary() {
    return library ??= (async () => {
        const bytes = Uint8Array.from(atob(byId("plotly").textContent), letter => letter.charCodeAt(0));
        const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
        document.head.append(make("script", { textContent: text }));
    })();
}

function redraw(...names) {
    names.forEach(name => due.add(name));
    clearTimeout(timer);
    timer = setTimeout(async () => {
        await loadLibrary();
        for (const name of [...due]) {
            due.delete(name);
            if (byId(name)?.checkVisibility()) charts[name]();
        }
    }, 120);
}

const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const escaped = text => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");  // plotly reads tags
const shorten = (text, longest) => text.length <= longest ? text : `${text.slice(0, longest >> 1)}…${text.slice(-((longest - 1) >> 1))}`;
const label = (i, longest = 60) => escaped(shorten(nameOf(i), longest));
const axisStyle = more => ({ gridcolor: css("--line"), linecolor: css("--line"), zeroline: false, automargin: true, ...more });
const spansOrders = values => values.length > 0 && Math.min(...values) > 0 && Math.max(...values) >= 100 * Math.min(...values);

async function plot(id, traces, layout, onClick = null) {
    const font = { color: css("--text"), family: "system-ui, sans-serif", size: 12 };
    const chart = await Plotly.react(id, traces, {
        margin: { l: 60, r: 12, t: 10, b: 46 }, font, showlegend: false, paper_bgcolor: "transparent", plot_bgcolor: "transparent",
        hoverlabel: { bgcolor: css("--raised"), bordercolor: css("--line"), font }, hovermode: "closest",
        dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom", ...layout,  // a finger scrolls the page
    }, { responsive: true, displaylogo: false });
    chart.removeAllListeners("plotly_click");
    if (onClick) chart.on("plotly_click", onClick);
}

function drawCurves() {
    const wanted = byId("series").value, selected = [...state.selected.keys()], having = selected.filter(i => rows[i].curves);
    const traces = having.flatMap(i => ["val", "train"].map(split => {
        const values = rows[i].curves.values[data.series.indexOf(`${split}_${wanted}`)] || [];
        return {
            type: "scatter", mode: values.length === 1 ? "markers" : "lines", name: label(i, 40), showlegend: split === "val",
            y: values.map(value => typeof value === "number" ? value : null), x: values.length ? rows[i].curves.epochs : [],
            line: { color: colorOf(i), width: split === "val" ? 2 : 1.2, dash: split === "val" ? "solid" : "dot" },
            text: `${label(i)}, ${split}`, hovertemplate: "%{text}<br>epoch %{x}: %{y:.4g}<extra></extra>",
        };
    }));
    const missing = selected.length - having.length;
    byId("curves-note").textContent = "The rows selected in the table; validation as a line, training dotted."
        + (missing ? ` ${missing} without a curve in this file.` : "");
    plot("curves", traces, {
        height: 380 + 20 * having.length, showlegend: true, legend: { orientation: "h", y: -0.15 },
        xaxis: axisStyle({ title: { text: "epoch" }, ...(traces.some(trace => trace.x.at(-1) > 10) ? {} : { dtick: 1 }) }),
        yaxis: axisStyle({ title: { text: escaped(wanted) }, type: spansOrders(traces.flatMap(trace => trace.y)) ? "log" : "linear" }),
    });
}

const withMetric = [...rows.keys()].filter(i => METRIC >= 0 && Number.isFinite(numberOf(rows[i].cells[METRIC])));
const placeOf = new Map(withMetric.map((i, place) => [i, place]));
const axes = columns.flatMap((column, c) => column.scale && c !== METRIC ? [makeAxis(column)] : []);

function makeAxis({ name, scale, places, labels }) {  // where rows are on the axis of a column
    const isLog = scale === "log", isCategory = scale === "category", scaled = x => isLog ? Math.log(x) : x;
    const at = i => Number(places[placeOf.get(i)]), finite = places.map(scaled).filter(Number.isFinite);
    const low = finite.reduce((a, b) => Math.min(a, b), Infinity), high = finite.reduce((a, b) => Math.max(a, b), -Infinity);
    const fraction = x => high > low ? (scaled(x) - low) / (high - low) : 0.5;
    const step = Math.ceil(labels.length / MOST_TICKS), parts = high > low ? [0, 0.25, 0.5, 0.75, 1] : [0.5];
    const ticks = isCategory ? labels.map((text, place) => [place, shorten(text, 14)]).filter(([place]) => place % step === 0)
        : parts.map(part => low + part * (high - low)).map(x => isLog ? Math.exp(x) : x).map(x => [x, String(Number(x.toPrecision(3)))]);
    return { name, isLog, isCategory, at, fraction, ticks, isWide: isLog && high - low > Math.log(100) };
}

function rowsToDraw(note) {
    const kept = withMetric.filter(i => state.kept.has(i)), number = kept.length.toLocaleString("en");
    byId(note).textContent = kept.length > MOST_DRAWN ? `Drawn are the best ${MOST_DRAWN} of ${number}.` : "";
    return kept.slice(0, MOST_DRAWN);
}

function drawPanels() {
    const column = Number(byId("metric").value), width = byId("panels").clientWidth;
    const across = Math.min(axes.length, width < 640 ? 1 : width < 1000 ? 2 : 3), down = Math.ceil(axes.length / across);
    const isMarked = i => state.selected.has(i) || i === data.best, isFinished = i => rows[i].cells[STATUS] === "finished";
    const drawn = rowsToDraw("panels-count").sort((i, j) => isMarked(i) - isMarked(j));  // marked dots are on top
    const heights = drawn.map(i => numberOf(rows[i].cells[column])), small = drawn.length > 300 ? 5 : 8;
    const isLog = columns[column].mode === "min" && spansOrders(heights.filter(Number.isFinite));
    const marker = {
        size: drawn.map(i => i === data.best ? 15 : isMarked(i) ? 10 : small), opacity: 0.85,
        symbol: drawn.map(i => i === data.best ? "star" : isFinished(i) ? "circle" : "circle-open"),
        color: drawn.map(i => state.selected.has(i) ? colorOf(i) : css(i === data.best ? "--best" : isFinished(i) ? "--dot" : "--muted")),
    };
    const layout = { height: 40 + 270 * down, grid: { rows: down, columns: across, pattern: "independent", ygap: 0.32, xgap: 0.14 } };
    const traces = axes.map((axis, a) => {
        const number = a ? a + 1 : "", names = a % across ? {} : { title: { text: escaped(columns[column].name) } };
        const jitter = i => axis.isCategory && drawn.length > 12 ? 0.3 * ((i * 0.618034) % 1 - 0.5) : 0;  // spreads one category sideways
        const ticks = axis.isCategory ? { tickvals: axis.ticks.map(([x]) => x), ticktext: axis.ticks.map(([, text]) => escaped(text)) } : {};
        layout[`xaxis${number}`] = axisStyle({ title: { text: escaped(shorten(axis.name, 40)) }, nticks: 6, exponentformat: "e",
            type: axis.isLog ? "log" : "linear", ...ticks, ...(axis.isWide ? { dtick: 1 } : {}) });
        layout[`yaxis${number}`] = axisStyle({ type: isLog ? "log" : "linear", ...(a ? { matches: "y" } : {}), ...names });
        return {
            type: "scatter", mode: "markers", xaxis: `x${number}`, yaxis: `y${number}`, marker, customdata: drawn,
            x: drawn.map(i => axis.at(i) + jitter(i)), y: heights,
            text: drawn.map(i => label(i)), hovertemplate: "%{text}<br>%{y:.4f}<extra></extra>",
        };
    });
    plot("panels", traces, layout, event => show(event.points[0].customdata));
}

function drawParallel() {  // plotly's own parcoords would need eval, which the page's security policy forbids
    const all = [...axes, makeAxis(columns[METRIC])];
    const drawn = rowsToDraw("parallel-count");
    const size = Math.max(1, Math.ceil(drawn.length / SHADES)), number = Math.ceil(drawn.length / size);
    const fractions = i => all.map(axis => Number.isNaN(axis.at(i)) ? -0.1 : axis.fraction(axis.at(i)));
    const traces = Array.from({ length: number }, (_, k) => {  // one trace per shade, the best drawn last
        const shade = number - k - 1, mine = drawn.slice(shade * size, (shade + 1) * size);
        return {
            type: "scatter", mode: "lines", opacity: 0.15 + 0.85 * (1 - shade / number) ** 2, hovertemplate: "%{text}<extra></extra>",
            line: { color: css("--strong"), width: 1.2, simplify: false },
            x: mine.flatMap(() => [...all.keys(), null]), y: mine.flatMap(i => [...fractions(i), null]),
            customdata: mine.flatMap(i => Array(all.length + 1).fill(i)), text: mine.flatMap(i => Array(all.length + 1).fill(label(i))),
        };
    });
    const style = { showarrow: false, xanchor: "left", xshift: 3, bgcolor: `${css("--page")}b0`, font: { size: 11 } };
    const annotations = all.flatMap((axis, a) => {
        const missing = withMetric.some(i => Number.isNaN(axis.at(i))) ? [{ ...style, x: a, y: -0.1, text: "–" }] : [];
        return [...axis.ticks.map(([x, text]) => ({ ...style, x: a, y: axis.fraction(x), text: escaped(text) })), ...missing];
    });
    byId("parallel").style.minWidth = `${all.length * 105}px`;
    plot("parallel", traces, {
        annotations, margin: { l: 64, r: 64, t: 40, b: 10 }, dragmode: false,
        yaxis: { visible: false, range: [-0.14, 1.05], fixedrange: true },
        xaxis: axisStyle({ side: "top", gridcolor: css("--muted"), fixedrange: true, range: [-0.1, all.length - 0.75], tickangle: 0,
            tickvals: [...all.keys()], ticktext: all.map(axis => escaped(shorten(axis.name, 15))), ticklabeloverflow: "allow" }),
    }, event => show(event.points[0].customdata));
}

function drawConfusion() {
    const { confusion, classes } = rows[state.shown].report, names = classes.map(one => String(one.class)), few = names.length <= 25;
    const ticks = few ? { tickvals: [...names.keys()], ticktext: names.map(name => escaped(shorten(name, 14))) } : { nticks: 10 };
    plot("confusion", [{
        type: "heatmap", zmin: 0, zmax: 1, showscale: false, xgap: few ? 2 : 0, ygap: few ? 2 : 0,
        z: confusion.map(line => line.map(count => count / (line.reduce((a, b) => a + b, 0) || 1))),
        colorscale: [[0, css("--none")], [1, css("--strong")]],
        text: confusion.map(line => line.map(count => few && count || "")), texttemplate: "%{text}", textfont: { size: 11 },
        customdata: confusion.map((line, t) => line.map((count, p) => `${count} of ${escaped(names[t])} predicted as ${escaped(names[p])}`)),
        hovertemplate: "%{customdata}<extra></extra>",
    }], {
        height: Math.min(560, Math.max(320, 34 * names.length + 90)),
        xaxis: axisStyle({ title: { text: "predicted" }, showgrid: false, ...ticks, tickangle: names.every(name => name.length < 4) ? 0 : -45 }),
        yaxis: axisStyle({ title: { text: "true class" }, showgrid: false, ...ticks, autorange: "reversed" }),
    });
}
