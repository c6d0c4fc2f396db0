/* Accuracy against milliseconds. The points are buttons: they can be reached by keys, and are tapped on a phone. */

const plot = $(".vd-plot");
const SVG = "http://www.w3.org/2000/svg";
const AREA = { left: 48, right: 24, top: 24, bottom: 40 };
const tip = make("div", { class: "vd-tip", role: "status", hidden: true });

function svg(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  return node;
}

/* Round times between two, more of them where the two are close. */
function timesBetween(low, high) {
  for (const parts of [[1, 2, 5], [1, 1.5, 2, 3, 4, 5, 6, 8], Array.from({ length: 45 }, (_, index) => 1 + index / 5)]) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power += 1) for (const part of parts) found.push(Number((part * 10 ** power).toPrecision(3)));
    const inside = found.filter((one) => one >= low && one <= high);
    if (inside.length > 2) return inside;
  }
  return [];
}

function facts(one) {
  const said = [`${one.model}: probe ${percent(one.probe.value)} (${interval(one.probe)})`];
  if (one.knn) said.push(`k-NN ${percent(one.knn.value)}`);
  said.push(`${ms(one.batched)} in a batch`);
  if (one.alone !== null) said.push(`${ms(one.alone)} alone`);
  said.push(`${millions(one.parameters)} parameters`);
  if (one.pareto) said.push("on the Pareto front");
  return said.join(", ");
}

function drawScatter() {
  if (!result) return;
  const shown = result.candidates.filter((one) => one.probe && one.batched);
  $(".vd-scatter").hidden = shown.length < 2;
  const wide = plot.clientWidth, tall = plot.clientHeight;
  if (shown.length < 2 || !wide) return;
  const least = Math.min(...shown.map((one) => one.batched)) / 1.35, most = Math.max(...shown.map((one) => one.batched)) * 1.35;
  const low = Math.max(0, Math.floor(Math.min(...shown.map((one) => one.probe.low)) * 20 - 0.2) / 20);
  const high = Math.min(1, Math.max(low + 0.1, Math.ceil(Math.max(...shown.map((one) => one.probe.high)) * 20 + 0.2) / 20));
  const x = (time) => AREA.left + (Math.log(time / least) / Math.log(most / least)) * (wide - AREA.left - AREA.right);
  const y = (share) => tall - AREA.bottom - ((share - low) / (high - low)) * (tall - AREA.top - AREA.bottom);
  const drawing = svg("svg", { width: wide, height: tall, "aria-hidden": "true" });
  const words = (left, top, anchor, said) => {
    const node = svg("text", { x: left, y: top, "text-anchor": anchor });
    node.textContent = said;
    drawing.append(node);
  };
  const step = high - low > 0.5 ? 0.2 : high - low > 0.25 ? 0.1 : high - low > 0.12 ? 0.05 : 0.02;
  for (let share = Math.ceil(low / step - 1e-9) * step; share <= high + 1e-9; share += step) {
    drawing.append(svg("line", { class: "vd-grid", x1: AREA.left, x2: wide - AREA.right, y1: y(share), y2: y(share) }));
    words(AREA.left - 6, y(share) + 4, "end", percent(share, 0));
  }
  for (const time of timesBetween(least, most)) {
    drawing.append(svg("line", { class: "vd-grid", x1: x(time), x2: x(time), y1: AREA.top, y2: tall - AREA.bottom }));
    words(x(time), tall - AREA.bottom + 16, "middle", `${time}`);
  }
  words((AREA.left + wide - AREA.right) / 2, tall - 4, "middle", `milliseconds per photo in a batch of ${result.batch}`);
  const front = shown.filter((one) => one.pareto).sort((one, other) => one.batched - other.batched);
  drawing.append(svg("polyline", { class: "vd-front", points: front.map((one) => `${x(one.batched)},${y(one.probe.value)}`).join(" ") }));
  const largest = Math.max(...shown.map((one) => one.parameters));
  const points = shown.map((one) => ({ one, left: x(one.batched), top: y(one.probe.value), side: Math.max(12, 34 * Math.sqrt(one.parameters / largest)) }));
  for (const { one, left } of points) drawing.append(svg("line", { class: "vd-interval", x1: left, x2: left, y1: y(one.probe.low), y2: y(one.probe.high) }));
  const taken = points.map(({ left, top, side }) => [left - side / 2, top - side / 2, left + side / 2, top + side / 2]);
  const buttons = points.map((point) => pointButton(point, taken, wide, tall));
  plot.replaceChildren(drawing, ...buttons, tip);
  tip.hidden = true;
}

/* A point with its name, which goes where nothing else is. */
function pointButton({ one, left, top, side }, taken, wide, tall) {
  const button = make("button", { type: "button", class: "vd-point", style: `left: ${left}px; top: ${top}px; width: ${Math.max(24, side)}px; height: ${Math.max(24, side)}px` });
  button.append(make("span", { class: "vd-spot", style: `width: ${side}px; height: ${side}px` }));
  button.setAttribute("aria-label", facts(one));
  button.setAttribute("aria-pressed", String(one.model === picked.model));
  button.dataset.pareto = one.pareto;
  button.dataset.model = one.model;
  const size = one.model.length * 7.2, away = side / 2 + 5;
  const tries = [[away, -9], [-away - size, -9], [-size / 2, -away - 18], [-size / 2, away], [away, -away - 12], [away, away - 4], [-away - size, -away - 12], [-away - size, away - 4]];
  const boxes = tries.map(([right, down]) => [left + right, top + down, left + right + size, top + down + 18]);
  const fits = (box) => box[0] >= 0 && box[2] <= wide && box[1] >= 0 && box[3] <= tall && !taken.some((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3]);
  const place = Math.max(0, boxes.findIndex(fits));
  taken.push(boxes[place]);
  const across = Math.min(tries[place][0], wide - left - size);
  button.append(make("span", { class: "vd-name", style: `left: calc(50% + ${across}px); top: calc(50% + ${tries[place][1]}px)` }, one.model));
  const show = () => {
    tip.textContent = facts(one);
    tip.hidden = false;
    const box = [tip.offsetWidth, tip.offsetHeight];
    tip.style.left = `${Math.max(0, Math.min(wide - box[0], left - box[0] / 2))}px`;
    tip.style.top = `${top - away - box[1] - 6 > 0 ? top - away - box[1] - 6 : top + away + 6}px`;
  };
  button.addEventListener("pointerenter", show);
  button.addEventListener("focus", show);
  button.addEventListener("click", () => {
    pickModel(one.model);
    show();
  });
  for (const end of ["pointerleave", "blur"]) button.addEventListener(end, () => (tip.hidden = true));
  return button;
}

new ResizeObserver(() => drawScatter()).observe(plot);
