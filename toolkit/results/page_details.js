// Of results.html: one experiment, and what differs between two.

const entriesOf = (shared, own) => new Map([...Object.entries(shared), ...Object.entries(own)]);
const paramsOf = i => entriesOf(data.params, rows[i].params);
const factsOf = i => entriesOf(data.facts, rows[i].facts);
const ofFirst = i => rows[i].replicates ? ", of the first of its replicates" : "";  // the others have their own
const metricsOf = i => new Map(rows[i].details ? Object.entries(rows[i].details)
    : columns.flatMap((column, c) => column.kind === "metric" ? [[column.name, rows[i].cells[c]]] : []));

function metricsTable(i, keep) {  // with 95% confidence intervals, where they are known
    const metrics = metricsOf(i), names = [...metrics.keys()].filter(name => keep(name) && metrics.get(name) !== null);
    const cell = name => textOf(metrics.get(name), "metric") + spreadOf(rows[i], { name, kind: "metric" });
    const lines = [...new Set(names.map(name => name.replace(/^test_/, "")))];
    return tableOf(["", "validation", "test"], lines.map(name => [name, cell(name), cell(`test_${name}`)]));
}

function folded(title, content) {
    return make("details", {}, make("summary", {}, title), content);
}

function show(i) {
    state.shown = state.current = i;
    const row = rows[i], { report } = row, section = byId("details");
    const ofClasses = [...metricsOf(i).keys()].some(name => name.includes("/"));
    watcher.unobserve(byId("confusion") ?? section);
    section.replaceChildren(
        make("h2", { id: "details-title", tabIndex: -1 }, nameOf(i)),
        make("p", { className: "muted wide" }, `${statusOf(i)}${row.why ? `: ${row.why}` : ""} · ${row.folder}`),
        make("div", { className: "side" },
            make("div", {}, make("h3", {}, "Metrics"), metricsTable(i, name => !name.includes("/")),
                ofClasses ? folded("of each class", metricsTable(i, name => name.includes("/"))) : null),
            make("div", {}, make("h3", {}, "Hyperparameters"), tableOf(["", "value"], Object.entries(row.params)),
                folded("the same in all", tableOf(["", "value"], Object.entries(data.params))),
                folded(`versions, hardware, data, command${ofFirst(i)}`, tableOf(["", "value"], [...factsOf(i)])))));
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
    const digits = value => typeof value === "number" ? value.toFixed(3) : "–", side = make("div", { className: "side" });
    const calibration = report.calibration_error ?? null, { classes, confusion, mistakes } = report;
    const parts = [make("h3", {}, `Evaluation on ${report.split}${ofFirst(rows.indexOf(row))}`), make("p", { className: "muted" },
        `${report.checkpoint}, epoch ${report.epoch}, ${report.samples} samples`,
        calibration === null ? null : ` · calibration error ${digits(calibration)}`)];
    if (Array.isArray(confusion) && confusion.length === classes?.length)
        side.append(make("figure", {}, make("div", { id: "confusion" }),
            make("figcaption", {}, "Confusion matrix: a row is a true class, the numbers are counts.")));
    if (classes) side.append(make("div", {}, tableOf(["class", "precision", "recall", "F1", "support"],
        classes.map(one => [one.class, digits(one.precision), digits(one.recall), digits(one.f1), one.support]), [1, 2, 3, 4])));
    parts.push(side);
    const image = row.mistakes ? make("figure", {}, make("img", { src: row.mistakes, alt: "as evaluate.py drew them" })) : null;
    if (mistakes?.length) {
        const item = one => one.sentence === undefined ? one.item : `${one.item} (sentence ${one.sentence})`;
        const table = tableOf(["item", "label", "prediction", "probability"],
            mistakes.map(one => [item(one), one.label, one.prediction, digits(one.probability)]), [3]);
        parts.push(make("h3", {}, "Most confident mistakes"), image ?? table, image ? folded("as a table", table)
            : make("p", { className: "muted wide" }, `mistakes_${report.split}.png or .html in ${row.folder} shows them.`));
    } else if (image && report.kind === "regression") parts.push(make("h3", {}, "Residuals"), image);
    return parts;
}

function differing(first, second) {  // of two Maps: a list of (name, value of the first, value of the second)
    return [...new Set([...first.keys(), ...second.keys()])].map(name => [name, first.get(name), second.get(name)])
        .filter(([, x, y]) => x !== y);
}

function compare() {
    const [a, b] = [...state.chosen.keys()].slice(-2), section = byId("compare");
    if (b === undefined) return;
    const params = differing(paramsOf(a), paramsOf(b)), metrics = differing(metricsOf(a), metricsOf(b));
    const facts = differing(factsOf(a), factsOf(b));
    const headers = ["", nameOf(a), nameOf(b)].map(name => shorten(name, 40));
    const alike = [...paramsOf(a).keys()].filter(name => !params.some(([other]) => other === name)).length;
    const difference = (x, y) => {
        const value = numberOf(y) - numberOf(x);
        return Number.isFinite(value) ? `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(4)}` : "–";
    };
    const close = () => { section.hidden = true; byId("box").focus(); };
    section.replaceChildren(
        make("div", { className: "bar" }, make("h2", { id: "compare-title", tabIndex: -1 }, "What differs"),
            make("button", { type: "button", onclick: close }, "Close")),
        make("h3", {}, "Hyperparameters"), params.length ? tableOf(headers, params) : make("p", {}, "None."),
        make("p", { className: "muted" }, `${alike} more are the same.`),
        make("h3", {}, "Metrics"), tableOf([...headers, "difference"],
            metrics.map(([name, x, y]) => [name, textOf(x, "metric"), textOf(y, "metric"), difference(x, y)]), [1, 2, 3]),
        make("h3", {}, `Code, versions, hardware, data${ofFirst(a) || ofFirst(b)}`), facts.length ? tableOf(headers, facts) : make("p", {}, "Nothing."));
    section.hidden = false;
    section.scrollIntoView();
    byId("compare-title").focus({ preventScroll: true });
}
