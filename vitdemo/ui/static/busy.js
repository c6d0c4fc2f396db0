/* What a page says when the server has no place for what it asks. It goes into the head of the page, after reconnect.js.
 *
 * Gradio has words of its own for the status 503, the same for every reason; of any other refusal it shows what the server says.
 */
(() => {
  const BUSY = 503;
  const SHOWN_AS = 429;
  const RECENT = 5000; // milliseconds in which a failure has that refusal as its reason
  const ask = window.fetch;
  let words = "";
  let at = 0;

  window.fetch = async (resource, options) => {
    const answer = await ask(resource, options);
    if (answer.status !== BUSY || !String(resource.url || resource).includes("/queue/join")) return answer;
    // A proxy may answer for the server, and in another form.
    const told = await answer.json().catch(() => ({}));
    words = told.detail || "The server is busy. Try again in a moment.";
    at = Date.now();
    return new Response(JSON.stringify({ detail: words }), { status: SHOWN_AS, headers: { "content-type": "application/json" } });
  };

  /* Why something that was asked for has not come, in words. */
  window.vitdemoRefusal = (otherwise) => (words && Date.now() - at < RECENT ? words : otherwise);
})();
