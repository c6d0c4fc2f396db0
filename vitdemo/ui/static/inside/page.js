/* What a control does, what is asked for, and what an answer changes. */

let asked = 0; // number of the newest request for a step
let turns = 0; // the same for rankings, whose numbers are below 0: no answer is equal to the one before, which would not be told
let busy = 0; // since when one is under way
let wanted = ""; // what has yet to be asked for: a "step", or some of a "rank"
let stale = true; // whether the photo has changed since the last request
let notes = []; // of a link, until something is changed
let playing = 0;

/* Ask for what the controls say: one request at a time, and always the newest. */
function ask() {
  ranking = null;
  asked += 1;
  wanted = "step";
  send();
}

function askRank() {
  if (wanted !== "step") wanted = "rank";
  send();
}

function send() {
  if ((busy && Date.now() - busy < PATIENCE) || !visible() || !ready() || !wanted) return;
  const rank = wanted === "rank" ? ranking : null;
  if (wanted === "rank" && !rank) return;
  if (!rank) stale = false;
  if (rank) turns += 1;
  wanted = "";
  busy = Date.now();
  if (!rank) root.setAttribute("aria-busy", "true");
  trigger("select", { settings: state, number: rank ? -turns : asked, shown: shown ? shown.photo.id : "", rank: rank && { by: rank.by, model: rank.model, target: rank.target, start: rank.effects.length } });
}

function done() {
  busy = 0;
  root.setAttribute("aria-busy", String(wanted === "step"));
  send();
}

/* ---- steps and controls ---- */

const walk = $(".vd-steps");
NAMES.forEach((name, index) => {
  const button = make("button", { type: "button" }, make("span", {}, String(index + 1)), STEPS[name]);
  button.dataset.step = name;
  walk.append(button);
});

function go(name) {
  if (name === state.step) return;
  state.step = name;
  stop();
  showStep();
  ask();
}

/* What belongs to the step alone; the last figures stay, greyed by `aria-busy`, until the new ones are here. */
function showStep() {
  for (const button of walk.children) button.setAttribute("aria-current", button.dataset.step === state.step ? "step" : "false");
  for (const section of root.querySelectorAll(".vd-text section")) section.hidden = section.dataset.step !== state.step;
  for (const control of root.querySelectorAll("[data-of]")) control.hidden = !control.dataset.of.split(" ").includes(state.step);
  const here = NAMES.indexOf(state.step);
  $("[data-act=back]").disabled = here === 0;
  $("[data-act=next]").disabled = here === NAMES.length - 1;
  const current = walk.children[here];
  walk.scrollLeft = Math.max(0, current.offsetLeft - walk.clientWidth / 2 + current.clientWidth / 2);
  showControls();
}

const layersOf = (view) => (view && view.layers) || 1;
const first = () => (shown && shown.settings.step === state.step ? shown.views.find((view) => !view.refused) : null);

function showControls() {
  const known = models.map(({ name, label }) => [name, label]);
  options($("[name=model]"), known, state.model);
  options($("[name=beside]"), [["", "none"], ...known], state.beside);
  const model = models.find(({ name }) => name === state.model) || { layers: 0, heads: 0 };
  range("layer", Math.max(0, model.layers - 1), state.layer < 0 ? model.layers + state.layer : state.layer, (value) => `${value + 1} of ${model.layers}`);
  range("head", Math.max(0, model.heads - 1), state.head, (value) => `${value + 1} of ${model.heads}`);
  const view = first();
  range("read", layersOf(view) - 1, local.read === null ? layersOf(view) - 1 : local.read, (value) => `${value + 1} of ${layersOf(view)}`);
  ["side", "cut"].forEach((name, place) => {
    const sizes = sizesOf(view, place);
    range(name, Math.max(0, sizes.length - 1), local[name] ?? (view && view.own ? sizes.indexOf(view.own[place]) : 0), (value) => (sizes.length ? `${sizes[value]} px` : ""));
  });
  const points = (view && view.points) || [];
  range("strength", Math.max(0, points.length - 1), local.strength ?? Math.floor(points.length / 2), (value) => (points[value] ? String(points[value].strength) : ""));
  $("[name=kind]").value = state.kind;
  $("[name=fill]").value = state.fill;
}

/* What is pointed at, as if its slider were moved. */
function setLocal(name, value) {
  if (local[name] === value) return;
  local[name] = value;
  showControls();
  redraw();
}

function range(name, most, value, word) {
  const control = $(`[name=${name}]`);
  control.max = String(most);
  control.value = String(Math.min(most, value));
  control.closest("label").querySelector("output").textContent = word(Number(control.value));
}

root.addEventListener("input", (event) => {
  const { name, value } = event.target;
  if (!(name in local)) return;
  setLocal(name, Number(value));
});

root.addEventListener("change", (event) => {
  const { name, value, type } = event.target;
  if (!(name in state)) return;
  state[name] = type === "range" ? Number(value) : value;
  if (name === "kind") local.strength = null;
  notes = [];
  showControls();
  ask();
});

/* While a slider moves its number moves along; what it changes is asked for when it is let go. */
for (const name of ["layer", "head"]) {
  $(`[name=${name}]`).addEventListener("input", (event) => {
    event.target.closest("label").querySelector("output").textContent = `${Number(event.target.value) + 1} of ${Number(event.target.max) + 1}`;
  });
}

function stop() {
  clearInterval(playing);
  playing = 0;
  $("[data-act=play]").setAttribute("aria-pressed", "false");
  $("[data-act=play]").textContent = "Play";
}

function play() {
  if (playing) return stop();
  const count = layersOf(first());
  local.read = local.read === null || local.read >= count - 1 ? 0 : local.read;
  $("[data-act=play]").setAttribute("aria-pressed", "true");
  $("[data-act=play]").textContent = "Pause";
  playing = setInterval(() => {
    local.read = Math.min(count - 1, local.read + 1);
    showControls();
    redraw();
    if (local.read >= count - 1) stop();
  }, 700);
  showControls();
  redraw();
}

/* ---- answers ---- */

async function show() {
  const value = props.value;
  if (!value) return;
  if (value.table) table = tableOf(value.table);
  if (value.start) return begin(value);
  if (value.models && !value.views) {
    ({ models } = value);
    return showControls();
  }
  const late = value.number !== asked && value.number !== -turns;
  if (value.failed) complain(`${window.vitdemoRefusal("The server does not answer. Try again.")}${shown ? " Showing the previous result." : ""}`);
  if ((value.error || value.refused) && !late) complain(`${value.error || value.refused}${shown ? " Showing the previous result." : ""}`);
  if ((value.failed || (!late && (value.error || value.refused))) && ranking) ranking.end();
  if (value.ranked && !late) take(value.ranked);
  try {
    if (value.views && !late) await build(value);
  } catch (error) {
    complain("This step could not be drawn. Reload the page, and try again.");
    console.error(error);
  }
  if (value.number !== undefined || value.failed) done();
}

function begin(value) {
  ({ models, notes } = value);
  Object.assign(state, value.start);
  showStep();
  if (asked) ask();
}

function take(found) {
  if (!ranking || found.by !== ranking.by || found.model !== ranking.model || found.start !== ranking.effects.length) return;
  ranking.effects.push(...found.effects);
  ranking.show(found.count);
  if (ranking.effects.length < found.count && found.effects.length) askRank();
}

/* What was answered, drawn at once. */
async function build(value) {
  const pixels = value.photo.src ? await loaded(value.photo.src) : photo;
  for (const view of value.views) if (view.photo) view.image = await loaded(view.photo);
  if (value.number !== asked) return;
  complain("");
  if (shown && shown.photo.id !== value.photo.id) local.tile = local.query = null;
  const before = shown ? shown.settings : null;
  if (!before || before.step !== value.settings.step || before.model !== value.settings.model) Object.assign(local, { read: null, side: null, cut: null, strength: null });
  shown = value;
  ({ models } = value);
  photo = pixels;
  const { step, ...settings } = value.settings;
  Object.assign(state, settings);
  const focus = focusPath();
  const open = [...root.querySelectorAll(".vd-figures details")].map((fold) => fold.open);
  redraws = [];
  $(".vd-figures").replaceChildren(...value.views.map((view) => make("article", { class: "vd-view" },
    make("h3", {}, view.family, " ", view.model ? make("code", {}, view.model) : null),
    view.refused ? make("p", { class: "vd-refused" }, view.refused) : null,
    // What is off can be switched on again where it leaves nothing to run.
    ...(view.refused && step !== "apart" ? [] : showing[step](view)),
    ...(view.notes || []).map((note) => words(note)))));
  $(".vd-figures").classList.toggle("vd-two", value.views.length > 1);
  root.querySelectorAll(".vd-figures details").forEach((fold, index) => (fold.open = open[index] ?? fold.open));
  $(".vd-remarks").textContent = [...notes, ...value.notes.filter((note) => !notes.includes(note))].join(" ");
  root.dataset.result = String(value.number);
  showControls();
  redraw();
  restore(focus);
  keepLink();
}

/* Who asks by keys keeps the place: the same button or picture of the new figures. */
const holders = () => [...root.querySelectorAll(".vd-figures button, .vd-figures canvas[tabindex]")];
function focusPath() {
  const label = document.activeElement && root.querySelector(".vd-figures").contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
  return label;
}
function restore(label) {
  if (!label) return;
  const node = holders().find((one) => one.getAttribute("aria-label") === label);
  if (node) node.focus({ preventScroll: true });
}

/* ---- link ---- */

const THEIRS = ["models", "target", "fusion", "discard", "variant", "readout", "patch", "box", "top", "colours", "view", "crop", "scale", "shared", "smooth", "sort"];
const OF_SEGMENT = ["method", "resolution", "refine", "clip", "opacity", "threshold", "objects", "tau", "parts", "within", "matches"];
const texts = { heads: (list) => list.map((pair) => pair.join(":")).join(","), point: (point) => (point ? point.join(",") : "") };

function link() {
  const query = new URLSearchParams(location.search);
  for (const name of [...Object.keys(state), ...THEIRS, ...OF_SEGMENT]) query.delete(name);
  query.set("tab", "inside");
  if (shown.image) query.set("image", shown.image);
  else query.delete("image");
  for (const [name, value] of Object.entries(state)) {
    if (JSON.stringify(value) === JSON.stringify(EMPTY[name]) && name !== "step") continue;
    const text = texts[name] ? texts[name](value) : Array.isArray(value) ? value.join(",") : String(value);
    if (text) query.set(name, text);
  }
  return `${location.origin}${location.pathname}?${query}`.replaceAll("%2C", ",").replaceAll("%3A", ":");
}

/* The address bar always holds what is shown, so that a reload, or a colleague, sees the same. */
function keepLink() {
  if (window.vitdemoOpened && shown && visible() && location.href !== link()) history.replaceState(history.state, "", link());
}

async function copyLink() {
  try {
    await navigator.clipboard.writeText(link());
    say(shown.image ? "Link copied." : "Link copied. It holds the settings, not your photo.");
  } catch (error) {
    say("The browser does not allow copying here: copy the address of this page yourself.");
  }
}

function clear() {
  Object.assign(state, { heads: [], attention: [], mlp: [], patches: [] });
  ask();
}

function along(by) {
  go(NAMES[Math.min(NAMES.length - 1, Math.max(0, NAMES.indexOf(state.step) + by))]);
  walk.scrollIntoView({ block: "nearest" });
}

const acts = {
  back: () => along(-1),
  next: () => along(1),
  link: () => shown && copyLink(),
  again: () => {
    state.seed += 1;
    ask();
  },
  clear,
  token: () => {
    state.point = null;
    ask();
  },
  play,
};
root.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  const step = event.target.closest("[data-step]");
  if (button) acts[button.dataset.act]();
  else if (step && walk.contains(step)) go(step.dataset.step);
});

/* The page is open, its photo has changed, or this tab is opened: what is not up to date is asked for. */
function catchUp() {
  if (!visible() || !ready()) return;
  if (stale) ask();
  else send();
  keepLink();
}

window.addEventListener("vitdemo-opened", catchUp);
window.addEventListener("vitdemo-photo", () => {
  stale = true;
  catchUp();
});
new IntersectionObserver(catchUp).observe(root);

watch("value", show);
showStep();
show();
