"use strict";
// Sorts tables and filters boards. All is in the page already: without this script nothing is missing.
// The state is kept behind the #, so that a view can be shared: #task=segmentation&shot=4&sort=overall.2.descending
const form = document.querySelector("form.filters");
const state = new URLSearchParams(location.hash.slice(1));

function sortTable(table, column, direction) {
  const sign = direction === "ascending" ? 1 : -1;
  const value = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
  const rows = [...table.tBodies[0].rows];
  const numbers = rows.every((row) => value(row) === "" || !Number.isNaN(Number(value(row))));
  rows.sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === "" || b === "") return (a === "") - (b === "");
    return sign * (numbers ? Number(a) - Number(b) : a.localeCompare(b));
  });
  table.tBodies[0].append(...rows);
  [...table.tHead.rows[0].cells].forEach((cell, place) => {
    cell.setAttribute("aria-sort", place === column ? direction : "none");
  });
}

function filterBoards() {
  const wanted = Object.fromEntries(new FormData(form));
  document.querySelectorAll("[data-shot]").forEach((part) => {
    part.hidden = Boolean(wanted.shot) && part.dataset.shot !== wanted.shot;
  });
  document.querySelectorAll("[data-board]").forEach((board) => {
    const named = ["suite", "task", "dataset", "unseen"].every((name) => !wanted[name] || board.dataset[name] === wanted[name]);
    const kinds = (board.dataset.modality ?? "").split(", ");
    const shown = board.querySelector("[data-shot]:not([hidden])") !== null;
    board.hidden = !(named && shown && (!wanted.modality || kinds.includes(wanted.modality)));
  });
  document.querySelectorAll("[data-group]").forEach((group) => {
    group.hidden = group.querySelector("[data-board]:not([hidden])") === null;
  });
  const left = [...document.querySelectorAll("[data-board]:not([hidden])")];
  if (left.length <= 2) left.forEach((board) => { board.open = true; });
  document.querySelectorAll("[data-kind], tr[data-contaminated]").forEach((row) => {
    row.hidden = ("models" in wanted && "kind" in row.dataset) || ("clean" in wanted && "contaminated" in row.dataset);
  });
  document.querySelectorAll("[data-overall]").forEach((part) => {
    part.hidden = Boolean(wanted.suite) && part.dataset.overall !== wanted.suite;
  });
}

function remember() {
  history.replaceState(null, "", "#" + state.toString());
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("th button");
  if (!button) return;
  const cell = button.closest("th");
  const table = button.closest("table");
  const first = cell.dataset.first ?? "descending";
  const other = first === "ascending" ? "descending" : "ascending";
  const direction = cell.getAttribute("aria-sort") === first ? other : first;
  sortTable(table, cell.cellIndex, direction);
  state.set("sort", [table.id, cell.cellIndex, direction].join("."));
  remember();
});

form.addEventListener("change", () => {
  for (const field of form.elements) state.delete(field.name);
  for (const [name, value] of new FormData(form)) if (value || name === "shot") state.set(name, value);
  filterBoards();
  remember();
});

for (const field of form.elements) {
  if (!state.has(field.name)) {
    if (field.dataset.start) field.value = field.dataset.start;
  } else if (field.type === "checkbox") field.checked = true;
  else field.value = state.get(field.name);
}
form.hidden = false;
filterBoards();
const [id, column, direction] = (state.get("sort") ?? "").split(".");
if (document.getElementById(id)) sortTable(document.getElementById(id), Number(column), direction);
addEventListener("beforeprint", () => document.querySelectorAll("details.board").forEach((part) => { part.open = true; }));
