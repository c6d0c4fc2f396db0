/* The models as rows; a click on a head sorts, and one of them is the one that is looked into. */

const COLUMNS = [
  // name, what is sorted by, what is written, its title; higher is better where `up`
  { name: "Linear probe", of: (one) => one.probe && one.probe.value, write: (one) => shareCell(one.probe), up: true, labelled: true, title: "Accuracy of a linear probe on frozen features, cross-validated, with its 95% interval" },
  { name: "k-NN", of: (one) => one.knn && one.knn.value, write: (one) => shareCell(one.knn), up: true, labelled: true, title: "Accuracy of the nearest neighbours' vote, cross-validated, with its 95% interval" },
  { name: "Own classifier", of: (one) => one.own && one.own.value, write: (one) => shareCell(one.own, one.own && one.own.photos < labelled() ? `${one.own_classes} of the classes` : ""), up: true, labelled: true, title: "Accuracy of the model's own classifier, on photos whose class it knows" },
  { name: "Calibration error", of: (one) => one.ece, write: (one) => one.ece.toFixed(3), labelled: true, title: "Expected calibration error of the probe: how far its scores are from its accuracy" },
  { name: "ms alone", of: (one) => one.alone, write: (one) => ms(one.alone).replace(" ms", ""), title: "Milliseconds of the forward pass of one photo, median" },
  { name: "ms in a batch", of: (one) => one.batched, write: (one) => ms(one.batched).replace(" ms", ""), title: "The same per photo, in a batch" },
  { name: "Memory", of: (one) => one.memory, write: (one) => megabytes(one.memory), title: "Weights, and the most that one forward pass holds beside them" },
  { name: "Parameters", of: (one) => one.parameters, write: (one) => millions(one.parameters), title: "" },
  { name: "File", of: (one) => one.bytes, write: (one) => megabytes(one.bytes), title: "" },
  { name: "On objects", of: (one) => one.inside && one.inside.iou, write: (one) => insideCell(one.inside), up: true, boxed: true, title: "IoU of the top patches with the boxes, and the share of attention inside" },
  { name: "Licence", of: (one) => one.license, write: (one) => one.license, title: "" },
];
const sorting = { column: null, down: false };

const labelled = () => result.count - result.unlabelled;

function shareCell(one, more = "") {
  return [percent(one.value), make("small", {}, more || interval(one))];
}

function insideCell(inside) {
  const heads = inside.best.map(([layer, head, , iou]) => `layer ${layer + 1}, head ${head + 1}: ${iou.toFixed(2)}`).join("; ");
  const node = make("small", {}, `${percent(inside.energy, 0)} of attention on ${percent(inside.area, 0)}`);
  const apart = `Earth mover's distance ${percent(inside.distance, 1)} of the grid's diagonal`;
  node.title = heads ? `${apart}. Best heads by IoU: ${heads}` : apart;
  return [inside.iou.toFixed(2), node];
}

function drawTable() {
  const boxed = result.candidates.some((one) => one.inside);
  const columns = COLUMNS.filter((one) => (result.labelled || !one.labelled) && (boxed || !one.boxed));
  const rows = [...result.candidates];
  const by = columns.find(({ name }) => name === sorting.column);
  if (by) {
    rows.sort((one, other) => {
      const values = [by.of(one), by.of(other)];
      if (values.some((value) => value === null)) return (values[0] === null) - (values[1] === null);
      return (values[0] < values[1] ? -1 : values[0] > values[1] ? 1 : 0) * (sorting.down ? -1 : 1);
    });
  }
  const best = new Map(columns.map((column) => {
    const values = rows.map(column.of).filter((value) => typeof value === "number");
    return [column, values.length > 1 ? (column.up ? Math.max(...values) : Math.min(...values)) : null];
  }));
  const heads = columns.map(({ name, title }) => {
    const button = make("button", { type: "button", title }, name);
    button.dataset.sort = name;
    const cell = make("th", { scope: "col" }, button);
    cell.setAttribute("aria-sort", name !== sorting.column ? "none" : sorting.down ? "descending" : "ascending");
    return cell;
  });
  const body = rows.flatMap((one) => {
    const radio = make("input", { type: "radio", name: "chosen", value: one.model, checked: one.model === picked.model, disabled: !result.featured.includes(one.model) });
    const head = make("th", { scope: "row" }, make("label", {}, radio, make("span", {}, make("code", {}, one.model), make("small", {}, one.family + (one.pareto ? " · Pareto front" : "")))));
    const cells = columns.map((column) => {
      const value = column.of(one);
      const cell = make("td", {}, ...(value === null || value === undefined ? ["–"] : [column.write(one)].flat()));
      if (value !== null && value === best.get(column)) cell.className = "vd-best";
      return cell;
    });
    const row = make("tr", {}, head, ...cells);
    row.dataset.model = one.model;
    if (one.model === picked.model) row.className = "vd-chosen";
    return one.error ? [row, make("tr", { class: "vd-failed" }, make("td", { colSpan: columns.length + 1 }, one.error))] : [row];
  });
  $(".vd-table").replaceChildren(make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Model"), ...heads)), make("tbody", {}, ...body));
}

$(".vd-table").addEventListener("click", (event) => {
  const button = event.target.closest("[data-sort]");
  if (!button) return;
  const { sort } = button.dataset, column = COLUMNS.find(({ name }) => name === sort);
  const first = Boolean(column.up);
  Object.assign(sorting, sorting.column === sort ? { down: !sorting.down } : { column: sort, down: first });
  drawTable();
  $(`[data-sort="${sort}"]`).focus();
});
$(".vd-table").addEventListener("change", (event) => pickModel(event.target.value));
