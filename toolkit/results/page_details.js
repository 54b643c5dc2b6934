// The details of one experiment, the comparison of two, and the start of results.html.

const merged = (shared, own) => new Map([...Object.entries(shared), ...Object.entries(own)]);
const paramsOf = i => merged(data.params, rows[i].params), factsOf = i => merged(data.facts, rows[i].facts);
const metricsOf = i => new Map(columns.flatMap((column, c) => column.kind === "metric" ? [[column.name, rows[i].cells[c]]] : []));
const ofFirst = i => rows[i].replicates ? " of the first replicate" : "";  // each replicate has its own

function tableOf(headers, lines, numeric = []) {
    const cell = (tag, value, c) => make(tag, { className: numeric.includes(c) ? "number" : "", title: String(value ?? "") }, textOf(value));
    return make("div", { className: "box" }, make("table", { className: "plain" },
        make("thead", {}, make("tr", {}, ...headers.map((header, c) => cell("th", header, c)))),
        make("tbody", {}, ...lines.map(line => make("tr", {}, ...line.map((value, c) => cell("td", value, c)))))));
}

function metricsTable(i) {
    const metrics = metricsOf(i), names = [...metrics.keys()].filter(name => metrics.get(name) !== null);
    const cell = name => textOf(metrics.get(name), "metric") + spreadOf(rows[i], name);
    const lines = [...new Set(names.map(name => name.replace(/^test_/, "")))];
    return tableOf(["", "validation", "test"], lines.map(name => [name, cell(name), cell(`test_${name}`)]));
}

const closed = (title, content) => make("details", {}, make("summary", {}, title), content);
const heading = text => make("h3", {}, text);
const note = text => make("p", { className: "muted wide" }, text);

function present(id, title, ...children) {  // fills a section, scrolls to it and moves the focus there
    byId(id).replaceChildren(make("h2", { id: `${id}-title`, tabIndex: -1 }, title), ...children);
    byId(id).hidden = false;
    byId(id).scrollIntoView();
    byId(`${id}-title`).focus({ preventScroll: true });
}

function show(i) {
    state.shown = i;
    const row = rows[i];
    let report;
    try {
        report = row.report ? reportOf(i, row.report) : [note(row.replicates ? "This file has no evaluation of the first replicate."
            : `This file has no evaluation report; create one with python evaluate.py --model_dir ${row.folder}`)];
    } catch (problem) {
        report = [make("p", { className: "failed" }, `The report in ${row.folder} is damaged (${problem}).`)];
    }
    present("details", nameOf(i), note(`${row.cells[STATUS]}${row.why ? `: ${row.why}` : ""} · ${row.folder}`),
        make("div", { className: "side" },
            make("div", {}, heading("Metrics"), metricsTable(i)),
            make("div", {}, heading("Hyperparameters"), tableOf(["", "value"], Object.entries(row.params)),
                closed("the same in all experiments", tableOf(["", "value"], Object.entries(data.params))),
                closed(`versions, hardware, data, command${ofFirst(i)}`, tableOf(["", "value"], [...factsOf(i)])))),
        ...(row.replicates ? [heading("Replicates"), tableOf(["name", "status", data.metric], row.replicates, [2])] : []), ...report);
    redraw("confusion");
}

function reportOf(i, report) {
    const digits = value => typeof value === "number" ? value.toFixed(3) : "–", { classes, confusion, mistakes } = report;
    const side = make("div", { className: "side" }), calibration = report.calibration_error ?? null;
    const parts = [heading(`Evaluation on ${report.split}${ofFirst(i)}`), note(`${report.checkpoint}, epoch ${report.epoch}, ${report.samples} samples`
        + (calibration === null ? "" : ` · calibration error ${digits(calibration)}`)), side];
    if (Array.isArray(confusion) && confusion.length === classes?.length) side.append(make("figure", {}, make("div", { id: "confusion" }),
        make("figcaption", {}, "Confusion matrix: one row per true class; the numbers are counts.")));
    if (classes) side.append(tableOf(["class", "precision", "recall", "F1", "support"],
        classes.map(one => [one.class, digits(one.precision), digits(one.recall), digits(one.f1), one.support]), [1, 2, 3, 4]));
    const image = rows[i].mistakes ? make("img", { src: rows[i].mistakes, alt: "picture from evaluate.py" }) : null;
    if (mistakes?.length) {
        const item = one => one.sentence === undefined ? one.item : `${one.item} (sentence ${one.sentence})`;
        const table = tableOf(["item", "label", "prediction", "probability"],
            mistakes.map(one => [item(one), one.label, one.prediction, digits(one.probability)]), [3]);
        parts.push(heading("Most confident mistakes"), image ?? note(`See mistakes_${report.split}.png or .html in ${rows[i].folder}.`),
            image ? closed("as a table", table) : table);
    } else if (image && report.kind === "regression") parts.push(heading("Residuals"), image);
    return parts;
}

function compare() {
    const [a, b] = [...state.selected.keys()].slice(-2);
    const differing = of => [...new Set([...of(a).keys(), ...of(b).keys()])].map(name => [name, of(a).get(name), of(b).get(name)])
        .filter(([, x, y]) => x !== y);
    const params = differing(paramsOf), metrics = differing(metricsOf), facts = differing(factsOf);
    const headers = ["", nameOf(a), nameOf(b)];
    const alike = [...paramsOf(a).keys()].filter(name => paramsOf(a).get(name) === paramsOf(b).get(name));
    const difference = (x, y) => {
        const value = numberOf(y) - numberOf(x);
        return Number.isFinite(value) ? `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(4)}` : "–";
    };
    present("compare", "Comparison",
        heading("Different hyperparameters"), params.length ? tableOf(headers, params) : note("None."), note(`${alike.length} more are equal.`),
        heading("Metrics"), tableOf([...headers, "difference"],
            metrics.map(([name, x, y]) => [name, textOf(x, "metric"), textOf(y, "metric"), difference(x, y)]), [1, 2, 3]),
        heading(`Different code, versions, hardware, data${ofFirst(a) || ofFirst(b)}`), facts.length ? tableOf(headers, facts) : note("None."));
}

document.title = `Results: ${data.title}`;
byId("title").textContent = data.title;
byId("summary").textContent = `${data.below[0].split(";")[0]} · ${new Date(data.written).toLocaleString()}`;
const missing = data.left_out.map(line => `Left out because of the size of this file: ${line}`);
byId("below").append(...[...data.below, ...missing].map(line => make("p", {}, line)));
byId("table").tHead.append(make("tr", {}, make("th", { className: "pick", scope: "col", "aria-label": "selected" }), ...headings));
byId("table").tBodies[0].addEventListener("click", event => {
    const row = event.target.closest("tr");
    if (row && !event.target.closest(".pick")) show(Number(row.id.slice(4)));
});
columns.forEach(({ kind, name }, c) => kind === "metric" && byId("metric").append(make("option", { value: c, selected: c === METRIC }, name)));
data.series.filter(name => name.startsWith("val_")).forEach(name => byId("series").append(make("option", {}, name.slice(4))));
byId("panels-section").hidden = !axes.length;
byId("parallel-section").hidden = axes.length < 2;
byId("filter").addEventListener("input", filter);
byId("series").addEventListener("change", () => redraw("curves"));
byId("metric").addEventListener("change", () => redraw("panels"));
byId("compare-button").addEventListener("click", compare);
byId("clear").addEventListener("click", () => [...state.selected.keys()].forEach(i => select(i, false)));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw(...Object.keys(charts)));
filter();  // a browser may have kept its text over a reload
rows.slice(0, 3).forEach((_, i) => select(i, true));
