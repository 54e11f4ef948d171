"use strict";
const board = document.getElementById("board");
const body = board.tBodies[0];
const rows = [...body.rows];
const headings = [...board.tHead.rows[0].cells];

// Sorting: the headings become buttons; empty cells come last either way, equal ones keep the order of the records.
function sortBy(column) {
  const heading = headings[column];
  const descending = heading.getAttribute("aria-sort") === "ascending";
  const numeric = heading.dataset.kind === "number";
  const key = (row) => row.cells[column].dataset.value;
  const compare = numeric ? (a, b) => Number(a) - Number(b) : (a, b) => a.localeCompare(b, "en", { numeric: true });
  headings.forEach((other) => other.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const sorted = [...rows].sort((one, other) => {
    const [a, b] = [key(one), key(other)];
    if (a === "" || b === "") return (a === "") - (b === "");
    return descending ? compare(b, a) : compare(a, b);
  });
  body.append(...sorted);
}
headings.forEach((heading, column) => {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...heading.childNodes);
  button.addEventListener("click", () => sortBy(column));
  heading.append(button);
});

// Filters: of the rows and of the cases below them.
const form = document.getElementById("filters");
const fields = [...form.querySelectorAll("[data-filter]")];
const count = document.getElementById("count");
function filter() {
  const wanted = Object.fromEntries(fields.map((field) => [field.dataset.filter, field.value]));
  const words = wanted.text.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) {
    const text = `${row.textContent} ${row.dataset.id}`.toLowerCase();
    const fits = ["adversary", "attack", "defense", "dataset"].every((what) => !wanted[what] || row.dataset[what] === wanted[what]);
    row.hidden = !(fits && words.every((word) => text.includes(word)));
    document.getElementById(row.dataset.case).hidden = row.hidden;
    shown += !row.hidden;
  }
  for (const group of document.querySelectorAll(".defense")) group.hidden = !group.querySelector("details:not([hidden])");
  count.value = `${shown} of ${rows.length} cases`;
}
form.hidden = false;
form.addEventListener("input", filter);
form.addEventListener("reset", () => setTimeout(filter));
form.addEventListener("submit", (event) => event.preventDefault());
// A browser that goes back may fill the fields again.
addEventListener("pageshow", filter);

// A link to a case opens it; paper shows all that is listed.
function openTarget() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) {
    target.open = true;
    target.scrollIntoView();
  }
}
addEventListener("hashchange", openTarget);
board.addEventListener("click", (event) => event.target.closest("a") && setTimeout(openTarget));
openTarget();
// Pictures wait until the page stands, but no longer: what is not loaded before it is printed stays empty on paper.
addEventListener("load", () => document.querySelectorAll("img").forEach((image) => image.setAttribute("loading", "eager")));
let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  closed.forEach((details) => (details.open = true));
});
addEventListener("afterprint", () => closed.forEach((details) => (details.open = false)));
