// Of results.html: dark or light, keys, and the beginning.

function setTheme(theme) {
    document.documentElement.dataset.theme = theme;
    byId("theme").textContent = theme === "dark" ? "Light" : "Dark";
}

function changeTheme() {
    setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    showChoice();
    redraw("curves", "panels", "parallel", "confusion");
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
    const inTable = {
        ArrowDown: () => moveTo(at + 1), ArrowUp: () => moveTo(at - 1), Home: () => moveTo(0), End: () => moveTo(Infinity),
        PageDown: () => moveTo(at + page), PageUp: () => moveTo(at - page),
        " ": () => choose(state.current), Enter: () => state.order.length && show(state.current),
    };
    const anywhere = {
        "/": () => byId("filter").focus(), "?": () => byId("keys").showModal(), c: compare, x: clearChoice, t: changeTheme,
    };
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
    const missing = data.left_out.map(line => `Not in this file, for its size: ${line}`);
    byId("below").append(...[...data.below, ...missing].map(line => make("p", {}, line)));
    columns.forEach((column, c) => {
        const isNumber = row => row.cells[c] === null || numberOf(row.cells[c]) !== undefined;
        column.numeric = !["name", "status"].includes(column.kind) && rows.every(isNumber);
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

    const body = byId("table").tBodies[0], rowOf = event => {
        const row = event.target.closest("tr[id]");
        return row && Number(row.id.slice(4));
    };
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
    body.addEventListener("pointerover", event => {
        const i = rowOf(event);
        if (i !== null && event.pointerType === "mouse") peek(i, event.clientX, event.clientY);
    });
    byId("box").addEventListener("pointerleave", () => { byId("peek").hidden = true; });
    byId("box").addEventListener("blur", () => { byId("peek").hidden = true; });
    byId("series").addEventListener("change", () => redraw("curves"));
    byId("metric").addEventListener("change", () => redraw("panels"));
    byId("compare-button").addEventListener("click", compare);
    byId("clear").addEventListener("click", clearChoice);
    byId("theme").addEventListener("click", changeTheme);
    byId("help").addEventListener("click", () => byId("keys").showModal());
    addEventListener("keydown", onKey);
    addEventListener("resize", () => { render(); redraw(...Object.keys(charts)); });
}

begin();
