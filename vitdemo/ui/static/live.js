/* A camera, its frames, and what a model says of them. `TABLE`, `EVERY` and `LIMIT` are set before this; `element`, `props`, `trigger`
 * and `watch` are in scope.
 *
 *   camera -> video, at its own pace
 *          -> one small JPEG at a time -> "stream" -> answer: labels, and the attention of all layers and heads
 *                                                    -> a map on a canvas that lies over the video
 *
 * A frame is made when it can be answered, never earlier: what is shown belongs to the newest picture that there was time for.
 * Layer, heads and opacity are computed here.
 */
const root = element.querySelector(".vd-live");
const $ = (selector) => root.querySelector(selector);
const video = $("video"), film = $(".vd-film"), canvas = $("canvas"), crop = $(".vd-crop"), words = $(".vd-words");
const small = document.createElement("canvas"); // a frame as it is sent
const AGAIN = 1000; // ms after which a frame is no longer waited for; on the server a newer one takes its place
const PATIENCE = 2500; // ms without an answer after which that is said
const TIME_IS_OVER = `Stopped after ${LIMIT < 120 ? `${LIMIT} seconds` : `${Math.round(LIMIT / 60)} minutes`}, so that a forgotten page does not keep others waiting.`;
const state = { layer: 1, head: "mean", side: 256 };
let answer = null, camera = null, attempt = 0;
let number = 0, first = 1; // frames are numbered; those before `first` belong to what was stopped
const sent = new Map(); // when the frames were taken that are on their way
let lastSent = 0, lastAnswer = 0, timer = 0;
let ahead = 1, opened = 0; // frames that may be on their way; when the server answered the first one
let answered = []; // when the last answers came, and how long they took
const painted = { facts: 0, said: 0 };

const colours = tableOf(TABLE);

/* ---- the camera ---- */

function constraints() {
  const chosen = $("[name=camera]").value;
  const which = chosen === "user" || chosen === "environment" ? { facingMode: { ideal: chosen } } : { deviceId: { exact: chosen } };
  return { video: { width: { ideal: 640 }, height: { ideal: 480 }, resizeMode: { ideal: "none" }, ...which }, audio: false };
}

/* Why there is no picture, and what to do. */
function wordsFor(error) {
  if (!window.isSecureContext || !navigator.mediaDevices)
    return `Browsers give the camera only to secure pages, and this one came from ${location.origin}.\n` +
      `Open it by https, or on the machine that runs it as http://localhost:${location.port || 80}. From elsewhere a tunnel does: ` +
      `ssh -L ${location.port || 80}:localhost:${location.port || 80} ${location.hostname}, then http://localhost:${location.port || 80}.`;
  const inside = window.top === window ? "" : " This page is shown inside another one, which may forbid it: open it in a window of its own.";
  switch (error.name) {
    case "NotAllowedError":
    case "SecurityError":
      return `The camera was refused. Allow it at the sign beside the page's address, and in the privacy settings of your system; then start again.${inside}`;
    case "NotFoundError":
      return "No camera was found. Plug one in, or open this page on a phone; then start again. The other tabs work without one.";
    case "NotReadableError":
    case "AbortError":
      return "The camera cannot be read: another program may be using it. Close that one, then start again.";
    case "OverconstrainedError":
      return "That camera is no longer there. Choose another one, then start again.";
    default:
      return `The camera did not start (${error.name || "unknown fault"}). Choose another camera, or start again.`;
  }
}

async function start() {
  const mine = ++attempt;
  release();
  phase("asking", "Your browser asks whether this page may use the camera: allow it.");
  try {
    if (!window.isSecureContext || !navigator.mediaDevices) throw new Error();
    const found = await navigator.mediaDevices.getUserMedia(constraints());
    if (mine !== attempt) return found.getTracks().forEach((track) => track.stop());
    camera = found;
    video.srcObject = found;
    await video.play();
    if (mine !== attempt) return;
  } catch (error) {
    if (mine === attempt) stop(wordsFor(error), true);
    return;
  }
  const [track] = camera.getVideoTracks();
  track.addEventListener("ended", () => { if (mine === attempt) stop("The camera was disconnected. Connect it, then start again.", true); });
  $(".vd-stage").style.setProperty("--ratio", (video.videoWidth / video.videoHeight).toFixed(4));
  film.classList.toggle("vd-mirrored", track.getSettings().facingMode === "user");
  listCameras();
  renew();
  answered = [];
  lastAnswer = performance.now();
  phase("running", "Waiting for the first answer…");
  pump();
}

function release() {
  clearTimeout(timer);
  if (camera) camera.getTracks().forEach((track) => track.stop());
  video.srcObject = camera = null;
  renew();
}

/* Answers that are on their way are of no use any more. */
function renew() {
  first = number + 1;
  sent.clear();
  ahead = 1;
  opened = 0;
}

/* Ends everything: the camera's light goes out, and the place on the server is free. */
function stop(text, wrong = false) {
  attempt++;
  const running = root.dataset.phase === "running";
  release();
  if (running) trigger("close_stream");
  answer = null;
  for (const flag of ["data-map", "data-seen", "data-stale"]) root.removeAttribute(flag);
  phase("idle", text, wrong);
}

function phase(name, text, wrong = false) {
  root.dataset.phase = name;
  const button = $(".vd-start");
  button.textContent = name === "idle" ? (number ? "Resume" : "Start the camera") : name === "asking" ? "Cancel" : "Stop";
  $(".vd-freeze").disabled = name !== "running";
  say(text, wrong);
}

function say(text, wrong = false) {
  words.classList.toggle("vd-wrong", wrong);
  if (words.firstElementChild.textContent !== text) words.firstElementChild.textContent = text;
}

/* Names of cameras are known once one was allowed. */
async function listCameras() {
  const found = (await navigator.mediaDevices.enumerateDevices()).filter((device) => device.kind === "videoinput" && device.deviceId);
  const select = $("[name=camera]");
  const value = select.value;
  while (select.options.length > 2) select.lastElementChild.remove();
  if (found.length > 1) found.forEach((device, i) => select.append(new Option(device.label || `Camera ${i + 1}`, device.deviceId)));
  if ([...select.options].some((option) => option.value === value)) select.value = value;
}

/* ---- frames ---- */

function picture(target, side, quality) {
  const scale = Math.min(1, side / Math.min(video.videoWidth, video.videoHeight));
  const width = Math.max(1, Math.round(video.videoWidth * scale)), height = Math.max(1, Math.round(video.videoHeight * scale));
  if (target.width !== width || target.height !== height) Object.assign(target, { width, height });
  const context = target.getContext("2d", { willReadFrequently: true, alpha: false });
  context.imageSmoothingQuality = "medium";
  context.drawImage(video, 0, 0, width, height);
  return target.toDataURL("image/jpeg", quality);
}

function pump() {
  clearTimeout(timer);
  if (root.dataset.phase !== "running") return;
  if (!root.getClientRects().length) return stop("Paused while another tab was open: the camera is off.");
  timer = setTimeout(pump, EVERY);
  const now = performance.now();
  // The server would end it, too, but a frame that is then on its way finds nobody.
  if (opened && now - opened > LIMIT * 1000) return stop(TIME_IS_OVER);
  if (document.hidden || !video.videoWidth) return;
  if (now - lastAnswer > PATIENCE) say(answer ? "The server is slow to answer…" : "Waiting: the model is being loaded, or other cameras come first…");
  const due = now - lastSent;
  if (due < EVERY - 2 || (sent.size >= ahead && due < AGAIN)) return;
  lastSent = now;
  sent.set(++number, now);
  root.dataset.sent = String(number);
  trigger("stream", { number, image: picture(small, state.side, 0.85) });
}

document.addEventListener("visibilitychange", () => {
  if (root.dataset.phase !== "running") return;
  // The camera stays, so that the page goes on by itself; the server's place is given back.
  if (document.hidden) trigger("close_stream");
  renew();
  lastAnswer = performance.now();
});

function freeze() {
  if (root.dataset.phase === "running" && video.videoWidth) trigger("freeze", { image: picture(document.createElement("canvas"), 1080, 0.95) });
}

/* ---- answers ---- */

watch("value", () => {
  const value = props.value;
  if (!value || root.dataset.phase !== "running") return;
  if (value.ended) return stop(TIME_IS_OVER);
  if (value.failed) return stop("The server did not take the camera's picture: it is too busy, or was restarted. Try again in a moment.", true);
  if (!(value.number >= first) || !sent.has(value.number)) return;
  const now = performance.now(), taken = sent.get(value.number);
  for (const older of sent.keys()) if (older <= value.number) sent.delete(older);
  lastAnswer = now;
  if (answer && answer.model !== value.model) answered = [];
  answered = [...answered.filter((one) => now - one.at < 3000), { at: now, took: now - taken, ms: value.ms, served: value.served }];
  if (value.error) {
    lastSent = now + 1000; // no use in asking at full speed
    root.toggleAttribute("data-stale", true);
    say(value.error, true);
  } else {
    say("");
    root.toggleAttribute("data-stale", false);
    answer = value;
    // Where the way takes longer than the answer, the next frame sets out while one is being answered; elsewhere it would only wait.
    ahead = opened && now - taken > 2 * value.served + 60 ? 2 : 1;
    opened = opened || now;
    state.side = value.side;
    showLabels();
    showControls();
    paint();
    showFacts(now);
    root.dataset.answers = String(Number(root.dataset.answers || 0) + 1);
    root.dataset.model = value.model;
    root.dataset.number = String(value.number);
    root.dataset.latency = (now - taken).toFixed(1);
  }
  pump();
});

function row() {
  const item = document.createElement("li");
  item.innerHTML = '<span class="vd-label"></span><span class="vd-score"></span><span class="vd-track" aria-hidden="true"><span class="vd-fill"></span></span>';
  return item;
}

function showLabels() {
  const list = $(".vd-labels");
  if (!answer.labels.length) {
    list.innerHTML = '<li class="vd-none">This model has no classifier: it learned without labels, so it names nothing. Its map shows where it looks.</li>';
    return;
  }
  if (list.querySelector(".vd-none")) list.textContent = "";
  while (list.children.length > answer.labels.length) list.lastChild.remove();
  while (list.children.length < answer.labels.length) list.append(row());
  answer.labels.forEach((entry, i) => {
    const item = list.children[i];
    item.querySelector(".vd-label").textContent = entry.label;
    item.querySelector(".vd-score").textContent = `${(entry.score * 100).toFixed(0)}%`;
    item.querySelector(".vd-fill").style.width = `${(entry.score * 100).toFixed(1)}%`;
  });
}

const headWords = () => (isHead(state.head) ? `head ${Number(state.head) + 1}` : `${state.head} of heads`);

/* Numbers that changed ten times a second could not be read. */
function showFacts(now) {
  const rate = answered.length > 1 ? ((answered.length - 1) * 1000) / (now - answered[0].at) : 0;
  const median = (name) => {
    const values = answered.map((one) => one[name]).filter((value) => value !== undefined).sort((a, b) => a - b);
    return `${values[values.length >> 1].toFixed(0)} ms`;
  };
  root.dataset.rate = rate.toFixed(2);
  if (now - painted.facts < 500) return;
  painted.facts = now;
  $(".vd-rate").textContent = rate ? rate.toFixed(1) : "–";
  $(".vd-latency").textContent = median("took");
  $(".vd-model-time").textContent = median("ms");
  $(".vd-where").textContent = `${answer.model}: ${median("served")} on the server (${answer.device}, ${answer.dtype})`;
  $(".vd-doubt").textContent = answer.uncovered ? "Low confidence" : "";
  canvas.setAttribute("aria-label", `Where ${answer.model} looks: layer ${Number($("[name=layer]").value) + 1}, ${headWords()}`);
  const notes = answer.notes.join(" ");
  if ($(".vd-notes").textContent !== notes) $(".vd-notes").textContent = notes;
  const best = answer.labels.length && !answer.uncovered ? answer.labels[0].label : "";
  if (best && now - painted.said > 3000 && $(".vd-said").textContent !== best) {
    painted.said = now;
    $(".vd-said").textContent = best;
  }
}

function showControls() {
  const slider = $("[name=layer]"), heads = $("[name=head]");
  $(".vd-controls").disabled = !answer.data;
  if (!answer.data) return;
  const layer = Math.round(state.layer * (answer.layers - 1));
  slider.max = String(Math.max(0, answer.layers - 1));
  if (slider.value !== String(layer)) slider.value = String(layer);
  $("output").textContent = `${layer + 1} of ${answer.layers}`;
  if (heads.options.length !== answer.heads + 3) {
    while (heads.options.length > 3) heads.lastElementChild.remove();
    for (let head = 0; head < answer.heads; head++) heads.append(new Option(`head ${head + 1}`, String(head)));
    if (Number(state.head) >= answer.heads) state.head = "mean";
    heads.value = state.head;
  }
}

/* The map of a layer, its heads fused. */
function currentMap() {
  const maps = answer.maps || (answer.maps = { bytes: bytesOf(answer.data), peaks: answer.peaks, floor: answer.floor });
  const layer = Math.round(state.layer * (answer.layers - 1));
  return measured({ values: fused(maps, layer * answer.heads, answer.heads, answer.grid[0] * answer.grid[1], state.head) });
}

/* Large enough to be smooth; the browser enlarges the rest. */
function paint() {
  root.toggleAttribute("data-map", Boolean(answer.data));
  root.toggleAttribute("data-seen", true);
  const [left, top, right, bottom] = answer.crop.map((share) => share * 100);
  const place = { left: `${left}%`, top: `${top}%`, width: `${right - left}%`, height: `${bottom - top}%` };
  Object.assign(crop.style, place);
  Object.assign(canvas.style, place);
  if (!answer.data) return;
  const { values } = currentMap(), [rows, columns] = answer.grid;
  const times = Math.max(1, Math.floor(200 / Math.max(rows, columns))), width = columns * times, height = rows * times;
  putPixels(canvas, pixelsOf(values, answer.grid, width, height, scaleOf([values]), colours.over), width, height);
}

/* ---- what a person does ---- */

$(".vd-start").addEventListener("click", () => (root.dataset.phase === "idle" ? start() : stop("Stopped: the camera is off.")));
$(".vd-freeze").addEventListener("click", freeze);
root.addEventListener("input", (event) => {
  const control = event.target;
  if (control.name === "layer") state.layer = Number(control.max) ? Number(control.value) / Number(control.max) : 1;
  else if (control.name === "head") state.head = control.value;
  else if (control.name === "opacity") {
    film.style.setProperty("--opacity", control.value / 100);
    control.parentElement.querySelector("output").textContent = `${control.value}%`;
  }
  if (answer) { showControls(); paint(); }
});
$("[name=camera]").addEventListener("change", () => { if (root.dataset.phase !== "idle") start(); });

phase("idle", "Point a camera at things, and watch what a model calls them and where it looks, frame by frame.");
