/* What Segment and Inside share: when they may ask the server, and what they say. `root` and `$` are the component's. */

const PATIENCE = 120000; // milliseconds after which a request counts as lost
const visible = () => root.offsetParent !== null;
// A link that the page was opened with is followed first.
const ready = () => window.vitdemoOpened || !location.search;

function complain(text) {
  const node = $(".vd-alert");
  node.textContent = text;
  node.hidden = !text;
  root.classList.toggle("vd-stale", Boolean(text));
}

function say(text) {
  $(".vd-said").textContent = text;
}

function options(select, entries, wanted) {
  // A list that is open stays so.
  if (JSON.stringify(entries) !== select.dataset.entries) select.replaceChildren(...entries.map(([value, label]) => make("option", { value }, label)));
  select.dataset.entries = JSON.stringify(entries);
  select.value = wanted;
}
