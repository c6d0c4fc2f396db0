/* From masks and maps to pixels. */

const NONE = "rgba(0, 0, 0, 0)";

/* Draw a view on a canvas of any size.
 *
 * `pixels`: of its photo; `rough`: the masks as patches; `only`: the number of the one mask that is shown, if not all are; `cut`:
 * nothing but what the masks cover, around which the canvas is transparent.
 */
function paint(view, canvas, pixels, { rough = false, only = 0, cut = false } = {}) {
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  const [left, top, right, bottom] = view.crop;
  const box = [left * width, top * height, (right - left) * width, (bottom - top) * height];
  const unit = Math.max(1, Math.max(width, height) / 640);
  context.globalAlpha = 1;
  context.clearRect(0, 0, width, height);
  const masks = view.masks.filter((mask) => !only || mask.number === only);
  const paths = masks.map((mask) => (rough ? mask.coarse : mask.path));
  const fills = paths.map((path) => placed(path.fill, box));
  if (cut && LAYERED.includes(view.method)) {
    clipped(context, fills, pixels);
    return;
  }
  context.drawImage(pixels, 0, 0, width, height);
  const lines = paths.map((path) => placed(path.line, box));
  if (view.cosines) similar(context, view, box, unit);
  else {
    if (masks.length) spotlight(context, box, fills, pixels, 0.85 * state.opacity);
    if (view.heat) coloured(context, view.heat, box, fills, masks.length > 0);
    masks.forEach((mask, i) => {
      context.fillStyle = tint(view, mask);
      context.fill(fills[i], "evenodd");
    });
    if (state.outlines) for (const one of lines) outlined(context, one, unit);
    if (masks.length > 1) for (const mask of masks) numbered(context, mask.name.split(" ").pop(), inBox(box, mask.label), unit);
  }
  if (state.outliers) for (const patch of view.outliers) dotted(context, view.grid, box, patch, unit);
  if (left > 0.002 || top > 0.002 || right < 0.998 || bottom < 0.998) unseen(context, box, unit);
}

const inBox = ([x, y, width, height], [u, v]) => [x + u * width, y + v * height];

/* One object stands out by itself; several have colours, and parts are told by nothing else. */
function tint(view, mask) {
  if (view.heat || view.masks.length === 1) return NONE;
  const alpha = state.opacity * (view.method === "parts" ? 1 : 0.6);
  return mask.colour + Math.round(alpha * 255).toString(16).padStart(2, "0");
}

/* The rest of the crop darkened. */
function spotlight(context, box, fills, pixels, dark) {
  context.fillStyle = `rgba(0, 0, 0, ${dark})`;
  context.fillRect(...box);
  clipped(context, fills, pixels);
}

/* The photo where masks are. */
function clipped(context, fills, pixels) {
  for (const fill of fills) {
    context.save();
    context.clip(fill, "evenodd");
    context.drawImage(pixels, 0, 0, context.canvas.width, context.canvas.height);
    context.restore();
  }
}

/* A pixel for each patch, enlarged over the crop or over the masks. */
function coloured(context, heat, box, fills, masked, opacity = Math.sqrt(state.opacity)) {
  context.save();
  if (masked) {
    const all = new Path2D();
    for (const fill of fills) all.addPath(fill);
    context.clip(all, "evenodd");
  } else {
    context.beginPath();
    context.rect(...box);
    context.clip();
  }
  context.globalAlpha = opacity;
  context.imageSmoothingEnabled = true;
  // Canvas blends towards nothing at the edges of a picture: the outer patches are continued.
  const { width, height } = heat, [x, y, w, h] = box;
  const [px, py] = [w / width, h / height];
  const around = heat.around || (heat.around = continued(heat));
  context.drawImage(around, x - px, y - py, w + 2 * px, h + 2 * py);
  context.restore();
}

function continued(heat) {
  const canvas = document.createElement("canvas");
  const { width, height } = heat;
  Object.assign(canvas, { width: width + 2, height: height + 2 });
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  for (const [x, y] of [[0, 0], [2, 0], [0, 2], [2, 2], [0, 1], [2, 1], [1, 0], [1, 2], [1, 1]]) context.drawImage(heat, x, y);
  return canvas;
}

const tauOf = (view) => state.tau ?? view.tau ?? 1;

/* Cosines in colours, the patches from the threshold on in full, and the best matches. */
function similar(context, view, box, unit) {
  const [rows, columns] = view.grid;
  const region = contour(view.cosines, columns, rows, tauOf(view));
  const fill = placed(region.fill, box);
  coloured(context, view.heat, box, [], false, state.opacity);
  // Below the threshold darker: one path around the crop and the region.
  const below = new Path2D();
  below.rect(...box);
  below.addPath(fill);
  context.fillStyle = "rgba(0, 0, 0, 0.4)";
  context.fill(below, "evenodd");
  if (state.outlines) outlined(context, placed(region.line, box), unit);
  view.boxes.forEach(([left, top, right, bottom], i) => {
    const [x, y] = inBox(box, [left, top]), [u, v] = inBox(box, [right, bottom]);
    const frame = new Path2D();
    frame.rect(x, y, u - x, v - y);
    outlined(context, frame, unit);
    numbered(context, String(i + 1), [x + 11 * unit, y + 11 * unit], unit);
  });
  const place = patchOf(view);
  if (place && !view.foreign) {
    const [w, h] = [box[2] / columns, box[3] / rows];
    const square = new Path2D();
    square.rect(box[0] + place[1] * w, box[1] + place[0] * h, w, h);
    outlined(context, square, 2 * unit);
  }
}

/* A light line in a dark one, so that it shows on any photo. */
function outlined(context, path, unit) {
  context.lineJoin = context.lineCap = "round";
  context.strokeStyle = "rgba(0, 0, 0, 0.75)";
  context.lineWidth = 3.2 * unit;
  context.stroke(path);
  context.strokeStyle = "white";
  context.lineWidth = 1.4 * unit;
  context.stroke(path);
}

function numbered(context, text, [x, y], unit) {
  context.beginPath();
  context.arc(x, y, 9 * unit, 0, 2 * Math.PI);
  context.fillStyle = "rgba(0, 0, 0, 0.8)";
  context.fill();
  context.fillStyle = "white";
  context.font = `600 ${11 * unit}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(text, x, y + 0.5 * unit);
}

/* A dotted square on an outlier patch. */
function dotted(context, [rows, columns], box, patch, unit) {
  const [w, h] = [box[2] / columns, box[3] / rows];
  const x = box[0] + (patch % columns) * w, y = box[1] + Math.floor(patch / columns) * h;
  context.save();
  context.lineCap = "butt";
  for (const [style, width] of [["rgba(0, 0, 0, 0.75)", 3], ["white", 1.5]]) {
    context.strokeStyle = style;
    context.lineWidth = width * unit;
    context.setLineDash([2 * unit, 2 * unit]);
    context.strokeRect(x + 0.15 * w, y + 0.15 * h, 0.7 * w, 0.7 * h);
  }
  context.restore();
}

/* A canvas as large as it is shown, so that lines are sharp, and at most twice the photo that is here. */
function fit(canvas, pixels) {
  const wide = Math.min(canvas.clientWidth * (window.devicePixelRatio || 1), 2 * pixels.naturalWidth) || pixels.naturalWidth;
  const width = Math.max(1, Math.round(wide)), height = Math.max(1, Math.round((wide * pixels.naturalHeight) / pixels.naturalWidth));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
}
