// Sort a table by the column whose header is pressed: first the best on top, then the worst.
"use strict";
for (const table of document.querySelectorAll("table")) {
  const headers = [...table.tHead.rows[0].cells];
  const declared = [...table.tBodies[0].rows];
  headers.forEach((header, column) => {
    header.querySelector("button").addEventListener("click", () => {
      const next = { none: "descending", descending: "ascending", ascending: "none" };
      const order = next[header.getAttribute("aria-sort")];
      headers.forEach((other) => other.setAttribute("aria-sort", "none"));
      header.setAttribute("aria-sort", order);
      table.tBodies[0].append(...sorted(declared, column, order));
    });
  });
}

// Rows without a number in the column stay last; "none" is the declared order.
function sorted(rows, column, order) {
  if (order === "none") return rows;
  const sign = order === "descending" ? -1 : 1;
  return [...rows].sort((a, b) => {
    const [x, y] = [a.cells[column], b.cells[column]];
    if (column === 0) return -sign * x.textContent.localeCompare(y.textContent);
    if (!("key" in x.dataset)) return "key" in y.dataset ? 1 : 0;
    return "key" in y.dataset ? sign * (x.dataset.key - y.dataset.key) : -1;
  });
}

// A link from the address bar opens the category it names.
function reveal() {
  const target = document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") target.open = true;
}
addEventListener("hashchange", reveal);
reveal();
