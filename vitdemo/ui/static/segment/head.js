/* The Segment tab. Runs once in its gr.HTML, with `element`, `props`, `trigger`, `watch` and `upload` in scope; the files of this
 * folder are joined to one script, in the order that components/segmenter.py names.
 *
 * `props.value` is what was last answered: settings to start with, a segmentation, a refusal or a file. Masks are asked for; how
 * they are drawn is computed here, in one animation frame, without a request.
 */
const root = element.querySelector(".vd-segment");
const $ = (selector) => root.querySelector(selector);
const percent = (share, digits = 1) => `${(share * 100).toFixed(digits)}%`;
const LAYERED = ["attention", "foreground", "parts"]; // methods whose masks can follow the edges of the photo
const SHARED = ["parts", "pca", "similarity"]; // methods that take several photos together
const COMPARING = ["foreground", "parts", "pca", "similarity"]; // methods that compare patches
const LOCAL = ["opacity", "outlines", "outliers"]; // what needs no server
const WITHIN = {
  parts: ["Only parts of the object", "Group only the patches of the foreground object; otherwise the whole photo is split."],
  pca: ["Hide the background", "Colour only the patches of the foreground object; otherwise the whole photo has colours."],
};

/* What the controls say, by the names that links have for it, and how it is shown. */
const state = {
  model: "",
  beside: "",
  method: "foreground",
  resolution: 320,
  threshold: 0.6,
  head: "mean",
  objects: 1,
  tau: null, // or what suits the model and the photo
  parts: 4,
  within: true,
  matches: 5,
  refine: true,
  clip: false,
  point: null, // in pixels of the photo
  opacity: 0.6,
  outlines: true,
  outliers: false,
};
let shown = null; // the answer that is on the page
let models = []; // what the lists offer
let photo = null; // its pixels
let views = []; // one for each model
let others = []; // files that were uploaded: their names and paths
let frame = 0;
let cut = false; // whether only what the masks cover is shown
let line = 0.5; // of the comparison of patches and pixels
