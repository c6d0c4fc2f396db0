/* What the explorer, Segment and the list of models share beside maps. */

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") node.className = value;
    else if (name in node && name !== "list") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/* A file of the browser's own making, as a download. */
function save(name, blob) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/* Around the box that the model sees. */
function unseen(context, box, line) {
  context.fillStyle = "rgba(0, 0, 0, 0.6)";
  context.beginPath();
  context.rect(0, 0, context.canvas.width, context.canvas.height);
  context.rect(...box);
  context.fill("evenodd");
  context.strokeStyle = "rgba(255, 255, 255, 0.9)";
  context.lineWidth = line;
  context.strokeRect(...box);
}
