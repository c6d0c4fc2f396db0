/* The photos as points, by the features of two models. Drawn on canvases: there may be ten thousand. */

const RIGHT = "#2563eb", WRONG = "#d97706", FAINT = 0.12, NEAR = 18;
/* From the one to the other, by how much models differ; most differ by less than half. */
const DIFFERENCE = Array.from({ length: 256 }, (_, shade) => {
  const share = Math.min(1, shade / 153);
  return `rgb(${[[37, 217], [99, 119], [235, 6]].map(([from, to]) => Math.round(from + share * (to - from))).join(" ")})`;
});
const canvases = [...root.querySelectorAll(".vd-map")];
const peek = $(".vd-peek");
let maps = []; // of each canvas: model, places in -1..1, answers
let labels = null; // class of each photo, or -1
let shades = null; // of "agreement": 0 to 255
let assigned = null; // of "cluster"
let hovered = null;

async function loadMaps() {
  const projection = $("[name=projection]").value, colours = $("[name=colours]").value, models = pair();
  try {
    const wanted = models.map((model) => asking({ action: "map", model, projection }));
    const more = colours === "agreement" ? asking({ action: "agreement", models: models.length > 1 ? models : result.featured }) : colours === "cluster" ? asking(clusterQuery()) : null;
    if (projection !== "pca") text(".vd-read", "Placing the photos by t-SNE.");
    const [extra, ...found] = await Promise.all([more, ...wanted]);
    if (String(models) !== String(pair()) || projection !== $("[name=projection]").value || colours !== $("[name=colours]").value) return;
    text(".vd-read", "");
    maps = found.map((one, index) => ({ model: models[index], places: numbersOf(one.places, Int16Array), answers: one.answers ? numbersOf(one.answers, Int16Array) : null }));
    if (colours === "agreement") shades = numbersOf(extra.scores, Uint8Array);
    if (colours === "cluster") assigned = numbersOf(extra.assigned, Int16Array);
  } catch (error) {
    return trouble(error.message);
  }
  drawMaps();
}

function drawMaps() {
  if (picked.view !== "map" || !result || !maps.length) return;
  canvases.forEach((canvas, index) => {
    canvas.closest("figure").hidden = !maps[index];
    if (maps[index]) drawMap(canvas, maps[index]);
  });
  legend();
}

const across = (canvas, map, photo) => [(map.places[2 * photo] / 32767 / 2 + 0.5) * 0.94 + 0.03, (0.5 - map.places[2 * photo + 1] / 32767 / 2) * 0.94 + 0.03].map((share, axis) => share * (axis ? canvas.clientHeight : canvas.clientWidth));

function drawMap(canvas, map) {
  const scale = devicePixelRatio || 1, wide = canvas.clientWidth, tall = canvas.clientHeight;
  if (!wide) return;
  if (canvas.width !== Math.round(wide * scale) || canvas.height !== Math.round(tall * scale)) Object.assign(canvas, { width: Math.round(wide * scale), height: Math.round(tall * scale) });
  const colours = $("[name=colours]").value, only = $("[name=class]").value, radius = result.count > 3000 ? 1.7 : result.count > 600 ? 2.6 : 4;
  // Points stay while the pointer moves: only the rings are drawn anew.
  const look = [wide, tall, scale, colours, only, dark()].join(" ");
  if (map.look !== look) Object.assign(map, { look, points: pointsOf(canvas, map, { colours, only, radius, scale }) });
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.drawImage(map.points, 0, 0);
  context.setTransform(scale, 0, 0, scale, 0, 0);
  for (const [photo, line] of [[picked.photo, 3], [hovered, 2]]) {
    if (photo === null) continue;
    const [x, y] = across(canvas, map, photo);
    for (const [style, more] of [[dark() ? "#000" : "#fff", 2], [dark() ? "#fff" : "#000", 0]]) {
      Object.assign(context, { strokeStyle: style, lineWidth: line + more });
      context.beginPath();
      context.arc(x, y, radius + 5, 0, 2 * Math.PI);
      context.stroke();
    }
  }
  canvas.closest("figure").querySelector("figcaption").replaceChildren(make("code", {}, map.model));
  canvas.setAttribute("aria-label", `${count(result.count, "photo")} by the features of ${map.model}; arrow keys move from photo to photo, Enter chooses`);
}

/* All photos, wrong ones on top. */
function pointsOf(canvas, map, { colours, only, radius, scale }) {
  const layer = make("canvas", { width: canvas.width, height: canvas.height }), context = layer.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  const palette = new Map(), hueOf = (index) => palette.get(index) || palette.set(index, hue(index)).get(index);
  const late = [];
  for (let photo = 0; photo < result.count; photo += 1) {
    const wrong = colours === "right" && map.answers && labels[photo] >= 0 && map.answers[photo] !== labels[photo];
    if (wrong) late.push(photo);
    else dot(photo, false);
  }
  for (const photo of late) dot(photo, true);
  function dot(photo, wrong) {
    const [x, y] = across(canvas, map, photo);
    const grey = "#94a3b8", label = labels[photo];
    context.globalAlpha = only !== "" && label !== Number(only) ? FAINT : 0.85;
    if (colours === "right") context.fillStyle = label < 0 ? grey : wrong ? WRONG : RIGHT;
    else if (colours === "agreement") context.fillStyle = shades ? DIFFERENCE[shades[photo]] : grey;
    else if (colours === "cluster") context.fillStyle = assigned ? hueOf(assigned[photo]) : grey;
    else context.fillStyle = label < 0 ? grey : hueOf(label);
    if (wrong) {
      context.save();
      context.translate(x, y);
      context.rotate(Math.PI / 4);
      const long = radius * 1.7, thick = Math.max(1, radius * 0.7);
      context.fillRect(-long, -thick / 2, 2 * long, thick);
      context.fillRect(-thick / 2, -long, thick, 2 * long);
      context.restore();
    } else {
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.fill();
    }
  }
  return layer;
}

function legend() {
  const colours = $("[name=colours]").value, node = $(".vd-legend");
  const swatch = (colour, words, sign = "●") => make("span", {}, make("span", { style: `color: ${colour}`, "aria-hidden": "true" }, `${sign} `), words);
  if (colours === "right") node.replaceChildren(swatch(RIGHT, "the probe is right"), swatch(WRONG, "it is wrong", "✕"));
  else if (colours === "agreement") node.replaceChildren(swatch(RIGHT, "models agree"), swatch(WRONG, "they differ"));
  else if (colours === "cluster") node.replaceChildren(`Clusters by ${picked.a}, as under Clusters.`);
  else if (result.classes.length <= 12) node.replaceChildren(...result.classes.map((name, index) => swatch(hue(index), name)));
  else node.replaceChildren(`${result.classes.length} classes: point at a photo to read its own, or choose one under Class.`);
  node.append(make("span", {}, "A click shows a photo's nearest neighbours by both models."));
}

/* ---- pointing ---- */

function nearest(canvas, map, x, y) {
  let best = null, least = NEAR ** 2;
  for (let photo = 0; photo < result.count; photo += 1) {
    const [left, top] = across(canvas, map, photo), away = (left - x) ** 2 + (top - y) ** 2;
    if (away < least) [best, least] = [photo, away];
  }
  return best;
}

let drawing = 0;
async function hover(photo, index) {
  if (photo === hovered) return;
  hovered = photo;
  if (!drawing) drawing = requestAnimationFrame(() => { drawing = 0; drawMaps(); });
  if (photo === null) return (peek.hidden = true);
  const found = await card(photo);
  if (photo !== hovered || !maps[index]) return;
  const said = maps.filter(({ answers }) => answers && answers[photo] >= 0).map(({ model, answers }) => `${model}: ${result.classes[answers[photo]]}`);
  peek.replaceChildren(found.src ? make("img", { src: found.src, alt: "" }) : "", make("div", {}, make("strong", {}, found.label || found.name), ...said.map((line) => make("div", {}, line))));
  text(".vd-read", [found.name, found.label, ...said].filter(Boolean).join(", "));
  peek.hidden = false;
  placePeek(photo, index);
}

function placePeek(photo, index) {
  const canvas = canvases[index], box = canvas.getBoundingClientRect(), [x, y] = across(canvas, maps[index], photo);
  peek.style.left = `${Math.max(4, Math.min(innerWidth - peek.offsetWidth - 4, box.left + x + 14))}px`;
  peek.style.top = `${Math.max(4, Math.min(innerHeight - peek.offsetHeight - 4, box.top + y + 14))}px`;
}

/* The next photo in a direction: near, and not far off that line. */
function along(canvas, map, from, [right, down]) {
  const [x, y] = across(canvas, map, from);
  let best = from, least = Infinity;
  for (let photo = 0; photo < result.count; photo += 1) {
    const [left, top] = across(canvas, map, photo), ahead = (left - x) * right + (top - y) * down, beside = Math.abs((left - x) * down) + Math.abs((top - y) * right);
    if (photo === from || ahead < 0.5 || beside > ahead * 2) continue;
    const cost = ahead + 2 * beside;
    if (cost < least) [best, least] = [photo, cost];
  }
  return best;
}

canvases.forEach((canvas, index) => {
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return maps[index] ? nearest(canvas, maps[index], event.clientX - box.left, event.clientY - box.top) : null;
  };
  canvas.addEventListener("pointermove", (event) => event.pointerType === "mouse" && hover(at(event), index));
  canvas.addEventListener("pointerleave", () => hover(null, index));
  canvas.addEventListener("blur", () => hover(null, index));
  canvas.addEventListener("click", (event) => {
    const photo = at(event);
    if (photo !== null) showPhoto(photo);
  });
  canvas.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!maps[index] || !(way || event.key === "Enter")) return;
    event.preventDefault();
    const from = hovered ?? picked.photo ?? 0;
    if (way) hover(along(canvas, maps[index], from, way), index);
    else showPhoto(from);
  });
});
/* What keys lead to stays; the pointer is somewhere else after the page has moved. */
function onScroll() {
  const index = canvases.indexOf(document.activeElement);
  if (index < 0 || hovered === null || !maps[index]) hover(null, 0);
  else placePeek(hovered, index);
}
addEventListener("scroll", onScroll, { passive: true, capture: true });
new ResizeObserver(() => drawMaps()).observe($(".vd-maps"));
