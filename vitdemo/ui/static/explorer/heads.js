/* All heads at a glance, and a walk through the layers. */

/* One row of small maps a layer: every layer where one model is shown, else the chosen one. A click brings that map into the
 * picture. Built and drawn while it is open only. */
function headGrid(panel) {
  const cells = make("div", { class: "vd-cells", role: "group", "aria-label": `Heads of ${panel.model}` });
  cells.style.setProperty("--heads", panel.heads);
  panel.nodes.cells = cells;
  return fold("vd-heads", "All heads", cells);
}

function drawHeads(panel) {
  const { cells } = panel.nodes;
  if (!cells || !state.open["vd-heads"]) return;
  const layers = single() ? Array.from({ length: panel.layers }, (_, layer) => layer) : [layerOf(panel)];
  const wanted = layers.length * panel.heads;
  while (cells.children.length > wanted) cells.lastChild.remove();
  while (cells.children.length < wanted) {
    const button = make("button", { type: "button" }, make("canvas", { "aria-hidden": "true" }));
    button.onclick = () => choose(Number(button.dataset.layer), button.dataset.head, panel);
    cells.append(button);
  }
  const entry = panel.readouts[state.readout in panel.readouts ? state.readout : Object.keys(panel.readouts)[0]];
  const key = [shown.id, state.readout, state.colourMap, layers].join();
  layers.forEach((layer, row) => {
    for (let head = 0; head < panel.heads; head++) {
      const button = cells.children[row * panel.heads + head];
      const here = layer === layerOf(panel) && state.head === String(head);
      button.setAttribute("aria-pressed", String(here));
      button.dataset.layer = layer;
      button.dataset.head = head;
      button.title = `layer ${layer + 1}, head ${head + 1}`;
      button.setAttribute("aria-label", button.title);
      if (cells.dataset.key !== key) {
        const values = fused(entry, layer * panel.heads, panel.heads, panel.patches, String(head));
        thumbnail(button.firstChild, values, panel.grid);
      }
    }
  });
  cells.dataset.key = key;
}

function choose(layer, head, panel) {
  const again = state.head === head && layer === layerOf(panel);
  state.layer = panel.layers > 1 ? layer / (panel.layers - 1) : 1;
  state.head = $("[name=head]").value = again ? "mean" : head;
  if (state.readout === "patch") state.readout = $("[name=readout]").value = before;
  showLayer();
  redraw();
}

let playing = 0;

function play() {
  const button = $(".vd-play");
  if (playing) {
    clearInterval(playing);
    playing = 0;
  } else {
    const step = () => {
      const slider = $("[name=layer]");
      if (!root.isConnected || !root.offsetParent) return play();
      const next = Number(slider.value) >= Number(slider.max) ? 0 : Number(slider.value) + 1;
      setLayer(next);
    };
    playing = setInterval(step, 700);
    step();
  }
  button.setAttribute("aria-pressed", String(Boolean(playing)));
  button.textContent = playing ? "❚❚ Stop" : "▶ Play";
}
