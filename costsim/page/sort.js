"use strict";
// Tables sort by the buttons that this puts into their headers; without it the page is whole, and unsorted.
(() => {
  const words = new Intl.Collator("en", { numeric: true });
  const status = document.getElementById("said");

  // What a cell is compared by: null if it has no value. Integers may be larger than a double holds.
  function key(cell, sort) {
    if (sort === "words") return cell.textContent.trim();
    const value = cell.dataset.value;
    if (!value) return null;
    return sort === "integer" ? BigInt(value) : Number(value);
  }

  function compare(a, b, sort) {
    if (sort === "words") return words.compare(a, b);
    return a < b ? -1 : a > b ? 1 : 0;
  }

  function sortBy(table, header, index) {
    const sort = header.dataset.sort;
    const up = header.getAttribute("aria-sort") !== "ascending";
    const body = table.tBodies[0];
    const rows = Array.from(body.rows, (row) => ({ row, key: key(row.cells[index], sort) }));
    rows.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null); // n/a is last either way
      return (up ? 1 : -1) * compare(a.key, b.key, sort);
    });
    body.append(...rows.map((its) => its.row));
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    status.textContent = `sorted by ${header.textContent}, ${up ? "ascending" : "descending"}`;
  }

  for (const table of document.querySelectorAll("main table")) {
    Array.from(table.tHead.rows[0].cells).forEach((header, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      header.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => sortBy(table, header, index));
    });
  }

  // Paper cannot be opened.
  const closed = [];
  window.addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details:not([open])")) {
      part.open = true;
      closed.push(part);
    }
  });
  window.addEventListener("afterprint", () => {
    for (const part of closed.splice(0)) part.open = false;
  });
})();
