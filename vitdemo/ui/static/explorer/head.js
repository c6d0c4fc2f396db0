/* The attention explorer. Runs once in each gr.HTML that uses it, with `element`, `props`, `server`, `trigger` and `watch` in scope;
 * the files of this folder are joined to one script, in the order that components/explorer.py names.
 *
 * `props.value` holds everything that can be shown: the photo once, and for each model the attention rows of all layers and
 * heads as bytes. Whatever a control changes is computed here, in one animation frame, without a request.
 */
const root = element.querySelector(".vd-explorer");
const $ = (selector) => root.querySelector(selector);
const CAUTION = $(".vd-caution").textContent;
const HINT = $(".vd-hint").textContent;
const state = {
  layer: 1, // depth, 0 to 1
  head: "mean",
  readout: "",
  patch: null, // a place of the photo, in shares of its width and height
  pinned: false, // whether the patch stays where it is while the pointer moves
  opacity: 0.85,
  mass: 1,
  colourMap: "",
  smooth: true,
  common: true,
  view: "overlay",
  whole: true, // the whole photo, or the model's crop
  linear: false,
  boxes: [], // drawn on the photo: x, y, width and height in shares
  measure: "energy", // by which heads are the best
  open: {}, // folds of the pictures, by class
  sort: "as chosen",
  swipe: 0.5,
  left: "",
  right: "",
};
let shown = null; // the result that is on the page
let panels = []; // one a model, in the order in which they were chosen
let pairs = []; // how far each two of them agree
let photo = null;
let tables = {};
let frame = 0;
const single = () => panels.length === 1;
