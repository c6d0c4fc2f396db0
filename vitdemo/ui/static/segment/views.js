/* Pictures with their words, folds below them, and what is drawn in one frame. */

function draw() {
  frame = 0;
  if (!photo) return;
  for (const view of views) {
    fit(view.nodes.canvas, photo);
    paint(view, view.nodes.canvas, photo, { only: view.only, rough: view.preview, cut });
    view.nodes.canvas.classList.toggle("vd-cut", cut && LAYERED.includes(view.method));
    reading(view);
  }
  drawCompared();
  if ($(".vd-heads").open) for (const head of shown.heads) drawHead(head);
  if ($(".vd-others").open) for (const other of shown.others) drawOther(other);
  root.dataset.draws = String(Number(root.dataset.draws || 0) + 1);
}

function redraw() {
  if (!frame) frame = requestAnimationFrame(draw);
}

function build(view) {
  const canvas = make("canvas", { role: "img" });
  const words = make("ul", { class: "vd-items" });
  const here = make("p", { class: "vd-here" });
  const caption = make("figcaption", {}, words, here, ...view.notes.map((note) => make("p", { class: /^Unsure/.test(note) ? "vd-unsure" : "" }, note)));
  const name = make("h2", {}, make("span", {}, view.family), make("code", {}, view.model));
  view.nodes = { canvas, words, here, items: [] };
  const figure = make("figure", { class: "vd-view" }, shown.views.length > 1 ? name : null, canvas, caption);
  figure.style.setProperty("--aspect", String(shown.photo.width / shown.photo.height));
  pointable(view, canvas);
  if (LAYERED.includes(view.method)) words.append(...view.masks.map((mask) => item(view, mask)));
  return figure;
}

/* A mask's name and share. Of several, each can be looked at alone. */
function item(view, mask) {
  const swatch = make("span", { class: "vd-swatch", "aria-hidden": "true" });
  swatch.style.background = mask.colour;
  const text = `${mask.name}: ${percent(mask.area)} of the picture`;
  if (view.masks.length < 2) return make("li", {}, text);
  const button = make("button", { type: "button", title: "Show this mask alone.", "aria-pressed": "false" }, swatch, text);
  button.onclick = () => {
    view.only = view.only === mask.number ? 0 : mask.number;
    for (const one of view.nodes.words.querySelectorAll("button")) one.setAttribute("aria-pressed", String(one === button && view.only > 0));
    redraw();
  };
  return make("li", {}, button);
}

/* Words that follow the controls without a request. */
function reading(view) {
  const { canvas, words, here } = view.nodes;
  if (view.cosines) {
    const above = view.cosines.reduce((sum, value) => sum + (value >= tauOf(view) ? 1 : 0), 0) / view.cosines.length;
    const place = patchOf(view);
    const texts = [
      ...(place ? [`Patch in row ${place[0] + 1}, column ${place[1] + 1}`] : []),
      `${percent(above, 0)} of the picture has a cosine of ${tauOf(view).toFixed(2)} or more`,
      `Best matches, cosine: ${view.scores.map((score) => score.toFixed(2)).join(", ")}`,
    ];
    if (words.dataset.text !== texts.join("|")) {
      words.dataset.text = texts.join("|");
      words.replaceChildren(...texts.map((text) => make("li", {}, text)));
    }
    const [row, column] = view.hovered || [];
    here.textContent = view.hovered ? `Cosine here: ${view.cosines[row * view.grid[1] + column].toFixed(2)}` : "";
  }
  here.hidden = !here.textContent;
  canvas.setAttribute("aria-label", [view.model, ...[...words.children].map((one) => one.textContent), ...view.notes].join(". "));
}

/* Left of the line the patches, right of it the refined masks. */
function drawCompared() {
  const fold = $(".vd-compared");
  if (fold.hidden || !fold.open) return;
  const canvas = fold.querySelector("canvas");
  canvas.style.setProperty("--aspect", String(shown.photo.width / shown.photo.height));
  fit(canvas, photo);
  const over = fold.over || (fold.over = document.createElement("canvas"));
  Object.assign(over, { width: canvas.width, height: canvas.height });
  paint(views[0], canvas, photo);
  paint(views[0], over, photo, { rough: true });
  const x = Math.round(line * canvas.width), context = canvas.getContext("2d");
  if (x > 0) context.drawImage(over, 0, 0, x, canvas.height, 0, 0, x, canvas.height);
  context.fillStyle = "white";
  context.fillRect(x - 1, 0, 2, canvas.height);
}

/* ---- heads ---- */

function buildHeads() {
  const fold = $(".vd-heads");
  fold.hidden = !shown.heads.length;
  const cells = shown.heads.map((head, number) => {
    head.canvas = make("canvas", { "aria-hidden": "true" });
    const coarse = ofPatches(head.rough, shown.views[0].grid);
    head.view = { ...shown.views[0], masks: [{ name: head.name, number: 1, coarse, path: coarse, label: [0, 0] }] };
    const button = make("button", { type: "button", title: `Show ${head.name}.`, "aria-pressed": String(state.head === String(number)) }, head.canvas, head.name);
    button.onclick = () => {
      $("[name=head]").value = state.head = String(number);
      showHead();
      ask();
    };
    return button;
  });
  fold.querySelector(".vd-cells").replaceChildren(...cells);
}

/* A head's patches are here already: they are shown while its mask is made. */
function showHead() {
  const head = shown && shown.views[0].method === "attention" && shown.heads[Number(state.head)];
  if (!head || !/^\d+$/.test(state.head)) return;
  views[0] = { ...views[0], masks: head.view.masks, preview: true, only: 0 };
  [...$(".vd-cells").children].forEach((one, number) => one.setAttribute("aria-pressed", String(String(number) === state.head)));
  redraw();
}

function drawHead(head) {
  fit(head.canvas, photo);
  paint({ ...head.view, outliers: [] }, head.canvas, photo);
}

/* ---- other photos ---- */

async function otherOf(other, table) {
  const view = { ...(await decoded(other.view, table)), foreign: true };
  return { ...other, view, pixels: await loaded(other.photo.src) };
}

function buildOthers() {
  $(".vd-others").hidden = !SHARED.includes(state.method);
  const nodes = shown.others.flatMap((other) => {
    other.canvas = make("canvas", { role: "img", "aria-label": other.photo.name });
    const figure = make("figure", {}, other.canvas, make("figcaption", {}, other.photo.name));
    if (!other.said) return [figure];
    if (!other.pairs) return [figure, make("p", {}, `${other.photo.name}: ${other.said}`)];
    const pairs = make("img", { src: other.pairs, alt: `Matches of ${shown.photo.name} and ${other.photo.name}` });
    return [figure, make("figure", { class: "vd-pairs" }, pairs, make("figcaption", {}, `${other.photo.name}: ${other.said}`))];
  });
  $(".vd-found").replaceChildren(...nodes);
}

function drawOther(other) {
  fit(other.canvas, other.pixels);
  paint(other.view, other.canvas, other.pixels);
}

/* ---- facts ---- */

function buildDetails() {
  const list = (view) => make("div", {}, make("h3", {}, view.model), make("ul", {}, ...view.details.map((detail) => make("li", {}, detail))));
  $(".vd-facts").replaceChildren(...shown.views.map(list));
}
