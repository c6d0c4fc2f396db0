/* Loss and accuracy as SVG. Of the strip that ships only the watched steps are known: those are at equal distances, as they double. */

const WIDTH = 360, HEIGHT = 130;

function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/* `lines`: points `[step, value]` and a class each; `top`: the highest value, or null for that of the points. */
function plot(title, lines, top, write, doubling) {
  const all = lines.flatMap(([, points]) => points);
  if (!all.length) return null;
  const along = (step) => (doubling ? Math.log2(Math.max(1, step)) : step);
  const first = along(Math.min(...all.map(([step]) => step))), last = along(Math.max(...all.map(([step]) => step)));
  const high = top ?? Math.max(...all.map(([, value]) => value)) * 1.05, low = 0;
  const x = (step) => (last > first ? ((along(step) - first) / (last - first)) * WIDTH : WIDTH / 2);
  const y = (value) => HEIGHT * (1 - (value - low) / (high - low || 1));
  const drawing = svg("svg", { viewBox: `-46 -8 ${WIDTH + 56} ${HEIGHT + 32}`, role: "img" });
  drawing.append(svg("path", { class: "vd-axis", d: `M0 0V${HEIGHT}H${WIDTH}` }));
  for (const [kind, points] of lines) {
    if (points.length === 1) drawing.append(svg("circle", { class: `${kind} vd-spot`, cx: x(points[0][0]), cy: y(points[0][1]), r: 3 }));
    else if (points.length) drawing.append(svg("polyline", { class: kind, points: points.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" ") }));
  }
  const words = (left, at, anchor, said) => drawing.append(svg("text", { x: left, y: at, "text-anchor": anchor }, said));
  words(-6, 8, "end", write(high));
  words(-6, HEIGHT, "end", write(low));
  words(0, HEIGHT + 18, "start", `step ${Math.round(Math.min(...all.map(([step]) => step))).toLocaleString("en")}`);
  words(WIDTH, HEIGHT + 18, "end", `step ${Math.round(Math.max(...all.map(([step]) => step))).toLocaleString("en")}`);
  drawing.setAttribute("aria-label", title);
  return make("figure", {}, drawing, make("figcaption", {}, title));
}

const known = (frames, name) => frames.filter((frame) => frame[name] !== null).map((frame) => [frame.step, frame[name]]);

function drawCurves() {
  const mine = which === "own";
  const frames = strips.shipped ? strips.shipped.frames : [];
  const curves = mine ? own.curves || { loss: [], accuracy: [], score: [] } : { loss: known(frames, "loss"), accuracy: [], score: known(frames, "score") };
  const end = (points) => points[points.length - 1][1];
  const figures = [];
  if (curves.loss.length) figures.push(plot(`Training loss: ${end(curves.loss).toFixed(2)}`, [["vd-line", curves.loss]], null, (value) => value.toFixed(1), !mine));
  const shares = curves.score;
  if (shares.length || curves.accuracy.length) {
    const said = [shares.length ? rightOf(end(shares)) : "", curves.accuracy.length ? "dashed: training batches, which are augmented" : ""];
    figures.push(plot(`Accuracy: ${said.filter(Boolean).join("; ")}`, [["vd-random", curves.accuracy], ["vd-line", shares]], 1, (value) => `${Math.round(value * 100)}%`, !mine));
  }
  $(".vd-curves").replaceChildren(...figures.filter(Boolean));
}
