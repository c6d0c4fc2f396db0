/* One patch asks: pointing at a picture shows where that patch looks. Its layer is fetched once, and is local from then on. */

const WHOLE_LAYER = 400; // patches up to which a layer is fetched at once; above, a row at a time
let hovered = null; // a place under the pointer, as shares of the photo

/* Row and column of the patch at a place of the photo; a place that the model does not see counts as the nearest that it does. */
function patchAt(panel, place) {
  const [left, top, right, bottom] = panel.crop;
  const [rows, columns] = panel.grid;
  const [x, y] = place || [(left + right) / 2, (top + bottom) / 2];
  const column = Math.floor(((x - left) / (right - left)) * columns);
  const row = Math.floor(((y - top) / (bottom - top)) * rows);
  return [Math.min(Math.max(row, 0), rows - 1), Math.min(Math.max(column, 0), columns - 1)];
}

function patchMap(panel, layer, head) {
  const place = patchAt(panel, state.patch);
  const index = place[0] * panel.grid[1] + place[1];
  const whole = panel.patches <= WHOLE_LAYER;
  const key = whole ? `${layer}` : `${layer}/${index}`;
  const found = panel.asked.get(key);
  if (found === undefined) ask(panel, key, { layer, row: whole ? null : index });
  if (!found || found.waiting) return panel.shown || { layer, missing: "Fetching the attention of this patch …" };
  if (found.error) return { layer, missing: found.error };
  const values = fused(found, (index - found.first) * panel.heads, panel.heads, panel.patches, head);
  const label = `patch in row ${place[0] + 1}, column ${place[1] + 1}`;
  return (panel.shown = measured({ layer, label, values, place }));
}

/* A request at a time for each panel: while one is under way, the newest wish waits, and older wishes are forgotten. */
async function ask(panel, key, what) {
  if (panel.busy) {
    panel.next = [key, what];
    return;
  }
  panel.busy = true;
  panel.asked.set(key, { waiting: true });
  let answer;
  try {
    answer = await server.patch_rows({ id: shown.id, panel: panel.index, ...what });
  } catch (error) {
    answer = { error: "The server does not answer. Choose the photo again." };
  }
  if (answer.error) panel.asked.set(key, { error: answer.error });
  else panel.asked.set(key, { bytes: bytesOf(answer.data), peaks: answer.peaks, floor: 0, first: answer.first });
  panel.busy = false;
  const next = panel.next;
  panel.next = null;
  if (next && panel.asked.get(next[0]) === undefined) ask(panel, ...next);
  redraw();
}

function setPatch(x, y, panel) {
  const [left, top, right, bottom] = panel.crop;
  const outside = x < left || x >= right || y < top || y >= bottom;
  say(outside ? `${panel.model} does not see this part of the photo: the nearest patch is taken.` : "");
  state.patch = [Math.min(Math.max(x, left), right - 1e-6), Math.min(Math.max(y, top), bottom - 1e-6)];
  if (panel.method) trigger("select", { x: state.patch[0], y: state.patch[1] });
  else if (state.readout !== "patch") {
    before = state.readout;
    state.readout = $("[name=readout]").value = "patch";
  }
  redraw();
}

let before = ""; // the read-out that Escape goes back to

/* Where on the photo a pointer is, as shares. */
function placeOn(panel, event) {
  const box = panel.nodes.canvas.getBoundingClientRect();
  const [left, top, right, bottom] = frameOf(panel);
  return [left + ((event.clientX - box.left) / box.width) * (right - left), top + ((event.clientY - box.top) / box.height) * (bottom - top)];
}

/* Pointer and keys of one picture. Methods that compare with a patch ask the server for each; others are drawn here. */
function pointable(panel, canvas) {
  const picks = panel.method && panel.method.pick;
  if (panel.method ? !picks : !Object.keys(panel.readouts).length) return;
  canvas.tabIndex = 0;
  canvas.style.cursor = "crosshair";
  const place = (event) => placeOn(panel, event);
  let pressed = false;
  canvas.onpointerdown = (event) => {
    pressed = event.isPrimary && event.button === 0;
  };
  canvas.onpointermove = (event) => {
    if (picks) return;
    const dragged = pressed && event.buttons;
    if (state.readout === "patch" && (dragged || (!state.pinned && event.pointerType === "mouse"))) setPatch(...place(event), panel);
    else if (event.pointerType === "mouse") {
      hovered = place(event);
      redraw();
    }
  };
  canvas.onpointerleave = () => {
    hovered = null;
    pressed = false;
    redraw();
  };
  canvas.onclick = (event) => {
    if (event.detail === 0) return;
    const again = state.readout === "patch" && state.pinned;
    setPatch(...place(event), panel);
    // The first click holds the patch still, the next one lets it follow the pointer again.
    state.pinned = !again;
    hovered = null;
  };
  canvas.onkeydown = (event) => {
    if (event.key === "Escape" && state.readout === "patch") {
      state.readout = $("[name=readout]").value = before;
      redraw();
      return;
    }
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const [left, top, right, bottom] = panel.crop;
    const [rows, columns] = panel.grid;
    const [row, column] = patchAt(panel, state.patch);
    state.pinned = true;
    const across = (column + 0.5 + step[0]) / columns, down = (row + 0.5 + step[1]) / rows;
    setPatch(left + across * (right - left), top + down * (bottom - top), panel);
  };
}
