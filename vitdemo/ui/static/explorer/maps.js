/* Maps as numbers: the one that the controls ask for, its description, and how far two of them agree. */

const percent = (value, digits = 0) => `${(value * 100).toFixed(digits)}%`;
const TOP_MASS = 0.2; // as vitdemo/attribution/agreement.py

function decodePanel(panel) {
  const readouts = {};
  for (const { name, data, peaks, floor, label } of panel.readouts) readouts[name] = { bytes: bytesOf(data), peaks, floor, label };
  return { ...panel, readouts, patches: panel.grid[0] * panel.grid[1], asked: new Map() };
}

function layerOf(panel) {
  return Math.round(state.layer * (panel.layers - 1));
}

/* The map that the controls ask for: `{layer, label, values, low, high}`, or `{missing}` in words, or null for a network without
 * attention. `state.layer` is a depth from 0 to 1, so that models of different depths move together. */
function currentMap(panel) {
  const names = Object.keys(panel.readouts);
  if (!names.length) return null;
  const layer = layerOf(panel);
  const head = panel.method ? "mean" : state.head; // a method that joins the heads has one map
  if (isHead(head) && Number(head) >= panel.heads) return { layer, missing: `This model has ${panel.heads} heads.` };
  if (state.readout === "patch" && !panel.method) return patchMap(panel, layer, head);
  const entry = panel.readouts[state.readout in panel.readouts ? state.readout : names[0]];
  return measured({ layer, label: entry.label, values: fused(entry, layer * panel.heads, panel.heads, panel.patches, head) });
}

/* The same words as vitdemo/attribution/describe.py. */
function describe(map, panel) {
  const [height, width] = panel.grid;
  let share = 1, area = 1, place = "evenly spread";
  if (map.high > map.low) {
    let total = 0, mass = 0, count = 0, rows = 0, columns = 0;
    map.values.forEach((value, i) => {
      total += value;
      if (value < map.high / 2) return;
      mass += value;
      count += 1;
      rows += value * (Math.floor(i / width) + 0.5);
      columns += value * ((i % width) + 0.5);
    });
    share = mass / total;
    area = count / map.values.length;
    const row = Math.floor((rows / mass / height) * 3);
    const column = Math.floor((columns / mass / width) * 3);
    place = row === 1 && column === 1 ? "centre" : `${["top", "centre", "bottom"][row]} ${["left", "centre", "right"][column]}`;
  }
  const head = isHead(state.head) ? `head ${Number(state.head) + 1} of ${panel.heads}` : `${state.head} of heads`;
  return `layer ${map.layer + 1} of ${panel.layers}, ${head}, ${map.label}: ${percent(share)} of attention on ${area < 0.005 ? "under 1%" : percent(area)} of the picture, ${place}`;
}

/* The fewest patches, brightest first, that hold this share of a map's mass, as 0 and 1; of equal ones the first. */
function brightest(values, share) {
  const order = Array.from(values.keys()).sort((a, b) => values[b] - values[a] || a - b);
  const kept = new Uint8Array(values.length);
  let total = 0, mass = 0;
  for (const value of values) total += Math.max(value, 0);
  if (!total) return kept;
  for (const i of order) {
    kept[i] = 1;
    mass += Math.max(values[i], 0);
    if (mass >= total * share * (1 - 1e-9)) break;
  }
  return kept;
}

/* ---- agreement: as vitdemo/attribution/agreement.py ---- */

function agreementOf(one, other) {
  const common = [0, 1, 2, 3].map((i) => (i < 2 ? Math.max : Math.min)(one.panel.crop[i], other.panel.crop[i]));
  if (common[0] >= common[2] || common[1] >= common[3]) return null;
  const [a, b] = [one.panel.grid, other.panel.grid];
  const shape = a[0] > b[0] || (a[0] === b[0] && a[1] >= b[1]) ? a : b;
  const key = `${common}/${shape}`;
  const [first, second] = [one, other].map((side) => side.sampled[key] || (side.sampled[key] = ranked(sampled(side, common, shape))));
  if (first.flat || second.flat) return null;
  let both = 0, either = 0;
  for (let i = 0; i < first.top.length; i++) {
    both += first.top[i] & second.top[i];
    either += first.top[i] | second.top[i];
  }
  return { correlation: pearson(first.ranks, second.ranks), overlap: either ? both / either : null };
}

function sampled({ panel, map }, common, [height, width]) {
  const [rows, columns] = panel.grid;
  const { crop } = panel;
  const places = (count, size, from, to, start, end) =>
    Array.from({ length: count }, (_, i) => {
      const place = from + ((i + 0.5) * (to - from)) / count;
      return Math.min(Math.max(((place - start) / (end - start)) * size - 0.5, 0), size - 1);
    });
  const down = places(height, rows, common[1], common[3], crop[1], crop[3]);
  const across = places(width, columns, common[0], common[2], crop[0], crop[2]);
  const values = new Float64Array(height * width);
  down.forEach((y, i) => {
    const top = Math.floor(y + 1e-9), v = Math.max(0, y - top), bottom = Math.min(top + 1, rows - 1);
    across.forEach((x, j) => {
      const left = Math.floor(x + 1e-9), u = Math.max(0, x - left), right = Math.min(left + 1, columns - 1);
      const at = (r, c) => map.values[r * columns + c];
      const upper = at(top, left) * (1 - u) + at(top, right) * u;
      const lower = at(bottom, left) * (1 - u) + at(bottom, right) * u;
      values[i * width + j] = Math.round((upper * (1 - v) + lower * v) * 1e9) / 1e9;
    });
  });
  return values;
}

function ranked(values) {
  const order = Array.from(values.keys()).sort((a, b) => values[a] - values[b]);
  const ranks = new Float64Array(values.length);
  for (let i = 0; i < order.length; ) {
    let end = i;
    while (end + 1 < order.length && values[order[end + 1]] === values[order[i]]) end += 1;
    for (let j = i; j <= end; j++) ranks[order[j]] = (i + end) / 2;
    i = end + 1;
  }
  return { ranks, top: brightest(values, TOP_MASS), flat: values[order[0]] === values[order[order.length - 1]] };
}

function pearson(a, b) {
  const mean = (a.length - 1) / 2; // of ranks, ties or not
  let ab = 0, aa = 0, bb = 0;
  for (let i = 0; i < a.length; i++) {
    ab += (a[i] - mean) * (b[i] - mean);
    aa += (a[i] - mean) ** 2;
    bb += (b[i] - mean) ** 2;
  }
  return ab / Math.sqrt(aa * bb);
}
