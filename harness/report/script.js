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
    const [x, y] = [a, b].map((row) => row.cells[column].textContent);
    if (column === 0) return -sign * x.localeCompare(y);
    const [p, q] = [x, y].map(parseFloat);
    if (isNaN(p) || isNaN(q)) return isNaN(p) - isNaN(q);
    return sign * (p - q);
  });
}

// A link from the address bar opens the category it names.
function reveal() {
  const target = document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") target.open = true;
}
addEventListener("hashchange", reveal);
reveal();
