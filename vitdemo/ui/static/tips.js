/* A sentence on each of Gradio's controls, shown while the pointer rests on its name, and read out with its field. */
(() => {
  const tips = window.vitdemoTips;
  const ids = Object.keys(tips).map((id) => `#${id}`).join(",");

  function explain(event) {
    const block = event.target.closest?.(ids);
    if (!block || block.title) return;
    block.title = tips[block.id];
    block.querySelector("input, textarea")?.setAttribute("aria-description", block.title);
  }

  for (const name of ["pointerover", "focusin"]) document.addEventListener(name, explain);
})();
