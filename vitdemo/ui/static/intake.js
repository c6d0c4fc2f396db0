/* How a photo comes to the page: chosen, dropped or pasted, anywhere on it. It goes into the head of the page.
 *
 * Gradio's own input takes a file only where it is, ignores what does not call itself an image, and refuses what is too large.
 * Here the whole page takes files, images and image URLs; what is too large is reduced first, and whatever cannot be read goes to
 * the server as it is, which has the words for it. The element `#intake` of the page knows the limits and passes on what came.
 */
(() => {
  const LONG_SIDE = 4096; // pixels that are left of a photo that has to be reduced: four times what any model looks at
  const DECODABLE = 268e6; // pixels that a browser's canvas can have
  const QUALITY = 0.92;
  const FIELD = "input:not([type=file], [type=range], [type=checkbox], [type=radio], [type=button]), textarea, [contenteditable=true]";
  const STYLE = `
    #vd-drop { position: fixed; z-index: 9999; inset: 0; display: none; place-items: center; pointer-events: none; padding: 16px;
      box-sizing: border-box; background: rgb(15 23 42 / 60%); font: 600 22px/1.4 system-ui, sans-serif; }
    #vd-drop.vd-over { display: grid; }
    #vd-drop div { display: grid; place-items: center; box-sizing: border-box; width: 100%; height: 100%; border: 3px dashed #fff;
      border-radius: 16px; }
    #vd-drop span { padding: 14px 28px; border-radius: 10px; background: #1e293b; color: #fff; }`;

  const real = (size) => `${size.width} × ${size.height}`;
  const door = () => document.querySelector("#intake .vd-intake");
  const limit = (name) => Number(door().dataset[name]);

  let last = 0; // what was chosen last: an earlier photo that is still on its way is forgotten

  function say(text) {
    if (door()) door().textContent = text;
  }

  function pass(what) {
    door().dispatchEvent(new CustomEvent("vd-take", { detail: what }));
  }

  /* Width and height as they are seen, which needs no decoding; null where the browser cannot read it. */
  async function measured(file) {
    const image = new Image();
    image.src = URL.createObjectURL(file);
    try {
      await new Promise((done, failed) => Object.assign(image, { onload: done, onerror: failed }));
      return { width: image.naturalWidth, height: image.naturalHeight };
    } catch {
      return null;
    } finally {
      URL.revokeObjectURL(image.src);
    }
  }

  const tooMany = ({ width, height }) => width * height > limit("pixels") || Math.max(width, height) > limit("side");

  /* The photo within the limits: upright, transparency over white, as the server would have it. */
  async function reduced(file, size) {
    const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
    const most = Math.min(LONG_SIDE, limit("side"));
    let scale = Math.min(1, most / Math.max(size.width, size.height), Math.sqrt(limit("pixels") / (size.width * size.height)));
    try {
      for (;;) {
        const canvas = document.createElement("canvas");
        canvas.width = Math.max(1, Math.floor(size.width * scale));
        canvas.height = Math.max(1, Math.floor(size.height * scale));
        const context = canvas.getContext("2d");
        context.fillStyle = "white";
        context.fillRect(0, 0, canvas.width, canvas.height);
        context.imageSmoothingQuality = "high";
        context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
        const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", QUALITY));
        if (!blob) throw new Error("no canvas of that size");
        if (blob.size <= limit("bytes")) {
          const name = `${file.name.replace(/\.[^.]*$/, "") || "photo"}.jpg`;
          return { file: new File([blob], name, { type: "image/jpeg" }), size: { width: canvas.width, height: canvas.height } };
        }
        scale *= 0.7;
      }
    } finally {
      bitmap.close();
    }
  }

  /* What is sent, and what there is to say of it; no file where it would only be refused. */
  async function fitting(file, tell = say) {
    const size = await measured(file);
    const large = file.size > limit("bytes");
    if (size && size.width * size.height <= DECODABLE && (large || tooMany(size))) {
      try {
        tell("Reducing the photo…");
        const made = await reduced(file, size);
        const same = made.size.width === size.width && made.size.height === size.height;
        return { file: made.file, text: same ? `Saved again as JPEG, to fit into ${megabytes(limit("bytes"))}.` : `Reduced from ${real(size)} to ${real(made.size)}.` };
      } catch {
        // It goes as it is.
      }
    }
    if (!large) return { file, text: "" };
    return { text: `${megabytes(file.size, Math.ceil)}; the limit is ${megabytes(limit("bytes"))}. Save the image smaller, or as JPEG.` };
  }

  const megabytes = (bytes, round = Math.round) => `${round(bytes / 1e5) / 10} MB`;

  async function takeFile(file) {
    const mine = ++last;
    const { file: sent, text } = await fitting(file);
    if (mine !== last) return;
    say(text);
    if (!sent) return;
    const { root = "", api_prefix: prefix = "/gradio_api" } = window.gradio_config || {};
    const body = new FormData();
    body.append("files", sent, sent.name || "photo");
    let answer;
    try {
      answer = await window.fetch(`${new URL(`${root}${prefix}/upload`, document.baseURI)}`, { method: "POST", body, credentials: "include" });
      if (!answer.ok) throw new Error(await answer.text());
    } catch {
      if (mine === last) say("The photo did not reach the server. Choose it again.");
      return;
    }
    const [path] = await answer.json();
    if (mine === last) pass({ path });
  }

  function takeUrl(url) {
    last += 1;
    say("");
    pass({ url });
  }

  const urlIn = (text) => (text || "").split(/\r?\n/).map((line) => line.trim()).find((line) => /^https?:\/\/\S+$/i.test(line));

  /* From a drop or a paste: whether there was something to take. */
  function take(data) {
    const file = [...data.files].find((one) => one.type.startsWith("image/")) || data.files[0];
    const url = urlIn(data.getData("text/uri-list")) || urlIn(data.getData("text/plain"));
    if (file) takeFile(file);
    else if (url) takeUrl(url);
    return Boolean(file || url);
  }

  // ---- choosing

  document.addEventListener("change", (event) => {
    const input = event.target;
    if (!input.matches || !input.matches("#photo input[type=file]") || !door() || !input.files.length) return;
    event.stopImmediatePropagation();
    takeFile(input.files[0]);
  }, true);

  /* Several photos have an input of Gradio's own, which gets the ones that were reduced. */
  let handing = false;

  async function takeSeveral(input, files) {
    const hint = document.querySelector("#several-hint p");
    hint.dataset.text ||= hint.textContent;
    const tell = (text) => { hint.textContent = text || hint.dataset.text; };
    const all = new DataTransfer();
    let count = 0;
    for (const file of files) {
      const { file: sent = file } = await fitting(file, tell);
      if (sent !== file) count += 1;
      all.items.add(sent);
    }
    tell(count ? `${hint.dataset.text} ${count} of ${files.length} photos ${count === 1 ? "was" : "were"} reduced to fit the limits.` : "");
    input.files = all.files;
    handing = true;
    input.dispatchEvent(new Event("change", { bubbles: true }));
    handing = false;
  }

  document.addEventListener("change", (event) => {
    const input = event.target;
    if (handing || !input.matches || !input.matches("#several-files input[type=file]") || !door() || !input.files.length) return;
    event.stopImmediatePropagation();
    takeSeveral(input, [...input.files]);
  }, true);

  window.addEventListener("drop", (event) => {
    const input = event.target.closest && event.target.closest("#several-files") && document.querySelector("#several-files input[type=file]");
    if (!input || !door() || !event.dataTransfer.files.length) return;
    event.preventDefault();
    event.stopPropagation();
    takeSeveral(input, [...event.dataTransfer.files]);
  }, true);

  document.addEventListener("click", (event) => {
    const button = event.target.closest && event.target.closest("#photo button[aria-label*=lipboard]");
    if (!button || !door() || !navigator.clipboard || !navigator.clipboard.read) return;
    event.stopImmediatePropagation();
    event.preventDefault();
    fromClipboard();
  }, true);

  async function fromClipboard() {
    try {
      for (const item of await navigator.clipboard.read()) {
        const image = item.types.find((type) => type.startsWith("image/"));
        if (image) return takeFile(new File([await item.getType(image)], `clipboard.${image.slice(6)}`, { type: image }));
        const url = item.types.includes("text/plain") && urlIn(await (await item.getType("text/plain")).text());
        if (url) return takeUrl(url);
      }
      say("There is no image in the clipboard, and no image URL.");
    } catch {
      say("The browser does not give the clipboard to this page. Press Ctrl+V instead.");
    }
  }

  // What was said of a photo goes with it.
  document.addEventListener("click", (event) => {
    const others = "#examples button, #several-gallery button, #photo button[aria-label='Remove Image']";
    if (!event.target.closest || !event.target.closest(others)) return;
    last += 1;
    say("");
  }, true);

  // What is wrong with a URL is said until another one is typed.
  document.addEventListener("input", (event) => {
    const line = event.target.closest && event.target.closest("#address") && document.querySelector("#address-answer .vd-note");
    if (line) line.textContent = "";
  });

  // ---- pasting

  document.addEventListener("paste", (event) => {
    if (!door() || event.target.closest && event.target.closest(FIELD)) return;
    if (event.clipboardData && take(event.clipboardData)) event.preventDefault();
  });

  // ---- dropping

  const target = document.createElement("div");
  const style = document.createElement("style");
  target.id = "vd-drop";
  target.setAttribute("aria-hidden", "true");
  target.innerHTML = "<div><span>Drop the photo anywhere</span></div>";
  style.textContent = STYLE;
  let own = false; // something of the page itself is dragged
  let left = 0; // timer: the last `dragover` was the last one

  const over = (on) => target.classList.toggle("vd-over", on);

  /* Other inputs of the page take their own files, and text fields their own text. */
  function wanted(event) {
    const types = event.dataTransfer ? [...event.dataTransfer.types] : [];
    if (own || !door() || !(types.includes("Files") || types.includes("text/uri-list"))) return false;
    const place = event.target.closest && event.target.closest(`[aria-dropeffect], ${FIELD}`);
    return !place || Boolean(place.closest("#photo"));
  }

  window.addEventListener("dragstart", () => { own = true; }, true);
  window.addEventListener("dragend", () => { own = false; }, true);
  for (const kind of ["dragenter", "dragover"]) {
    window.addEventListener(kind, (event) => {
      clearTimeout(left);
      over(wanted(event));
      if (!wanted(event)) return;
      event.preventDefault();
      event.stopPropagation();
      event.dataTransfer.dropEffect = "copy";
      // Not every browser says that the pointer left the window.
      left = setTimeout(() => over(false), 1500);
    }, true);
  }
  window.addEventListener("dragleave", (event) => event.relatedTarget || over(false), true);
  window.addEventListener("drop", (event) => {
    over(false);
    if (!wanted(event)) return;
    event.preventDefault();
    event.stopPropagation();
    take(event.dataTransfer);
  }, true);

  document.body.append(style, target);
})();
