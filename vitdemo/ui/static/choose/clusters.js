/* Groups of alike photos: named, they are labels. */

const clusterNames = new Map(); // by model, number of clusters and cluster: what was typed

const clusterQuery = () => ({ action: "clusters", model: picked.a, clusters: $("[name=clusters]").value || null });
const clusterKey = (index) => `${result.number} ${picked.a} ${$("[name=clusters]").value} ${index}`;

async function loadClusters() {
  const query = clusterQuery(), found = await asking(query);
  if (JSON.stringify(query) !== JSON.stringify(clusterQuery())) return;
  const groups = found.central.map((photos, index) => {
    const name = make("input", { type: "text", maxLength: 100, placeholder: "Name", value: clusterNames.get(clusterKey(index)) ?? found.proposed[index], autocomplete: "off" });
    name.setAttribute("aria-label", `Name of cluster ${index + 1}`);
    name.dataset.cluster = index;
    return make("div", { class: "vd-group" }, make("p", {}, make("strong", {}, `Cluster ${index + 1}`), make("span", { class: "vd-small" }, ` ${count(found.sizes[index], "photo")}`)), name, thumbs(photos));
  });
  $(".vd-groups").replaceChildren(...groups);
  text(".vd-quality", `${found.central.length} clusters by ${found.model}; silhouette ${found.silhouette === null ? "unknown" : found.silhouette.toFixed(2)}`);
  $(".vd-matrix-place").replaceChildren(matrix("How far the clusters of two models agree (adjusted Rand index, 1: the same groups, 0: unrelated ones)", found.names, found.agreement));
}

function namesOfClusters() {
  return [...root.querySelectorAll("[data-cluster]")].map((one) => one.value);
}

$(".vd-groups").addEventListener("input", (event) => clusterNames.set(clusterKey(event.target.dataset.cluster), event.target.value));

$(".vd-number").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = $("[name=clusters]"), number = Number(field.value);
  if (field.value && !(Number.isInteger(number) && number >= 2 && number <= 100)) return trouble("The number of clusters must be a whole number from 2 to 100; empty for an automatic one.");
  showView("clusters");
});

/* Of the clusters and names that are shown. */
const namedQuery = () => ({ model: picked.a, clusters: $("[name=clusters]").value || null, names: namesOfClusters(), number: result.number });

async function saveLabels(kind) {
  trouble("");
  try {
    const { name, text: written } = await question({ action: "labels", kind, ...namedQuery() });
    save(name, new Blob([written], { type: kind === "csv" ? "text/csv" : "application/json" }));
  } catch (error) {
    trouble(error.message);
  }
}
