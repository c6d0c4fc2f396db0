/* The steps that change the network or the photo, and ask again. */

let ranking = null; // the one that is under way: its model, and what is known
let ranked = {}; // by model, the last one that came to its end: of which photo, with what off, and the effects

const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
const has = (list, entry) => list.some((one) => same(one, entry));
const toggled = (list, entry) => (has(list, entry) ? list.filter((one) => !same(one, entry)) : [...list, entry].sort((a, b) => (Array.isArray(a) ? a[0] - b[0] || a[1] - b[1] : a - b)));

function turn(part, entry) {
  state[part] = toggled(state[part], entry);
  ranking = null;
  redraw();
  ask();
}

showing.apart = (view) => {
  const parts = [];
  const canvas = patchCanvas(view, "Click patches to hide them", (target) => {
    const context = paintPhoto(target, view);
    for (const patch of state.patches) {
      if (patch >= view.grid[0] * view.grid[1]) continue;
      context.fillStyle = "rgb(127, 127, 127)";
      context.fillRect(...cellOf(view, target, patch));
    }
    if (local.tile !== null && document.activeElement === target) mark(context, view, Math.min(local.tile, view.grid[0] * view.grid[1] - 1));
  }, (patch, how) => {
    if (how === "move") {
      local.tile = moved(view, local.tile, patch);
      redraw();
    } else {
      local.tile = how === "press" ? moved(view, local.tile, 0) : patch;
      turn("patches", local.tile);
    }
  });
  const map = (title, values) => {
    if (!values) return null;
    const numbers = floats(values);
    return figure(title, patchCanvas(view, title, (target) => paintMap(target, view, numbers, { low: values.low, high: values.high, linear: false })));
  };
  parts.push(make("div", { class: "vd-row" },
    figure(state.patches.length ? `${plural(state.patches.length, "patch", "es")} hidden` : "Click patches to hide them", canvas),
    view.seen ? figure("What the model was shown", make("img", { src: view.seen, alt: "The model's input" })) : null,
    map(view.changed ? "Attention before" : "Attention, last layer", view.map),
    map("Attention now", view.changed)));
  if (view.after) {
    const [before, after] = view.scores || [0, 0];
    const change = view.class ? `${view.class}: ${percent(before)} → ${percent(after)}. ` : "";
    parts.push(words(make("strong", {}, change), view.agreement === null ? "" : `The maps agree with a rank correlation of ${view.agreement.toFixed(2)}.`));
    if (view.before.length) parts.push(make("div", { class: "vd-pair" }, figure("Before", bars(view.before)), figure("Now", bars(view.after, view.before))));
  } else if (view.before && view.before.length) parts.push(figure("It says", bars(view.before)));
  if (view.layers && view.target !== null && view.target !== undefined) parts.push(rank(view));
  return view.layers ? [make("div", { class: "vd-bench" }, switches(view), make("div", { class: "vd-results" }, ...parts))] : parts;
};

const offNow = () => JSON.stringify([state.heads, state.attention, state.mlp, state.patches, state.fill]);

function switches(view) {
  const button = (part, entry, text, title) => {
    const node = make("button", { type: "button", title, "aria-label": title }, text);
    redraws.push(() => node.setAttribute("aria-pressed", String(has(state[part], entry))));
    node.addEventListener("click", () => turn(part, entry));
    return node;
  };
  const rows = Array.from({ length: view.layers }, (_, layer) => make("div", { class: "vd-layer" },
    make("span", {}, `Layer ${layer + 1}`),
    ...Array.from({ length: view.heads }, (__, head) => button("heads", [layer, head], String(head + 1), `Head ${head + 1} of layer ${layer + 1}`)),
    button("attention", layer, "Attention", `The whole attention block of layer ${layer + 1}`),
    button("mlp", layer, "MLP", `The MLP block of layer ${layer + 1}`)));
  return make("details", { class: "vd-switches", open: true }, make("summary", {}, "Heads and blocks: click to switch off"), make("div", {}, ...rows));
}

function rank(view) {
  const node = make("div", { class: "vd-rank" }), said = words(), list = make("ul", { class: "vd-bars vd-effects" });
  const bar = make("progress", { max: 1, value: 0, hidden: true, "aria-label": "Ranking" });
  const start = (by, text) => {
    const button = make("button", { type: "button" }, text);
    button.addEventListener("click", () => {
      if (ranking) ranking.end();
      ranking = { by, model: view.model, target: view.target, effects: [], show, end };
      bar.hidden = stop.hidden = false;
      bar.value = 0;
      askRank();
    });
    return button;
  };
  const stop = make("button", { type: "button", hidden: true }, "Stop");
  function end() {
    ranking = null;
    bar.hidden = stop.hidden = true;
  }
  stop.addEventListener("click", end);
  function show(count) {
    bar.value = ranking.effects.length / Math.max(1, count);
    if (ranking.effects.length < count) return;
    bar.hidden = stop.hidden = true;
    ranked[view.model] = { photo: shown.photo.id, off: offNow(), effects: ranking.effects };
    showRanked();
  }
  // What was ranked stays while its parts are switched off one after the other.
  function showRanked() {
    const last = ranked[view.model];
    if (!last || last.photo !== shown.photo.id) return;
    said.textContent = last.off === offNow() ? "" : "As ranked before the last change.";
    const sorted = [...last.effects].sort((a, b) => Math.abs(b.change) - Math.abs(a.change)).slice(0, 12);
    const most = Math.max(...sorted.map(({ change }) => Math.abs(change)), 1e-6);
    list.replaceChildren(...sorted.map((effect) => {
      const name = effect.part === "head" ? `layer ${effect.layer + 1}, head ${effect.head + 1}` : `layer ${effect.layer + 1}, ${effect.part === "mlp" ? "MLP" : "attention"}`;
      const off = make("button", { type: "button", title: "Switch it off." }, name);
      off.addEventListener("click", () => (effect.part === "head" ? turn("heads", [effect.layer, effect.head]) : turn(effect.part, effect.layer)));
      return make("li", {}, off, make("span", { class: `vd-length${effect.change < 0 ? " vd-less" : ""}`, style: `--share: ${Math.abs(effect.change) / most}` }), make("span", { class: "vd-number" }, `${effect.change >= 0 ? "+" : "−"}${percent(Math.abs(effect.change))}`), make("span", { class: "vd-number" }, effect.label));
    }));
  }
  node.append(make("div", { class: "vd-bar" }, start("heads", "Rank all heads"), start("blocks", "Rank all blocks"), stop, bar), said, list);
  showRanked();
  return figure("What matters most: each part switched off alone", node);
}

showing.cnn = (view) => {
  const image = make("img", { class: "vd-shown", alt: "The photo as the model was shown it" }), said = words();
  const { node, here } = chart({
    series: [{ points: view.points.map(({ strength, score, label }, index) => [index, score, `${strength}: ${label}, ${view.target} ${percent(score)}`]), name: "" }],
    x: view.unit, y: `Probability of ${view.target}`, ticks: view.points.map(({ strength }, index) => [index, String(strength)]), label: `Probability of ${view.target} while the photo is changed`, choose: (index) => setLocal("strength", index),
  });
  redraws.push(() => {
    const index = Math.min(local.strength === null ? Math.floor(view.points.length / 2) : local.strength, view.points.length - 1), point = view.points[index];
    image.src = view.pictures[index];
    here(index);
    const moves = point.follows === null ? "" : ` Its last feature map follows the shift with ${point.follows.toFixed(2)} (1 is exactly).`;
    said.textContent = `At ${point.strength}: ${point.label}; ${view.target} has ${percent(point.score)}.${moves}`;
  });
  return [make("div", { class: "vd-pair" }, figure("", image, said), node), make("p", { class: "vd-source" }, view.source)];
};
