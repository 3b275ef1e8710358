"use strict";
(() => {
  const table = document.getElementById("table");
  const box = document.getElementById("filter");
  const heads = [...table.tHead.rows[0].cells];
  const runs = [...table.querySelectorAll("tr.run")];
  const valueOf = (row, column) => row.cells[column].dataset.v;

  // Within each protocol's body only: rows of different protocols are never ranked together. No value comes last.
  const sort = (column, down) => {
    const compare = (a, b) => {
      const [x, y] = [valueOf(a, column), valueOf(b, column)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
      return down ? -order : order;
    };
    for (const body of table.tBodies) body.append(...[...body.querySelectorAll("tr.run")].sort(compare));
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
  };
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      sort(column, now ? now === "ascending" : head.dataset.better === "high");
    });
  });

  // Words must stand in the row; key=value, key!=value, key>number and the like ask one column.
  const test = (part) => {
    const found = /^([^=<>!~]+)(!=|>=|<=|=|>|<|~)(.*)$/.exec(part);
    const column = found ? heads.findIndex((head) => [head.dataset.key, head.querySelector("button").firstChild.data.trim()]
      .some((name) => name.toLowerCase() === found[1].toLowerCase())) : -1;
    if (column < 0) return (row) => row.textContent.toLowerCase().includes(part.toLowerCase());
    const [, , sign, wanted] = found;
    return (row) => {
      const value = valueOf(row, column);
      const same = value !== "" && wanted !== "" && !isNaN(value) && !isNaN(wanted) ? +value === +wanted
        : value.toLowerCase() === wanted.toLowerCase();
      if (sign === "=") return same;
      if (sign === "!=") return !same;
      if (sign === "~") return value.toLowerCase().includes(wanted.toLowerCase());
      if (value === "" || wanted === "" || isNaN(value)) return wanted === "";
      return { ">": +value > +wanted, "<": +value < +wanted, ">=": +value >= +wanted, "<=": +value <= +wanted }[sign];
    };
  };
  const filter = () => {
    const tests = box.value.split(/\s+/).filter(Boolean).map(test);
    let count = 0;
    for (const row of runs) count += !(row.hidden = !tests.every((one) => one(row)));
    for (const body of table.tBodies) body.hidden = !body.querySelector("tr.run:not([hidden])");
    document.getElementById("count").textContent = tests.length ? `${count} of ${runs.length} rows` : `${runs.length} rows`;
  };
  box.addEventListener("input", filter);
  for (const tick of document.querySelectorAll("[data-kind]")) {
    const show = () => table.classList.toggle(`hide-${tick.dataset.kind}`, !tick.checked);
    tick.addEventListener("change", show);
    show();
  }
  filter();
})();
