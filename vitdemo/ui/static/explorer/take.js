/* What can be taken away: pictures as seen, raw numbers, tables, a link, and the calls that give the same. */

const stem = () => (shown.name || "photo").replace(/\.[^.]*$/, "").replace(/[^\w.-]+/g, "-").slice(0, 60) || "photo";
const settingsNow = (panel) => ({
  layer: panel && panel.method ? null : layerOf(panel || deepest()),
  head: state.head,
  readout: state.readout || null,
  patch: state.readout === "patch" ? state.patch : null,
  boxes: state.boxes,
});
const deepest = () => panels.reduce((one, other) => (other.layers > one.layers ? other : one), panels[0]);

function say(text) {
  $(".vd-said").textContent = text;
}

/* One panel on a canvas of its own, at the size in which the photo is here. */
function picture(panel, side) {
  const canvas = document.createElement("canvas");
  size(canvas, side, frameOf(panel));
  const maps = panels.map(currentMap);
  paint(panel, maps[panel.index], scalesOf(maps)[panel.index], canvas);
  return canvas;
}

function savePicture(panel) {
  picture(panel, Math.max(photo.naturalWidth, photo.naturalHeight)).toBlob((blob) => save(`${stem()}-${short(panel)}.png`, blob), "image/png");
}

const short = (panel) => panel.model.replace(/[^\w.-]+/g, "-");

async function saveNumbers(panel) {
  const answer = await asked("arrays", { panel: panel.index, ...settingsNow(panel) });
  if (answer) save(`${stem()}-${short(panel)}.npz`, new Blob([bytesOf(answer.data)], { type: "application/octet-stream" }));
}

async function saveReport(panel) {
  const answer = await asked("report", { panel: panel ? panel.index : null, ...settingsNow(panel) });
  if (answer) save(`${stem()}${panel ? `-${short(panel)}` : ""}.json`, new Blob([JSON.stringify(answer.report, null, 2)], { type: "application/json" }));
}

async function asked(name, what) {
  let answer;
  try {
    answer = await server[name]({ id: shown.id, ...what });
  } catch (error) {
    answer = { error: "The server does not answer. Choose the photo again." };
  }
  say(answer.error || "");
  return answer.error ? null : answer;
}

/* All panels in rows of at most six, with captions and colour bars, as one picture. As vitdemo/rendering/figures.py. */
function figure(side, title, captions = true) {
  const gap = 16, line = 22, bar = 8;
  const maps = panels.map(currentMap), scales = scalesOf(maps);
  const pictures = panels.map((panel) => picture(panel, side));
  const pen = document.createElement("canvas").getContext("2d");
  const fonts = { bold: "600 17px system-ui, sans-serif", plain: "15px system-ui, sans-serif", small: "13px system-ui, sans-serif" };
  const texts = panels.map((panel) => {
    const labels = panel.labels.length ? panel.labels.slice(0, 3).map((entry) => `${percent(entry.score)}  ${entry.label}`) : ["no classifier: self-supervised"];
    const lines = [[panel.model, fonts.bold], ...(captions ? [...labels, panel.nodes.text.textContent].map((text) => [text, fonts.plain]) : [])];
    return lines.flatMap(([text, font]) => wrapped(pen, text, font, side).map((part) => [part, font]));
  });
  const tall = Math.max(...pictures.map((one) => one.height)), columns = Math.min(panels.length, 6);
  const block = tall + bar + line + Math.max(...texts.map((lines) => lines.length)) * line + gap;
  const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
  Object.assign(canvas, { width: columns * (side + gap) + gap, height: Math.ceil(panels.length / columns) * block + gap + line });
  const write = (text, x, y, font, align = "left") => {
    Object.assign(context, { font, textAlign: align, fillStyle: "#111" });
    context.fillText(text, x, y);
  };
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  panels.forEach((panel, i) => {
    const x = gap + (i % columns) * (side + gap), y = gap + Math.floor(i / columns) * block;
    context.drawImage(pictures[i], x + (side - pictures[i].width) / 2, y + (tall - pictures[i].height) / 2);
    if (scales[i]) {
      const [low, high] = scaleEnds(scales[i], !panel.method);
      context.drawImage(panel.nodes.gradient, x, y + tall + 4, side, bar);
      write(low, x, y + tall + bar + 17, fonts.small);
      write(high, x + side, y + tall + bar + 17, fonts.small, "right");
    }
    texts[i].forEach(([text, font], number) => write(text, x, y + tall + bar + line * (number + 2), font));
  });
  write(title, gap, canvas.height - gap / 2 - 4, fonts.small);
  return canvas;
}

/* Lines of at most this width, broken at spaces where there are some, else anywhere. */
function wrapped(pen, text, font, width) {
  pen.font = font;
  const lines = [""];
  const wide = (more) => pen.measureText((lines[lines.length - 1] + more).trimEnd()).width > width;
  for (const word of text.match(/\S+\s*/g) || []) {
    if (lines[lines.length - 1] && wide(word)) lines.push("");
    for (const character of word) {
      if (lines[lines.length - 1] && wide(character)) lines.push("");
      lines[lines.length - 1] += character;
    }
  }
  return lines;
}

const scaleWords = () => `${comparable() && state.common ? "shared scale" : "a scale for each"}, ${state.linear ? "linear" : "square root"}, ${state.colourMap}`;

function saveFigure() {
  figure(360, `vitdemo · ${scaleWords()}`).toBlob((blob) => save(`${stem()}-models.png`, blob), "image/png");
}

/* A picture that walks through the layers: drawn here, joined to a GIF on the server. */
async function saveFilm() {
  const before = Number($("[name=layer]").value), last = Number($("[name=layer]").max), frames = [];
  for (let number = 0; number <= last; number++) {
    setLayer(number);
    const title = `Layer ${number + 1} of ${last + 1} · ${scaleWords()}`;
    frames.push(figure(panels.length > 3 ? 220 : 360, title, false).toDataURL("image/jpeg", 0.92).split(",")[1]);
  }
  setLayer(before);
  say("Making the animation …");
  const answer = await asked("animation", { frames });
  if (answer) save(`${stem()}-layers.gif`, new Blob([bytesOf(answer.data)], { type: "image/gif" }));
}

/* One line per model. A cell that a spreadsheet would take for a formula is marked as text. The numbers are the server's, as in every
 * other file: the page itself has maps as bytes alone. */
async function saveTable() {
  const answer = await asked("report", { panel: null, ...settingsNow(null) });
  if (!answer) return;
  const { results, agreement } = answer.report;
  const head = ["image", "model", "family", ...[1, 2, 3, 4, 5].flatMap((rank) => [`label ${rank}`, `score ${rank}`])];
  head.push("probably none", "ms", "device", "dtype", "parameters", "revision", "map", "lowest", "highest");
  for (const measure of ["rank correlation", "overlap"]) for (const panel of panels) head.push(`${measure} with ${panel.model}`);
  const rows = panels.map((panel, i) => {
    const row = [shown.name, panel.model, panel.family];
    for (let rank = 0; rank < 5; rank++) row.push(...(panel.labels[rank] ? [panel.labels[rank].label, panel.labels[rank].score] : ["", ""]));
    const { description, min, max } = results[i];
    row.push(panel.uncovered, panel.ms, panel.device, panel.dtype, panel.parameters, panel.revision, description, min ?? "", max ?? "");
    for (const measure of ["rank_correlation", "iou"]) {
      for (const other of panels) {
        const pair = agreement.find(({ models }) => models.includes(panel.model) && models.includes(other.model) && other !== panel);
        row.push(pair && pair[measure] !== undefined && pair[measure] !== null ? pair[measure] : "");
      }
    }
    return row;
  });
  const text = (value) => {
    let written = String(value);
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(written)) written = `'${written}`;
    return /[",\r\n]/.test(written) ? `"${written.replace(/"/g, '""')}"` : written;
  };
  save(`${stem()}-models.csv`, new Blob([[head, ...rows].map((row) => row.map(text).join(",")).join("\r\n") + "\r\n"], { type: "text/csv" }));
}

/* ---- link ---- */

/* How the pictures look, in the words of links: the value that is left out, and how the page has it. */
const DISPLAY = {
  opacity: ["85", () => String(Math.round(state.opacity * 100))],
  top: ["100", () => String(Math.round(state.mass * 100))],
  colours: ["inferno", () => state.colourMap],
  view: ["overlay", () => state.view],
  crop: ["0", () => String(Number(!state.whole))],
  scale: ["", () => (state.linear ? "linear" : "")],
  shared: ["1", () => String(Number(state.common))],
  smooth: ["1", () => String(Number(state.smooth))],
  sort: ["as chosen", () => (single() ? "as chosen" : state.sort)],
};
const SEGMENTS = ["beside", "refine", "clip", "objects", "tau", "parts", "threshold", "within", "matches", "point"]; // of Segment
const OURS = ["tab", "model", "models", "method", "target", "resolution", "fusion", "discard", "variant", "layer", "head", "readout", "patch", "box", "image", ...Object.keys(DISPLAY)];

function link() {
  const query = new URLSearchParams(location.search);
  for (const name of [...OURS, ...SEGMENTS]) query.delete(name);
  for (const [name, value] of Object.entries(shown.link)) if (value) query.set(name, value);
  if (!panels.every((panel) => panel.method || !panel.layers)) {
    if (state.layer !== 1) query.set("layer", String(layerOf(deepest())));
    if (state.head !== "mean") query.set("head", state.head);
    if (state.readout && state.readout !== Object.keys(panels[0].readouts)[0]) query.set("readout", state.readout);
    if (state.readout === "patch" && state.patch) query.set("patch", state.patch.map((share) => share.toFixed(3)).join());
  }
  if (state.boxes.length) query.set("box", state.boxes.join(";"));
  for (const [name, [usual, now]] of Object.entries(DISPLAY)) if (now() !== usual) query.set(name, now());
  return `${location.origin}${location.pathname}?${query}`;
}

/* The address bar always holds what is shown, so that a reload, or a colleague, sees the same. */
function keepLink() {
  // Not before the link that the page was opened with has been followed.
  if (window.vitdemoOpened && shown && root.offsetParent && location.href !== link()) history.replaceState(history.state, "", link());
}

async function copy(text, done) {
  try {
    await navigator.clipboard.writeText(text);
    say(done);
  } catch (error) {
    say("The browser does not allow copying here: select the text and copy it yourself.");
  }
}

function copyLink() {
  copy(link(), shown.link.image ? "Link copied." : "Link copied. It holds the settings, not your photo.");
}

/* The server writes the calls; what the controls chose since then is filled in here. */
function drawCalls() {
  const details = $(".vd-calls");
  if (!details.open || !shown) return;
  const now = settingsNow(null);
  const panel = panels[0];
  const texts = state.readout === "patch" ? shown.calls.patch : shown.calls.rows;
  const filled = {
    "⟦layer⟧": String(now.layer ?? -1),
    "⟦head⟧": state.head,
    "⟦readout⟧": state.readout,
    "⟦point⟧": patchPoint(panel),
  };
  for (const [name, text] of Object.entries(texts)) {
    const host = `HOST='${location.origin}${location.pathname.replace(/\/$/, "")}'`;
    const written = text.replace("HOST=@HOST@", () => host).replace(/⟦\w+⟧/g, (mark) => filled[mark] ?? mark) + boxCall(name);
    const node = details.querySelector(`[data-call=${name}]`);
    if (node.textContent !== written) node.textContent = written;
  }
}

/* What measures the boxes, after the call that makes the map. */
function boxCall(name) {
  const { width, height } = shown.photo;
  const pixels = state.boxes.map(([x, y, w, h]) => [x * width, y * height, w * width, h * height].map((number) => Number(number.toFixed(2))));
  if (!pixels.length || name === "curl") return "";
  if (name === "cli") return pixels.map((box) => ` --box=${box.join()}`).join("");
  const edges = pixels.map(([x, y, w, h]) => `(${x}, ${y}, ${Number((x + w).toFixed(2))}, ${Number((y + h).toFixed(2))})`).join(", ");
  const printed = single() ? "print(box_words(localize(found, boxes)))" : "print([box_words(localize(item, boxes)) for item in found.explanations])";
  return `\n\nfrom vitdemo.attribution import box_words, localize\n\nboxes = [${edges}]  # left, top, right, bottom\n${printed}`;
}

/* The chosen patch's middle in pixels of the photo. */
function patchPoint(panel) {
  const [left, top, right, bottom] = panel.crop;
  const [row, column] = patchAt(panel, state.patch);
  const x = (left + ((column + 0.5) / panel.grid[1]) * (right - left)) * shown.photo.width;
  const y = (top + ((row + 0.5) / panel.grid[0]) * (bottom - top)) * shown.photo.height;
  return `${x.toFixed(1)},${y.toFixed(1)}`;
}
