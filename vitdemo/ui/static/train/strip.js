/* One photo, a frame for each watched step: maps as the explorer draws them, on one scale for all steps of a layer. */

const shownStrip = () => strips[which];

/* Take in what the server sent: new frames, and with the first of them the photo. */
async function takeStrip(name, value, more = {}) {
  if (!value) return;
  if (value.photo) {
    const image = new Image();
    image.src = value.photo;
    await image.decode();
    strips[name] = { image, crop: value.crop, name: value.name, grid: value.grid, layers: value.layers, heads: value.heads, frames: [] };
  }
  const strip = strips[name];
  if (!strip) return;
  Object.assign(strip, more);
  const last = strip.frames.length ? strip.frames[strip.frames.length - 1].step : 0;
  const atEnd = !strip.frames.length || Number($("[name=frame]").value) === strip.frames.length - 1;
  for (const frame of value.frames) if (frame.step > last) strip.frames.push({ ...frame, bytes: bytesOf(frame.data) });
  if (name === which && (value.photo || value.frames.length)) setUp(atEnd && !playing);
}

/* Controls and thumbnails for the strip that is shown. */
function setUp(toEnd = true) {
  const strip = shownStrip();
  if (!strip || !strip.frames.length) {
    $(".vd-frames").replaceChildren();
    $(".vd-picture canvas").getContext("2d").reset();
    return text(".vd-text", "The first map comes with the first step.");
  }
  const frame = $("[name=frame]"), layer = $("[name=layer]"), head = $("[name=head]");
  frame.max = strip.frames.length - 1;
  if (toEnd) frame.value = frame.max;
  if (Number(layer.max) !== strip.layers - 1) Object.assign(layer, { max: strip.layers - 1, value: strip.layers - 1 });
  if (head.options.length !== strip.heads + 3) {
    const names = ["mean", "max", "min", ...Array.from({ length: strip.heads }, (_, i) => String(i))];
    head.replaceChildren(...names.map((one) => make("option", { value: one }, isHead(one) ? `head ${Number(one) + 1}` : one)));
  }
  const list = $(".vd-frames");
  while (list.children.length > strip.frames.length) list.lastChild.remove();
  strip.frames.forEach((one, index) => {
    if (!list.children[index]) {
      const canvas = make("canvas", { width: 1, height: 1 });
      canvas.setAttribute("aria-hidden", "true");
      const button = make("button", { type: "button" }, canvas, make("span", {}));
      button.dataset.index = index;
      list.append(make("li", {}, button));
    }
    list.children[index].querySelector("span").textContent = one.step.toLocaleString("en");
    list.children[index].firstChild.setAttribute("aria-label", `Step ${one.step}`);
  });
  drawStrip();
}

function mapOf(strip, frame) {
  const layer = Number($("[name=layer]").value);
  return fused(frame, layer * strip.heads, strip.heads, strip.grid[0] * strip.grid[1], $("[name=head]").value);
}

let drawing = 0;
function drawStrip() {
  if (!drawing) drawing = requestAnimationFrame(() => { drawing = 0; drawNow(); });
}

function drawNow() {
  const strip = shownStrip();
  if (!strip || !strip.frames.length) return;
  const at = Math.min(Number($("[name=frame]").value), strip.frames.length - 1);
  const maps = strip.frames.map((frame) => mapOf(strip, frame));
  const scale = scaleOf(maps);
  paintFrame($(".vd-picture canvas"), strip, maps[at], scale, 560);
  [...$(".vd-frames").children].forEach((item, index) => {
    const button = item.firstChild;
    button.setAttribute("aria-pressed", String(index === at));
    paintFrame(button.firstChild, strip, maps[index], scale, 112);
  });
  const frame = strip.frames[at], layer = Number($("[name=layer]").value);
  text(".vd-step", `${frame.step.toLocaleString("en")}`);
  text(".vd-layer-number", `${layer + 1} of ${strip.layers}`);
  const [low, high] = scaleEnds(scale, true);
  const facts = [`Step ${frame.step.toLocaleString("en")}`];
  if (frame.loss !== null) facts.push(`loss ${frame.loss.toFixed(2)}`);
  if (frame.score !== null) facts.push(rightOf(frame.score));
  text(".vd-text", `${facts.join(", ")}. Colours: ${low} to ${high} of attention per patch, the same in all steps.`);
  const canvas = $(".vd-picture canvas");
  canvas.setAttribute("aria-label", `${strip.name}: ${facts[0].toLowerCase()}, layer ${layer + 1} of ${strip.layers}`);
  canvas.dataset.step = frame.step;
}

/* What the model sees of the photo, with a map over it. */
function paintFrame(canvas, strip, map, scale, side) {
  const { naturalWidth: width, naturalHeight: height } = strip.image;
  const [left, top, right, bottom] = [strip.crop[0] * width, strip.crop[1] * height, strip.crop[2] * width, strip.crop[3] * height];
  if (canvas.width !== side) Object.assign(canvas, { width: side, height: side });
  const context = canvas.getContext("2d");
  context.drawImage(strip.image, left, top, right - left, bottom - top, 0, 0, side, side);
  mute(context, [0, 0, side, side], OPACITY);
  const tile = Math.min(side, 280), layer = document.createElement("canvas");
  putPixels(layer, pixelsOf(map, strip.grid, tile, tile, scale, table), tile, tile);
  context.globalAlpha = OPACITY;
  context.drawImage(layer, 0, 0, side, side);
  context.globalAlpha = 1;
}

let playing = 0;
function play() {
  const button = $(".vd-play"), frame = $("[name=frame]");
  if (playing) {
    clearInterval(playing);
    playing = 0;
  } else {
    const step = () => {
      if (!root.isConnected || !root.offsetParent) return play();
      frame.value = Number(frame.value) >= Number(frame.max) ? 0 : Number(frame.value) + 1;
      drawStrip();
    };
    step();
    playing = setInterval(step, 700);
  }
  button.setAttribute("aria-pressed", String(Boolean(playing)));
  button.textContent = playing ? "❚❚ Stop" : "▶ Play";
}

function showStrip(name) {
  which = name;
  for (const button of root.querySelectorAll("[data-show]")) button.setAttribute("aria-pressed", String(button.dataset.show === name));
  text(".vd-about", (shownStrip() && shownStrip().about) || "");
  setUp();
  drawCurves();
}
