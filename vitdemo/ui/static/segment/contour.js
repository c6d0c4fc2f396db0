/* Lines around where values reach a level: marching squares, with the values at the border continued to the edge of the picture. */

/* Paths in shares of the picture: `fill` is closed; `line` leaves out what runs along the edge of the picture. */
function contour(values, width, height, level) {
  // One sample more on each side, at the very edge, and a ring around them that is always outside.
  const wide = width + 4, tall = height + 4;
  const sample = (x, y) => values[Math.min(Math.max(y - 2, 0), height - 1) * width + Math.min(Math.max(x - 2, 0), width - 1)];
  const inside = new Uint8Array(wide * tall);
  for (let y = 1; y < tall - 1; y++) for (let x = 1; x < wide - 1; x++) inside[y * wide + x] = sample(x, y) >= level ? 1 : 0;
  const next = new Map();
  // An edge is known by its upper or left sample, doubled, and one more where it goes down.
  for (let y = 0; y < tall - 1; y++) {
    for (let x = 0; x < wide - 1; x++) {
      const at = y * wide + x;
      const a = inside[at], b = inside[at + 1], c = inside[at + wide + 1], d = inside[at + wide];
      if (a === b && b === c && c === d) continue;
      const corners = [a, b, c, d], edges = [at * 2, (at + 1) * 2 + 1, (at + wide) * 2, at * 2 + 1];
      for (let i = 0; i < 4; i++) {
        // From where the walk around this cell comes in to where it next goes out.
        if (corners[i] || !corners[(i + 1) % 4]) continue;
        let out = (i + 1) % 4;
        while (!corners[out] || corners[(out + 1) % 4]) out = (out + 1) % 4;
        next.set(edges[i], edges[out]);
      }
    }
  }
  const place = (x, count) => Math.min(Math.max((x - 1.5) / count, 0), 1);
  const crossing = (edge) => {
    const at = edge >> 1, x = at % wide, y = (at - x) / wide, down = edge & 1;
    const [x2, y2] = down ? [x, y + 1] : [x + 1, y];
    const ring = x === 0 || y === 0 || x2 === wide - 1 || y2 === tall - 1;
    const from = sample(x, y), to = sample(x2, y2);
    const share = ring || from === to ? 0.5 : (level - from) / (to - from);
    const [px, py, qx, qy] = [place(x, width), place(y, height), place(x2, width), place(y2, height)];
    return [px + (qx - px) * share, py + (qy - py) * share];
  };
  const fill = new Path2D(), stroke = new Path2D();
  while (next.size) {
    const [start] = next.keys();
    const points = [];
    for (let edge = start; next.has(edge); ) {
      points.push(crossing(edge));
      const following = next.get(edge);
      next.delete(edge);
      edge = following;
    }
    points.forEach(([x, y], i) => (i ? fill.lineTo(x, y) : fill.moveTo(x, y)));
    fill.closePath();
    let pen = false;
    for (let i = 0; i < points.length; i++) {
      const [x, y] = points[i], [u, v] = points[(i + 1) % points.length];
      const along = (x === u && (x === 0 || x === 1)) || (y === v && (y === 0 || y === 1));
      if (along) pen = false;
      else {
        if (!pen) stroke.moveTo(x, y);
        stroke.lineTo(u, v);
        pen = true;
      }
    }
  }
  return { fill, line: stroke };
}

/* A path of shares in pixels of a canvas. */
function placed(path, [x, y, width, height]) {
  const found = new Path2D();
  found.addPath(path, new DOMMatrix([width, 0, 0, height, x, y]));
  return found;
}

async function loaded(src) {
  const image = new Image();
  image.src = src;
  await image.decode();
  return image;
}

/* The contour of a mask that came as a picture. */
async function traced(src) {
  const image = await loaded(src);
  const [width, height] = [image.naturalWidth, image.naturalHeight];
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const grey = new Uint8Array(width * height);
  for (let i = 0; i < grey.length; i++) grey[i] = data[i * 4];
  return contour(grey, width, height, 127.5);
}

/* The contour of patches, as `enlarge` of Python makes it: bilinear, cut at one half. */
const ofPatches = (text, [rows, columns]) => contour(bytesOf(text), columns, rows, 0.5);

/* An answer's view, ready to be drawn. */
async function decoded(view, table) {
  const [rows, columns] = view.grid;
  const masks = await Promise.all(
    view.masks.map(async (mask) => ({ ...mask, path: await traced(mask.src), coarse: ofPatches(mask.rough, view.grid) }))
  );
  const found = { ...view, masks };
  if (view.values) {
    const { data, low, high } = view.values, bytes = bytesOf(data);
    found.cosines = Float32Array.from(bytes, (byte) => low + (byte / 255) * (high - low));
    found.heat = tile(rows, columns, (i) => [table[bytes[i] * 3], table[bytes[i] * 3 + 1], table[bytes[i] * 3 + 2]]);
  }
  if (view.colours) {
    const bytes = bytesOf(view.colours);
    found.heat = tile(rows, columns, (i) => [bytes[i * 3], bytes[i * 3 + 1], bytes[i * 3 + 2]]);
  }
  return found;
}

/* A pixel for each patch. */
function tile(rows, columns, colour) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: columns, height: rows });
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  for (let i = 0; i < rows * columns; i++) image.data.set([...colour(i), 255], i * 4);
  context.putImageData(image, 0, 0);
  return canvas;
}
