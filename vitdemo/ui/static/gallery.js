/* Thumbnails of several photos. Runs once, with `element`, `props`, `watch` and `trigger` in scope; the server sends all that is
 * done so far whenever a photo more is. Whatever came with a file, its name above all, gets into the page as text only.
 */
const root = element.querySelector(".vd-gallery");
const list = root.querySelector("ol");
const status = root.querySelector("[role=status]");
const bar = root.querySelector("progress");
const link = root.querySelector(".vd-csv");
let run = "";
let places = []; // a list item a photo, in the order in which they were given

function make(tag, name, ...children) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  node.append(...children.filter((child) => child !== null));
  return node;
}

function measure(card) {
  const share = card.disagreement;
  const fill = make("span", "vd-fill");
  fill.style.width = `${(share || 0) * 100}%`;
  const number = make("span", "vd-number", share === null ? "–" : share.toFixed(2));
  const maps = card.maps === null ? null : make("span", "vd-maps", `Maps: ${card.maps.toFixed(2)} apart`);
  return make("div", "vd-measure", number, make("span", "vd-words", card.words), make("span", "vd-track", fill), maps);
}

function groups(card) {
  // A line breaks between names, not inside one.
  const names = (models) => models.map((name, i) => make("span", "", i < models.length - 1 ? `${name}, ` : name));
  const items = card.groups.map(([label, models]) => make("li", "", make("strong", "", label), ": ", ...names(models)));
  if (card.doubt.length) items.push(make("li", "vd-doubt", "Low confidence: ", ...names(card.doubt)));
  return make("ul", "", ...items);
}

function titled(text) {
  const title = make("span", "vd-title", text);
  title.title = text;
  return title;
}

function fill(place, card, index) {
  const title = titled(place.dataset.title);
  if (card.error) {
    const mark = make("span", "vd-thumb vd-broken", "No picture");
    mark.setAttribute("aria-hidden", "true");
    place.replaceChildren(mark, title, make("p", "vd-error", card.error));
    return;
  }
  const image = make("img");
  image.src = card.src;
  image.alt = "";
  const button = make("button", "", make("span", "vd-thumb", image), title);
  button.type = "button";
  button.dataset.index = index;
  button.setAttribute("aria-label", `Show ${place.dataset.title} above`);
  place.replaceChildren(button, measure(card), groups(card));
}

function begin(value) {
  run = value.run;
  list.style.setProperty("--models", value.models);
  places = value.titles.map((title) => {
    const place = make("li", "vd-place", make("span", "vd-thumb"), titled(title));
    place.dataset.title = title;
    return place;
  });
  list.replaceChildren(...places);
}

/* Only what is not yet in its place is moved, as a moved node loses the focus; who has it gets it back. */
function arrange(nodes) {
  const focused = root.contains(document.activeElement) ? document.activeElement : null;
  for (const node of [...list.children]) if (!nodes.includes(node)) node.remove();
  nodes.forEach((node, index) => {
    if (list.children[index] !== node) list.insertBefore(node, list.children[index] || null);
  });
  if (focused && focused !== document.activeElement) focused.focus({ preventScroll: true });
}

function show() {
  const value = props.value;
  if (!value) return;
  if (value.run !== run) begin(value);
  value.cards.forEach((card, index) => {
    if (!places[index].classList.contains("vd-place")) return;
    places[index].classList.remove("vd-place");
    fill(places[index], card, index);
  });
  const ended = value.state === "done" || value.state === "stopped";
  root.dataset.state = value.state;
  list.setAttribute("aria-busy", String(!ended));
  bar.hidden = ended;
  bar.max = value.titles.length;
  bar.value = value.cards.length;
  if (status.textContent !== value.status) status.textContent = value.status;
  if (ended) arrange(value.order.map((index) => places[index]));
  if (link.href) URL.revokeObjectURL(link.href);
  link.removeAttribute("href");
  link.hidden = !value.csv;
  // The mark at the start tells spreadsheets that names are in UTF-8.
  if (value.csv) link.href = URL.createObjectURL(new Blob(["\ufeff", value.csv], { type: "text/csv;charset=utf-8" }));
}

list.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  trigger("select", { index: Number(button.dataset.index) });
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  document.getElementById(root.dataset.target)?.scrollIntoView({ block: "start", behavior: still ? "auto" : "smooth" });
});

watch("value", show);
show();
