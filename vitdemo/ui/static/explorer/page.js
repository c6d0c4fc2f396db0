/* What a control does, and what a new result changes. */

function draw() {
  frame = 0;
  if (!photo) return;
  const maps = panels.map(currentMap);
  const scales = scalesOf(maps);
  panels.forEach((panel, index) => {
    paint(panel, maps[index], scales[index]);
    caption(panel, maps[index], scales[index]);
    drawHeads(panel);
  });
  drawBoxes();
  if (!single()) {
    drawMatrix(maps);
    drawSwipe(maps, scales);
  }
  drawCalls();
  root.dataset.draws = String(Number(root.dataset.draws || 0) + 1);
}

function redraw() {
  if (!frame) frame = requestAnimationFrame(draw);
}

/* Whether values of several models have one unit: shares of attention and cosines do, what gradients weigh does not. */
function comparable() {
  return !single() && !panels.some((panel) => panel.method && panel.method.aims);
}

/* What the colours stand for: one scale for all maps, or of each its own. */
function scalesOf(maps) {
  const drawn = maps.filter((map) => map && map.values).map((map) => map.values);
  const shared = comparable() && state.common && drawn.length > 1 ? scaleOf(drawn, state.linear) : null;
  return maps.map((map) => (map && map.values ? shared || scaleOf([map.values], state.linear) : null));
}

function setLayer(number) {
  const slider = $("[name=layer]");
  state.layer = Number(slider.max) ? number / Number(slider.max) : 1;
  showLayer();
  redraw();
}

function showLayer() {
  const layers = Math.max(1, ...panels.map((panel) => panel.layers));
  const slider = $("[name=layer]");
  slider.max = String(layers - 1);
  slider.value = String(Math.round(state.layer * (layers - 1)));
  $(".vd-layer-number").textContent = `${Number(slider.value) + 1} of ${layers}`;
}

function showControls() {
  const method = panels.map((panel) => panel.method).find(Boolean);
  const shaped = panels.filter((panel) => !panel.method && Object.keys(panel.readouts).length);
  if (!method && shaped.length) {
    const heads = Math.max(...shaped.map((panel) => panel.heads));
    const numbers = Array.from({ length: heads }, (_, head) => [String(head), `head ${head + 1}`]);
    state.head = options($("[name=head]"), [["mean", "mean of all"], ["max", "max of all"], ["min", "min of all"], ...numbers], state.head);
    const named = new Map(single() ? [] : [["", "model default"]]);
    for (const panel of shaped) for (const [name, entry] of Object.entries(panel.readouts)) named.set(name, entry.label);
    named.set("patch", "the chosen patch");
    state.readout = options($("[name=readout]"), [...named], state.readout);
  }
  for (const name of ["layer", "head", "readout"]) $(`[name=${name}]`).closest("label").hidden = Boolean(method) || !shaped.length;
  for (const name of [".vd-play", ".vd-film"]) $(name).hidden = Boolean(method) || !shaped.length;
  $("[name=common]").closest("label").hidden = !comparable();
  $("[name=sort]").closest("label").hidden = single();
  for (const part of [".vd-agreement", ".vd-swipe", ".vd-board"]) $(part).hidden = single();
  state.colourMap = options($("[name=colourMap]"), Object.keys(tables).map((name) => [name, name]), state.colourMap);
  state.measure = options($("[name=measure]"), Object.entries(MEASURES).map(([name, { label }]) => [name, label]), state.measure);
  state.sort = options($("[name=sort]"), Object.keys(ORDERS).map((name) => [name, name]), state.sort);
  const aims = method && method.aims ? " Click a label to see the map for that class." : "";
  const picks = method && method.pick ? " Click the picture, or use the arrow keys, to choose the patch." : "";
  const caution = method ? `${method.says} It shows this method's view of the model, not why the class was chosen.${picks}${aims}` : CAUTION;
  // The paper is a link.
  const parts = caution.split(/arXiv:([\w./-]*\w)/);
  $(".vd-caution").replaceChildren(
    ...parts.map((part, i) => (i % 2 ? make("a", { href: `https://arxiv.org/abs/${part}`, target: "_blank", rel: "noopener" }, `arXiv:${part}`) : part))
  );
  showLayer();
}

/* A result, or null where there is no photo, or `{refused}`: then the last result stays, greyed, with the reason above it. */
function show() {
  const value = props.value;
  const result = value && value.panels ? value : null;
  const message = $(".vd-hint");
  root.classList.toggle("vd-empty", !result && !shown);
  root.classList.toggle("vd-stale", !result && Boolean(shown));
  message.classList.toggle("vd-refused", Boolean(value && value.refused));
  message.textContent = value && value.refused ? value.refused : HINT;
  if (shown && !result) message.textContent += " Showing the previous result.";
  if (!result) return;
  const another = shown && shown.photo.src !== result.photo.src;
  if (another) state.boxes = []; // they belong to their photo
  if (result.start && !begun) begin(result.start);
  shown = result;
  showPlace();
  tables = Object.fromEntries(Object.entries(result.tables).map(([name, text]) => [name, tableOf(text)]));
  photo = new Image(result.photo.width, result.photo.height);
  photo.onload = redraw;
  panels = result.panels.map((panel, index) => ({ ...decodePanel(panel), index, agreement: -2 }));
  const grid = $(".vd-panels");
  // Rows of at most six, as equal as can be.
  grid.style.setProperty("--columns", Math.ceil(panels.length / Math.ceil(panels.length / 6)));
  root.classList.toggle("vd-single", single());
  const focused = document.activeElement && document.activeElement.tagName === "CANVAS" && grid.contains(document.activeElement);
  const built = panels.map(buildPanel);
  showControls();
  for (const panel of panels) ramp(panel.nodes.gradient);
  grid.replaceChildren(...built);
  if (focused) panels[0].nodes.canvas.focus({ preventScroll: true });
  showVerdict();
  showAbout();
  if (!single()) {
    buildMatrix();
    buildSwipe();
    sortPanels();
  }
  say("");
  photo.src = result.photo.src;
  root.dataset.result = result.id;
  keepLink();
  redraw();
  // On a phone the result of a new photo is below the fold.
  if (another && window.vitdemoOpened && root.offsetParent && matchMedia("(max-width: 700px)").matches) root.scrollIntoView({ block: "start" });
}

/* Settings that a link brought. The server has checked layer, head, read-out and patch; the rest is read here. */
let begun = false;
function begin(start) {
  begun = true;
  const layers = Math.max(1, ...props.value.panels.map((panel) => panel.layers));
  if (start.layer !== null) state.layer = layers > 1 ? Math.min(Math.max((start.layer + layers) % layers, 0), layers - 1) / (layers - 1) : 1;
  if (start.head) state.head = start.head;
  if (start.readout) state.readout = start.readout;
  state.boxes = (start.boxes || []).map((box) => box.map(rounded));
  if (start.patch) Object.assign(state, { patch: start.patch, pinned: true });
  const query = new URLSearchParams(location.search);
  const share = (name, usual, lowest) => {
    const value = query.has(name) ? Number(query.get(name)) : usual;
    return Math.round(Math.min(Math.max(Number.isFinite(value) ? value : usual, lowest), 100)) / 100;
  };
  Object.assign(state, { opacity: share("opacity", 85, 0), mass: share("top", 100, 10), colourMap: query.get("colours") || "" });
  Object.assign(state, { linear: query.get("scale") === "linear", common: query.get("shared") !== "0", smooth: query.get("smooth") !== "0", whole: query.get("crop") !== "1" });
  if (query.get("sort") in ORDERS) state.sort = query.get("sort");
  for (const name of ["opacity", "mass"]) $(`[name=${name}]`).value = String(Math.round(state[name] * 100));
  for (const name of ["linear", "common", "smooth", "whole"]) $(`[name=${name}]`).checked = state[name];
  for (const name of ["opacity", "mass"]) showShare($(`[name=${name}]`));
  setView(query.get("view") === "heatmap" ? "heatmap" : "overlay");
}

function showShare(control) {
  control.closest("label").querySelector("output").textContent = control.name === "mass" && control.value === "100" ? "all" : `${control.value}%`;
}

root.addEventListener("input", (event) => {
  const control = event.target;
  if (!(control.name in state)) return;
  if (control.name === "layer") setLayer(Number(control.value));
  else if (control.type === "checkbox") state[control.name] = control.checked;
  else if (control.type === "range") {
    state[control.name] = Number(control.value) / 100;
    if (control.name !== "swipe") showShare(control);
  } else {
    if (control.name === "readout" && control.value === "patch") before = state.readout;
    if (control.name === "readout") state.pinned = false;
    state[control.name] = control.value;
  }
  if (control.name === "whole") for (const panel of panels) size(panel.nodes.canvas, 640, frameOf(panel));
  if (control.name === "colourMap") for (const panel of panels) ramp(panel.nodes.gradient);
  if (control.name === "sort") sortPanels();
  redraw();
});
root.addEventListener("change", keepLink);
root.addEventListener("click", () => setTimeout(keepLink));
root.addEventListener("keyup", keepLink);
window.addEventListener("vitdemo-opened", keepLink);
for (const details of [$(".vd-swipe"), $(".vd-calls")]) details.addEventListener("toggle", redraw);
const acts = { play, link: copyLink, figure: saveFigure, film: saveFilm, table: saveTable, report: () => saveReport(null), full: fullScreen, box: pressDraw, another: (event) => pressDraw(event, true), unbox: removeBoxes, models: openModels };
root.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  if (button) acts[button.dataset.act](event);
  const view = event.target.closest("[data-view]");
  if (view) setView(view.dataset.view);
  const call = event.target.closest("[data-copy]");
  if (call) copy($(`[data-call=${call.dataset.copy}]`).textContent, "Copied.");
});

function setView(view) {
  state.view = view;
  for (const button of root.querySelectorAll("[data-view]")) button.setAttribute("aria-pressed", String(button.dataset.view === view));
  redraw();
}

/* The dialog that downloads; where this server fetches none, the list of what there is. */
function openModels() {
  const more = [...document.querySelectorAll(".vd-more")].find((button) => button.offsetParent);
  if (more) more.click();
  else [...document.querySelectorAll("[role=tab]")].find((tab) => tab.textContent.trim() === "Models")?.click();
}

// What pops up over the page goes when something else is pressed, or at Escape.
for (const details of [$(".vd-display"), $(".vd-known")]) {
  document.addEventListener("pointerdown", (event) => { if (!details.contains(event.target)) details.open = false; });
  details.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !details.open) return;
    details.open = false;
    details.querySelector("summary").focus();
  });
}

function fullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else root.requestFullscreen().catch(() => say("The browser does not allow full screen here."));
}

// The tab that is opened brings its own link.
new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting)) keepLink();
}).observe(root);

watch("value", show);
show();

/* A hint for the first visit, which leaves when something is pressed. */
function hint() {
  const tip = $(".vd-tip");
  try {
    if (localStorage.getItem("vitdemo-visited")) return;
    localStorage.setItem("vitdemo-visited", "1");
  } catch (error) {
    return; // no storage: no telling whether this is the first visit
  }
  tip.hidden = false;
  const leave = () => { tip.hidden = true; };
  root.addEventListener("pointerdown", leave, { once: true });
  setTimeout(leave, 15000);
}
if (root.offsetParent) hint();
