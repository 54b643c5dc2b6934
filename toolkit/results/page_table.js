"use strict";
// The table of results.html: sort, filter and select rows. Names and values become text nodes, never markup.

const byId = id => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const { columns, rows } = data;
const MOST_SHOWN = 500;  // rows
const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#9a6fd0", "#808080"];
const NAME = columns.findIndex(column => column.kind === "name"), STATUS = columns.findIndex(column => column.kind === "status");
const METRIC = columns.findIndex(column => column.kind === "metric" && column.name === data.metric);
const state = {
    kept: new Set(rows.keys()),  // row numbers that pass the filter
    selected: new Map(),         // row number -> number of its color
    shown: null,                 // row number whose details are shown
    sort: { column: METRIC, sign: data.mode === "max" ? -1 : 1 },
};
const nameOf = i => rows[i].cells[NAME];
const colorOf = i => COLORS[state.selected.get(i)];

function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
        if (name in element) element[name] = value;
        else element.setAttribute(name, value);
    }
    element.append(...children.filter(child => child !== null).map(child => child instanceof Node ? child : String(child)));
    return element;
}

const numberOf = value => typeof value === "number" ? value : NaN;  // that of "nan", "inf" and other texts is NaN

function textOf(value, kind) {
    if (value === null || value === undefined) return "–";
    if (typeof value !== "number") return String(value);
    if (kind === "metric") return value.toFixed(4);
    if (Number.isInteger(value)) return String(value);
    const short = Number(value.toPrecision(4));
    return Math.abs(value) < 1e-4 ? short.toExponential() : String(short);
}

const spreadOf = (row, name) => row.spreads && Object.hasOwn(row.spreads, name) ? ` ${row.spreads[name]}` : "";  // its 95% confidence interval
const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

function compareValues(a, b, sign) {  // in either direction, texts ("nan", too) follow numbers, then missing values
    const rank = value => value === null ? 2 : typeof value === "number" ? 0 : 1;
    if (rank(a) !== rank(b) || a === null) return rank(a) - rank(b);
    return sign * (typeof a === "number" ? a - b : collator.compare(a, b));
}

function makeRow(row, i) {
    const box = make("input", { type: "checkbox", "aria-label": `select ${nameOf(i)}`, onchange: () => select(i, box.checked) });
    const cells = columns.map((column, c) => {
        const text = textOf(row.cells[c], column.kind), spread = spreadOf(row, column.name);
        const star = i === data.best ? make("span", { className: "best", title: "best finished row" }, "★ ") : null;
        if (c === NAME) return make("td", { className: "name" }, make("button", { type: "button", className: "link" }, star, text));
        const look = c === STATUS && text !== "finished" ? (text === "failed" ? "failed" : "muted") : column.numeric ? "number" : "";
        return make("td", { className: look, title: text + spread }, text, spread ? make("span", { className: "spread" }, spread) : null);
    });
    return make("tr", { id: `row-${i}` }, make("td", { className: "pick" }, box), ...cells);
}

const tableRows = [];  // by row number, made when they are shown
const headings = columns.map((column, c) => make("th", { scope: "col", className: c === NAME ? "name" : column.numeric ? "number" : "" },
    make("button", { type: "button", title: column.name, onclick: () => sortBy(c) }, column.name, make("span", {}))));

function sortBy(column) {
    const first = columns[column].mode === "max" ? -1 : 1;
    state.sort = { column, sign: state.sort.column === column ? -state.sort.sign : first };
    arrange();
}

function arrange() {
    const { column, sign } = state.sort, number = list => list.length.toLocaleString("en");
    const order = [...state.kept].sort((a, b) => column < 0 ? a - b : compareValues(rows[a].cells[column], rows[b].cells[column], sign) || a - b);
    byId("table").tBodies[0].replaceChildren(...order.slice(0, MOST_SHOWN).map(i => tableRows[i] ??= makeRow(rows[i], i)));
    showSelection();
    byId("count").className = "muted";
    byId("count").textContent = (order.length === rows.length ? "" : `${number(order)} of `) + `${number(rows)} rows`
        + (order.length > MOST_SHOWN ? `, of which the first ${MOST_SHOWN} are shown` : "");
    headings.forEach((heading, c) => {
        heading.setAttribute("aria-sort", c === column ? (sign < 0 ? "descending" : "ascending") : "none");
        heading.querySelector("span").textContent = c === column ? (sign < 0 ? " ↓" : " ↑") : "";
    });
}

function parseFilter(text) {  // returns functions from row number to boolean; throws a text for the user
    return (text.match(/(?:[^\s"]|"[^"]*"?)+/g) || []).map(term => {
        const parts = term.match(/^("[^"]*"|[^"<>=!]+)(<=|>=|!=|=|<|>)(.*)$/);
        const wanted = (parts ? parts[3] : term).replaceAll('"', "").toLowerCase();
        if (!parts) return i => rows[i].cells.some(value => String(value ?? "-").toLowerCase().includes(wanted));
        const name = parts[1].replaceAll('"', ""), sign = parts[2], number = wanted.trim() === "" ? NaN : Number(wanted);
        let column = columns.findIndex(one => one.name === name);
        if (column < 0) column = columns.findIndex(one => one.name.toLowerCase() === name.toLowerCase());
        if (column < 0) throw `no column “${name}”; there are ${columns.map(one => one.name).join(", ")}`;
        const cell = i => rows[i].cells[column], numberAt = i => numberOf(cell(i));
        if (sign === "=" || sign === "!=") {
            const isEqual = i => numberAt(i) === number || [textOf(cell(i)), String(cell(i) ?? "-")].some(text => text.toLowerCase() === wanted);
            return i => isEqual(i) === (sign === "=");
        }
        if (Number.isNaN(number)) throw `${name}${sign}: give a number`;
        const test = { "<": x => x < number, "<=": x => x <= number, ">": x => x > number, ">=": x => x >= number }[sign];
        return i => test(numberAt(i));
    });
}

function filter() {
    const field = byId("filter");
    try {
        const tests = parseFilter(field.value);
        state.kept = new Set([...rows.keys()].filter(i => tests.every(test => test(i))));
        field.removeAttribute("aria-invalid");
        arrange();
        redraw("panels", "parallel");
    } catch (problem) {
        if (typeof problem !== "string") throw problem;
        byId("count").textContent = problem;
        byId("count").className = "failed";
        field.setAttribute("aria-invalid", "true");
    }
}

function select(i, on) {
    const taken = [...state.selected.values()];
    if (!on) state.selected.delete(i);
    else if (taken.length < COLORS.length) state.selected.set(i, [...COLORS.keys()].find(color => !taken.includes(color)));
    showSelection();
    redraw("curves", "panels");
}

function showSelection() {
    tableRows.forEach((element, i) => {
        const box = element.querySelector("input"), on = state.selected.has(i);
        element.classList.toggle("selected", on);
        box.checked = on;
        box.style.accentColor = on ? colorOf(i) : "";
    });
    byId("selection").textContent = `${state.selected.size} selected${state.selected.size < COLORS.length ? "" : ", the most that can be drawn"}`;
    byId("compare-button").disabled = state.selected.size < 2;
    byId("clear").disabled = !state.selected.size;
}
