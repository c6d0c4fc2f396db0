/* From numbers to pixels. The same colour tables, upsampling and opacity as vitdemo/rendering.py. */

const MAP_PIXELS = 224; // side of the colour map that is drawn over the photo; the browser scales it on
const FAINTEST = 0.25; // opacity of the lowest value, as a share of the chosen one

/* The colour table with its opacity: where there is little attention, more of the photo is left. */
function tableOf(text) {
  const bytes = bytesOf(text);
  return Uint32Array.from({ length: 256 }, (_, i) => {
    const alpha = Math.round(255 * (FAINTEST + ((1 - FAINTEST) * i) / 255));
    return ((alpha << 24) | (bytes[i * 3 + 2] << 16) | (bytes[i * 3 + 1] << 8) | bytes[i * 3]) >>> 0;
  });
}

/* Draw photo, map and marks of one panel on a canvas of any size. */
function paint(panel, map, low, high, canvas = panel.nodes.canvas) {
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  context.globalAlpha = 1;
  context.clearRect(0, 0, width, height);
  if (photo.complete && photo.naturalWidth) context.drawImage(photo, 0, 0, width, height);
  const [left, top, right, bottom] = panel.crop;
  const box = [left * width, top * height, (right - left) * width, (bottom - top) * height];
  if (map && map.values) {
    const kept = state.mass < 1 ? brightest(map.values, state.mass) : null;
    context.globalAlpha = state.opacity;
    context.imageSmoothingEnabled = state.smooth && !kept;
    context.drawImage(colour(panel, map, low, high, kept), ...box);
    context.globalAlpha = 1;
    if (kept) outline(context, panel.grid, box, (row, column) => kept[row * panel.grid[1] + column]);
  }
  const asked = panel.method ? panel.method.pick : state.readout === "patch" && map;
  if (asked) mark(context, panel, box, patchAt(panel, state.patch), "white", 2);
  else if (hovered && map && map.values) mark(context, panel, box, patchAt(panel, hovered), "rgba(255, 255, 255, 0.7)", 1);
  if (left > 0.002 || top > 0.002 || right < 0.998 || bottom < 0.998) {
    // What the model did not see.
    context.fillStyle = "rgba(0, 0, 0, 0.6)";
    context.beginPath();
    context.rect(0, 0, width, height);
    context.rect(...box);
    context.fill("evenodd");
    context.strokeStyle = "rgba(255, 255, 255, 0.9)";
    context.lineWidth = Math.max(1, width / 400);
    context.strokeRect(...box);
  }
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

/* Map to colours: bilinear between patch centres (half-pixel, edges repeated), then the table. Where only some patches are kept,
 * they are drawn flat and the others not at all. */
function colour(panel, map, low, high, kept) {
  const [rows, columns] = panel.grid;
  const smooth = state.smooth && !kept;
  const scale = MAP_PIXELS / Math.max(rows, columns);
  const width = smooth ? Math.round(columns * scale) : columns;
  const height = smooth ? Math.round(rows * scale) : rows;
  const buffer = panel.buffer || (panel.buffer = document.createElement("canvas"));
  if (buffer.width !== width || buffer.height !== height) Object.assign(buffer, { width, height });
  const context = buffer.getContext("2d");
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const table = tables[state.colourMap];
  const factor = high > low ? 255 / (high - low) : 0;
  const across = samples(width, columns);
  const down = samples(height, rows);
  for (let y = 0; y < height; y++) {
    const upper = down.first[y] * columns;
    const lower = down.second[y] * columns;
    const v = down.weight[y];
    for (let x = 0; x < width; x++) {
      const a = across.first[x], b = across.second[x], u = across.weight[x];
      const one = map.values[upper + a] * (1 - u) + map.values[upper + b] * u;
      const two = map.values[lower + a] * (1 - u) + map.values[lower + b] * u;
      const index = ((one * (1 - v) + two * v - low) * factor + 0.5) | 0;
      pixels[y * width + x] = kept && !kept[y * columns + x] ? 0 : table[index < 0 ? 0 : index > 255 ? 255 : index];
    }
  }
  context.putImageData(image, 0, 0);
  return buffer;
}

function samples(count, cells) {
  const first = new Uint16Array(count), second = new Uint16Array(count), weight = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const position = Math.min(Math.max(((i + 0.5) * cells) / count - 0.5, 0), cells - 1);
    first[i] = Math.floor(position);
    second[i] = Math.min(first[i] + 1, cells - 1);
    weight[i] = position - first[i];
  }
  return { first, second, weight };
}

/* A whole map, flat and opaque, a pixel a patch. */
function thumbnail(canvas, values, [rows, columns]) {
  if (canvas.width !== columns || canvas.height !== rows) Object.assign(canvas, { width: columns, height: rows });
  const image = new ImageData(columns, rows);
  const pixels = new Uint32Array(image.data.buffer);
  const { low, high } = measured({ values });
  const factor = high > low ? 255 / (high - low) : 0;
  const table = tables[state.colourMap];
  for (let i = 0; i < values.length; i++) pixels[i] = (table[((values[i] - low) * factor + 0.5) | 0] | 0xff000000) >>> 0;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/* The colours from lowest to highest. */
function ramp(canvas) {
  const context = canvas.getContext("2d");
  const image = context.createImageData(256, 1);
  new Uint32Array(image.data.buffer).set(tables[state.colourMap].map((entry) => (entry | 0xff000000) >>> 0));
  context.putImageData(image, 0, 0);
}
