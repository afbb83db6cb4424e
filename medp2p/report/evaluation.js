"use strict";
(() => {
  const value = (row, column) => row.cells[column].textContent.trim().replace("−", "-").replace("∞", "Infinity");

  function compare(a, b, numeric) {
    if (!numeric) return a.localeCompare(b, undefined, { numeric: true });
    const [x, y] = [a, b].map((text) => (text === "" ? 0 : Number(text)));
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
    return x === y ? 0 : x - y;
  }

  function sort(table, header) {
    const column = header.cellIndex;
    const numeric = header.classList.contains("number");
    const ascending = header.getAttribute("aria-sort") === "descending" || (!header.hasAttribute("aria-sort") && !numeric);
    const body = table.tBodies[0];
    const missing = (row) => numeric && value(row, column) === "–";
    const rows = [...body.rows].sort((a, b) => (
      missing(a) - missing(b) || compare(value(a, column), value(b, column), numeric) * (ascending ? 1 : -1)
    ));
    body.append(...rows);
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    for (const header of table.tHead.rows[0].cells) {
      const button = Object.assign(document.createElement("button"), { type: "button" });
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => sort(table, header));
    }
  }
  for (const button of document.querySelectorAll("[data-show-more]")) {
    button.addEventListener("click", () => {
      document.getElementById(button.dataset.showMore).classList.add("expanded");
      button.parentElement.remove();
    });
  }
})();
