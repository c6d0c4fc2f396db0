/* The Train tab. Runs once in its gr.HTML, with `element`, `props`, `trigger`, `watch`, `server` and `upload` in scope; the files of
 * this folder are joined to one script, in the order that components/trainer.py names.
 *
 * The strip and the curves are drawn here. How far a training is, is asked for while the tab is seen.
 */
const root = element.querySelector(".vd-train");
const $ = (selector) => root.querySelector(selector);
const { offered } = props.value;
const table = tableOf(offered.table).over;
const percent = (share) => `${(share * 100).toFixed(1)}%`;
/* Recipes without a classifier are judged by their nearest neighbours. */
const rightOf = (share) => `${percent(share)} of the held-out photos right${which === "own" && !own.classifies ? " by their nearest neighbours" : ""}`;
const OPACITY = 0.85;
const EVERY = 1000; // milliseconds between two questions

/* Whose training it is: only this browser knows, also after a reload. */
const token = (() => {
  const made = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  try {
    if (!localStorage.getItem("vitdemo-training")) localStorage.setItem("vitdemo-training", made);
    return localStorage.getItem("vitdemo-training");
  } catch {
    return made;
  }
})();

const strips = { shipped: null, own: null }; // each with frames, its photo as an image, and what is said of it
let which = "shipped";
let own = { run: 0 }; // the server's last answer
let asked = 0; // counts events

function text(selector, words) {
  const node = $(selector);
  if (node.textContent !== words) node.textContent = words;
}
