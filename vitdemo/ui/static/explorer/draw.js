/* From numbers to pixels. The same colour tables, upsampling and opacity as vitdemo/rendering/overlay.py. */

const MAP_PIXELS = 224; // side of the colour map that is drawn over the photo; the browser scales it on

/* What of the photo is shown: all of it, or what the model sees; left, top, right, bottom as shares. */
const frameOf = (panel) => (state.whole ? [0, 0, 1, 1] : panel.crop);

/* Draw photo, map and marks of one panel on a canvas of any size. */
function paint(panel, map, scale, canvas = panel.nodes.canvas, frame = frameOf(panel)) {
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  context.globalAlpha = 1;
  context.clearRect(0, 0, width, height);
  const all = [width / (frame[2] - frame[0]), height / (frame[3] - frame[1])]; // the whole photo, in this canvas's pixels
  if (photo.complete && photo.naturalWidth) context.drawImage(photo, -frame[0] * all[0], -frame[1] * all[1], ...all);
  const [left, top, right, bottom] = panel.crop;
  const box = [(left - frame[0]) * all[0], (top - frame[1]) * all[1], (right - left) * all[0], (bottom - top) * all[1]];
  if (map && map.values) {
    const kept = state.mass < 1 ? brightest(map.values, state.mass) : null;
    const alone = state.view === "heatmap";
    if (!alone) mute(context, box, state.opacity);
    else context.clearRect(...box);
    context.globalAlpha = alone ? 1 : state.opacity;
    context.imageSmoothingEnabled = state.smooth && !kept;
    context.drawImage(colour(panel, map, scale, kept, alone), ...box);
    context.globalAlpha = 1;
    if (kept) outline(context, panel.grid, box, (row, column) => kept[row * panel.grid[1] + column]);
  }
  const asked = panel.method ? panel.method.pick : state.readout === "patch" && map;
  if (asked) mark(context, panel, box, patchAt(panel, state.patch), "white", 2);
  else if (hovered && map && map.values) mark(context, panel, box, patchAt(panel, hovered), "rgba(255, 255, 255, 0.7)", 1);
  if (left - frame[0] > 0.002 || top - frame[1] > 0.002 || frame[2] - right > 0.002 || frame[3] - bottom > 0.002) {
    unseen(context, box, Math.max(1, width / 400));
  }
  paintBoxes(context, frame, all);
}

/* A frame around one patch, light on dark, so that it shows on any picture. */
function mark(context, panel, box, [row, column], style, weight) {
  const cell = [box[2] / panel.grid[1], box[3] / panel.grid[0]];
  const place = [box[0] + column * cell[0], box[1] + row * cell[1], ...cell];
  const thin = Math.max(weight, (weight * context.canvas.width) / 500);
  context.lineWidth = thin * 2;
  context.strokeStyle = "rgba(0, 0, 0, 0.6)";
  context.strokeRect(...place);
  context.lineWidth = thin;
  context.strokeStyle = style;
  context.strokeRect(...place);
}

/* The border of a set of patches. */
function outline(context, [rows, columns], box, inside) {
  const [w, h] = [box[2] / columns, box[3] / rows];
  const has = (row, column) => row >= 0 && column >= 0 && row < rows && column < columns && inside(row, column);
  context.beginPath();
  for (let row = 0; row <= rows; row++) {
    for (let column = 0; column <= columns; column++) {
      const x = box[0] + column * w, y = box[1] + row * h;
      if (row < rows && has(row, column) !== has(row, column - 1)) { context.moveTo(x, y); context.lineTo(x, y + h); }
      if (column < columns && has(row, column) !== has(row - 1, column)) { context.moveTo(x, y); context.lineTo(x + w, y); }
    }
  }
  context.lineWidth = Math.max(1.5, context.canvas.width / 300);
  context.strokeStyle = "white";
  context.stroke();
}

/* Map to colours on a canvas of its own. Where only some patches are kept, they are drawn flat and the others not at all. */
function colour(panel, map, scale, kept, alone) {
  const [rows, columns] = panel.grid;
  const smooth = state.smooth && !kept;
  const zoom = MAP_PIXELS / Math.max(rows, columns);
  const width = smooth ? Math.round(columns * zoom) : columns;
  const height = smooth ? Math.round(rows * zoom) : rows;
  const pixels = pixelsOf(map.values, panel.grid, width, height, scale, tables[state.colourMap][alone ? "opaque" : "over"]);
  if (kept) for (let i = 0; i < pixels.length; i++) if (!kept[i]) pixels[i] = 0;
  panel.buffer = panel.buffer || document.createElement("canvas");
  putPixels(panel.buffer, pixels, width, height);
  return panel.buffer;
}

/* A whole map, flat and opaque, one pixel per patch. */
function thumbnail(canvas, values, [rows, columns]) {
  putPixels(canvas, pixelsOf(values, [rows, columns], columns, rows, scaleOf([values], state.linear), tables[state.colourMap].opaque), columns, rows);
}

/* The colours from lowest to highest. */
function ramp(canvas) {
  putPixels(canvas, tables[state.colourMap].opaque, 256, 1);
}
