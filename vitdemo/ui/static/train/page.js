/* Controls, what is asked for, and what is answered. */

const form = $(".vd-form");
const HINTS = {
  examples: "The nine example photos, each cut into 16 overlapping crops. Far too few to learn to see: held-out crops are of the same photos, so their accuracy says nothing about new ones. It only shows the mechanics.",
  upload: `Up to ${offered.megabytes} MB. A tenth of the photos is held out for evaluation; two classes at least, two photos each.`,
  folder: "Where the app runs, not on your own machine if that is another one.",
};
const PIECES = { ...offered, missing: "Choose a zip or tar archive with one folder per class.", instead: "Train on it with the command line." };
let busy = ""; // what the page itself is doing: words, while it uploads
let wrong = "";
let followed = false; // whether a training of one's own was under way while this page was open
let seen = false; // whether the tab is on the screen
let timer = 0;

function options(select, entries) {
  const before = select.value;
  select.replaceChildren(...entries.map(([value, label]) => make("option", { value }, label)));
  if (entries.some(([value]) => value === before)) select.value = before;
}

function chosen(name) {
  return form.elements[name].value;
}

function showForm() {
  options(form.elements.arch, offered.recipes[chosen("recipe")].archs.map((name) => [name, offered.archs[name]]));
  const kind = chosen("kind");
  for (const row of form.querySelectorAll("[data-kind]")) row.hidden = row.dataset.kind !== kind;
  text(".vd-hint", HINTS[kind]);
}

function showState() {
  const going = own.under_way, mine = own.mine;
  $(".vd-begin").disabled = Boolean(offered.missing || going || busy);
  const act = (name) => $(`[data-act=${name}]`);
  act("stop").hidden = !(mine && going);
  act("stop").disabled = own.state === "stopping" || own.state === "preparing";
  act("resume").hidden = !(mine && own.resumable && !going);
  act("pack").hidden = !(mine && own.model && !going);
  const bar = $("progress");
  bar.hidden = !(going && own.steps);
  if (!bar.hidden) bar.value = own.step / own.steps;
  let words = busy || offered.missing;
  if (!words && mine) {
    const facts = [own.phase];
    if (own.steps) facts.push(`step ${own.step.toLocaleString("en")} of ${own.steps.toLocaleString("en")}`);
    if (going && own.step && own.left) facts.push(rest());
    if (own.speed && going) facts.push(`${Math.round(own.speed)} photos/s`);
    if (own.model && !going) facts.push(`${own.model} is in the lists of all tabs`);
    words = facts.join(", ") + ".";
  } else if (!words && going) {
    words = `A training of another visitor is running${own.steps ? `: step ${own.step.toLocaleString("en")} of ${own.steps.toLocaleString("en")}` : ""}. One runs at a time.`;
  }
  text(".vd-phase", words);
  text(".vd-wrong", wrong || (mine && own.said) || "");
  text(".vd-notes", (mine && own.notes && own.notes.join(" ")) || "");
  root.dataset.state = mine ? own.state : going ? "taken" : "idle";
}

function rest() {
  return own.left >= 90 ? `about ${Math.round(own.left / 60)} min left` : `about ${Math.max(1, Math.round(own.left))} s left`;
}

function tellBusy(words) {
  busy = words;
  showState();
}

/* ---- asking ---- */

async function ask(action) {
  clearTimeout(timer);
  const strip = strips.own, same = strip && strip.run === own.run;
  const last = same && strip.frames.length ? strip.frames[strip.frames.length - 1].step : 0;
  let answer;
  try {
    answer = await server.training({ action, token, run: own.run, known: last });
  } catch {
    answer = { error: "The server does not answer. Asking again." };
  }
  if (answer.error) wrong = answer.error;
  else await takeProgress(answer);
  showState();
  if (seen && (own.under_way || answer.error)) timer = setTimeout(ask, own.mine || answer.error ? EVERY : 4 * EVERY, "look");
}

async function takeProgress(answer) {
  const fresh = answer.run !== own.run;
  own = answer;
  if (fresh) {
    strips.own = null;
    $("[aria-label='Training shown']").hidden = !answer.run;
    showStrip(answer.run ? "own" : "shipped");
  }
  if (!answer.run) return;
  await takeStrip("own", answer.strip, { run: answer.run, about: "" });
  if (which === "own") drawCurves();
  if (answer.under_way) followed = true;
  else if (followed) {
    // Only where somebody waits for it: a page that is opened later finds it in its lists.
    followed = false;
    if (answer.model) trigger("join", { token });
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (busy || own.under_way) return;
  wrong = "";
  const settings = Object.fromEntries(["recipe", "arch", "size", "resolution", "minutes"].map((name) => [name, chosen(name)]));
  if (!(Number(settings.minutes) > 0 && Number(settings.minutes) <= offered.minutes)) {
    wrong = `Minutes must be above 0, and at most ${offered.minutes} on this page. Train for longer with the command line.`;
    return showState();
  }
  try {
    tellBusy("Starting");
    const kind = chosen("kind");
    const data = { kind, folder: kind === "folder" ? chosen("path") : "" };
    if (kind === "upload") Object.assign(data, await inPieces(form.elements.archive.files[0], PIECES, tellBusy));
    asked += 1;
    tellBusy("Storing the photos");
    trigger("begin", { number: asked, settings, data, token });
  } catch (error) {
    busy = "";
    wrong = error.message;
    showState();
  }
});

form.addEventListener("change", showForm);

root.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.index !== undefined) {
    $("[name=frame]").value = button.dataset.index;
    drawStrip();
  } else if (button.dataset.show) showStrip(button.dataset.show);
  else if (button.classList.contains("vd-play")) play();
  else if (button.dataset.act === "pack") {
    asked += 1;
    wrong = "";
    trigger("pack", { number: asked, token });
  } else if (button.dataset.act) {
    wrong = "";
    ask(button.dataset.act);
  }
});

$(".vd-watch .vd-controls").addEventListener("input", drawStrip);

watch("value", () => {
  const value = props.value;
  if (!value || value.number !== asked) return;
  busy = "";
  if (value.file) make("a", { href: value.file.url, download: value.file.orig_name }).click();
  if (value.error) {
    wrong = value.error;
    showState();
  } else if (value.begun) ask("look");
});

/* ---- the tab is opened ---- */

async function open() {
  if (!strips.shipped) {
    try {
      const answer = await server.training({ action: "shipped", token });
      await takeStrip("shipped", answer.strip, { about: answer.about });
    } catch {
      wrong = "The strip could not be loaded.";
    }
    if (which === "shipped") showStrip("shipped");
  }
  ask("look");
}

new IntersectionObserver((entries) => {
  const now = entries[entries.length - 1].isIntersecting;
  if (now && !seen) {
    seen = true;
    open();
  } else if (!now && !root.offsetParent) {
    seen = false;
    clearTimeout(timer);
  }
}).observe(root);

options(form.elements.recipe, Object.entries(offered.recipes).map(([name, { title }]) => [name, title]));
options(form.elements.size, Object.entries(offered.sizes));
options(form.elements.resolution, offered.resolutions.map((side) => [String(side), `${side} px`]));
form.elements.resolution.value = "96";
form.elements.minutes.max = offered.minutes;
$(".vd-folder").hidden = !offered.folders;
showForm();
showState();
