/* The list of models. Runs once, with `element`, `props`, `watch` and `trigger` in scope; the server sends the whole list whenever
 * something of it changes. Focus stays with the same model.
 */
const root = element.querySelector(".vd-models");

const megabytes = (bytes) => (bytes >= 1e9 ? `${(bytes / 1e9).toFixed(2)} GB` : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`);
const duration = (seconds) => (seconds >= 90 ? `${Math.round(seconds / 60)} min` : `${Math.max(1, Math.round(seconds))} s`);

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

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
  if (model.source === "local") return `a folder of this machine${memory}`;
  return model.ready ? `on this machine, revision ${model.revision}${memory}` : model.gated || "not downloaded";
}

function actions(model, policy) {
  const job = model.job;
  if (job && (job.state === "waiting" || job.state === "running")) return job.stopping ? [] : [["cancel", "Cancel"]];
  const found = [];
  if (policy !== "none" && !model.ready) found.push(["download", job ? "Try again" : "Download"]);
  if (job) found.push(["dismiss", "Dismiss"]);
  if (model.memory) found.push(["unload", "Unload"]);
  if (policy === "any" && model.ready && model.source !== "embedded") found.push(["remove", "Remove"]);
  return found;
}

function row(model, policy) {
  const facts = model.source === undefined ? [] : [
    `${(model.parameters / 1e6).toFixed(1)} M parameters`,
    `${model.input.join(" × ")} px`,
    model.grid ? `${model.grid.join(" × ")} patches of ${model.patch} px` : "no patches",
    model.classes ? `${model.classes.toLocaleString("en")} classes${model.probe ? " (linear probe)" : ""}` : "self-supervised, no classes",
    megabytes(model.bytes),
    model.license,
  ];
  const name = model.link
    ? make("a", { href: model.link, target: "_blank", rel: "noopener" }, model.name)
    : make("span", {}, model.name);
  const job = model.job;
  const bar = job && job.state === "running" && job.total
    ? make("progress", { max: job.total, value: job.done, "aria-label": `Download of ${model.name}` })
    : null;
  const failed = job && job.state === "failed" ? " vd-failed" : "";
  const here = model.ready ? " vd-here" : "";
  return make(
    "li",
    { "data-name": model.name },
    make("div", { class: "vd-name" }, make("code", {}, name)),
    make("div", { class: "vd-what" }, facts.join(" · ")),
    make("div", { class: `vd-state${failed}${here}` }, bar, make("span", {}, state(model))),
    make(
      "div",
      { class: "vd-actions" },
      ...actions(model, policy).map(([action, label]) =>
        make("button", { type: "button", "data-action": action, "data-name": model.name, "aria-label": `${label} ${model.name}` }, label)
      )
    )
  );
}

function show() {
  const value = props.value;
  if (!value) return;
  const focused = root.contains(document.activeElement) ? document.activeElement.dataset.name : null;
  root.replaceChildren(
    make("p", { class: "vd-message", role: "status" }, value.message || ""),
    ...value.families.map((family) =>
      make(
        "section",
        { "aria-label": family },
        make("h3", {}, family),
        make("ul", {}, ...value.models.filter((model) => model.family === family).map((model) => row(model, value.policy)))
      )
    )
  );
  if (focused) {
    const button = [...root.querySelectorAll("button")].find((node) => node.dataset.name === focused);
    if (button) button.focus({ preventScroll: true });
  }
}

root.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) trigger("select", { action: button.dataset.action, name: button.dataset.name });
});

watch("value", show);
show();
