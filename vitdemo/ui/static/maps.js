/* From bytes to maps to pixels: pure functions that the explorer and the Live tab share. */

const bytesOf = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
// The bytes are square roots of a map's share of its peak: the many small values keep their order. As components/quantise.py.
const SQUARES = Float32Array.from({ length: 256 }, (_, i) => (i / 255) ** 2);
// As vitdemo/rendering/overlay.py and scale.py.
const FAINTEST = 0.1; // opacity of the lowest value, as a share of the chosen one
const MUTED = 0.75, DIMMED = 0.4; // what a photo loses of its colour and light under a map
const CAP = 0.98; // share of all values up to which colours go
const isHead = (head) => /^\d+$/.test(head);

/* A colour table, opaque and with its opacity: where there is little attention, more of the photo is left. */
function tableOf(text) {
  const bytes = bytesOf(text);
  const entries = (alphaOf) =>
    Uint32Array.from({ length: 256 }, (_, i) => ((alphaOf(i) << 24) | (bytes[i * 3 + 2] << 16) | (bytes[i * 3 + 1] << 8) | bytes[i * 3]) >>> 0);
  return { over: entries((i) => Math.round(255 * (FAINTEST + ((1 - FAINTEST) * i) / 255))), opaque: entries(() => 255) };
}

/* One colour scale for these maps: from their lowest value up to the 98th percentile of all, in square roots; or linear, in full. */
function scaleOf(maps, linear = false) {
  const values = new Float64Array(maps.reduce((sum, one) => sum + one.length, 0));
  maps.reduce((start, one) => (values.set(one, start), start + one.length), 0);
  values.sort();
  const low = values[0], high = values[values.length - 1];
  if (linear) return { low, high, capped: false, linear };
  const place = CAP * (values.length - 1), under = Math.floor(place);
  const cap = values[under] + (place - under) * (values[Math.min(under + 1, values.length - 1)] - values[under]);
  return cap > low ? { low, high: cap, capped: cap < high, linear } : { low, high, capped: false, linear };
}

/* A value as legends write it: of attention in percent, else a plain number. */
const worded = (value, shares = true) => (shares ? `${Number((value * 100).toPrecision(2))}%` : String(Number(value.toPrecision(2))));
const scaleEnds = (scale, shares) => [worded(scale.low, shares), worded(scale.high, shares) + (scale.capped ? " or more" : "")];

/* What is drawn in a box, darker and nearly grey, so that the colours over it are the map's. */
function mute(context, box, opacity) {
  context.globalCompositeOperation = "saturation";
  context.globalAlpha = opacity * MUTED;
  context.fillStyle = "#808080";
  context.fillRect(...box);
  context.globalCompositeOperation = "source-over";
  context.globalAlpha = opacity * DIMMED;
  context.fillStyle = "black";
  context.fillRect(...box);
  context.globalAlpha = 1;
}

/* A block of maps `[heads, patches]` in bytes, fused over its heads or one of them, as floats. */
function fused({ bytes, peaks, floor }, first, heads, size, head) {
  const values = new Float32Array(size);
  const add = (index, into) => {
    const start = index * size, scale = peaks[index] - floor;
    for (let i = 0; i < size; i++) values[i] = into(values[i], floor + SQUARES[bytes[start + i]] * scale);
  };
  if (isHead(head)) add(first + Number(head), (_, value) => value);
  else {
    if (head !== "mean") values.fill(head === "min" ? Infinity : -Infinity);
    const into = head === "mean" ? (old, value) => old + value / heads : head === "max" ? Math.max : Math.min;
    for (let one = 0; one < heads; one++) add(first + one, into);
  }
  return values;
}

function measured(map) {
  map.low = Infinity;
  map.high = -Infinity;
  for (const value of map.values) {
    if (value < map.low) map.low = value;
    if (value > map.high) map.high = value;
  }
  return map;
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

/* Map to pixels, as 32-bit colours on `[height, width]`: bilinear between patch centres (half-pixel, edges repeated), then the table.
 * With as many pixels as patches it is the plain table. */
function pixelsOf(values, [rows, columns], width, height, scale, table) {
  const pixels = new Uint32Array(width * height);
  const { low, linear } = scale, factor = scale.high > low ? 1 / (scale.high - low) : 0;
  const across = samples(width, columns);
  const down = samples(height, rows);
  for (let y = 0; y < height; y++) {
    const upper = down.first[y] * columns;
    const lower = down.second[y] * columns;
    const v = down.weight[y];
    for (let x = 0; x < width; x++) {
      const a = across.first[x], b = across.second[x], u = across.weight[x];
      const one = values[upper + a] * (1 - u) + values[upper + b] * u;
      const two = values[lower + a] * (1 - u) + values[lower + b] * u;
      const share = (one * (1 - v) + two * v - low) * factor;
      const index = share <= 0 ? 0 : share >= 1 ? 255 : ((linear ? share : Math.sqrt(share)) * 255 + 0.5) | 0;
      pixels[y * width + x] = table[index];
    }
  }
  return pixels;
}

function putPixels(canvas, pixels, width, height) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const image = new ImageData(width, height);
  new Uint32Array(image.data.buffer).set(pixels);
  canvas.getContext("2d").putImageData(image, 0, 0);
}
