/* Drawings that several steps share: maps on the photo, cells, strips of numbers, bars and curves. */

const WIDTH = 420; // pixels of a drawn map

/* A canvas on which the patches of a view can be pointed at, by mouse and keys. */
function patchCanvas(view, label, draw, choose) {
  const [rows, columns] = view.grid;
  const canvas = make("canvas", { role: "img", "aria-label": label });
  redraws.push(() => draw(canvas));
  if (choose) {
    Object.assign(canvas, { tabIndex: 0 });
    canvas.classList.add("vd-pick");
    canvas.addEventListener("click", (event) => {
      const box = canvas.getBoundingClientRect();
      const column = Math.min(columns - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * columns)));
      const row = Math.min(rows - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * rows)));
      choose(row * columns + column, "click");
    });
    canvas.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
      if (move) choose(move, "move");
      else if (event.key === "Enter" || event.key === " ") choose(0, "press");
      else return;
      event.preventDefault();
    });
  }
  return canvas;
}

/* The patch that a key leads to, from the one that is chosen. */
function moved(view, from, by) {
  const count = view.grid[0] * view.grid[1];
  const start = from === null ? Math.floor(count / 2) : from;
  return Math.min(count - 1, Math.max(0, start + by));
}

/* The part of the photo that a model sees. */
function paintPhoto(canvas, view) {
  const image = view.image || photo;
  const [left, top, right, bottom] = view.crop;
  const wide = (right - left) * image.naturalWidth, high = (bottom - top) * image.naturalHeight;
  const height = Math.max(1, Math.round((WIDTH * high) / wide));
  if (canvas.width !== WIDTH || canvas.height !== height) Object.assign(canvas, { width: WIDTH, height });
  const context = canvas.getContext("2d");
  context.drawImage(image, left * image.naturalWidth, top * image.naturalHeight, wide, high, 0, 0, WIDTH, height);
  return context;
}

function paintMap(canvas, view, values, { low, high, linear = true, marked = null }) {
  const context = paintPhoto(canvas, view), { width, height } = canvas;
  mute(context, [0, 0, width, height], 0.8);
  const layer = document.createElement("canvas");
  putPixels(layer, pixelsOf(values, view.grid, width, height, { low, high, linear }, table.over), width, height);
  context.globalAlpha = 0.9;
  context.drawImage(layer, 0, 0);
  context.globalAlpha = 1;
  if (marked !== null) mark(context, view, marked);
}

function cellOf(view, canvas, patch) {
  const [rows, columns] = view.grid;
  const wide = canvas.width / columns, high = canvas.height / rows;
  return [(patch % columns) * wide, Math.floor(patch / columns) * high, wide, high];
}

function mark(context, view, patch) {
  const box = cellOf(view, context.canvas, patch);
  for (const [style, line] of [["black", 5], ["white", 2.5]]) Object.assign(context, { strokeStyle: style, lineWidth: line }) && context.strokeRect(...box);
}

/* Pictures that came beside each other in one file, as single ones. */
function cells({ src, count, side }, size, name) {
  const node = make("div", { class: "vd-cells", style: `--cell: ${size}px` });
  const canvases = Array.from({ length: count }, (_, index) => make("canvas", { width: side[1], height: side[0], role: "img", "aria-label": `${name} ${index + 1}` }));
  node.append(...canvases);
  loaded(src).then((image) => canvases.forEach((canvas, index) => canvas.getContext("2d").drawImage(image, index * side[1], 0, side[1], side[0], 0, 0, side[1], side[0])));
  return node;
}

/* A number around 0 as a colour: blue below, red above. */
function signed(share) {
  const strength = Math.min(1, Math.abs(share)), pale = Math.round(245 - 170 * strength);
  return share < 0 ? `rgb(${pale}, ${Math.round(245 - 110 * strength)}, 235)` : `rgb(235, ${Math.round(245 - 150 * strength)}, ${pale})`;
}

/* A vector as a strip of cells. */
function strip(numbers, label) {
  const values = floats(numbers), canvas = make("canvas", { class: "vd-strip", width: values.length, height: 1, role: "img", "aria-label": label });
  const context = canvas.getContext("2d");
  values.forEach((value, index) => {
    context.fillStyle = signed(value / numbers.high);
    context.fillRect(index, 0, 1, 1);
  });
  return canvas;
}

/* A picture `[rows, columns]` of numbers around 0. */
function signedPicture(values, [rows, columns], most, label) {
  const canvas = make("canvas", { width: columns, height: rows, role: "img", "aria-label": label });
  const context = canvas.getContext("2d");
  values.forEach((value, index) => {
    context.fillStyle = signed(value / most);
    context.fillRect(index % columns, Math.floor(index / columns), 1, 1);
  });
  return canvas;
}

function bars(labels, before = null) {
  const list = make("ul", { class: "vd-bars" });
  for (const { label, score } of labels) {
    const was = before && before.find((one) => one.label === label);
    const change = was ? score - was.score : null;
    list.append(make("li", {},
      make("span", {}, label),
      make("span", { class: "vd-length", style: `--share: ${score}` }),
      make("span", { class: "vd-number" }, percent(score)),
      change === null ? null : make("span", { class: "vd-number vd-change" }, `${change >= 0 ? "+" : "−"}${percent(Math.abs(change))}`)));
  }
  return list;
}

const SVG = "http://www.w3.org/2000/svg";
function svg(tag, attributes = {}, text = "") {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  node.textContent = text;
  return node;
}

/* Curves or dots: `series` are `{ points: [[x, y, title]], name, dots }`; returns a node, and a function that marks an x.
 * `choose` is told which point of the first series is pointed at. */
function chart({ series, x, y, low = 0, high = 1, ticks, wordedY = (value) => percent(value, 0), steps = false, label, choose = null }) {
  const [wide, tall, left, right, top, bottom] = [460, 230, 48, 12, 10, 38];
  const xs = series.flatMap(({ points }) => points.map(([place]) => place));
  const first = Math.min(...xs), last = Math.max(...xs, first + 1e-9);
  const across = (value) => left + ((value - first) / (last - first)) * (wide - left - right);
  const down = (value) => tall - bottom - ((value - low) / (high - low || 1)) * (tall - top - bottom);
  const picture = svg("svg", { viewBox: `0 0 ${wide} ${tall}`, role: "img", "aria-label": label, class: "vd-chart" });
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    const value = low + share * (high - low);
    picture.append(svg("line", { x1: left, x2: wide - right, y1: down(value), y2: down(value), class: "vd-axis" }));
    picture.append(svg("text", { x: left - 6, y: down(value) + 4, "text-anchor": "end" }, wordedY(value)));
  }
  for (const [value, text] of ticks) picture.append(svg("text", { x: across(value), y: tall - bottom + 16, "text-anchor": "middle" }, text));
  picture.append(svg("text", { x: (left + wide - right) / 2, y: tall - 4, "text-anchor": "middle" }, x));
  const line = svg("line", { y1: top, y2: tall - bottom, class: "vd-here", visibility: "hidden" });
  picture.append(line);
  series.forEach(({ points, dots }, number) => {
    const group = svg("g", { class: `vd-series-${number}` });
    if (!dots) {
      const path = points.map(([place, value], index) => `${index ? (steps ? `H${across(place)}V` : `L${across(place)} `) : `M${across(place)} `}${down(value)}`);
      group.append(svg("path", { d: path.join(""), class: "vd-line" }));
    }
    for (const [place, value, title] of points) {
      const dot = svg("circle", { cx: across(place), cy: down(value), r: dots ? 4 : 3 });
      if (title) dot.append(svg("title", {}, title));
      group.append(dot);
    }
    picture.append(group);
  });
  if (choose) {
    picture.classList.add("vd-pointed");
    const at = (event) => {
      const box = picture.getBoundingClientRect(), place = ((event.clientX - box.left) / box.width) * wide;
      const away = series[0].points.map(([value]) => Math.abs(across(value) - place));
      choose(away.indexOf(Math.min(...away)));
    };
    picture.addEventListener("pointerdown", at);
    picture.addEventListener("pointermove", (event) => (event.pointerType === "mouse" || event.buttons) && at(event));
  }
  const legend = make("p", { class: "vd-legend" }, ...series.map(({ name }, number) => make("span", { class: `vd-series-${number}` }, name)));
  const node = make("div", { class: "vd-plot" }, make("p", { class: "vd-y" }, y), picture, series.length > 1 || series[0].name ? legend : null);
  const here = (value) => {
    line.setAttribute("visibility", "visible");
    for (const end of ["x1", "x2"]) line.setAttribute(end, across(value));
  };
  return { node, here };
}

const figure = (title, ...children) => make("figure", { class: "vd-figure" }, title ? make("h4", {}, title) : null, ...children);
const words = (...text) => make("p", { class: "vd-words" }, ...text);
