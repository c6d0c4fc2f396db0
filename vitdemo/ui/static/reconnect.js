/* What a page does while its server is away. It goes into the head of the page.
 *
 * Gradio notices only when something is asked for, and then loads the page anew as soon as any server answers, whatever was on it.
 * Here the end of its pulse, a request that stays open as long as the server lives, is noticed at once, and what is asked for
 * meanwhile waits. If the same server comes back, that is sent, and the page goes on. Another one knows nothing of this page: it
 * is loaded anew, but not before something is asked for; until then one may look on.
 */
(() => {
  const EVERY = 2000; // milliseconds between two tries
  const NOTE = "vd-lost"; // set while the connection is lost, for the page that is loaded after this one
  const TEXTS = {
    lost: "The connection to the server was lost. Trying again…",
    back: "Connected again.",
    restarted: "The server was restarted. Reload the page to continue; choose your own photo again.",
    reloaded: "The connection to the server was lost, and the page was loaded anew. A photo of your own has to be chosen again.",
  };
  const STYLE = `
    #vd-connection { position: fixed; z-index: 10000; left: 50%; bottom: 16px; transform: translateX(-50%); display: flex; gap: 12px;
      align-items: center; box-sizing: border-box; width: max-content; max-width: calc(100vw - 32px); padding: 10px 16px;
      border: 1px solid #64748b; border-radius: 8px; background: #1e293b; color: #fff; font: 14px/1.45 system-ui, sans-serif; }
    #vd-connection.vd-silent { padding: 0; border: 0; }
    #vd-connection button { padding: 4px 12px; border: 1px solid #fff; border-radius: 6px; background: none; color: #fff;
      font: inherit; cursor: pointer; }
    #vd-connection button[hidden] { display: none; }
    #vd-connection button:focus-visible { outline: 2px solid #fff; outline-offset: 2px; }`;

  const real = window.fetch.bind(window);
  const { app_id: own, root = ".", api_prefix: prefix = "/gradio_api" } = window.gradio_config || {};
  const api = new URL(`${root}${prefix}/`, document.baseURI).href;
  const waiting = []; // requests that are sent when the server is back
  let state = "connected"; // or "lost", or "restarted": it is another server now
  let pulse = "";
  let looking = false;

  const bar = document.createElement("div");
  const text = document.createElement("span");
  const button = document.createElement("button");
  const style = document.createElement("style");
  bar.id = "vd-connection";
  bar.setAttribute("role", "status");
  button.type = "button";
  button.textContent = "Reload";
  button.onclick = () => location.reload();
  style.textContent = STYLE;
  bar.append(text, button);

  function say(words, milliseconds = 0) {
    text.textContent = words;
    bar.className = words ? "" : "vd-silent";
    button.hidden = state !== "restarted";
    if (milliseconds) setTimeout(() => text.textContent === words && say(""), milliseconds);
  }

  /* The number that a server draws when it starts; null where there is none. */
  async function server() {
    try {
      const answer = await real(`${api}app_id`, { cache: "no-store" });
      return answer.ok ? (await answer.json()).app_id : null;
    } catch {
      return null;
    }
  }

  async function look() {
    const found = await server();
    if (found === null) {
      if (state !== "lost") {
        state = "lost";
        sessionStorage.setItem(NOTE, "1");
        say(TEXTS.lost);
      }
      setTimeout(look, EVERY);
      return;
    }
    looking = false;
    const lost = state === "lost";
    state = found === own ? "connected" : "restarted";
    if (state === "restarted") {
      sessionStorage.setItem(NOTE, "1");
      if (waiting.length) location.reload();
      else say(TEXTS.restarted);
      return;
    }
    sessionStorage.removeItem(NOTE);
    if (lost) say(TEXTS.back, 5000);
    for (const go of waiting.splice(0)) go();
    // Gradio does not begin its pulse again. Not at once: a server that is about to end would end it at once.
    if (pulse) setTimeout(() => real(pulse).then((answer) => answer.text()).catch(() => {}), EVERY);
  }

  function check() {
    if (looking || state === "restarted") return;
    looking = true;
    look();
  }

  // A request is listed here when it has ended, however it ended.
  new PerformanceObserver((list) => {
    const ended = list.getEntries().find((entry) => entry.name.startsWith(`${api}heartbeat/`));
    if (!ended) return;
    pulse = ended.name;
    check();
  }).observe({ type: "resource", buffered: true });

  window.fetch = async (resource, options) => {
    const asked = resource instanceof Request;
    const method = (options && options.method) || (asked ? resource.method : "GET");
    const url = new URL(asked ? resource.url : resource, document.baseURI).href;
    if (method.toUpperCase() !== "POST" || !url.startsWith(api)) return real(resource, options);
    for (;;) {
      if (state === "connected") {
        try {
          return await real(asked ? resource.clone() : resource, options);
        } catch (error) {
          if (error.name === "AbortError" || (await server()) !== null) throw error;
          check();
        }
      }
      if (state === "restarted") location.reload();
      await new Promise((go) => waiting.push(go));
    }
  };

  document.body.append(style, bar);
  if (sessionStorage.getItem(NOTE)) say(TEXTS.reloaded, 15000);
  else say("");
  sessionStorage.removeItem(NOTE);
})();
