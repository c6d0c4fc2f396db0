/* The Inside tab. Runs once in its gr.HTML, with `element`, `props`, `trigger` and `watch` in scope; the files of this folder are
 * joined to one script, in the order that components/inside.py names.
 *
 * `props.value` is what was last answered: settings to start with, a step, some of a ranking, or a refusal. What needs no model,
 * as sliders over what is here already, is drawn without a request.
 */
const root = element.querySelector(".vd-inside");
const $ = (selector) => root.querySelector(selector);
const percent = (share, digits = 1) => `${(share * 100).toFixed(digits)}%`;
const STEPS = { patches: "Patches", positions: "Positions", attention: "Attention", distance: "Distance", layers: "Layers", cost: "Size and cost", apart: "Take it apart", cnn: "ViT and CNN", training: "How they learn" };
const NAMES = Object.keys(STEPS);

/* What the controls say, by the names that links have for it. */
const state = {
  step: "patches",
  model: "",
  beside: "",
  layer: -1,
  head: 0,
  point: null, // shares of the photo
  seed: 0,
  kind: "shuffle",
  heads: [],
  attention: [],
  mlp: [],
  patches: [],
  fill: "grey",
};
const EMPTY = JSON.parse(JSON.stringify(state));

/* What is shown of an answer without asking anew. */
const local = { read: null, side: null, cut: null, strength: null, tile: null, query: null };
let shown = null; // the answer that is on the page
let models = []; // what the lists offer
let photo = null; // its pixels
let table = null; // colours
let redraws = []; // functions that draw the open step anew

function redraw() {
  for (const one of redraws) one();
}

/* A picture, once it can be drawn. */
async function loaded(src) {
  const image = new Image();
  image.src = src;
  await image.decode();
  return image;
}

const floats = ({ data, low, high }) => Float32Array.from(bytesOf(data), (byte) => low + (byte / 255) * (high - low));
const plural = (count, word, ending = "s") => `${count} ${word}${count === 1 ? "" : ending}`;
