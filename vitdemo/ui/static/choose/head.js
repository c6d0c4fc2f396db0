/* The Choose tab. Runs once in its gr.HTML, with `element`, `props`, `trigger`, `watch`, `server` and `upload` in scope; the files of
 * this folder are joined to one script, in the order that components/chooser.py names.
 *
 * Charts, table and maps are drawn here. How far a comparison is, and what is in its result, is asked for while the tab is seen:
 * of thousands of photos only numbers are here, and the small pictures of those that have been looked at.
 */
const root = element.querySelector(".vd-choose");
const $ = (selector) => root.querySelector(selector);
const { offered } = props.value;
const EVERY = 1000; // milliseconds between two questions
const AGAIN = 500; // the same for what is being computed

/* Whose comparison it is: only this browser knows, also after a reload. */
const token = (() => {
  const made = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  try {
    if (!localStorage.getItem("vitdemo-choosing")) localStorage.setItem("vitdemo-choosing", made);
    return localStorage.getItem("vitdemo-choosing");
  } catch {
    return made;
  }
})();

let result = null; // what is shown
let asked = 0; // counts events
const picked = { model: "", a: "", b: "", view: "map", photo: null };

const percent = (share, digits = 1) => `${(share * 100).toFixed(digits)}%`;
const count = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
const millions = (number) => `${(number / 1e6).toFixed(number < 1e7 ? 1 : 0)} M`;
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
const ms = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
const interval = (one) => `${(one.low * 100).toFixed(1)}–${percent(one.high)}`;
const dark = () => Boolean(root.closest(".dark"));
const sleep = (time) => new Promise((done) => setTimeout(done, time));
const numbersOf = (text, Kind) => new Kind(Uint8Array.from(atob(text), (character) => character.charCodeAt(0)).buffer);

function text(selector, words) {
  const node = $(selector);
  if (node.textContent !== words) node.textContent = words;
}

function options(select, entries, wanted = select.value) {
  select.replaceChildren(...entries.map(([value, label]) => make("option", { value }, label)));
  if (entries.some(([value]) => value === wanted)) select.value = wanted;
}

/* What the server answers; an error is thrown in its words. */
async function question(query) {
  let answer;
  try {
    answer = await server.choosing({ token, ...query });
  } catch {
    answer = { error: "The server does not answer. Try again." };
  }
  if (answer.error) throw new Error(answer.error);
  return answer;
}

/* Of the result that is shown: asked once, and waited for while it is computed. */
const known = new Map();
function asking(query) {
  const key = JSON.stringify(query), { number } = result;
  if (!known.has(key)) {
    const found = (async () => {
      for (;;) {
        const answer = await question({ ...query, number });
        if (!answer.pending) return answer;
        await sleep(AGAIN);
      }
    })();
    found.catch(() => known.delete(key));
    known.set(key, found);
  }
  return known.get(key);
}

const candidate = (name) => result.candidates.find((one) => one.model === name);
const hue = (index) => `hsl(${Math.round((index * 137.508) % 360)} 65% ${dark() ? 62 : 42}%)`;
