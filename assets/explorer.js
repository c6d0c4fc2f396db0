/* The attention explorer. Runs once in each gr.HTML that uses it, with `element`, `props` and `watch` in scope.
 *
 * `props.value` holds everything that can be shown: the photo once, and for each model the attention rows of all layers and
 * heads as bytes. Whatever a control changes is computed here, in one animation frame, without a request.
 */
const root = element.querySelector(".vd-explorer");
const $ = (selector) => root.querySelector(selector);

const CAUTION = $(".vd-caution").textContent;
const MAP_PIXELS = 224; // side of the colour map that is drawn over the photo; the browser scales it on
const FAINTEST = 0.25; // opacity of the lowest value, as a share of the chosen one
const state = { layer: 1, head: "mean", readout: "", opacity: 0.8, colourMap: "", smooth: true, common: true };
let panels = [];
let photo = null;
let tables = {};
let frame = 0;
let picked = null; // where the patch that others are compared with was chosen

const percent = (value, digits = 0) => `${(value * 100).toFixed(digits)}%`;
const bytesOf = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") node.className = value;
    else if (name in node && name !== "list") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/* ---- numbers ---- */

function decodePanel(panel) {
  const readouts = {};
  for (const entry of panel.readouts) {
    readouts[entry.name] = { bytes: bytesOf(entry.data), peaks: entry.peaks, floor: entry.floor, label: entry.label };
  }
  return { ...panel, readouts };
}

/* One map as floats, [h * w], or null where this model has no such head. `state.layer` is a depth from 0 to 1, so that models of
 * different depths can be moved together. */
function currentMap(panel) {
  const names = Object.keys(panel.readouts);
  if (!names.length) return null;
  const name = state.readout in panel.readouts ? state.readout : names[0];
  const { bytes, peaks, floor, label } = panel.readouts[name];
  const chosen = panel.method ? "mean" : state.head; // a method that joins the heads has one map
  const layer = Math.round(state.layer * (panel.layers - 1));
  const size = panel.grid[0] * panel.grid[1];
  const one = (head) => {
    const index = layer * panel.heads + head;
    const scale = (peaks[index] - floor) / 255;
    return { start: index * size, scale };
  };
  const values = new Float32Array(size);
  if (/^\d+$/.test(chosen)) {
    if (Number(chosen) >= panel.heads) return { layer, missing: `This model has heads 0 to ${panel.heads - 1}.` };
    const { start, scale } = one(Number(chosen));
    for (let i = 0; i < size; i++) values[i] = floor + bytes[start + i] * scale;
  } else {
    if (chosen === "min") values.fill(Infinity);
    for (let head = 0; head < panel.heads; head++) {
      const { start, scale } = one(head);
      for (let i = 0; i < size; i++) {
        const value = floor + bytes[start + i] * scale;
        if (chosen === "mean") values[i] += value / panel.heads;
        else if (chosen === "max") values[i] = Math.max(values[i], value);
        else values[i] = Math.min(values[i], value);
      }
    }
  }
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return { layer, label, values, low, high };
}

/* The same words as vitdemo/attribution/describe.py. */
function describe(map, grid) {
  const [height, width] = grid;
  let share = 1;
  let area = 1;
  let place = "evenly spread";
  if (map.high > map.low) {
    let total = 0, mass = 0, count = 0, rows = 0, columns = 0;
    map.values.forEach((value, i) => {
      total += value;
      if (value < map.high / 2) return;
      mass += value;
      count += 1;
      rows += value * (Math.floor(i / width) + 0.5);
      columns += value * ((i % width) + 0.5);
    });
    share = mass / total;
    area = count / map.values.length;
    const row = Math.floor((rows / mass / height) * 3);
    const column = Math.floor((columns / mass / width) * 3);
    place = row === 1 && column === 1 ? "centre" : `${["top", "centre", "bottom"][row]} ${["left", "centre", "right"][column]}`;
  }
  const head = /^\d+$/.test(state.head) ? `head ${state.head}` : `${state.head} of heads`;
  return `layer ${map.layer}, ${head}, ${map.label}: ${percent(share)} of attention on ${percent(area)} of the picture, ${place}`;
}

/* ---- drawing ---- */

function paint(panel, map, low, high) {
  const { canvas } = panel.nodes;
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  context.globalAlpha = 1;
  context.clearRect(0, 0, width, height);
  if (photo.complete && photo.naturalWidth) context.drawImage(photo, 0, 0, width, height);
  const [left, top, right, bottom] = panel.crop;
  const box = [left * width, top * height, (right - left) * width, (bottom - top) * height];
  if (map && map.values) {
    context.globalAlpha = state.opacity;
    context.imageSmoothingEnabled = state.smooth;
    context.drawImage(colour(panel, map, low, high), ...box);
    context.globalAlpha = 1;
  }
  if (panel.method && panel.method.pick) {
    const [rows, columns] = panel.grid;
    const [x, y] = picked || [(left + right) / 2, (top + bottom) / 2];
    const cell = [box[2] / columns, box[3] / rows];
    const column = Math.min(columns - 1, Math.max(0, Math.floor(((x - left) / (right - left)) * columns)));
    const row = Math.min(rows - 1, Math.max(0, Math.floor(((y - top) / (bottom - top)) * rows)));
    context.strokeStyle = "white";
    context.lineWidth = Math.max(2, width / 250);
    context.strokeRect(box[0] + column * cell[0], box[1] + row * cell[1], ...cell);
  }
  if (left > 0.002 || top > 0.002 || right < 0.998 || bottom < 0.998) {
    // What the model did not see.
    context.fillStyle = "rgba(0, 0, 0, 0.6)";
    context.beginPath();
    context.rect(0, 0, width, height);
    context.rect(...box);
    context.fill("evenodd");
    context.strokeStyle = "rgba(255, 255, 255, 0.9)";
    context.lineWidth = Math.max(1, width / 400);
    context.strokeRect(...box);
  }
}

/* The colour table with its opacity: where there is little attention, more of the photo is left. As vitdemo/rendering.py. */
function tableOf(text) {
  const bytes = bytesOf(text);
  return Uint32Array.from({ length: 256 }, (_, i) => {
    const alpha = Math.round(255 * (FAINTEST + ((1 - FAINTEST) * i) / 255));
    return ((alpha << 24) | (bytes[i * 3 + 2] << 16) | (bytes[i * 3 + 1] << 8) | bytes[i * 3]) >>> 0;
  });
}

/* Map to colours: bilinear between patch centres (half-pixel, edges repeated), then the table. As vitdemo/rendering.py. */
function colour(panel, map, low, high) {
  const [rows, columns] = panel.grid;
  const scale = MAP_PIXELS / Math.max(rows, columns);
  const width = state.smooth ? Math.round(columns * scale) : columns;
  const height = state.smooth ? Math.round(rows * scale) : rows;
  const buffer = panel.buffer || (panel.buffer = document.createElement("canvas"));
  if (buffer.width !== width || buffer.height !== height) Object.assign(buffer, { width, height });
  const context = buffer.getContext("2d");
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const table = tables[state.colourMap];
  const factor = high > low ? 255 / (high - low) : 0;
  const across = samples(width, columns);
  const down = samples(height, rows);
  for (let y = 0; y < height; y++) {
    const upper = down.first[y] * columns;
    const lower = down.second[y] * columns;
    const v = down.weight[y];
    for (let x = 0; x < width; x++) {
      const a = across.first[x], b = across.second[x], u = across.weight[x];
      const one = map.values[upper + a] * (1 - u) + map.values[upper + b] * u;
      const two = map.values[lower + a] * (1 - u) + map.values[lower + b] * u;
      const index = ((one * (1 - v) + two * v - low) * factor + 0.5) | 0;
      pixels[y * width + x] = table[index < 0 ? 0 : index > 255 ? 255 : index];
    }
  }
  context.putImageData(image, 0, 0);
  return buffer;
}

function samples(count, cells) {
  const first = new Uint16Array(count), second = new Uint16Array(count), weight = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const position = Math.min(Math.max(((i + 0.5) * cells) / count - 0.5, 0), cells - 1);
    first[i] = Math.floor(position);
    second[i] = Math.min(first[i] + 1, cells - 1);
    weight[i] = position - first[i];
  }
  return { first, second, weight };
}

function draw() {
  frame = 0;
  if (!photo) return;
  const maps = panels.map(currentMap);
  const drawn = maps.filter((map) => map && map.values);
  const common = state.common && drawn.length > 1;
  const low = Math.min(...drawn.map((map) => map.low));
  const high = Math.max(...drawn.map((map) => map.high));
  panels.forEach((panel, index) => {
    const map = maps[index];
    const values = map && map.values;
    paint(panel, map, common ? low : values ? map.low : 0, common ? high : values ? map.high : 1);
    const { text, low: lowText, high: highText, legend } = panel.nodes;
    legend.style.visibility = values ? "visible" : "hidden";
    text.textContent = values ? (panel.method ? panel.method.description : describe(map, panel.grid)) : map ? map.missing : "This model has no attention to show.";
    panel.nodes.canvas.setAttribute("aria-label", `${panel.model}: ${text.textContent}`);
    if (values) {
      const worded = panel.method ? (number) => String(Number(number.toPrecision(3))) : (number) => percent(number, 2);
      lowText.textContent = worded(common ? low : map.low);
      highText.textContent = worded(common ? high : map.high);
    }
  });
  root.dataset.draws = String(Number(root.dataset.draws || 0) + 1);
}

function redraw() {
  if (!frame) frame = requestAnimationFrame(draw);
}

/* ---- the page ---- */

function bar(entry, best) {
  const fill = make("span", { class: "vd-fill" });
  fill.style.width = percent(entry.score, 1);
  return make(
    "li",
    { class: best ? "vd-best" : "" },
    make("span", { class: "vd-label", title: entry.label }, entry.label),
    make("span", { class: "vd-score" }, percent(entry.score, 1)),
    make("span", { class: "vd-track", "aria-hidden": "true" }, fill)
  );
}

function verdict(panel) {
  if (!panel.uncovered) return null;
  return make(
    "details",
    { class: "vd-doubt" },
    make("summary", {}, `Probably not one of this model's ${panel.classes.length} classes`),
    make("p", {}, panel.classes.join(", "))
  );
}

function buildPanel(panel) {
  const canvas = make("canvas", { role: "img" });
  const long = Math.max(photo.width, photo.height);
  const zoom = Math.min(1, 640 / long);
  canvas.width = Math.max(1, Math.round(photo.width * zoom));
  canvas.height = Math.max(1, Math.round(photo.height * zoom));
  const gradient = make("canvas", { class: "vd-gradient", width: 256, height: 1, "aria-hidden": "true" });
  const low = make("span"), high = make("span");
  const legend = make("div", { class: "vd-legend" }, gradient, low, make("span", { class: "vd-unit" }, panel.method ? panel.method.title.toLowerCase() : "of attention a patch"), high);
  const text = make("p", { class: "vd-text" });
  const labels = panel.labels.length
    ? make("ol", { class: "vd-labels" }, ...panel.labels.map((entry, rank) => bar(entry, rank === 0)))
    : make("p", { class: "vd-none" }, "No classifier: self-supervised");
  const facts = [
    `${panel.ms.toFixed(0)} ms${panel.cached ? " (from cache)" : ""}, ${panel.device}, ${panel.dtype}`,
    `${(panel.parameters / 1e6).toFixed(1)} M parameters`,
    `${panel.grid[0]} × ${panel.grid[1]} ${panel.layers ? "patches" : "cells"}`,
    `revision ${/^[0-9a-f]{40}$/.test(panel.revision) ? panel.revision.slice(0, 12) : panel.revision}`,
  ];
  if (panel.method && panel.method.pick) pickable(panel, canvas);
  panel.nodes = { canvas, text, low, high, legend, gradient };
  return make(
    "section",
    { class: "vd-panel", "aria-label": panel.model },
    make("h3", {}, make("span", {}, panel.family), make("code", { title: panel.model }, panel.model)),
    make("div", { class: "vd-picture" }, canvas),
    make("div", { class: "vd-answer" }, labels, verdict(panel)),
    make("div", { class: "vd-reading" }, legend, text),
    make(
      "div",
      { class: "vd-facts" },
      ...facts.map((fact) => make("p", {}, fact)),
      ...panel.notes.map((note) => make("p", {}, note))
    )
  );
}

/* A click, or an arrow key, chooses a patch of the picture: shares of the photo's width and height go to the server. */
function pickable(panel, canvas) {
  const [left, top, right, bottom] = panel.crop;
  const [rows, columns] = panel.grid;
  canvas.tabIndex = 0;
  canvas.style.cursor = "crosshair";
  const choose = (x, y) => {
    picked = [Math.min(Math.max(x, left), right - 1e-6), Math.min(Math.max(y, top), bottom - 1e-6)];
    trigger("select", { x: picked[0], y: picked[1] });
    redraw();
  };
  canvas.onclick = (event) => {
    const box = canvas.getBoundingClientRect();
    choose((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  };
  canvas.onkeydown = (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const [x, y] = picked || [(left + right) / 2, (top + bottom) / 2];
    choose(x + (step[0] * (right - left)) / columns, y + (step[1] * (bottom - top)) / rows);
  };
}

function options(select, entries, wanted) {
  select.replaceChildren(...entries.map(([value, label]) => make("option", { value }, label)));
  select.value = entries.some(([value]) => value === wanted) ? wanted : entries[0][0];
  return select.value;
}

function paintLegends() {
  const table = tables[state.colourMap];
  for (const panel of panels) {
    const context = panel.nodes.gradient.getContext("2d");
    const image = context.createImageData(256, 1);
    new Uint32Array(image.data.buffer).set(table.map((colour) => (colour | 0xff000000) >>> 0));
    context.putImageData(image, 0, 0);
  }
}

function showLayer() {
  const layers = Math.max(1, ...panels.map((panel) => panel.layers));
  const slider = $("[name=layer]");
  slider.max = String(layers - 1);
  slider.value = String(Math.round(state.layer * (layers - 1)));
  $(".vd-layer-number").textContent = `${slider.value} of 0–${layers - 1}`;
}

function showControls() {
  const joined = panels.every((panel) => panel.method);
  if (!joined) {
    const heads = Math.max(...panels.map((panel) => panel.heads));
    const numbers = Array.from({ length: heads }, (_, head) => [String(head), `head ${head}`]);
    state.head = options($("[name=head]"), [["mean", "mean"], ["max", "max"], ["min", "min"], ...numbers], state.head);
  }
  const named = new Map([["", panels.length > 1 ? "each model's own" : ""]]);
  for (const panel of panels) for (const [name, entry] of Object.entries(panel.readouts)) named.set(name, entry.label);
  if (panels.length === 1) named.delete("");
  if (!joined) state.readout = options($("[name=readout]"), [...named], state.readout);
  $("[name=readout]").closest("label").hidden = joined || named.size < 2;
  state.colourMap = options($("[name=colourMap]"), Object.keys(tables).map((name) => [name, name]), state.colourMap);
  $("[name=common]").closest("label").hidden = panels.length < 2;
  for (const name of ["layer", "head"]) $(`[name=${name}]`).closest("label").hidden = joined;
  $(".vd-caution").textContent = joined
    ? `${panels[0].method.says} It shows what this method makes of the model, not why the class was chosen.${panels[0].method.pick ? " Click on the picture, or move with the arrow keys, to choose the patch." : ""}`
    : CAUTION;
  showLayer();
}

function show() {
  const value = props.value;
  root.classList.toggle("vd-empty", !value);
  if (!value) return;
  tables = Object.fromEntries(Object.entries(value.tables).map(([name, text]) => [name, tableOf(text)]));
  photo = new Image(value.photo.width, value.photo.height);
  photo.onload = redraw;
  panels = value.panels.map(decodePanel);
  const grid = $(".vd-panels");
  // Rows of at most six, as equal as can be.
  grid.style.setProperty("--columns", Math.ceil(panels.length / Math.ceil(panels.length / 6)));
  root.classList.toggle("vd-single", panels.length === 1);
  const built = panels.map(buildPanel);
  showControls();
  paintLegends();
  const focused = document.activeElement && document.activeElement.tagName === "CANVAS" && root.contains(document.activeElement);
  grid.replaceChildren(...built);
  if (focused) panels[0].nodes.canvas.focus({ preventScroll: true });
  $(".vd-agreement").replaceChildren(...agreement(value.agreement || []));
  photo.src = value.photo.src;
  root.dataset.result = value.id;
  redraw();
}

function agreement(pairs) {
  if (!pairs.length) return [];
  const rows = pairs.map((pair) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, pair.models.join(" and ")),
      make("td", {}, pair.prediction),
      make("td", {}, pair.rank_correlation === null ? "–" : pair.rank_correlation.toFixed(2))
    )
  );
  const head = make("tr", {}, ...["models", "best label", "maps, rank correlation (last layer, mean of heads)"].map((text) => make("th", { scope: "col" }, text)));
  return [make("summary", {}, "How far the models agree"), make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows))];
}

root.addEventListener("input", (event) => {
  const control = event.target;
  if (!(control.name in state)) return;
  if (control.name === "layer") {
    state.layer = Number(control.max) ? Number(control.value) / Number(control.max) : 1;
    showLayer();
  } else if (control.type === "checkbox") state[control.name] = control.checked;
  else if (control.type === "range") {
    state.opacity = Number(control.value) / 100;
    $(".vd-opacity-number").textContent = `${control.value}%`;
  } else state[control.name] = control.value;
  if (control.name === "colourMap") paintLegends();
  redraw();
});

watch("value", show);
show();
