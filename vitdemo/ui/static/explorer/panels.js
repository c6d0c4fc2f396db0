/* The part of the page that belongs to one model. */

function options(select, entries, wanted) {
  select.replaceChildren(...entries.map(([value, label]) => make("option", { value }, label)));
  select.value = entries.some(([value]) => value === wanted) ? wanted : entries[0][0];
  return select.value;
}

/* A canvas of the shape of the photo, or of a part of it. */
function size(canvas, side, frame = [0, 0, 1, 1]) {
  const [width, height] = [photo.width * (frame[2] - frame[0]), photo.height * (frame[3] - frame[1])];
  const zoom = Math.min(1, side / Math.max(width, height));
  canvas.width = Math.max(1, Math.round(width * zoom));
  canvas.height = Math.max(1, Math.round(height * zoom));
}

/* The colour of an answer, and whether it is right. */
function marks(panel) {
  const right = rightness(panel);
  const mark = right === null ? null : make("span", { class: right ? "vd-right-mark" : "vd-wrong-mark", role: "img", ariaLabel: right ? "right: " : "wrong: " }, right ? "✓ " : "✗ ");
  return [single() ? null : make("span", { class: "vd-dot", "aria-hidden": "true" }), mark].filter(Boolean);
}

/* Whether the map is that of this class. */
const explains = (panel, entry) => Boolean(panel.method && panel.method.aims && panel.method.target === entry.label);

/* A label and its score. Where the map explains a class, a click makes it explain this one. */
function bar(panel, entry, rank) {
  const fill = make("span", { class: "vd-fill" });
  fill.style.width = percent(entry.score, 1);
  const parts = [
    make("span", { class: "vd-name" }, ...(rank === 0 ? marks(panel) : []), make("span", { class: "vd-label", title: entry.label }, entry.label)),
    make("span", { class: "vd-score" }, percent(entry.score, 1)),
    make("span", { class: "vd-track", "aria-hidden": "true" }, fill),
  ];
  const item = make("li", { class: rank === 0 ? "vd-best" : "" });
  if (!panel.method || !panel.method.aims) {
    item.append(...parts);
    return item;
  }
  const button = make("button", { type: "button", title: `Show the map for ${entry.label}`, "aria-pressed": String(explains(panel, entry)) }, ...parts);
  button.onclick = () => trigger("select", { label: entry.label, index: entry.index });
  item.append(button);
  return item;
}

/* A fold of one picture. What one picture shows, all do: rows of pictures stay level. */
function fold(name, title, ...children) {
  const details = make("details", { class: name }, make("summary", {}, title), ...children);
  details.open = Boolean(state.open[name]);
  details.ontoggle = () => {
    if (details.open === Boolean(state.open[name])) return;
    state.open[name] = details.open;
    for (const other of root.querySelectorAll(`.${name}`)) other.open = details.open;
    redraw();
  };
  return details;
}

function takeAway(panel) {
  const entry = (text, title, act) => {
    const button = make("button", { type: "button", title }, text);
    button.setAttribute("aria-label", `${title}: ${panel.model}`);
    button.onclick = () => act(panel);
    return button;
  };
  const mapped = Object.keys(panel.readouts).length;
  return make(
    "div",
    { class: "vd-take" },
    mapped ? entry("PNG", "Save the picture as seen", savePicture) : null,
    mapped ? entry("NPZ", "Save the raw numbers", saveNumbers) : null,
    entry("JSON", "Save predictions and provenance", saveReport)
  );
}

/* Right or wrong, where the photo's label is known and among the model's classes. */
const rightness = (panel) => (shown.truth && panel.knows && best(panel) ? best(panel) === shown.truth : null);

function buildPanel(panel) {
  const canvas = make("canvas", { role: "img" });
  size(canvas, 640, frameOf(panel));
  const gradient = make("canvas", { class: "vd-gradient", width: 256, height: 1, "aria-hidden": "true" });
  const low = make("span"), high = make("span"), unit = make("span", { class: "vd-unit" });
  const legend = make("div", { class: "vd-legend" }, gradient, low, unit, high);
  const text = make("p", { class: "vd-text" });
  const inside = make("p", { class: "vd-on-box", hidden: true });
  const labels = panel.labels.length
    ? make("ol", { class: "vd-labels" }, ...panel.labels.map((entry, rank) => (rank < (single() ? 5 : 3) || explains(panel, entry) ? bar(panel, entry, rank) : null)).filter(Boolean))
    : make("p", { class: "vd-none" }, "No classifier: self-supervised");
  const facts = [
    `${panel.ms.toFixed(0)} ms${panel.cached ? " (from cache)" : ""}, ${panel.device}, ${panel.dtype}`,
    `${(panel.parameters / 1e6).toFixed(1)} M parameters`,
    `${panel.grid[0]} × ${panel.grid[1]} ${panel.layers ? "patches" : "cells"}`,
    panel.revision ? `Version ${/^[0-9a-f]{40}$/.test(panel.revision) ? panel.revision.slice(0, 12) : panel.revision}` : "",
  ].filter(Boolean);
  const doubt = make("span", { class: "vd-tag", hidden: !panel.uncovered, title: "The scores are as spread as for photos of none of its classes." }, "Low confidence");
  const flat = panel.method && panel.method.flat ? make("p", { class: "vd-flat" }, panel.method.flat) : null;
  const section = make(
    "section",
    { class: "vd-panel", "aria-label": panel.model },
    make("h2", {}, panel.family[0].toUpperCase() + panel.family.slice(1), make("code", { title: panel.model }, single() ? panel.model : panel.model.split("/").pop())),
    make("div", { class: "vd-left" }, make("div", { class: "vd-picture" }, canvas), make("div", { class: "vd-reading" }, legend, inside, flat))
  );
  panel.nodes = { canvas, text, inside, low, high, unit, legend, gradient, section };
  const heads = !panel.method && panel.heads > 1 && Object.keys(panel.readouts).length ? headGrid(panel) : null;
  const facts_ = [text, ...[...facts, ...panel.notes].map((fact) => make("p", {}, fact)), takeAway(panel)];
  section.append(make("div", { class: "vd-right" }, make("div", { class: "vd-answer" }, labels, doubt), heads, fold("vd-facts", "Details", ...facts_)));
  pointable(panel, canvas);
  return section;
}

/* Words and scale under a picture. */
function caption(panel, map, scale) {
  const { text, low, high, unit, legend, canvas } = panel.nodes;
  const values = map && map.values;
  legend.style.visibility = values ? "visible" : "hidden";
  text.textContent = values
    ? panel.method ? panel.method.description : describe(map, panel)
    : map ? map.missing : panel.absent || "This model has no attention to show.";
  canvas.setAttribute("aria-label", `${panel.model}: ${text.textContent}`);
  if (!values) return;
  const shares = !panel.method;
  [low.textContent, high.textContent] = scaleEnds(scale, shares);
  const [row, column] = patchAt(panel, hovered);
  unit.textContent = hovered
    ? `here ${worded(map.values[row * panel.grid[1] + column], shares)}`
    : panel.method ? panel.method.title.toLowerCase() : single() ? "attention per patch" : "";
}
