/* The list of models. Runs once, with `element`, `props`, `watch` and `trigger` in scope; the server sends the whole list whenever
 * something of it changes. Only what differs is made anew: a button that is being pressed, or has the focus, stays the same one.
 */
const root = element.querySelector(".vd-models");
const dialog = element.querySelector("dialog"); // where this list is in one, it has only what is not here yet

const megabytes = (bytes) => (bytes >= 1e9 ? `${(bytes / 1e9).toFixed(2)} GB` : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`);
const duration = (seconds) => (seconds >= 90 ? `${Math.round(seconds / 60)} min` : `${Math.max(1, Math.round(seconds))} s`);

function state(model) {
  const job = model.job;
  if (job && job.state === "waiting") return "waiting for another download";
  if (job && job.stopping) return "stopping";
  if (job && job.state === "running") {
    if (!job.total) return "asking the Hub";
    const rest = job.remaining === null ? "" : `, ${duration(job.remaining)} left`;
    return `${megabytes(job.done)} of ${megabytes(job.total)}, ${megabytes(job.speed)}/s${rest}`;
  }
  if (job && job.state === "failed") return job.error;
  if (job && job.state === "cancelled") return "stopped; what has come is kept";
  if (model.source === undefined) return "";
  const memory = model.memory ? `, loaded (${megabytes(model.memory)} of memory)` : "";
  if (model.source === "embedded") return `ships with vitdemo${memory}`;
  if (model.source === "local") return `a local folder${memory}`;
  return model.ready ? `on this machine, revision ${model.revision}${memory}` : model.gated || "not downloaded";
}

function actions(model, policy) {
  const job = model.job;
  if (job && (job.state === "waiting" || job.state === "running")) return [["cancel", "Cancel"]];
  const found = [];
  if (policy !== "none" && !model.ready) found.push(["download", job ? "Try again" : "Download"]);
  if (job) found.push(["dismiss", "Dismiss"]);
  if (dialog) return found;
  if (model.memory) found.push(["unload", "Unload"]);
  if (policy === "any" && model.ready && model.source !== "embedded") found.push(["remove", "Remove"]);
  return found;
}

function facts(model) {
  if (model.source === undefined) return "";
  return [
    `${(model.parameters / 1e6).toFixed(1)} M parameters`,
    `${model.input.join(" × ")} px`,
    model.grid ? `${model.grid.join(" × ")} patches of ${model.patch} px` : "no patches",
    model.classes ? `${model.classes.toLocaleString("en")} classes${model.probe ? " (linear probe)" : ""}` : "self-supervised, no classes",
    megabytes(model.bytes),
    model.license,
  ].join(" · ");
}

function name(model) {
  return make("code", {}, model.link ? make("a", { href: model.link, target: "_blank", rel: "noopener" }, model.name) : make("span", {}, model.name));
}

function buttons(model, found) {
  return found.map(([action, label]) =>
    make("button", { type: "button", "data-action": action, "data-name": model.name, "aria-label": `${label} ${model.name}` }, label)
  );
}

const rows = new Map(); // by name: the nodes, and what they show

function newRow(model) {
  const bar = make("progress", { "aria-label": `Download of ${model.name}` });
  const made = { bar, text: make("span"), what: make("div", { class: "vd-what" }), actions: make("div", { class: "vd-actions" }), shown: {} };
  made.name = make("div", { class: "vd-name" });
  made.state = make("div", {}, bar, made.text);
  made.node = make("li", { "data-name": model.name }, made.name, made.what, made.state, made.actions);
  rows.set(model.name, made);
  return made;
}

function row(model, policy) {
  const made = rows.get(model.name) || newRow(model);
  const once = (part, key, act) => {
    if (made.shown[part] === key) return;
    made.shown[part] = key;
    act();
  };
  const job = model.job;
  const found = actions(model, policy);
  once("name", model.link || "", () => made.name.replaceChildren(name(model)));
  once("actions", found.join(), () => {
    const focused = made.actions.contains(document.activeElement);
    made.actions.replaceChildren(...buttons(model, found));
    if (focused && found.length) made.actions.firstChild.focus({ preventScroll: true });
  });
  once("what", facts(model), () => { made.what.textContent = made.shown.what; });
  once("text", state(model), () => { made.text.textContent = made.shown.text; });
  made.state.className = `vd-state${job && job.state === "failed" ? " vd-failed" : ""}${model.ready ? " vd-here" : ""}`;
  made.bar.hidden = !(job && job.state === "running" && job.total);
  if (!made.bar.hidden) Object.assign(made.bar, { max: job.total, value: job.done });
  return made.node;
}

/* `replaceChildren`, but a node that stays in its place is not touched: taking it out would take its focus. */
function arrange(parent, nodes) {
  for (const node of [...parent.children]) if (!nodes.includes(node)) node.remove();
  nodes.forEach((node, index) => {
    if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index] || null);
  });
}

const message = make("p", { class: "vd-message", role: "status" });
const find = make("input", { type: "search", class: "vd-find", "aria-label": "Find a model", autocomplete: "off", spellcheck: "false" });
find.addEventListener("input", show);
const nothing = make("p", { class: "vd-what" }, "No model has this name.");
const groups = new Map(); // by family

function section(family, nodes) {
  if (!groups.has(family)) groups.set(family, make("section", { "aria-label": family }, make("h2", {}, family), make("ul")));
  arrange(groups.get(family).lastChild, nodes);
  return groups.get(family);
}

function show() {
  const value = props.value;
  if (!value) return;
  // On the Hub there are more than are listed.
  const free = dialog && value.policy === "any";
  find.placeholder = free ? "Find a model, or type organisation/model" : "Find a model";
  const focused = root.contains(document.activeElement) ? document.activeElement : null;
  if (value.message !== null) message.textContent = value.message;
  const names = new Set(value.models.map((model) => model.name));
  for (const known of rows.keys()) if (!names.has(known)) rows.delete(known);
  const wanted = find.value.trim().toLowerCase();
  const listed = value.models.filter((model) => (!dialog || !model.ready || rows.has(model.name)) && `${model.name} ${model.family}`.toLowerCase().includes(wanted));
  const typed = find.value.trim().match(/^(?:https?:\/\/(?:huggingface\.co|hf\.co)\/)?([\w.-]+\/[\w.-]+)/)?.[1];
  if (free && typed && !value.models.some((model) => model.name === typed)) listed.unshift({ name: typed, family: "On the Hub", link: `https://huggingface.co/${typed}` });
  const sections = ["On the Hub", ...value.families].map((family) => [family, listed.filter((model) => model.family === family)]).filter(([, models]) => models.length);
  const none = sections.length ? [] : [nothing];
  arrange(root, [message, find, ...none, ...sections.map(([family, models]) => section(family, models.map((model) => row(model, value.policy))))]);
  if (dialog) tell(value.models);
  if (focused && !root.contains(document.activeElement)) {
    // It was moved to another place, or its button is gone; where its row is gone, the list itself keeps the place.
    const target = root.contains(focused) ? focused : rows.get(focused.dataset.name)?.actions.querySelector("button") || root;
    target.focus({ preventScroll: true });
  }
}

/* A download goes on when the dialog is closed: the buttons that open it say how far. */
function tell(models) {
  const jobs = models.map((model) => model.job).filter((job) => job && (job.state === "running" || job.state === "waiting"));
  const [done, total] = ["done", "total"].map((key) => jobs.reduce((sum, job) => sum + (job[key] || 0), 0));
  const words = jobs.length ? (total ? `${Math.floor((100 * done) / total)}%…` : "Asking…") : "+ More";
  for (const button of document.querySelectorAll(".vd-more")) if (button.textContent !== words) button.textContent = words;
}

if (dialog) {
  dialog.querySelector(".vd-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); }); // beside it
}

root.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) trigger("select", { action: button.dataset.action, name: button.dataset.name });
});

watch("value", show);
show();
