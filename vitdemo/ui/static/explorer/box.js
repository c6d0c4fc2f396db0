/* Boxes that are drawn on the photo, and how far each model's maps stay in them. The server measures all layers and heads of a model
 * at once; which of them is shown, and which are best, is looked up here. Boxes are x, y, width and height in shares of the photo. */

const FUSED = ["mean", "max", "min"]; // after the heads, in what the server measures
const MEASURES = {
  energy: { label: "Energy inside", better: 1, words: (value) => percent(value) },
  iou: { label: "IoU", better: 1, words: (value) => value.toFixed(2) },
  emd: { label: "Patches away", better: -1, words: (value) => value.toFixed(1) },
};
const SIDES = ["x", "y", "w", "h"];
const SMALLEST = 0.005; // of the photo's side: what is dragged less far is a click
const MOST_BOXES = 20; // as vitdemo/options/boxes.py
let drawing = null; // while a box is drawn: whether it joins the others, where it began, and what it is so far
let typed = false; // whether the form is open though there is no box

const rounded = (share) => Math.round(share * 1e5) / 1e5; // as in links

/* ---- drawing ---- */

/* By keyboard there is nothing to drag: the box is typed. */
function pressDraw(event, add = false) {
  if (event.detail === 0) {
    typed = $(".vd-boxes").open = true;
    redraw();
    requestAnimationFrame(() => requestAnimationFrame(() => $("[name=box-x]").focus()));
  } else setDrawing(drawing ? null : { add });
}

function setDrawing(next) {
  drawing = next;
  root.classList.toggle("vd-drawing", Boolean(next));
  const button = $(".vd-draw");
  button.setAttribute("aria-pressed", String(Boolean(next)));
  button.textContent = next ? "Drag on a picture" : "Draw a box";
  // On a phone the pictures may be far above the button.
  const within = ({ nodes }) => { const { top, bottom } = nodes.canvas.getBoundingClientRect(); return bottom > 0 && top < innerHeight; };
  if (next && !panels.some(within)) panels[0].nodes.canvas.scrollIntoView({ block: "center" });
  redraw();
}

function setBoxes(boxes) {
  state.boxes = boxes;
  typed = false;
  showPlace();
  boxSays("");
  keepLink();
  redraw();
}

function removeBoxes() {
  if ($(".vd-boxes").contains(document.activeElement)) $(".vd-draw").focus({ preventScroll: true });
  setBoxes([]);
}

const drag = {
  pointerdown(event, panel) {
    if (!event.isPrimary || event.button !== 0) return;
    panel.nodes.canvas.setPointerCapture(event.pointerId);
    Object.assign(drawing, { panel, from: placeOn(panel, event), add: drawing.add || event.shiftKey });
  },
  pointermove(event) {
    if (!drawing.from) return;
    const [one, other] = [drawing.from, placeOn(drawing.panel, event)].map((place) => place.map((share) => Math.min(Math.max(share, 0), 1)));
    drawing.box = [Math.min(one[0], other[0]), Math.min(one[1], other[1]), Math.abs(one[0] - other[0]), Math.abs(one[1] - other[1])];
    redraw();
  },
  pointerup() {
    const { box, add } = drawing;
    if (!box || box[2] < SMALLEST || box[3] < SMALLEST) {
      Object.assign(drawing, { from: null, box: null });
      say("Drag from one corner of the object to the opposite one.");
      return;
    }
    setDrawing(null);
    say("");
    setBoxes([...(add ? state.boxes : []), box.map(rounded)].slice(-MOST_BOXES));
    $(".vd-boxes").open = true;
  },
  pointercancel() {
    Object.assign(drawing, { from: null, box: null });
    redraw();
  },
};

let released = false; // the click that ends a drag is no click on a patch
for (const [type, act] of Object.entries(drag)) {
  $(".vd-panels").addEventListener(
    type,
    (event) => {
      const panel = panels.find(({ nodes }) => nodes.canvas === event.target);
      if (!drawing || !panel) return;
      event.stopPropagation();
      act(event, panel);
      released = type === "pointerup";
      if (released) setTimeout(() => { released = false; });
    },
    true
  );
}
$(".vd-panels").addEventListener("click", (event) => { if (released) event.stopPropagation(); }, true);

// Escape leaves drawing, then the chosen patch, then the box.
document.addEventListener(
  "keydown",
  (event) => {
    const mine = root.contains(event.target) || event.target === document.body;
    if (event.key !== "Escape" || !root.offsetParent || !mine || event.target.closest("details:not(.vd-boxes), select")) return;
    if (drawing) {
      event.stopPropagation();
      setDrawing(null);
    } else if ((state.boxes.length || typed) && state.readout !== "patch") removeBoxes();
  },
  true
);

/* What is drawn over a picture whose canvas shows `frame` of the photo; `all` is the whole photo in the canvas's pixels. */
function paintBoxes(context, frame, all) {
  const boxes = drawing && drawing.box ? [...(drawing.add ? state.boxes : []), drawing.box] : state.boxes;
  // Two pixels of the screen; in files, which are on none, in proportion.
  const line = (2 * context.canvas.width) / (context.canvas.clientWidth || 480);
  for (const [x, y, width, height] of boxes) {
    for (const [style, weight] of [["rgba(0, 0, 0, 0.7)", 2 * line], ["#22d3ee", line]]) {
      context.lineWidth = weight;
      context.strokeStyle = style;
      context.strokeRect((x - frame[0]) * all[0], (y - frame[1]) * all[1], width * all[0], height * all[1]);
    }
  }
}

/* ---- typing ---- */

function boxSays(text) {
  $(".vd-box-said").textContent = text;
}

/* The last box, in pixels of the photo. */
function showPlace() {
  const box = state.boxes[state.boxes.length - 1];
  const scale = [shown.photo.width, shown.photo.height, shown.photo.width, shown.photo.height];
  SIDES.forEach((side, i) => { $(`[name=box-${side}]`).value = box ? String(Math.round(box[i] * scale[i])) : ""; });
}

$(".vd-place").addEventListener("submit", (event) => {
  event.preventDefault();
  const { width, height } = shown.photo;
  const [x, y, w, h] = SIDES.map((side) => ($(`[name=box-${side}]`).value.trim() ? Number($(`[name=box-${side}]`).value) : NaN));
  const [left, top, right, bottom] = [Math.max(x, 0), Math.max(y, 0), Math.min(x + w, width), Math.min(y + h, height)];
  if ([x, y, w, h].some((number) => !Number.isFinite(number))) boxSays("Give four numbers: x, y, width and height, in pixels of the photo.");
  else if (w <= 0 || h <= 0) boxSays("The box has no area: width and height must be above 0.");
  else if (left >= right || top >= bottom) boxSays(`The box lies outside of the photo, which is ${width} × ${height} pixels.`);
  else setBoxes([...state.boxes.slice(0, -1), [left / width, top / height, (right - left) / width, (bottom - top) / height].map(rounded)]);
});

/* ---- measuring ---- */

const measuredKey = (panel) => JSON.stringify([shown.id, state.boxes, panel.method ? "" : state.readout, state.readout === "patch" && !panel.method ? patchAt(panel, state.patch) : ""]);

async function measureBoxes(panel) {
  const key = measuredKey(panel);
  if (panel.measuring || panel.measured?.key === key) return;
  panel.measuring = true;
  let answer;
  try {
    answer = await server.on_boxes({ id: shown.id, panel: panel.index, boxes: state.boxes, readout: state.readout, patch: state.patch });
  } catch (error) {
    answer = { error: "The server does not answer. Choose the photo again." };
  }
  panel.measured = { key, ...answer };
  panel.measuring = false;
  redraw();
}

/* The numbers of one map, or null. */
function scoresAt(panel, layer, head) {
  const found = panel.measured && panel.measured.scores;
  const at = panel.method ? 0 : isHead(head) ? Number(head) : panel.heads + FUSED.indexOf(head);
  if (!found || !found.energy[layer] || (isHead(head) && !panel.method && Number(head) >= panel.heads)) return null;
  return Object.fromEntries(Object.keys(MEASURES).map((name) => [name, found[name][layer][at]]));
}

/* The same words as vitdemo/attribution/boxes.py. */
function boxWords(panel) {
  const several = state.boxes.length > 1, it = several ? "boxes" : "box";
  const { error, seen, scores } = panel.measured;
  if (error) return error;
  if (seen <= 0) return `The ${it} ${several ? "lie" : "lies"} outside of what this model sees.`;
  const here = scores && scoresAt(panel, layerOf(panel), state.head);
  if (!here) return "There is no map to measure.";
  if (here.energy === null) return `The map is nowhere above 0: nothing is inside the ${it}.`;
  const cut = seen < 0.995 ? `; the model sees ${percent(seen)} of the ${it}` : "";
  return `${percent(here.energy)} inside the ${it}, IoU ${here.iou.toFixed(2)}, ${here.emd.toFixed(1)} patches away${cut}`;
}

function drawBoxes() {
  const some = state.boxes.length > 0;
  $(".vd-boxes").hidden = !some && !typed;
  $(".vd-boxes").classList.toggle("vd-none-yet", !some);
  for (const panel of panels) {
    const { inside } = panel.nodes;
    inside.hidden = !some;
    if (!some) continue;
    measureBoxes(panel);
    if (!panel.measured) inside.textContent = "Measuring …";
    else if (panel.measured.key === measuredKey(panel)) inside.textContent = boxWords(panel);
  }
  if (some) drawBest();
}

/* ---- the best heads ---- */

/* Rebuilt when numbers come; a choice of layer and head only marks another one. */
function drawBest() {
  const table = $(".vd-best-heads"), heat = $(".vd-heat");
  const key = JSON.stringify([panels.map((panel) => panel.measured && panel.measured.key), state.measure]);
  if (table.dataset.key !== key) {
    table.dataset.key = key;
    const names = Object.keys(MEASURES).map((name) => make("th", { scope: "col" }, MEASURES[name].label));
    const head = make("tr", {}, single() ? null : make("th", { scope: "col" }, "Model"), make("th", { scope: "col" }, "Map"), ...names);
    table.replaceChildren(make("thead", {}, head), make("tbody", {}, ...panels.flatMap(bestRows)));
    buildHeat(heat);
    const even = panels.filter(({ measured }) => measured && measured.scores && measured.seen > 0).map(({ measured }) => measured.even);
    const [least, most] = [percent(Math.min(...even)), percent(Math.max(...even))];
    $(".vd-even").textContent = even.length ? ` An even map has ${least === most ? least : `${least} to ${most}`} inside.` : "";
  }
  for (const button of root.querySelectorAll(".vd-boxes [data-layer]")) {
    const panel = panels[Number(button.dataset.panel)];
    button.setAttribute("aria-pressed", String(Number(button.dataset.layer) === layerOf(panel) && button.dataset.head === state.head));
  }
}

function bestRows(panel) {
  if (!panel.measured || !panel.measured.scores) return [];
  const { better } = MEASURES[state.measure];
  const maps = panel.measured.scores.energy.flatMap((_, layer) =>
    Array.from({ length: panel.method ? 1 : panel.heads }, (_, head) => ({ layer, head: String(head), ...scoresAt(panel, layer, String(head)) }))
  );
  const known = maps.filter((map) => map[state.measure] !== null).sort((a, b) => better * (b[state.measure] - a[state.measure]));
  const best = known.slice(0, single() ? 10 : 3);
  return best.map((map, rank) => {
    const numbers = Object.entries(MEASURES).map(([name, { words }]) => make("td", {}, words(map[name])));
    const name = panel.method ? panel.method.title : pickButton(panel, map.layer, map.head, `Layer ${map.layer + 1}, head ${Number(map.head) + 1}`);
    return make("tr", {}, single() || rank ? null : make("th", { scope: "row", rowSpan: best.length, title: panel.model }, panel.model.split("/").pop()), make("td", {}, name), ...numbers);
  });
}

/* One model: every layer and head at a glance. */
function buildHeat(table) {
  const panel = panels[0];
  table.hidden = !single() || Boolean(panel.method) || !panel.measured || !panel.measured.scores;
  table.parentElement.hidden = table.hidden;
  if (table.hidden) return;
  const { label, better, words } = MEASURES[state.measure];
  const columns = [...Array.from({ length: panel.heads }, (_, head) => String(head)), "mean"];
  const values = panel.measured.scores[state.measure].map((_, layer) => columns.map((head) => scoresAt(panel, layer, head)[state.measure]));
  const known = values.flat().filter((value) => value !== null);
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const share = (value) => (high > low ? (better > 0 ? value - low : high - value) / (high - low) : 0);
  const cells = (row, layer) => row.map((value, i) => {
    const td = make("td", {}, value === null ? "–" : pickButton(panel, layer, columns[i], words(value), `Layer ${layer + 1}, ${isHead(columns[i]) ? `head ${Number(columns[i]) + 1}` : "mean of heads"}: ${words(value)}`));
    td.style.setProperty("--share", `${Math.round((value === null ? 0 : share(value)) * 45)}%`);
    return td;
  });
  table.replaceChildren(
    make("caption", {}, `${label}, layer by head`),
    make("thead", {}, make("tr", {}, make("td"), ...columns.map((head) => make("th", { scope: "col" }, isHead(head) ? `head ${Number(head) + 1}` : "mean")))),
    make("tbody", {}, ...values.map((row, layer) => make("tr", {}, make("th", { scope: "row" }, `Layer ${layer + 1}`), ...cells(row, layer))))
  );
}

function pickButton(panel, layer, head, text, title = "Show this map") {
  const button = make("button", { type: "button", title }, text);
  if (title !== "Show this map") button.setAttribute("aria-label", title);
  Object.assign(button.dataset, { panel: panel.index, layer, head });
  button.onclick = () => {
    state.layer = panel.layers > 1 ? layer / (panel.layers - 1) : 1;
    state.head = $("[name=head]").value = head;
    showLayer();
    redraw();
  };
  return button;
}
