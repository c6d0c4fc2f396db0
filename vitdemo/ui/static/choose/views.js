/* What explains the figures: photos on which models differ, confusions, near duplicates and outliers. */

const pair = () => [...new Set([picked.a, picked.b])].filter(Boolean);
const view = (name) => $(`.vd-view[data-of=${name}]`);

function trouble(words) {
  text(".vd-trouble", words);
}

const LOADERS = { map: loadMaps, differences: loadDifferences, confusions: loadConfusions, clusters: loadClusters, unusual: loadUnusual };

async function showView(name = picked.view) {
  picked.view = name;
  trouble("");
  hover(null, 0);
  for (const button of root.querySelectorAll("[data-view]")) button.setAttribute("aria-pressed", String(button.dataset.view === name));
  for (const one of root.querySelectorAll(".vd-view")) one.hidden = one.dataset.of !== name;
  $(".vd-why").setAttribute("aria-busy", "true");
  try {
    await LOADERS[name]();
  } catch (error) {
    trouble(error.message);
  }
  if (picked.view === name) $(".vd-why").setAttribute("aria-busy", "false");
}

async function loadDifferences() {
  const models = pair(), { photos } = await asking({ action: "differences", models: models.length > 1 ? models : result.featured });
  if (String(models) !== String(pair())) return;
  const rows = photos.map(({ photo, answers }) => thumb(photo, models.map((model) => answers[model]).filter(Boolean).join(" / ")));
  view("differences").replaceChildren(
    make("p", { class: "vd-small" }, photos.length ? `The photos on which ${models.join(" and ")} differ most${result.labelled ? ", with what their probes say" : ": they have the fewest neighbours in common"}.` : "These models do not differ on any photo. Choose another one beside."),
    make("div", { class: "vd-thumbs vd-large" }, ...rows));
}

async function loadConfusions() {
  const models = pair();
  if (!result.labelled) return view("confusions").replaceChildren(make("p", {}, "Without labels there are no confusions. Name clusters, and use the names as labels."));
  const found = (await asking({ action: "confusions", models })).models;
  if (String(models) !== String(pair())) return;
  view("confusions").replaceChildren(make("div", { class: "vd-two" }, ...models.map((model) => make("div", {},
    make("h3", {}, "Confusions of ", make("code", {}, model)),
    found[model].length ? null : make("p", { class: "vd-small" }, "None: its probe is right on every photo."),
    ...found[model].map((one) => make("div", { class: "vd-confusion" },
      make("p", {}, make("strong", {}, one.truth), " taken for ", make("strong", {}, one.answer), make("span", { class: "vd-small" }, ` ${count(one.count, "photo")}`)),
      thumbs(one.photos)))))));
}

/* Numbers between each two models. */
function matrix(title, names, values) {
  const head = make("tr", {}, make("td", {}), ...names.map((name) => make("th", { scope: "col" }, name)));
  const rows = names.map((name, index) => make("tr", {}, make("th", { scope: "row" }, name), ...values[index].map((value, other) => {
    const cell = make("td", {}, value.toFixed(2));
    cell.style.setProperty("--share", `${Math.round(Math.max(0, value) * 100)}%`);
    if (other === index) cell.className = "vd-self-cell";
    return cell;
  })));
  const table = make("table", { class: "vd-matrix" }, make("thead", {}, head), make("tbody", {}, ...rows));
  const place = make("div", { class: "vd-scroll", role: "region", tabIndex: 0 }, table);
  place.setAttribute("aria-label", title);
  return make("div", {}, make("p", { class: "vd-small" }, title), place);
}

async function loadUnusual() {
  const model = picked.a, found = await asking({ action: "unusual", model });
  if (model !== picked.a) return;
  const pairs = found.pairs.map(([first, second, cosine]) => make("div", { class: "vd-twins" }, thumb(first), thumb(second), make("span", { class: "vd-small" }, cosine.toFixed(3))));
  view("unusual").replaceChildren(
    make("h3", {}, "Near duplicates by ", make("code", {}, model)),
    make("p", { class: "vd-small" }, pairs.length ? `${count(found.pairs_count, "pair")} with a cosine of at least 0.98, the most alike first${found.pairs_count > pairs.length ? `; ${pairs.length} are shown` : ""}. Copies in several folds make accuracies look better than they are.` : "No two photos have a cosine of 0.98 or more."),
    make("div", { class: "vd-pairs" }, ...pairs),
    make("h3", {}, "Outliers by ", make("code", {}, model)),
    make("p", { class: "vd-small" }, "Photos farthest from their neighbours, with their cosine distance."),
    thumbs(found.outliers.map(([photo]) => photo), (index) => found.outliers[index][1].toFixed(2)),
    matrix("How alike the features of two models are (linear CKA, 1: the same)", found.names, found.similarity));
}
