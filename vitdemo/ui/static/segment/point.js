/* The patch that others are compared with: a click or the arrow keys move it. */

/* Row and column of the point's patch; of the middle one where there is no point; null where the model does not see it. */
function patchOf(view, point = state.point) {
  const [left, top, right, bottom] = view.crop, [rows, columns] = view.grid;
  const u = point ? (point[0] / shown.photo.width - left) / (right - left) : 0.5;
  const v = point ? (point[1] / shown.photo.height - top) / (bottom - top) : 0.5;
  return u < 0 || v < 0 || u >= 1 || v >= 1 ? null : [Math.floor(v * rows), Math.floor(u * columns)];
}

/* The middle of a patch, in pixels of the photo. */
function pointAt(view, row, column) {
  const [left, top, right, bottom] = view.crop, [rows, columns] = view.grid;
  const x = left + ((column + 0.5) / columns) * (right - left), y = top + ((row + 0.5) / rows) * (bottom - top);
  return [x * shown.photo.width, y * shown.photo.height].map((value) => Number(value.toFixed(1)));
}

function tip(text) {
  $(".vd-tip").textContent = text;
}

function pointable(view, canvas) {
  const picks = view.method === "similarity";
  const placeOf = (event) => {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * shown.photo.width, ((event.clientY - box.top) / box.height) * shown.photo.height];
  };
  canvas.onclick = (event) => {
    const point = placeOf(event), place = patchOf(view, point);
    if (!place) return tip(`${view.model} does not see this part of the photo.`);
    tip("");
    if (picks) choose(point.map((value) => Number(value.toFixed(1))));
  };
  if (!picks) return;
  canvas.tabIndex = 0;
  canvas.style.cursor = "crosshair";
  canvas.title = "Click a patch, or move it with the arrow keys.";
  canvas.onpointermove = (event) => {
    view.hovered = patchOf(view, placeOf(event));
    redraw();
  };
  canvas.onpointerleave = () => {
    view.hovered = null;
    redraw();
  };
  canvas.onkeydown = (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    const [rows, columns] = view.grid, [row, column] = patchOf(view) || patchOf(view, null);
    choose(pointAt(view, Math.min(Math.max(row + step[0], 0), rows - 1), Math.min(Math.max(column + step[1], 0), columns - 1)));
  };
}

function choose(point) {
  state.point = point;
  redraw();
  ask();
}
