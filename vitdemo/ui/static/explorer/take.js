/* What can be taken away: pictures as seen, raw numbers, tables, a link, and the calls that give the same. */

function save(name, content, type) {
  const link = make("a", { href: content instanceof Blob ? URL.createObjectURL(content) : content, download: name });
  link.click();
  if (content instanceof Blob) setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  return type;
}

const stem = () => (shown.name || "photo").replace(/\.[^.]*$/, "").replace(/[^\w.-]+/g, "-").slice(0, 60) || "photo";
const settingsNow = (panel) => ({
  layer: panel && panel.method ? null : layerOf(panel || deepest()),
  head: state.head,
  readout: state.readout || null,
  patch: state.readout === "patch" ? state.patch : null,
});
const deepest = () => panels.reduce((one, other) => (other.layers > one.layers ? other : one), panels[0]);

function say(text) {
  $(".vd-said").textContent = text;
}

/* One panel on a canvas of its own, at the size in which the photo is here. */
function picture(panel, side) {
  const canvas = document.createElement("canvas");
  size(canvas, side);
  const map = currentMap(panel);
  paint(panel, map, ...rangeOf(panels.map(currentMap))(map), canvas);
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

/* All panels in a row, with captions, as one picture. */
function saveFigure() {
  const side = 360, gap = 20, line = 24;
  const pictures = panels.map((panel) => picture(panel, side));
  const tall = Math.max(...pictures.map((one) => one.height));
  const canvas = document.createElement("canvas");
  const columns = Math.min(panels.length, 6), rows = Math.ceil(panels.length / columns);
  const block = tall + line * 7;
  Object.assign(canvas, { width: columns * (side + gap) + gap, height: rows * block + gap + line });
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  const write = (text, x, y, font) => {
    context.font = `${font} system-ui, sans-serif`;
    context.fillStyle = "#111";
    let fitting = text;
    while (context.measureText(fitting).width > side && fitting.length > 4) fitting = `${fitting.slice(0, -2).trimEnd()}…`.replace("……", "…");
    context.fillText(fitting, x, y);
  };
  panels.forEach((panel, i) => {
    const x = gap + (i % columns) * (side + gap), y = gap + Math.floor(i / columns) * block;
    context.drawImage(pictures[i], x + (side - pictures[i].width) / 2, y + (tall - pictures[i].height) / 2);
    write(panel.model, x, y + tall + line, "600 17px");
    const lines = panel.labels.length ? panel.labels.slice(0, 3).map((entry) => `${percent(entry.score)}  ${entry.label}`) : ["no classifier: self-supervised"];
    lines.forEach((text, rank) => write(text, x, y + tall + line * (rank + 2), "15px"));
    write(panel.nodes.text.textContent, x, y + tall + line * 5, "13px");
  });
  write(`vitdemo · scale ${comparable() && state.common ? "common" : "each its own"} · ${state.colourMap}`, gap, canvas.height - gap / 2, "13px");
  canvas.toBlob((blob) => save(`${stem()}-models.png`, blob), "image/png");
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

const OURS = ["tab", "model", "models", "method", "target", "resolution", "layer", "head", "readout", "patch", "image"];

function link() {
  const query = new URLSearchParams(location.search);
  for (const name of OURS) query.delete(name);
  for (const [name, value] of Object.entries(shown.link)) if (value) query.set(name, value);
  if (!panels.every((panel) => panel.method || !panel.layers)) {
    if (state.layer !== 1) query.set("layer", String(layerOf(deepest())));
    if (state.head !== "mean") query.set("head", state.head);
    if (state.readout && state.readout !== Object.keys(panels[0].readouts)[0]) query.set("readout", state.readout);
    if (state.readout === "patch" && state.patch) query.set("patch", state.patch.map((share) => share.toFixed(3)).join());
  }
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
    say("The browser does not allow copying here: mark the text and copy it yourself.");
  }
}

function copyLink() {
  copy(link(), shown.link.image ? "The link is copied." : "The link is copied. It holds the settings, not your photo: that stays here.");
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
    const written = text.replace("HOST=@HOST@", () => host).replace(/⟦\w+⟧/g, (mark) => filled[mark] ?? mark);
    const node = details.querySelector(`[data-call=${name}]`);
    if (node.textContent !== written) node.textContent = written;
  }
}

/* The chosen patch's middle in pixels of the photo. */
function patchPoint(panel) {
  const [left, top, right, bottom] = panel.crop;
  const [row, column] = patchAt(panel, state.patch);
  const x = (left + ((column + 0.5) / panel.grid[1]) * (right - left)) * shown.photo.width;
  const y = (top + ((row + 0.5) / panel.grid[0]) * (bottom - top)) * shown.photo.height;
  return `${x.toFixed(1)},${y.toFixed(1)}`;
}
