/* Several models on one photo: who agrees with whom, in which order they stand, and two of them laid over each other. */

const best = (panel) => (panel.labels.length ? panel.labels[0].label : "");

/* Of each answer its models, the most frequent first. */
function answers() {
  const groups = new Map();
  for (const panel of panels) if (best(panel)) groups.set(best(panel), [...(groups.get(best(panel)) || []), panel]);
  return [...groups.entries()].sort((a, b) => b[1].length - a[1].length);
}

/* Okabe & Ito 2008: distinguishable with colour blindness. */
const ANSWERS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442"];
const COUNTS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
const counted = (count) => COUNTS[count] || String(count);

/* Who says what, in one line, with a colour for each answer. */
function showVerdict() {
  const groups = answers();
  groups.forEach(([, models], rank) => {
    for (const panel of models) panel.nodes.section.style.setProperty("--answer", ANSWERS[rank % ANSWERS.length]);
  });
  const said = groups.reduce((sum, [, models]) => sum + models.length, 0);
  const line = $(".vd-verdict");
  line.replaceChildren();
  if (!groups.length) return;
  const tag = (label, models, text) => {
    const node = make("strong", { title: models.map((panel) => panel.model).join(", ") }, make("span", { class: "vd-dot", "aria-hidden": "true" }), text);
    node.style.setProperty("--answer", ANSWERS[groups.findIndex(([one]) => one === label) % ANSWERS.length]);
    return node;
  };
  if (groups.length === 1) {
    const [label, models] = groups[0];
    if (said === 1) line.append(`${models[0].model} says `, tag(label, models, label));
    else line.append(said === 2 ? "Both say " : `All ${counted(said)} say `, tag(label, models, label));
  } else {
    const tie = groups[0][1].length === groups[1][1].length;
    line.append(said === groups.length ? "All differ: " : tie ? "A tie: " : "");
    groups.forEach(([label, models], rank) => {
      if (rank) line.append(", ");
      line.append(tag(label, models, said === groups.length ? label : `${models.length} ${label}`));
    });
  }
  const judged = panels.map(rightness).filter((right) => right !== null);
  const right = judged.filter(Boolean).length;
  if (judged.length) {
    const truth = right === judged.length ? "right" : right ? `it is ${shown.truth}: ${right} of ${judged.length} right` : `wrong: it is ${shown.truth}`;
    line.append(make("span", { class: right ? "vd-right-mark" : "vd-wrong-mark" }, right ? " ✓ " : " ✗ "), truth);
  }
  root.classList.toggle("vd-some-unsure", panels.some((panel) => best(panel) && panel.uncovered));
  const unsure = panels.filter((panel) => best(panel) && panel.uncovered).length;
  if (unsure) line.append(make("span", { class: "vd-tag" }, unsure === said ? "Low confidence" : `Low confidence: ${unsure} of ${said}`));
}

/* What the small models know. */
function showAbout() {
  const small = panels.filter((panel) => panel.embedded && panel.classes.length);
  $(".vd-about").hidden = small.length < panels.filter((panel) => panel.labels.length).length || !small.length;
  if (!small.length) return;
  $(".vd-known summary").textContent = `They know ${small[0].classes.length} classes`;
  $(".vd-known p").textContent = small[0].classes.join(", ");
}

/* ---- order ---- */

const ORDERS = {
  "as chosen": (panel) => panel.index,
  name: (panel) => panel.model,
  "best score": (panel) => -(panel.labels.length ? panel.labels[0].score : -1),
  label: (panel) => best(panel) || "\uffff",
  time: (panel) => panel.ms,
  size: (panel) => panel.parameters,
  "agreement of maps": (panel) => -panel.agreement,
};

function sortPanels() {
  const value = ORDERS[state.sort];
  const order = [...panels].sort((a, b) => {
    const [one, other] = [value(a), value(b)];
    return one < other ? -1 : one > other ? 1 : a.index - b.index;
  });
  const grid = $(".vd-panels");
  order.forEach((panel, place) => {
    if (grid.children[place] !== panel.nodes.section) grid.insertBefore(panel.nodes.section, grid.children[place] || null);
  });
}

/* ---- agreement ---- */

function buildMatrix() {
  const table = $(".vd-matrix");
  const head = make("tr", {}, make("td"), ...panels.map((panel) => make("th", { scope: "col", title: panel.model }, panel.model)));
  const rows = panels.map((panel, i) =>
    make("tr", {}, make("th", { scope: "row" }, panel.model), ...panels.map((_, j) => make("td", { class: i === j ? "vd-same" : "" })))
  );
  table.replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
}

/* Above the diagonal how the maps rank the patches, below it how far their brightest parts are the same. */
function drawMatrix(maps) {
  const sides = panels.map((panel, i) => ({ panel, map: maps[i], sampled: {} }));
  const rows = $(".vd-matrix").tBodies[0].rows;
  const sums = panels.map(() => [0, 0]);
  pairs = [];
  for (let i = 0; i < panels.length; i++) {
    for (let j = i + 1; j < panels.length; j++) {
      const found = maps[i] && maps[i].values && maps[j] && maps[j].values ? agreementOf(sides[i], sides[j]) : null;
      const comparable = best(panels[i]) && best(panels[j]) && panels[i].vocabulary === panels[j].vocabulary;
      const differ = comparable && best(panels[i]) !== best(panels[j]);
      const said = comparable ? (differ ? "different labels" : "same label") : "labels not comparable";
      pairs.push({ models: [panels[i].model, panels[j].model], said, ...found });
      if (found) for (const k of [i, j]) sums[k] = [sums[k][0] + found.correlation, sums[k][1] + 1];
      const sign = differ ? " ≠" : "";
      cell(rows[i].cells[j + 1], found && found.correlation, (value) => value.toFixed(2) + sign, `${said}, rank correlation of the maps`);
      cell(rows[j].cells[i + 1], found && found.overlap, (value) => percent(value) + sign, `${said}, overlap of the brightest patches`);
    }
  }
  panels.forEach((panel, i) => { panel.agreement = sums[i][1] ? sums[i][0] / sums[i][1] : -2; });
  if (state.sort === "agreement of maps") sortPanels();
}

function cell(node, value, worded, title) {
  const known = value !== null && value !== undefined;
  const text = known ? worded(value) : "–";
  if (node.textContent !== text) node.textContent = text;
  node.title = title;
  node.style.setProperty("--share", known ? `${Math.round(Math.max(0, value) * 40)}%` : "0%");
}

/* ---- swipe ---- */

function buildSwipe() {
  const names = panels.filter((panel) => Object.keys(panel.readouts).length).map((panel) => [String(panel.index), panel.model]);
  $(".vd-swipe").hidden = names.length < 2;
  if (names.length < 2) return;
  state.left = options($("[name=left]"), names, state.left || names[0][0]);
  state.right = options($("[name=right]"), names, state.right || names[1][0]);
  const canvas = $(".vd-swipe canvas");
  size(canvas, 640);
  canvas.onpointerdown = canvas.onpointermove = (event) => {
    if (event.type === "pointermove" && !event.buttons) return;
    const box = canvas.getBoundingClientRect();
    $("[name=swipe]").value = String(Math.round(Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1) * 100));
    state.swipe = Number($("[name=swipe]").value) / 100;
    redraw();
  };
}

function drawSwipe(maps, scales) {
  const details = $(".vd-swipe");
  if (details.hidden || !details.open) return;
  const canvas = $(".vd-swipe canvas");
  const context = canvas.getContext("2d");
  const [left, right] = [Number(state.left), Number(state.right)];
  const over = panels[right].over || (panels[right].over = document.createElement("canvas"));
  if (over.width !== canvas.width || over.height !== canvas.height) Object.assign(over, { width: canvas.width, height: canvas.height });
  paint(panels[left], maps[left], scales[left], canvas, [0, 0, 1, 1]);
  paint(panels[right], maps[right], scales[right], over, [0, 0, 1, 1]);
  const x = Math.round(state.swipe * canvas.width);
  if (x < canvas.width) {
    context.clearRect(x, 0, canvas.width - x, canvas.height);
    context.drawImage(over, x, 0, canvas.width - x, canvas.height, x, 0, canvas.width - x, canvas.height);
  }
  context.fillStyle = "white";
  context.fillRect(x - 1, 0, 2, canvas.height);
  canvas.setAttribute("aria-label", `Left of the line ${panels[left].model}, right of it ${panels[right].model}`);
}
