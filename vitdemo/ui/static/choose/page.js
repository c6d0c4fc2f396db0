/* Controls, what is asked for, and what is answered. */

const form = $(".vd-form");
const terms = `Up to ${offered.photos.toLocaleString("en")} photos and ${offered.minutes} minutes; one comparison runs at a time on this server. Photos, features and result are kept for two hours, and only this browser sees them. A probe that is made a model is offered to everybody who uses this server.`;
const HINTS = {
  same: "With their labels and boxes. Models that have seen them are not run again.",
  examples: "16 small crops of each of the nine example photos. They show how the tab works; crops of one photo overlap, so their accuracies say little about models.",
  upload: `Up to ${offered.megabytes} MB. One folder per class gives accuracies; photos without folders can be grouped, and labelled by naming the groups.`,
  folder: "Where the app runs, not on your own machine if that is another one.",
};
let progress = { under_way: false, result: 0 }; // the server's last answer
let busy = ""; // what the page itself is doing: words, while it uploads
let wrong = "";
let seen = false; // whether the tab is on the screen
let timer = 0;
let probe = { number: 0, source: "", name: "" }; // the last one that was made
let models = offered.models;

const chosenModels = () => [...form.querySelectorAll("[name=model]:checked")].map((one) => one.value);
const kind = () => form.elements.kind.value;

function listModels(chosen) {
  $(".vd-list").replaceChildren(...models.map(({ name, family }) => make("label", {}, make("input", { type: "checkbox", name: "model", value: name, checked: chosen.includes(name) }), make("span", {}, make("code", {}, name), make("small", {}, family)))));
}

function showForm() {
  for (const row of form.querySelectorAll("[data-kind]")) row.hidden = row.dataset.kind !== kind();
  text(".vd-hint", HINTS[kind()]);
  const number = chosenModels().length;
  text(".vd-begin", number ? `Compare ${count(number, "model")}` : "Compare models");
}

function showState() {
  const going = progress.under_way && progress.mine, act = (name) => form.querySelector(`[data-act=${name}]`);
  const taken = progress.taken || (progress.under_way && !progress.mine);
  $(".vd-begin").disabled = Boolean(offered.missing || progress.under_way || taken || busy);
  act("stop").hidden = !going;
  act("stop").disabled = progress.state === "stopping";
  act("resume").hidden = going || !progress.resumable;
  act("resume").disabled = Boolean(taken || busy);
  const bar = $("progress");
  bar.hidden = !going;
  if (going) bar.value = progress.share;
  let words = busy || offered.missing;
  if (!words && taken) words = "A comparison of another visitor is running. One runs at a time.";
  else if (!words && progress.mine && progress.phase) words = `${progress.phase}${going && progress.left ? `, ${rest(progress.left)}` : ""}.`;
  text(".vd-phase", words);
  const done = going ? Object.entries(progress.models) : [];
  $(".vd-models-done").replaceChildren(...done.map(([name, [some, all]]) => make("li", {}, make("code", {}, name), make("span", {}, `${some.toLocaleString("en")} of ${all.toLocaleString("en")}`))));
  text(".vd-fault", wrong || (progress.mine && !going && progress.said) || "");
  root.dataset.state = progress.mine ? progress.state : progress.under_way ? "taken" : "idle";
}

function rest(left) {
  return left >= 90 ? `about ${Math.round(left / 60)} min left` : `about ${Math.max(1, Math.round(left))} s left`;
}

/* ---- asking ---- */

async function ask(action, more = {}) {
  clearTimeout(timer);
  let answered = true;
  try {
    await takeProgress(await question({ action, ...more }));
  } catch (error) {
    answered = false;
    wrong = error.message;
  }
  showState();
  if (seen && (progress.under_way || progress.taken || !answered)) timer = setTimeout(ask, progress.mine && answered ? EVERY : 4 * EVERY, "look");
  return answered;
}

async function takeProgress(answer) {
  if (wrong.startsWith("The server does not answer")) wrong = "";
  const ended = progress.under_way && progress.mine && !answer.under_way;
  progress = answer;
  const same = $(".vd-same"), first = same.hidden;
  same.hidden = !(answer.mine && answer.same);
  if (same.hidden && kind() === "same") form.elements.kind.value = "examples";
  // What was just compared is what more models are compared on.
  if ((ended || first) && !same.hidden && (ended || kind() === "examples")) form.elements.kind.value = "same";
  showForm();
  if (answer.result && (!result || result.number !== answer.result)) {
    await takeResult(await question({ action: "result" }));
    // Where it is above what was pressed.
    if (ended && root.getBoundingClientRect().top < 0) root.scrollIntoView({ block: "start" });
  }
}

async function takeResult(found) {
  known.clear();
  cards.clear();
  result = found;
  labels = numbersOf(found.labels, Int16Array);
  maps = [];
  Object.assign(picked, { photo: null });
  $(".vd-photo").hidden = true;
  const { featured, verdict } = found;
  const sorted = [...featured].sort((one, other) => ((candidate(other).probe || {}).value || 0) - ((candidate(one).probe || {}).value || 0));
  const wanted = verdict.recommended || verdict.best || sorted[0] || "";
  picked.model = featured.includes(picked.model) ? picked.model : wanted;
  picked.a = picked.model;
  picked.b = featured.includes(picked.b) && picked.b !== picked.a ? picked.b : sorted.find((one) => one !== picked.a) || "";
  $(".vd-result").hidden = false;
  $(".vd-intro").hidden = true;
  text(".vd-verdict", verdict.sentence);
  text(".vd-rests", verdict.rests_on);
  $(".vd-remarks").replaceChildren(...found.notes.map((note) => make("li", {}, note)));
  const skipped = $(".vd-skipped");
  skipped.hidden = !found.skipped_count;
  skipped.querySelector("summary").textContent = found.skipped_count === 1 ? "1 file was left out" : `${found.skipped_count.toLocaleString("en")} files were left out`;
  skipped.querySelector("ul").replaceChildren(...found.skipped.map((line) => make("li", {}, line)));
  drawTable();
  $(".vd-why").hidden = !featured.length;
  const entries = featured.map((name) => [name, name]);
  options($("[name=a]"), entries, picked.a);
  options($("[name=b]"), [["", "none"], ...entries], picked.b);
  options($("[name=projection]"), found.projections.map((one) => [one, one === "pca" ? "PCA" : "t-SNE"]));
  options($("[name=colours]"), [...(found.labelled ? [["class", "class"], ["right", "right and wrong"]] : []), ...(featured.length > 1 ? [["agreement", "agreement"]] : []), ["cluster", "cluster"]]);
  options($("[name=class]"), [["", "all"], ...found.classes.map((name, index) => [String(index), name])]);
  $(".vd-of-class").hidden = !found.labelled;
  root.dataset.result = found.number;
  showState();
  drawScatter();
  showProbe();
  if (featured.length) showView(found.labelled || picked.view !== "confusions" ? picked.view : "clusters");
}

function showProbe() {
  const able = result.labelled && result.featured.includes(picked.model);
  const made = probe.number === result.number && probe.source === picked.model;
  $(".vd-probe").hidden = !able || made;
  $(".vd-probe").textContent = `Make the probe of ${picked.model} a model`;
  $(".vd-pack").hidden = !made;
}

function pickModel(name) {
  if (!result.featured.includes(name)) return;
  picked.model = name;
  if (picked.b === name) picked.b = picked.a;
  picked.a = name;
  for (const [one, value] of [["a", picked.a], ["b", picked.b]]) $(`[name=${one}]`).value = value;
  for (const row of $(".vd-table").querySelectorAll("tr[data-model]")) {
    row.classList.toggle("vd-chosen", row.dataset.model === name);
    row.querySelector("[name=chosen]").checked = row.dataset.model === name;
  }
  for (const point of plot.querySelectorAll(".vd-point")) point.setAttribute("aria-pressed", String(point.dataset.model === name));
  say("");
  showProbe();
  pairChanged();
}

function pairChanged() {
  showView();
  if (picked.photo !== null) showPhoto(picked.photo, false);
}

function say(words) {
  text(".vd-said", words);
}

/* An event, and what is said until its answer is here. */
function tell(name, more, words) {
  asked += 1;
  wrong = "";
  say(words);
  trigger(name, { number: asked, token, ...more });
}

function complain(words) {
  busy = "";
  say("");
  if (result && !progress.under_way) trouble(words);
  wrong = words;
  showState();
}

async function saveFile(which) {
  say("Writing the file");
  try {
    const { name, type, text: written } = await asking({ action: "file", kind: which });
    save(name, new Blob([written], { type }));
    say("");
  } catch (error) {
    say(error.message);
  }
}

async function begin() {
  const settings = { models: chosenModels(), folds: form.elements.folds.value, k: form.elements.k.value, ignore_labels: form.elements.ignore.checked };
  if (!settings.models.length) throw new Error("Choose at least one model.");
  if (settings.models.length > offered.most) throw new Error(`${settings.models.length} models are chosen; the limit is ${offered.most}.`);
  const tellBusy = (words) => {
    busy = words;
    showState();
  };
  const limits = { megabytes: offered.megabytes, piece: offered.piece, instead: "Use the command line: vitdemo choose." };
  const data = { kind: kind(), folder: kind() === "folder" ? form.elements.path.value : "" };
  tellBusy("Starting");
  if (kind() === "upload") Object.assign(data, await inPieces(form.elements.archive.files[0], { ...limits, missing: "Choose a zip or tar archive of photos." }, tellBusy));
  for (const name of ["boxes", "labels"]) {
    const file = form.elements[name].files[0];
    if (file) data[name] = await inPieces(file, { ...limits, megabytes: 50 }, tellBusy);
  }
  tellBusy("Storing the photos");
  tell("begin", { settings, data }, "");
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (busy || progress.under_way || offered.missing) return;
  wrong = "";
  trouble("");
  try {
    await begin();
  } catch (error) {
    complain(error.message);
  }
});

form.addEventListener("change", (event) => {
  showForm();
  if (event.target.name === "model") keepLink();
});

$(".vd-why").addEventListener("change", (event) => {
  const { name, value } = event.target;
  if (name === "a" || name === "b") {
    if (name === "a" && value === picked.b) picked.b = picked.a;
    picked[name] = value;
    if (picked.a === picked.b) picked.b = "";
    $("[name=b]").value = picked.b;
    pairChanged();
  } else if (name === "projection" || name === "colours") showView("map");
  else if (name === "class") drawMaps();
});

root.addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const { view: wanted, file, act, labels: kindOfLabels } = button.dataset;
  if (wanted) showView(wanted);
  else if (file) saveFile(file);
  else if (kindOfLabels) saveLabels(kindOfLabels);
  else if (button.classList.contains("vd-probe")) tell("probe", { model: picked.model }, "Fitting the probe on all photos");
  else if (button.classList.contains("vd-pack")) tell("pack", { model: probe.source }, "Packing the probe");
  else if (act === "relabel") {
    trouble("");
    if (!(await ask("relabel", namedQuery()))) {
      trouble(wrong);
      wrong = "";
      showState();
    }
  } else if (act) {
    wrong = "";
    ask(act);
  }
});

/* ---- link ---- */

/* The address bar holds the tab and its models; of photos there is nothing in it. */
function keepLink() {
  if (!window.vitdemoOpened || !root.offsetParent) return;
  const query = new URLSearchParams(location.search), chosen = chosenModels();
  for (const name of [...query.keys()]) if (name !== "image") query.delete(name);
  query.set("tab", "choose");
  if (String(chosen) !== String(offered.chosen)) query.set("models", chosen.join(","));
  const link = `${location.origin}${location.pathname}?${query}`.replaceAll("%2C", ",").replaceAll("%2F", "/");
  if (location.href !== link) history.replaceState(history.state, "", link);
}

/* ---- answers ---- */

function takeValue() {
  const value = props.value;
  if (!value) return;
  if (value.start) {
    if (value.start.models.length) listModels(value.start.models);
    wrong = value.start.said;
    showForm();
    return showState();
  }
  if (value.number !== asked) return;
  busy = "";
  if (value.error) return complain(value.error);
  say("");
  if (value.begun) ask("look");
  if (value.shown) scrollTo(0, 0);
  if (value.file) make("a", { href: value.file.url, download: value.file.orig_name }).click();
  if (value.probe) {
    probe = { number: result.number, source: picked.model, name: value.probe };
    const chosen = chosenModels();
    ({ models } = value);
    listModels(chosen);
    showProbe();
    say(`${value.probe} is in the lists of all tabs.`);
  }
}
watch("value", takeValue);

/* ---- the tab is opened ---- */

async function open() {
  ask("look");
  try {
    const found = await question({ action: "models" });
    const chosen = chosenModels();
    if (JSON.stringify(found.models) !== JSON.stringify(models)) {
      ({ models } = found);
      listModels(chosen);
      showForm();
    }
  } catch (error) {
    wrong = error.message;
    showState();
  }
}

new IntersectionObserver((entries) => {
  const now = entries[entries.length - 1].isIntersecting;
  if (now && !seen) {
    seen = true;
    keepLink();
    open();
  } else if (!now && !root.offsetParent) {
    seen = false;
    hover(null, 0);
    clearTimeout(timer);
  }
}).observe(root);

window.addEventListener("vitdemo-opened", keepLink);

Object.assign(form.elements.folds, { value: offered.folds });
Object.assign(form.elements.k, { value: offered.k });
$(".vd-folder").hidden = !offered.folders;
text(".vd-terms", terms);
listModels(offered.chosen);
showForm();
showState();
takeValue();
