/* From bytes to maps to pixels: pure functions that the explorer and the Live tab share. */

const bytesOf = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
// The bytes are square roots of a map's share of its peak: the many small values keep their order. As components/quantise.py.
const SQUARES = Float32Array.from({ length: 256 }, (_, i) => (i / 255) ** 2);
const FAINTEST = 0.25; // opacity of the lowest value, as a share of the chosen one
const isHead = (head) => /^\d+$/.test(head);

/* The colour table with its opacity: where there is little attention, more of the photo is left. */
function tableOf(text) {
  const bytes = bytesOf(text);
  return Uint32Array.from({ length: 256 }, (_, i) => {
    const alpha = Math.round(255 * (FAINTEST + ((1 - FAINTEST) * i) / 255));
    return ((alpha << 24) | (bytes[i * 3 + 2] << 16) | (bytes[i * 3 + 1] << 8) | bytes[i * 3]) >>> 0;
  });
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
function pixelsOf(values, [rows, columns], width, height, low, high, table) {
  const pixels = new Uint32Array(width * height);
  const factor = high > low ? 255 / (high - low) : 0;
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
      const index = ((one * (1 - v) + two * v - low) * factor + 0.5) | 0;
      pixels[y * width + x] = table[index < 0 ? 0 : index > 255 ? 255 : index];
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
