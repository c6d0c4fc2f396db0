/* Photos as small pictures, which come when they are seen, and the one that is looked at. */

const CARDS = 2000; // pictures that are kept here
const BATCH = 48; // that one question asks for
const cards = new Map(); // by number: what the server said
const waiting = new Map(); // by number: who waits for it
let fetching = 0;

function card(number) {
  if (cards.has(number)) {
    const found = cards.get(number);
    cards.delete(number);
    cards.set(number, found); // used last
    return Promise.resolve(found);
  }
  return new Promise((done) => {
    if (!waiting.has(number)) waiting.set(number, []);
    waiting.get(number).push(done);
    if (!fetching) fetching = setTimeout(fetchCards, 30);
  });
}

async function fetchCards() {
  const numbers = [...waiting.keys()].slice(-BATCH), { number } = result;
  const done = numbers.map((one) => [one, waiting.get(one)]);
  for (const one of numbers) waiting.delete(one);
  try {
    const { photos, pending } = await question({ action: "photos", photos: numbers, number });
    for (const [one, waiters] of done) {
      if (pending) waiting.set(one, [...waiters, ...(waiting.get(one) || [])]);
      else {
        cards.set(one, photos[one]);
        waiters.forEach((tell) => tell(photos[one]));
      }
    }
  } catch (error) {
    trouble(error.message);
    for (const [, waiters] of done) waiters.forEach((tell) => tell({ src: "", name: "not available", label: "" }));
  }
  for (const old of [...cards.keys()].slice(0, Math.max(0, cards.size - CARDS))) cards.delete(old);
  fetching = waiting.size ? setTimeout(fetchCards, 30) : 0;
}

const sight = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    sight.unobserve(target);
    fill(target);
  }
}, { rootMargin: "200px" });

async function fill(button) {
  const number = Number(button.dataset.photo), { src, name, label } = await card(number);
  if (src) button.querySelector("img").src = src;
  button.title = label ? `${name}: ${label}` : name;
  button.setAttribute("aria-label", [name, label, button.dataset.said].filter(Boolean).join(", "));
}

/* A photo as a button, with a line under it. */
function thumb(number, said = "") {
  const button = make("button", { type: "button", class: "vd-thumb" }, make("img", { alt: "", width: 72, height: 72 }), said ? make("span", {}, said) : null);
  button.dataset.photo = number;
  button.dataset.said = said;
  button.setAttribute("aria-label", `Photo ${number + 1}`);
  sight.observe(button);
  return button;
}

const thumbs = (numbers, said = () => "") => make("div", { class: "vd-thumbs" }, ...numbers.map((number, index) => thumb(number, said(index))));

/* The photo that was chosen: what each probe says, and what each of the two models takes for its like. */
async function showPhoto(number, scroll = true) {
  picked.photo = number;
  drawMaps();
  const place = $(".vd-photo"), models = pair();
  const focused = place.contains(document.activeElement);
  let found, about;
  try {
    [found, about] = await Promise.all([asking({ action: "neighbours", photo: number, models }), card(number)]);
  } catch (error) {
    return trouble(error.message);
  }
  if (picked.photo !== number || String(models) !== String(pair())) return;
  const open = make("button", { type: "button", class: "vd-open" }, "Open in Compare");
  const answers = Object.entries(found.answers).map(([model, answer]) => {
    const right = answer === about.label;
    return make("li", {}, make("code", {}, model), ` ${answer} `, about.label ? make("span", { class: right ? "vd-right-mark" : "vd-wrong-mark", title: right ? "right" : "wrong" }, right ? "✓" : "✗") : null);
  });
  place.replaceChildren(
    make("div", { class: "vd-self" },
      about.src ? make("img", { src: about.src, alt: about.name }) : null,
      make("div", {}, make("h3", {}, about.label || about.name), about.label ? make("p", { class: "vd-small" }, about.name) : null,
        answers.length ? make("ul", { class: "vd-answers", "aria-label": "What the probes say" }, ...answers) : null, make("div", { class: "vd-bar" }, open))),
    ...models.map((model) => make("div", { class: "vd-near" }, make("h3", {}, "Nearest by ", make("code", {}, model)), thumbs(found.models[model].map(([photo]) => photo), (index) => found.models[model][index][1].toFixed(2)))));
  place.hidden = false;
  place.dataset.photo = number;
  if (focused) open.focus({ preventScroll: true });
  if (scroll) place.scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

root.addEventListener("click", (event) => {
  const button = event.target.closest("[data-photo]");
  if (button && button.classList.contains("vd-thumb")) showPhoto(Number(button.dataset.photo), !$(".vd-photo").contains(button));
  if (event.target.closest(".vd-open")) tell("show", { photo: picked.photo }, "Opening");
});
