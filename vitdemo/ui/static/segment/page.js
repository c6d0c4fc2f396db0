/* What a control does, what is asked for, and what an answer changes. */

let asked = 0; // number of the newest request
let busy = 0; // since when one is under way
let wanted = false; // whether what the controls say has yet to be asked for
let packing = false; // whether files are wanted
let stale = true; // whether the photo has changed since the last request
let notes = []; // of a link, until a control or the photo is changed

/* Ask for what the controls say: one request at a time, and always the newest. */
function ask() {
  asked += 1;
  wanted = true;
  send();
}

function send() {
  if ((busy && Date.now() - busy < PATIENCE) || !visible() || !ready()) return;
  // The files are of what is on the page: masks come first.
  const zip = !wanted && packing && shown !== null;
  if (!wanted && !zip) return;
  if (zip) packing = false;
  else wanted = stale = false;
  busy = Date.now();
  root.setAttribute("aria-busy", "true");
  const { outlines, outliers, ...settings } = state;
  trigger("select", { settings, number: asked, zip, shown: shown ? shown.photo.id : "", others });
}

function done() {
  busy = 0;
  root.setAttribute("aria-busy", String(wanted || packing));
  send();
}

function remark(texts) {
  $(".vd-remarks").textContent = texts.join(" ");
}

/* ---- controls ---- */

const WORDED = {
  threshold: (value) => percent(value, 0),
  opacity: (value) => percent(value, 0),
  tau: (value) => value.toFixed(2),
};

function showControls() {
  const known = models.map(({ name, label }) => [name, label]);
  options($("[name=model]"), known, state.model);
  options($("[name=beside]"), [["", "none"], ...known], state.beside);
  const model = models.find(({ name }) => name === state.model);
  const heads = Array.from({ length: model ? model.heads : 0 }, (_, head) => [String(head), `head ${head + 1}`]);
  options($("[name=head]"), [["mean", "mean"], ["max", "max"], ["min", "min"], ["all", "all"], ...heads], String(state.head));
  for (const radio of root.querySelectorAll("[name=method]")) radio.checked = radio.value === state.method;
  for (const name of ["objects", "parts", "threshold", "tau", "matches", "opacity", "resolution"]) {
    const control = $(`[name=${name}]`);
    // Not what is being typed or dragged.
    if (!control.dataset.moving) control.value = String(name === "tau" ? foundTau() ?? control.value : state[name]);
    showNumber(control);
  }
  $("[name=automatic]").checked = state.tau === null;
  for (const name of ["within", "refine", "clip", "outlines", "outliers"]) $(`[name=${name}]`).checked = state[name];
  $("[data-act=models]").hidden = !opener();
  for (const label of root.querySelectorAll("[data-of]")) label.hidden = !label.dataset.of.split(" ").includes(state.method);
  const [text, title] = WITHIN[state.method] || ["", ""];
  $(".vd-within").textContent = text;
  $(".vd-within").closest("label").title = title;
}

/* That of the controls, or the one that was found for what is shown. */
const foundTau = () => state.tau ?? (views.length ? views[0].tau : null);

function showNumber(control) {
  const output = control.closest("label").querySelector("output");
  if (!output) return;
  // A threshold that was found lies between the steps of its control, or there is none.
  const automatic = control.name === "tau" && state.tau === null && !control.dataset.moving;
  if (automatic && foundTau() === null) output.textContent = "";
  else output.textContent = (WORDED[control.name] || String)(automatic ? foundTau() : Number(control.value));
}

function read(control) {
  if (control.type === "checkbox") return control.checked;
  if (control.type === "range") return Number(control.value);
  if (control.type === "number") return control.value === "" ? state[control.name] : Number(control.value);
  return control.value;
}

root.addEventListener("input", (event) => {
  const control = event.target;
  if (control.name === "line") {
    line = Number(control.value);
    redraw();
  }
  if (!(control.name in state)) return;
  if (control.type === "range" || control.type === "number") control.dataset.moving = "yes";
  if (control.type === "range") showNumber(control);
  // The patches from the threshold on are drawn here.
  if (LOCAL.includes(control.name) || control.name === "tau") {
    state[control.name] = read(control);
    if (control.name === "tau") $("[name=automatic]").checked = false;
    redraw();
  }
});

root.addEventListener("change", (event) => {
  const control = event.target;
  if (control.name === "others") uploaded(control);
  if (control.name === "automatic") {
    state.tau = control.checked ? null : Number($("[name=tau]").value);
    showControls();
    ask();
  }
  if (!(control.name in state)) return;
  delete control.dataset.moving;
  state[control.name] = read(control);
  notes = [];
  if (LOCAL.includes(control.name)) return;
  if (control.name === "model") {
    // Another model has other heads, and its patches are alike from another cosine on.
    const { heads } = models.find(({ name }) => name === state.model);
    Object.assign(state, { tau: null, head: Number(state.head) >= heads ? "mean" : state.head });
  }
  if (control.name === "head") showHead();
  showControls();
  tip("");
  if (control.name === "tau" && state.method === "similarity" && !others.length) keepLink();
  else ask();
});

async function uploaded(control) {
  const files = [...control.files];
  say(files.length ? "Uploading …" : "");
  try {
    others = await Promise.all(files.map(async (file) => ({ name: file.name, path: (await upload(file)).path })));
    say("");
  } catch (error) {
    say("The photos could not be uploaded.");
  }
  ask();
}

/* ---- answers ---- */

async function show() {
  const value = props.value;
  if (!value) return;
  if (value.start) return begin(value);
  if (value.models && !value.views) return join(value);
  if (value.failed) complain(`${window.vitdemoRefusal("The server does not answer. Try again.")}${shown ? " Showing the previous result." : ""}`);
  if (value.file) {
    make("a", { href: value.file.url, download: value.file.orig_name }).click();
    say("");
  }
  const late = value.number !== asked;
  if (value.error || value.refused) {
    if (!late) complain(`${value.error || value.refused}${shown ? " Showing the previous result." : ""}`);
    packing = false;
    say("");
  }
  if (value.views && !late) await take(value);
  if (value.number !== undefined || value.failed) done();
}

function begin(value) {
  models = value.models;
  notes = value.notes;
  Object.assign(state, value.start);
  showControls();
  remark(notes);
  if (asked && !wanted) ask();
}

/* Further models have arrived. */
function join(value) {
  ({ models } = value);
  const control = $("[name=model]");
  showControls();
  if (!value.chosen) return;
  control.value = value.chosen;
  control.dispatchEvent(new Event("change", { bubbles: true }));
}

/* What was answered, drawn at once: nothing is shown in part. */
async function take(value) {
  const table = bytesOf(value.table);
  const pixels = value.photo.src ? await loaded(value.photo.src) : photo;
  const found = await Promise.all(value.views.map((view) => decoded(view, table)));
  const more = await Promise.all(value.others.map((other) => otherOf(other, table)));
  if (value.number !== asked) return;
  const focused = document.activeElement && document.activeElement.closest(".vd-view canvas") && root.contains(document.activeElement);
  complain("");
  ({ models } = value);
  const { opacity, tau, ...settings } = value.settings;
  Object.assign(state, settings, state.method === "similarity" && !others.length ? {} : { tau });
  if (shown && shown.photo.id !== value.photo.id) notes = [];
  shown = { ...value, others: more };
  photo = pixels;
  views = found;
  showControls();
  remark([...notes, ...value.notes.filter((note) => !notes.includes(note))]);
  $(".vd-views").replaceChildren(...views.map(build));
  if (focused) views[0].nodes.canvas.focus({ preventScroll: true });
  $(".vd-compared").hidden = !value.refined || !views[0].masks.length;
  buildHeads();
  buildOthers();
  buildDetails();
  tip(state.method === "similarity" && !state.point ? "Click a patch to see what is similar to it; arrow keys move it." : "");
  root.dataset.result = String(value.number);
  keepLink();
  redraw();
}

/* ---- link ---- */

const OURS = [...Object.keys(state), "image", "tab", "models", "target", "fusion", "discard", "variant", "layer", "readout", "patch", "box"];
const THEIRS = ["top", "colours", "view", "crop", "scale", "shared", "smooth", "sort"]; // of the explorers

function link() {
  const query = new URLSearchParams(location.search);
  for (const name of [...OURS, ...THEIRS]) query.delete(name);
  if (state.opacity !== 0.6) query.set("opacity", String(state.opacity));
  for (const [name, value] of new URLSearchParams(shown.link)) query.set(name, value);
  if (COMPARING.includes(state.method) && state.tau !== null) query.set("tau", String(state.tau));
  else query.delete("tau");
  return `${location.origin}${location.pathname}?${query}`.replaceAll("%2C", ",");
}

/* The address bar always holds what is shown, so that a reload, or a colleague, sees the same. */
function keepLink() {
  if (window.vitdemoOpened && shown && visible() && location.href !== link()) history.replaceState(history.state, "", link());
}

async function copyLink() {
  try {
    await navigator.clipboard.writeText(link());
    say(new URLSearchParams(shown.link).get("image") ? "Link copied." : "Link copied. It holds the settings, not your photo.");
  } catch (error) {
    say("The browser does not allow copying here: copy the address of this page yourself.");
  }
}

function savePicture() {
  for (const view of views) {
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width: photo.naturalWidth, height: photo.naturalHeight });
    paint(view, canvas, photo, { only: view.only, cut });
    const name = `${shown.photo.name.replace(/\.[^.]*$/, "") || "photo"}-${cut && LAYERED.includes(view.method) ? "cut-out" : view.method}${views.length > 1 ? `-${view.model.replace(/[^\w.-]+/g, "-")}` : ""}.png`;
    canvas.toBlob((blob) => save(name, blob), "image/png");
  }
}

function pack() {
  packing = true;
  say("Packing …");
  send();
}

function setCut(on) {
  cut = on;
  for (const button of root.querySelectorAll(".vd-choice button")) button.setAttribute("aria-pressed", String(on === (button.dataset.act === "cutout")));
  redraw();
}

/* Gradio's button of another tab opens the dialog that downloads; where nothing may be fetched, there is none. */
const opener = () => document.querySelector(".vd-toolbar .vd-more");

const acts = { zip: pack, picture: savePicture, link: copyLink, overlay: () => setCut(false), cutout: () => setCut(true), models: () => opener().click() };
root.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  if (button && shown) acts[button.dataset.act]();
});

for (const fold of root.querySelectorAll("details")) fold.addEventListener("toggle", redraw);

/* The page is open, its photo has changed, or this tab is opened: what is not up to date is asked for. */
function catchUp() {
  if (visible() && ready()) {
    if (stale) ask();
    else send();
    keepLink();
  }
}

window.addEventListener("vitdemo-opened", catchUp);
window.addEventListener("vitdemo-photo", () => {
  stale = true;
  catchUp();
});
new IntersectionObserver(catchUp).observe(root);
new ResizeObserver(redraw).observe($(".vd-views"));

watch("value", show);
show();
