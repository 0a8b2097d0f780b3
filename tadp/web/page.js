"use strict";
// A *term* is a word, name or token. A *view* has the maps of one level, or of one head of a layer, in 8 bits. A *place*
// is a point of the picture as shares of its width and height.
const data = JSON.parse(document.getElementById("data").textContent);
const bytes = Uint8Array.from(atob(data.maps), (letter) => letter.charCodeAt(0));
const [stage, heat, cell, tip, texts, live] = ["stage", "heat", "cell", "tip", "texts", "live"].map((id) => document.getElementById(id));
const HEAT = [[40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]];
const COLORS = ["#ff9f1c", "#2ec4ff", "#3ddc84", "#ff7ad1", "#ffe14d", "#b69cff", "#ff6b6b", "#00d1b2"];
const LISTED = 5, GRID = 384, DIMMED = 0.15;

const shape = data.size[1] / data.size[0];
const grid = shape > 1 ? [GRID, Math.max(1, Math.round(GRID / shape))] : [Math.max(1, Math.round(GRID * shape)), GRID];
[heat.width, heat.height] = grid;
document.documentElement.style.setProperty("--shape", shape);

let start = 0;
for (const view of data.views) { // where each view's bytes begin
  view.start = start;
  start += data.terms.length * view.rows * view.columns;
}
const levels = [...new Set(data.views.filter((view) => view.layer === null).map((view) => view.level))];
const state = { levels: new Set(levels.slice(0, 2)), layer: null, head: null, pins: new Map(), hovered: null, place: null, placePinned: false };

// Values

// What was computed for the chosen levels, layer and head.
const cache = new Map();
function cached(name, make) {
  const key = [name, [...state.levels].sort(), state.layer, state.head].join("|");
  if (!cache.has(key)) {
    if (cache.size > 300) cache.clear();
    cache.set(key, make());
  }
  return cache.get(key);
}

function chosenViews() {
  return cached("views", () => data.views.filter((view) => {
    if (state.layer === null) return view.layer === null && state.levels.has(view.level);
    return view.layer === state.layer && (state.head === null || view.head === state.head);
  }));
}

function valueOf(view, term, index) {
  const byte = bytes[view.start + term * view.rows * view.columns + index];
  return view.low[term] + (byte / 255) * (view.high[term] - view.low[term]);
}

function cellAt(view, [x, y]) {
  return [Math.min(view.columns - 1, Math.floor(x * view.cells[1])), Math.min(view.rows - 1, Math.floor(y * view.cells[0]))];
}

function valueAt(term, place) {
  const views = chosenViews();
  let sum = 0;
  for (const view of views) {
    const [column, row] = cellAt(view, place);
    sum += valueOf(view, term, row * view.columns + column);
  }
  return sum / views.length;
}

function finest() {
  return chosenViews().reduce((best, view) => (view.rows * view.columns > best.rows * best.columns ? view : best));
}

// The highest value of each term, over the cells of the finest map.
function peaks() {
  return cached("peaks", () => {
    const { cells: [height, width] } = finest(), views = chosenViews(), places = [];
    for (let row = 0; row < Math.ceil(height); row++) {
      for (let column = 0; column < Math.ceil(width); column++) places.push([Math.min(0.9999, (column + 0.5) / width), Math.min(0.9999, (row + 0.5) / height)]);
    }
    const indices = views.map((view) => places.map((place) => cellAt(view, place)).map(([column, row]) => row * view.columns + column));
    return data.terms.map((_, term) => {
      const sums = new Float32Array(places.length);
      views.forEach((view, number) => indices[number].forEach((index, at) => { sums[at] += valueOf(view, term, index); }));
      return sums.reduce((most, sum) => Math.max(most, sum)) / views.length;
    });
  });
}

// The four cells around a point between cell centres and their weights (Catmull-Rom): exact at the centres, no diamonds.
function taps(count, cells, limit) {
  const indices = new Int32Array(4 * count), weights = new Float32Array(4 * count);
  for (let index = 0; index < count; index++) {
    const point = ((index + 0.5) / count) * cells - 0.5, base = Math.floor(point), t = point - base;
    weights.set([((2 - t) * t - 1) * t / 2, ((3 * t - 5) * t * t + 2) / 2, ((4 - 3 * t) * t + 1) * t / 2, (t - 1) * t * t / 2], 4 * index);
    for (let k = 0; k < 4; k++) indices[4 * index + k] = Math.min(limit - 1, Math.max(0, base - 1 + k));
  }
  return { indices, weights };
}

// The map of a term on the grid of the canvas, averaged over the chosen views, with its lowest and highest value.
function field(term) {
  return cached(term, () => {
    const [width, height] = grid, views = chosenViews(), values = new Float32Array(width * height);
    for (const view of views) {
      const across = taps(width, view.cells[1], view.columns), down = taps(height, view.cells[0], view.rows);
      const wide = new Float32Array(width * view.rows), stored = new Float32Array(view.columns);
      const low = view.low[term], high = view.high[term];
      for (let row = 0; row < view.rows; row++) {
        for (let column = 0; column < view.columns; column++) stored[column] = valueOf(view, term, row * view.columns + column);
        for (let x = 0; x < width; x++) {
          let sum = 0;
          for (let k = 4 * x; k < 4 * x + 4; k++) sum += across.weights[k] * stored[across.indices[k]];
          wide[row * width + x] = sum;
        }
      }
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          let sum = 0;
          for (let k = 4 * y; k < 4 * y + 4; k++) sum += down.weights[k] * wide[down.indices[k] * width + x];
          values[y * width + x] += Math.min(high, Math.max(low, sum)) / views.length;
        }
      }
    }
    let low = Infinity, high = -Infinity;
    for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
    return { values, low, high };
  });
}

// Drawing

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
function heatColor(share) {
  const step = share * (HEAT.length - 1), below = Math.min(HEAT.length - 2, Math.floor(step)), part = step - below;
  return HEAT[below].map((value, channel) => value + part * (HEAT[below + 1][channel] - value));
}
const HEAT_256 = Array.from({ length: 256 }, (_, index) => heatColor(index / 255));

function freeSlot() {
  const used = new Set(state.pins.values());
  return COLORS.findIndex((_, slot) => !used.has(slot)) === -1 ? state.pins.size % COLORS.length : COLORS.findIndex((_, slot) => !used.has(slot));
}

function shownTerms() {
  const shown = new Map(state.pins);
  if (state.hovered !== null && !shown.has(state.hovered)) shown.set(state.hovered, freeSlot());
  return shown;
}

// A faint word is drawn weaker, by the root of its share of the strongest word, as in the pictures of `tadp show`.
function strength(term) {
  const all = peaks(), top = Math.max(...all);
  return top > 0 ? Math.sqrt(Math.max(0, all[term]) / top) : 0;
}

function draw(shown) {
  const context = heat.getContext("2d"), [width, height] = grid, picture = context.createImageData(width, height);
  const opacity = document.getElementById("opacity").value / 100;
  const layers = [...shown].map(([term, slot]) => ({ ...field(term), color: rgb(COLORS[slot]), strength: strength(term), slot }));
  const single = layers.length === 1 && layers[0].slot === 0;
  for (let index = 0; layers.length && index < width * height; index++) {
    let clear = 1, total = 0, most = 0, red = 0, green = 0, blue = 0;
    for (const layer of layers) {
      const share = layer.high > layer.low ? (layer.strength * (layer.values[index] - layer.low)) / (layer.high - layer.low) : 0;
      const color = single ? HEAT_256[Math.round(255 * share)] : layer.color;
      const weight = Math.min(1, 1.25 * share);
      clear *= 1 - opacity * weight;
      total += weight;
      most = Math.max(most, share);
      red += weight * color[0]; green += weight * color[1]; blue += weight * color[2];
    }
    // the picture keeps `kept` of its light, and the heat's colour is added with the rest of its opacity
    const kept = clear * (1 - DIMMED * opacity * (1 - most)), alpha = 1 - kept, part = alpha > 0 && total > 0 ? (1 - clear) / alpha / total : 0;
    picture.data.set([red * part, green * part, blue * part, 255 * alpha], 4 * index);
  }
  context.putImageData(picture, 0, 0);
}

const written = (value) => (value >= 0.1 ? value.toFixed(2) : value >= 0.0005 ? value.toFixed(3) : "<0.001");
const isFound = (term) => data.terms[term].found;

function drawPlace() {
  cell.hidden = tip.hidden = state.place === null;
  if (state.place === null) return;
  const view = finest(), [column, row] = cellAt(view, state.place), [rows, columns] = view.cells;
  Object.assign(cell.style, {
    left: `${(100 * column) / columns}%`, top: `${(100 * row) / rows}%`,
    width: `${100 * Math.min(1, columns - column) / columns}%`, height: `${100 * Math.min(1, rows - row) / rows}%`,
  });
  cell.classList.toggle("pinned", state.placePinned);
  tip.replaceChildren();
  for (const [term, value] of [...pinnedHere(), ...strongestHere()]) {
    const [name, number] = [document.createElement("span"), document.createElement("span")];
    if (state.pins.has(term)) name.append(Object.assign(document.createElement("i"), { style: `background:${COLORS[state.pins.get(term)]}` }));
    name.append(data.terms[term].text);
    name.dir = "auto";
    number.textContent = written(value);
    tip.append(name, number);
  }
  const [x, y] = state.place; // on the side with more room
  Object.assign(tip.style, { left: "auto", right: "auto", top: "auto", bottom: "auto" });
  tip.style[x < 0.5 ? "left" : "right"] = `calc(${100 * (x < 0.5 ? x : 1 - x)}% + 1.2rem)`;
  tip.style[y < 0.5 ? "top" : "bottom"] = `calc(${100 * (y < 0.5 ? y : 1 - y)}% + 0.6rem)`;
}

const here = (term) => [term, valueAt(term, state.place)];
const pinnedHere = () => [...state.pins.keys()].map(here);
function strongestHere() { // a word that occurs twice is listed once
  const listed = new Set([...state.pins.keys()].map((term) => data.terms[term].text));
  const sorted = data.terms.map((_, term) => term).filter(isFound).map(here).sort((a, b) => b[1] - a[1]);
  return sorted.filter(([term]) => !listed.has(data.terms[term].text) && listed.add(data.terms[term].text)).slice(0, LISTED);
}

function labelButtons(shown) {
  const values = state.place === null ? peaks() : data.terms.map((_, term) => valueAt(term, state.place)), top = Math.max(...values);
  const meaning = state.place === null ? "highest attention" : "attention at the chosen place";
  for (const [term, button] of buttons) {
    if (!isFound(term)) continue;
    const value = written(values[term]), slot = state.pins.get(term);
    button.lastChild.textContent = value;
    button.setAttribute("aria-label", `${data.terms[term].text}, ${meaning} ${value}`);
    button.setAttribute("aria-pressed", slot !== undefined);
    button.style.setProperty("--share", top > 0 ? Math.max(0, values[term]) / top : 0);
    button.style.setProperty("--color", slot === undefined ? "" : COLORS[slot]);
    button.classList.toggle("shown", shown.has(term));
  }
}

function labelControls() {
  const level = state.layer === null ? null : data.views.find((view) => view.layer === state.layer).level;
  for (const button of document.querySelectorAll("#levels button")) {
    const own = Number(button.value);
    button.setAttribute("aria-pressed", level === null ? state.levels.has(own) : own === level);
  }
  const head = document.getElementById("head");
  head.disabled = state.layer === null;
  document.getElementById("layer").value = state.layer === null ? "" : state.layer;
  head.value = state.head === null ? "" : state.head;
  document.getElementById("clear").disabled = state.pins.size === 0 && !state.placePinned;
}

let waiting = false;
function render() { // at most once per frame
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    const shown = shownTerms();
    draw(shown);
    drawPlace();
    labelButtons(shown);
    labelControls();
  });
}

// Words

const buttons = new Map();
function addWord(term, list) {
  const button = document.createElement("button"), word = document.createElement("span"), number = document.createElement("small");
  button.type = "button";
  button.className = "word";
  word.dir = "auto";
  word.textContent = data.terms[term].text;
  if (!isFound(term)) {
    button.disabled = true;
    number.textContent = "not in the text";
  }
  button.append(word, number);
  button.tabIndex = list.querySelector("button:not(:disabled)") === null ? 0 : -1; // arrow keys lead to the others
  const hover = (hovered) => { state.hovered = hovered; render(); };
  button.addEventListener("pointerenter", (event) => event.pointerType !== "touch" && hover(term));
  button.addEventListener("pointerleave", () => hover(null));
  button.addEventListener("focus", () => button.matches(":focus-visible") && hover(term));
  button.addEventListener("blur", () => hover(null));
  button.addEventListener("click", () => {
    if (!state.pins.delete(term)) state.pins.set(term, freeSlot());
    render();
  });
  buttons.set(term, button);
  list.append(button);
}

for (const group of data.groups) {
  const list = document.createElement("div"), title = document.createElement("h2");
  title.textContent = group.title;
  list.className = group.parts.length > 30 ? "words many" : "words";
  list.dir = "auto";
  list.setAttribute("role", "toolbar");
  list.setAttribute("aria-label", `${group.title}: the arrow keys move between words, Enter pins a word`);
  for (const part of group.parts) {
    if (typeof part === "number") addWord(part, list);
    else list.append(Object.assign(document.createElement("span"), { textContent: part }));
  }
  list.addEventListener("keydown", (event) => {
    const all = [...list.querySelectorAll("button:not(:disabled)")], at = all.indexOf(document.activeElement);
    const back = getComputedStyle(list).direction === "rtl" ? "ArrowRight" : "ArrowLeft", forth = back === "ArrowLeft" ? "ArrowRight" : "ArrowLeft";
    const next = { [back]: at - 1, [forth]: at + 1, ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: all.length - 1 }[event.key];
    if (next === undefined || all[next] === undefined) return;
    event.preventDefault();
    all[at].tabIndex = -1;
    all[next].tabIndex = 0;
    all[next].focus();
  });
  texts.append(title, list);
}

// Places

function placeOf(event) {
  const box = stage.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((share) => Math.min(0.9999, Math.max(0, share)));
}

function pinPlace() {
  state.placePinned = !state.placePinned;
  render();
}

stage.addEventListener("pointermove", (event) => {
  if (state.placePinned) return;
  state.place = placeOf(event);
  render();
});
stage.addEventListener("pointerleave", () => {
  if (!state.placePinned) state.place = null;
  render();
});
stage.addEventListener("click", (event) => {
  const view = finest(), before = state.place && cellAt(view, state.place).join();
  state.place = placeOf(event);
  if (state.placePinned && cellAt(view, state.place).join() !== before) render(); // moves the pin
  else pinPlace();
});
stage.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (step) {
    const { cells: [rows, columns] } = finest(), [x, y] = state.place ?? [0.5, 0.5], moves = state.place !== null;
    state.place = [[x, step[0], columns], [y, step[1], rows]].map(([share, by, count]) => {
      const index = Math.min(Math.ceil(count) - 1, Math.max(0, Math.floor(share * count) + (moves ? by : 0)));
      return Math.min(0.9999, (index + 0.5) / count);
    });
    const [column, row] = cellAt(finest(), state.place);
    const said = [...pinnedHere(), ...strongestHere()].map(([term, value]) => `${data.terms[term].text} ${written(value)}`);
    live.textContent = `Row ${row + 1}, column ${column + 1}: ${said.join(", ")}`;
  } else if ((event.key === "Enter" || event.key === " ") && state.place !== null) pinPlace();
  else return;
  event.preventDefault();
  render();
});

// Controls

function clear() {
  state.pins.clear();
  state.place = null;
  state.placePinned = false;
  state.hovered = null;
  render();
}

function choices(id, names, nobody) {
  const select = document.getElementById(id);
  select.replaceChildren(new Option(nobody, ""), ...names.map((name, number) => new Option(name, number)));
}

// Layers by the parts of their names in which they differ, with their levels.
function layerNames() {
  const parts = data.layers.map((name) => name.split("."));
  while (parts.length > 1 && parts.every((own) => own.length > 1 && own.at(-1) === parts[0].at(-1))) parts.forEach((own) => own.pop());
  const level = (number) => `level ${data.views.find((view) => view.layer === number).level}`;
  return parts.map((own, number) => own.join(".")).map((name, number) => (name.endsWith(level(number)) ? name : `${name} (${level(number)})`));
}

for (const level of levels) {
  const view = data.views.find((candidate) => candidate.level === level && candidate.layer === null);
  const button = document.createElement("button");
  Object.assign(button, { type: "button", className: "plain", value: level, textContent: `${level} · ${+(data.size[1] / view.cells[1]).toFixed(1)} px` });
  button.title = `Level ${level}: each cell covers ${+(data.size[1] / view.cells[1]).toFixed(1)} pixels`;
  button.addEventListener("click", () => {
    if (state.layer !== null) state.levels = new Set([level]);
    else if (!state.levels.delete(level)) state.levels.add(level);
    else if (state.levels.size === 0) state.levels.add(level); // one stays
    state.layer = state.head = null;
    render();
  });
  document.getElementById("levels").append(button);
}
document.getElementById("layers").hidden = document.getElementById("heads").hidden = data.layers.length === 0;
choices("layer", layerNames(), "all, averaged");
choices("head", [], "all, averaged");
document.getElementById("layer").addEventListener("change", (event) => {
  state.layer = event.target.value === "" ? null : Number(event.target.value);
  state.head = null;
  choices("head", data.views.filter((view) => state.layer !== null && view.layer === state.layer).map((view) => String(view.head)), "all, averaged");
  render();
});
document.getElementById("head").addEventListener("change", (event) => {
  state.head = event.target.value === "" ? null : Number(event.target.value);
  render();
});
document.getElementById("opacity").addEventListener("input", render);
document.getElementById("clear").addEventListener("click", clear);
document.addEventListener("keydown", (event) => event.key === "Escape" && clear());
if (document.getElementById("image") === null) {
  document.getElementById("hint").textContent = "Move over a word to see where it is, or over the map to see the words there. Click to pin. This page has no image.";
}
document.getElementById("error").textContent = `Values are stored in 8 bits, with an error of at most ${Number(data.error.toPrecision(2))}.`;
render();
