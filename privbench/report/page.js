"use strict";
const board = document.getElementById("board");
const body = board.tBodies[0];
const rows = [...body.rows];
const headings = [...board.tHead.rows[0].cells];
const folded = "folded" in board.dataset;
const calm = (text) => text.trim().replace(/\s+/g, " ");

// Pictures of a large page lie in it once; each gets its own when it comes into view.
const store = JSON.parse(document.getElementById("pictures").textContent);
function show(image) {
  image.src = `data:image/webp;base64,${store[image.dataset.picture]}`;
  delete image.dataset.picture;
}
const watcher = new IntersectionObserver((seen) => {
  for (const { isIntersecting, target } of seen) {
    if (isIntersecting && target.dataset.picture) {
      show(target);
      watcher.unobserve(target);
    }
  }
}, { rootMargin: "200px" });
const watch = (part) => part.querySelectorAll("img[data-picture]").forEach((image) => watcher.observe(image));

// Rows: filtered, and above a hundred cases folded by defense, the group that leaks most first.
const form = document.getElementById("filters");
const fields = [...form.querySelectorAll("[data-filter]")];
const count = document.getElementById("count");
const details = new Map(rows.map((row) => [row, document.getElementById(row.dataset.case)]));
const texts = new Map(rows.map((row) => [row, `${calm(row.textContent)} ${row.dataset.id}`.toLowerCase()]));
const open = new Set();
let order = rows;

function groupHead(name, members) {
  const row = document.createElement("tr");
  row.className = "group";
  const cell = row.appendChild(document.createElement("th"));
  cell.colSpan = headings.length;
  cell.scope = "rowgroup";
  const button = cell.appendChild(document.createElement("button"));
  button.type = "button";
  button.textContent = `${name}: ${members.length} case${members.length === 1 ? "" : "s"}`;
  button.setAttribute("aria-expanded", String(open.has(name)));
  button.addEventListener("click", () => {
    if (!open.delete(name)) open.add(name);
    draw();
    [...body.querySelectorAll("tr.group button")].find((other) => other.textContent === button.textContent)?.focus();
  });
  return row;
}

function draw() {
  const wanted = Object.fromEntries(fields.map((field) => [field.dataset.filter, field.value]));
  const words = wanted.text.toLowerCase().split(/\s+/).filter(Boolean);
  const filtered = words.length > 0 || fields.some((field) => field.value);
  const fits = (row) =>
    ["adversary", "attack", "defense", "dataset"].every((what) => !wanted[what] || row.dataset[what] === wanted[what]) &&
    words.every((word) => texts.get(row).includes(word));
  const kept = new Set(rows.filter(fits));
  for (const row of rows) {
    row.hidden = !kept.has(row);
    details.get(row).hidden = row.hidden;
  }
  for (const group of document.querySelectorAll(".defense")) group.hidden = !group.querySelector("details:not([hidden])");
  if (folded) {
    const groups = Map.groupBy ? Map.groupBy(order.filter((row) => kept.has(row)), (row) => row.dataset.defense) : grouped(kept);
    const shown = [];
    for (const [name, members] of groups) {
      shown.push(groupHead(name, members));
      if (filtered || open.has(name)) shown.push(...members);
    }
    body.replaceChildren(...shown);
  } else {
    body.append(...order);
  }
  watch(body);
  count.value = `${kept.size} of ${rows.length} cases`;
}
function grouped(kept) {
  const groups = new Map();
  for (const row of order.filter((one) => kept.has(one))) {
    groups.set(row.dataset.defense, [...(groups.get(row.dataset.defense) ?? []), row]);
  }
  return groups;
}

// Sorting: the headings become buttons; empty cells come last either way, equal ones keep the order of the records.
function sortBy(column) {
  const heading = headings[column];
  const descending = heading.getAttribute("aria-sort") === "ascending";
  const numeric = heading.dataset.kind === "number";
  const key = (row) => row.cells[column].dataset.value;
  const compare = numeric ? (a, b) => Number(a) - Number(b) : (a, b) => a.localeCompare(b, "en", { numeric: true });
  headings.forEach((other) => other.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  order = [...rows].sort((one, other) => {
    const [a, b] = [key(one), key(other)];
    if (a === "" || b === "") return (a === "") - (b === "");
    return descending ? compare(b, a) : compare(a, b);
  });
  draw();
}
headings.forEach((heading, column) => {
  if (heading.dataset.kind === "none") return;
  const button = document.createElement("button");
  button.type = "button";
  button.append(...heading.childNodes);
  button.addEventListener("click", () => sortBy(column));
  heading.append(button);
});

// The address holds the case that is open and the filters: #case-0123&defense=mjp
function address() {
  const parts = location.hash.slice(1).split("&").filter(Boolean);
  return { target: parts.find((part) => !part.includes("=")) ?? "", filters: new URLSearchParams(parts.filter((part) => part.includes("=")).join("&")) };
}
function readAddress() {
  const { filters } = address();
  for (const field of fields) {
    const value = filters.get(field.dataset.filter) ?? "";
    field.value = value;
    if (field.value !== value) field.value = "";
  }
  draw();
}
function filterText() {
  return fields.filter((field) => field.value).map((field) => `${field.dataset.filter}=${encodeURIComponent(field.value)}`);
}
function writeAddress(target) {
  const parts = [target, ...filterText()].filter(Boolean);
  history.replaceState(null, "", parts.length ? `#${parts.join("&")}` : location.href.split("#")[0]);
}
form.hidden = false;
form.addEventListener("input", () => {
  draw();
  writeAddress(address().target);
});
form.addEventListener("reset", () => setTimeout(() => {
  draw();
  writeAddress(address().target);
}));
form.addEventListener("submit", (event) => event.preventDefault());

// Details: made when they are opened, with a slider over original and reconstruction and a map of the error.
function make(one) {
  // Of a large page details are text until they are opened: a hundred thousand nodes less to make.
  const text = one.querySelector(":scope > script");
  if (text) text.outerHTML = text.textContent;
  if (one.dataset.made) return;
  one.dataset.made = "yes";
  one.querySelectorAll("img[data-picture]").forEach(show);
  one.querySelectorAll(".tile").forEach((tile) => (tile.classList.contains("evolution") ? animate(tile) : compare(tile)));
}
function figure(content, words) {
  const made = document.createElement("figure");
  const caption = document.createElement("figcaption");
  caption.textContent = words;
  made.append(...content, caption);
  return made;
}
function range(label, max, value, moved) {
  const slider = document.createElement("input");
  Object.assign(slider, { type: "range", min: 0, max, value });
  slider.setAttribute("aria-label", label);
  slider.addEventListener("input", () => moved(Number(slider.value)));
  moved(value);
  return slider;
}
function compare(tile) {
  const [original, found] = [".original img", ".found img"].map((place) => tile.querySelector(place));
  if (!original || !found) return;
  const name = tile.querySelector("b").textContent;
  const box = document.createElement("div");
  box.className = "compare";
  const [under, over] = [found.cloneNode(), original.cloneNode()];
  over.className = "over";
  under.alt = over.alt = "";
  box.append(under, over);
  const slider = range(`${name}: original to the left, reconstruction to the right`, 100, 50, (value) => {
    over.style.clipPath = `inset(0 ${100 - value}% 0 0)`;
  });
  const map = document.createElement("canvas");
  map.setAttribute("role", "img");
  map.setAttribute("aria-label", `${name}: error of each pixel`);
  tile.querySelector(".views").append(figure([box, slider], "original | reconstruction"), figure([map], "error, dark to bright"));
  Promise.all([original.decode(), found.decode()]).then(() => errors(map, original, found), () => map.parentElement.remove());
}
function pixels(image, width, height) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0, width, height);
  return pen.getImageData(0, 0, width, height).data;
}
function errors(map, original, found) {
  const [width, height] = [original.naturalWidth, original.naturalHeight];
  const [a, b] = [pixels(original, width, height), pixels(found, width, height)];
  Object.assign(map, { width, height });
  const pen = map.getContext("2d");
  const image = pen.createImageData(width, height);
  for (let at = 0; at < a.length; at += 4) {
    const error = (Math.abs(a[at] - b[at]) + Math.abs(a[at + 1] - b[at + 1]) + Math.abs(a[at + 2] - b[at + 2])) / 765;
    const bright = Math.min(1, 2 * error);
    image.data.set([255 * Math.min(1, 1.6 * bright), 255 * bright ** 1.5, 255 * (0.25 * (1 - bright) + 0.6 * bright ** 4), 255], at);
  }
  pen.putImageData(image, 0, 0);
}
function animate(tile) {
  const steps = tile.dataset.steps.split(" ");
  const [image, output] = [tile.querySelector("img"), tile.querySelector("output")];
  tile.classList.add("one");
  const slider = range("step of the attack", steps.length - 1, steps.length - 1, (place) => {
    image.style.marginLeft = `${-8 * place}rem`;
    output.value = steps[place];
  });
  slider.setAttribute("aria-valuetext", steps.at(-1));
  slider.addEventListener("input", () => slider.setAttribute("aria-valuetext", steps[Number(slider.value)]));
  tile.append(slider);
}
document.addEventListener("toggle", (event) => event.target instanceof HTMLDetailsElement && event.target.open && make(event.target), true);

// A link to a case opens it and keeps the filters.
function openTarget() {
  const target = document.getElementById(decodeURIComponent(address().target));
  if (target instanceof HTMLDetailsElement) {
    target.hidden = target.closest(".defense").hidden = false;
    target.open = true;
    make(target);
    target.scrollIntoView();
  }
}
addEventListener("hashchange", () => {
  readAddress();
  openTarget();
});
document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href^='#case-']");
  if (!link) return;
  event.preventDefault();
  history.pushState(null, "", `#${[link.hash.slice(1), ...filterText()].join("&")}`);
  openTarget();
});
addEventListener("popstate", openTarget);
readAddress();
board.dataset.ready = "yes";
openTarget();

// Paper shows all that is listed. Pictures wait until the page stands, but no longer: what is not loaded before it is printed stays empty.
addEventListener("load", () => document.querySelectorAll("img[loading]").forEach((image) => image.setAttribute("loading", "eager")));
let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open]):not([hidden])")];
  closed.forEach((one) => {
    one.open = true;
    make(one);
  });
  document.querySelectorAll("img[data-picture]").forEach(show);
});
addEventListener("afterprint", () => closed.forEach((one) => (one.open = false)));
