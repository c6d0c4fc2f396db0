/* What each step shows of one model: functions of its view, which return nodes. */

const showing = {};

showing.patches = (view) => {
  const [rows, columns] = view.grid, [high, wide] = view.size, side = view.patch;
  const tile = make("canvas", { class: "vd-tile", width: side, height: side, role: "img", "aria-label": "The chosen patch" });
  const said = words();
  const canvas = patchCanvas(view, `The photo as ${rows} × ${columns} patches`, draw, (patch, how) => {
    local.tile = how === "move" ? moved(view, local.tile, patch) : patch;
    redraw();
  });
  const input = new Image();
  input.src = view.input;
  input.onload = () => redraw();
  function draw(target) {
    if (!input.complete) return;
    Object.assign(target, { width: wide * 2, height: high * 2 });
    const context = target.getContext("2d");
    context.drawImage(input, 0, 0, wide * 2, high * 2);
    context.strokeStyle = "rgba(255, 255, 255, 0.75)";
    context.beginPath();
    for (let column = 1; column < columns; column++) context.moveTo(column * side * 2, 0), context.lineTo(column * side * 2, high * 2);
    for (let row = 1; row < rows; row++) context.moveTo(0, row * side * 2), context.lineTo(wide * 2, row * side * 2);
    context.stroke();
    const patch = Math.min(local.tile === null ? Math.floor(rows / 2) * columns + Math.floor(columns / 2) : local.tile, rows * columns - 1);
    mark(context, view, patch);
    const row = Math.floor(patch / columns), column = patch % columns;
    tile.getContext("2d").drawImage(input, column * side, row * side, side, side, 0, 0, side, side);
    said.textContent = view.width
      ? `Patch ${patch + 1} (row ${row + 1}, column ${column + 1}): ${side} × ${side} pixels in 3 colours are ${view.numbers} numbers; the embedding makes them a token of ${view.width}.`
      : `Cell ${patch + 1} (row ${row + 1}, column ${column + 1}) stands over ${side} × ${side} pixels, and sees beyond them.`;
  }
  const count = view.tokens
    ? `${wide} × ${high} pixels → ${rows} × ${columns} ${view.width ? "patches" : "cells"}${view.prefix ? ` + ${plural(view.prefix, "extra token")}` : ""} = ${view.tokens} tokens`
    : `${wide} × ${high} pixels → ${rows} × ${columns} cells in the last map. There are no tokens.`;
  const filters = view.filters;
  return [
    words(count),
    make("div", { class: "vd-pair" }, canvas, make("div", {}, tile, said)),
    figure(view.principal ? `What the embedding looks for: the first ${filters.count} principal components of ${filters.of} filters` : `The ${filters.count} filters of the first convolution`, cells(filters, 34, "Filter")),
    ...view.maps.map((one) => figure(`${view.principal ? "What the embedding finds" : `After ${one.name === "first layer" ? "the first layer" : one.name}`}: ${one.count} of ${one.of} channels, ${one.side[0]} × ${one.side[1]}`, cells(one, 84, "Channel"))),
  ];
};

showing.positions = (view) => {
  const parts = [];
  const [rows, columns] = view.grid;
  if (view.without) parts.push(words(view.without));
  if (view.similar) {
    const all = floats(view.similar), size = rows * columns, each = Math.ceil(columns / view.step);
    const said = words();
    const canvas = patchCanvas(view, "Similarity of the chosen position to all others", (target) => {
      const chosen = local.query === null ? Math.floor(rows / 2) * columns + Math.floor(columns / 2) : Math.min(local.query, size - 1);
      const row = Math.floor(Math.floor(chosen / columns) / view.step), column = Math.floor((chosen % columns) / view.step);
      const patch = row * view.step * columns + column * view.step;
      paintMap(target, view, all.subarray((row * each + column) * size, (row * each + column + 1) * size), { low: -0.2, high: 1, marked: patch });
      said.textContent = `Cosine of row ${row * view.step + 1}, column ${column * view.step + 1} to every other position: dark is unlike, bright is alike.`;
    }, (patch, how) => {
      local.query = how === "move" ? moved(view, local.query, patch) : patch;
      redraw();
    });
    // All maps at once, as in the paper: every second position, where there are many.
    const grid = make("canvas", { class: "vd-all", role: "img", "aria-label": "The maps of all positions, each at its place" });
    const skip = Math.max(1, Math.ceil(each / 8)), down = Math.ceil(rows / view.step), tall = Math.ceil(down / skip), across = Math.ceil(each / skip);
    Object.assign(grid, { width: across * (columns + 1), height: tall * (rows + 1) });
    const context = grid.getContext("2d");
    for (let y = 0; y < tall; y++) {
      for (let x = 0; x < across; x++) {
        const index = y * skip * each + x * skip;
        const piece = document.createElement("canvas");
        putPixels(piece, pixelsOf(all.subarray(index * size, (index + 1) * size), view.grid, columns, rows, { low: -0.2, high: 1, linear: true }, table.opaque), columns, rows);
        context.drawImage(piece, x * (columns + 1), y * (rows + 1));
      }
    }
    parts.push(make("div", { class: "vd-pair" }, figure("Click a position", canvas, said), figure("All of them, each at its own place", grid)));
  }
  if (view.bias) {
    const values = floats(view.bias), [heads, high, wide] = view.biased;
    const row = make("div", { class: "vd-cells", style: "--cell: 110px" }, ...Array.from({ length: heads }, (_, head) =>
      figure(`head ${head + 1}`, signedPicture(values.subarray(head * high * wide, (head + 1) * high * wide), [high, wide], view.bias.high, `Bias of head ${head + 1}`))));
    parts.push(figure(`Relative position bias of layer ${view.layer + 1}: a patch in the middle is drawn to what is red, and away from what is blue`, row));
  }
  if (view.plain) {
    const alike = view.apart < 0.00005 ? "not at all" : `by up to ${percent(view.apart, 2)}`;
    parts.push(make("div", { class: "vd-trio" },
      figure("As it is", bars(view.plain)),
      figure("Patches moved", make("img", { src: view.shuffled, alt: "The photo with its patches in random order" }), bars(view.moved, view.plain)),
      figure("Moved, positions taken along", bars(view.along, view.plain), words(view.layers ? `The scores change ${alike}: the network can't tell.` : `The scores change ${alike}: a CNN has no positions that could be taken along.`))));
  }
  return parts;
};

showing.attention = (view) => {
  const chosen = patchAt(view);
  const pick = (patch, how) => {
    const next = how === "move" ? moved(view, patchAt(view), patch) : how === "press" ? patchAt(view) : patch;
    state.point = pointOf(view, next);
    redraw();
    ask();
  };
  const one = (title, name, high) => {
    const map = view.maps[name], values = floats(map);
    const canvas = patchCanvas(view, title, (target) => paintMap(target, view, values, { low: map.low, high: high || map.high, linear: name !== "weights", marked: chosen }), pick);
    return figure(title, canvas);
  };
  const place = ({ token }) => (token < 0 ? (token === -1 ? "class token" : "extra token") : `row ${Math.floor(token / view.grid[1]) + 1}, column ${(token % view.grid[1]) + 1}`);
  const best = make("ol", { class: "vd-best" }, ...view.best.map((entry) => make("li", {}, `${place(entry)}: score ${entry.score.toFixed(2)} → weight ${percent(entry.weight)}`)));
  const who = state.point === null && view.prefix ? "the class token" : `row ${Math.floor(chosen / view.grid[1]) + 1}, column ${(chosen % view.grid[1]) + 1}`;
  const vector = (title, name) => make("div", { class: "vd-vector" }, make("span", {}, title), strip(view.vectors[name], title));
  return [
    words(`Layer ${view.layer + 1} of ${view.layers}, head ${view.head + 1} of ${view.heads}. Asking: ${who}. Each vector has ${view.width} numbers.`),
    make("div", { class: "vd-row" },
      one("1. Query · key, scaled: scores", "scores"),
      one("2. Softmax: weights", "weights"),
      one("3. Length of each value", "values"),
      one("4. Weight × value: what arrives", "contributions")),
    make("div", { class: "vd-pair" },
      figure("Its vectors, and those of the token that it attends to most", vector("query", "query"), vector("key", "key"), vector("value", "value"), vector("output", "output")),
      figure("Most attended", best, words(`${percent(view.outside)} of the attention goes to tokens that are no patch.`))),
  ];
};

/* The patch of a view that the chosen point of the photo lies in. */
function patchAt(view) {
  if (state.point === null) return null;
  const [left, top, right, bottom] = view.crop, [rows, columns] = view.grid;
  const place = (share, low, high, count) => Math.min(count - 1, Math.max(0, Math.floor(((share - low) / (high - low)) * count)));
  return place(state.point[1], top, bottom, rows) * columns + place(state.point[0], left, right, columns);
}

function pointOf(view, patch) {
  const [left, top, right, bottom] = view.crop, [rows, columns] = view.grid;
  const share = (index, low, high, count) => Number((low + ((index + 0.5) / count) * (high - low)).toFixed(4));
  return [share(patch % columns, left, right, columns), share(Math.floor(patch / columns), top, bottom, rows)];
}

showing.distance = (view) => {
  if (view.fields) {
    const points = view.fields.map((side, index) => [index + 1, side, `after layer ${index + 1}: ${side} px`]);
    const high = Math.max(view.side, ...view.fields);
    const { node } = chart({ series: [{ points, name: "" }], x: "convolution", y: "Receptive field, pixels", high, ticks: ticksOf(points), wordedY: (value) => value.toFixed(0), steps: true, label: "Receptive field by layer" });
    return [node, words(`After its first layer a cell depends on ${plural(view.fields[0], "pixel")} across; after the last, on ${view.fields[view.fields.length - 1]}. The image has ${view.side}.`)];
  }
  const points = view.distances.flatMap((heads, layer) => heads.map((far, head) => [layer + 1, far, `layer ${layer + 1}, head ${head + 1}: ${far.toFixed(0)} px`]));
  const high = Math.ceil(Math.max(...points.map(([, far]) => far), view.side / 2) / 20) * 20;
  const { node } = chart({ series: [{ points, dots: true, name: "" }], x: "layer", y: "Mean attention distance, pixels", high, ticks: view.distances.map((_, layer) => [layer + 1, String(layer + 1)]), wordedY: (value) => value.toFixed(0), label: "Mean attention distance of each head by layer" });
  const first = view.distances[0];
  return [node, words(`In the first layer heads look ${Math.min(...first).toFixed(0)} to ${Math.max(...first).toFixed(0)} pixels away; the image is ${view.side} wide.`)];
};

const ticksOf = (points) => points.filter((_, index) => index % Math.ceil(points.length / 10) === 0).map(([place]) => [place, String(place)]);

showing.layers = (view) => {
  const last = view.layers - 1, size = view.grid[0] * view.grid[1];
  const layer = () => Math.min(local.read === null ? last : local.read, last);
  const { node, here } = chart({ series: [{ points: view.scores.map((score, index) => [index + 1, score, `after layer ${index + 1}: ${percent(score)}`]), name: "" }], x: "after layer", y: `Probability of ${view.target}`, ticks: view.scores.map((_, index) => [index + 1, String(index + 1)]), label: `Probability of ${view.target} after each layer`, choose: (index) => setLocal("read", index) });
  const values = floats(view.patches), best = new Uint16Array(bytesOf(view.best).buffer);
  const answers = make("div"), said = words();
  const canvas = patchCanvas(view, "Which patches give the class alone", (target) => {
    const start = layer() * size;
    paintMap(target, view, values.subarray(start, start + size), { low: 0, high: 1, linear: false, marked: local.tile === null ? null : Math.min(local.tile, size - 1) });
    here(layer() + 1);
    answers.replaceChildren(bars(view.answers[layer()]));
    said.textContent = local.tile === null ? "Click a patch to read what it says alone." : `Alone, the chosen patch says ${view.names[best[start + Math.min(local.tile, size - 1)]]}; ${view.target} has ${percent(values[start + Math.min(local.tile, size - 1)])}.`;
  }, (patch, how) => {
    local.tile = how === "move" ? moved(view, local.tile, patch) : how === "press" ? local.tile : patch;
    redraw();
  });
  const since = view.answers.findLastIndex((labels) => labels[0].label !== view.target) + 1;
  return [
    words(since <= last ? `It says ${view.target} from layer ${since + 1} of ${view.layers} on.` : ""),
    make("div", { class: "vd-pair" }, figure(`Where ${view.target} is written`, canvas, said), make("div", {}, node, figure("Read off after this layer", answers))),
  ];
};

/* Sides in pixels, of pictures (0) or patches (1), whose cost is known of a model. */
function sizesOf(view, place) {
  const found = Object.keys((view && view.table) || {}).map((key) => Number(key.split("/")[place]));
  return [...new Set(found)].sort((a, b) => a - b);
}

const big = (count) => (count >= 1e9 ? `${(count / 1e9).toPrecision(3)} G` : count >= 1e6 ? `${(count / 1e6).toPrecision(3)} M` : count >= 1e3 ? `${(count / 1e3).toPrecision(3)} k` : String(count));

showing.cost = (view) => {
  const node = make("div");
  redraws.push(() => {
    // Sliders have the sizes of the first model; another may lack one of them.
    const [side, cut] = [local.side, local.cut].map((index, place) => {
      if (index === null) return view.own[place];
      const wanted = sizesOf(first(), place)[index], far = (size) => Math.abs(size - wanted);
      return sizesOf(view, place).reduce((best, size) => (far(size) < far(best) ? size : best));
    });
    const [tokens, parts] = view.table[`${side}/${cut}`], [, own] = view.table[view.own.join("/")];
    const total = (rows, column) => rows.reduce((sum, row) => sum + row[column], 0);
    const flops = total(parts, 2), holds = total(parts, 1), most = Math.max(...parts.map((row) => row[2]), ...own.map((row) => row[2]));
    const list = make("ul", { class: "vd-bars vd-parts" }, ...parts.map(([part, parameters, work]) => make("li", {}, make("span", {}, part === "mlp" ? "MLP" : part), make("span", { class: "vd-length", style: `--share: ${work / most}` }), make("span", { class: "vd-number" }, big(work)), make("span", { class: "vd-number" }, parameters ? big(parameters) : "none"))));
    const head = make("p", { class: "vd-heads-of" }, make("span", {}, ""), make("span", {}, ""), make("span", {}, "operations"), make("span", {}, "parameters"));
    node.replaceChildren(
      words(`${side} × ${side} pixels in patches of ${cut} × ${cut}: ${tokens} tokens, ${big(flops)} operations, ${big(holds)} parameters. ${side === view.own[0] && cut === view.own[1] ? "That is this model as it runs." : `${(flops / total(own, 2)).toPrecision(2)} times the work of this model as it runs.`}`),
      head, list);
  });
  return [node];
};

/* Attention of a network while it was trained, at steps 1, 2, 4 and so on. */
function emerging(view) {
  const canvases = view.frames.map((frame) => {
    const values = fused({ ...frame, bytes: bytesOf(frame.data) }, (view.layers - 1) * view.heads, view.heads, view.grid[0] * view.grid[1], "mean"), canvas = patchCanvas(view, `Attention after step ${frame.step}`, (target) => paintMap(target, view, values, { low: 0, high: values.reduce((most, value) => Math.max(most, value), 0), linear: false }));
    return make("figure", {}, canvas, make("figcaption", {}, `step ${frame.step}${frame.score === null ? "" : `, ${percent(frame.score, 0)} right`}`));
  });
  const { photos, source, minutes, machine } = view.about;
  return figure(`Attention appears while a ViT is trained from scratch: ${photos.toLocaleString("en")} photos of ${source}, ${minutes} minutes on ${machine}`, make("div", { class: "vd-crops" }, ...canvases));
}

showing.training = (view) => {
  const parts = [];
  if (view.answers) parts.push(make("div", { class: "vd-pair" }, figure("The class token says", bars(view.answers.class)), figure("The distillation token says", bars(view.answers.distillation), words("The model's answer is the mean of both."))));
  if (view.filled) parts.push(make("div", { class: "vd-pair" }, figure("What the encoder sees: a quarter of the patches", make("img", { src: view.seen, alt: "The photo with hidden patches" })), figure("What the decoder makes of it", make("img", { src: view.filled, alt: "The reconstruction" }))));
  else if (view.seen) {
    const values = floats(view.similarity);
    const canvas = patchCanvas(view, "How close hidden patches come", (target) => paintMap(target, view, values, { low: view.similarity.low, high: 1 }));
    parts.push(make("div", { class: "vd-pair" }, figure("What it sees", make("img", { src: view.seen, alt: "The photo with hidden patches" })), figure("How close the features of hidden patches come", canvas, words(`In training it is asked for the visual token of each hidden patch. Here: how close its last feature comes to the one with nothing hidden, on average a cosine of ${view.told.toFixed(2)}.`))));
  }
  if (view.crops) parts.push(figure("Crops of one photo, and how alike the model finds them (cosine to the large ones)", make("div", { class: "vd-crops" }, ...view.crops.map((crop) => make("figure", {}, make("img", { src: crop.src, alt: crop.large ? "A large crop" : "A small crop" }), make("figcaption", {}, `${crop.large ? "teacher and student" : "student"}: ${crop.similarity.toFixed(2)}`))))));
  if (view.plain) parts.push(figure(view.layers ? "It was told the right answer of every training photo; here it says" : "Trained like a ViT, on labels; here it says", bars(view.plain)));
  if (view.frames) parts.push(emerging(view));
  return parts;
};
