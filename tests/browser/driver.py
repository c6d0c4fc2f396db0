"""A headless Chromium, and pages that say when they have nothing left to do. Tests and the measuring scripts share it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

from tests.served import App
from vitdemo.ui.examples import examples

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A page that finds its code compiled opens in two thirds of the time.
    "--process-per-site",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]

PATIENCE = 30_000
"""Milliseconds after which what a test waits for is taken to be missing: far above what a busy machine needs."""

COUNT = """(() => {
    const ask = window.fetch.bind(window);
    const busy = { requests: 0, events: 0, lines: 0 };
    // An event is asked for by one request, and answered on a line that all events of a page share.
    const listen = async (body) => {
        const reader = body.pipeThrough(new TextDecoderStream()).getReader();
        for (let text = ""; ; ) {
            const { value, done } = await reader.read();
            if (done) return;
            const parts = (text + value).split("\\n");
            text = parts.pop();
            busy.events -= parts.filter((part) => part.includes('"msg":"process_completed"')).length;
        }
    };
    window.fetch = async (...what) => {
        const url = String(what[0].url || what[0]);
        if (url.includes("/heartbeat/")) return ask(...what);
        if (url.includes("/queue/data")) {
            const answer = await ask(...what);
            const [own, copy] = answer.body.tee();
            busy.lines += 1;
            listen(copy).catch(() => {}).finally(() => { busy.lines -= 1; });
            return new Response(own, answer);
        }
        const event = url.includes("/queue/join");
        busy.requests += 1;
        busy.events += event ? 1 : 0;
        try {
            const answer = await ask(...what);
            if (event && !answer.ok) busy.events -= 1;
            return answer;
        } catch (error) {
            if (event) busy.events -= 1;
            throw error;
        } finally {
            busy.requests -= 1;
        }
    };
    window.answering = () => busy.lines;
    // What an answer leads to is asked for in the same frame or in the next one.
    window.settled = async () => {
        for (let quiet = 0; quiet < 4; ) {
            await new Promise((done) => requestAnimationFrame(done));
            quiet = busy.requests || busy.events > 0 ? 0 : quiet + 1;
        }
        return true;
    };
})()"""
"""Counts the requests and events of a page that are under way."""


def chromium() -> str | None:
    """Debian's browser where there is one; None means the one that Playwright brings."""
    return shutil.which("chromium", path="/usr/bin")


def film(path: Path, width: int = 640, height: int = 640) -> Path:
    """What the camera sees: the first example, one JPEG after the other being all that there is to MJPEG."""
    with Image.open(examples()[0].path) as picture:
        frame = io.BytesIO()
        picture.convert("RGB").resize((width, height)).save(frame, "JPEG", quality=92)
    path.write_bytes(frame.getvalue() * 20)
    return path


@contextmanager
def launched(camera: Path) -> Iterator[Browser]:
    """Chromium, whose camera plays this film."""
    with sync_playwright() as playwright:
        flags = [*FLAGS, f"--use-file-for-fake-video-capture={camera}"]
        browser = playwright.chromium.launch(executable_path=chromium(), args=flags)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, width: int = 1440, height: int = 1000, **options: Any) -> Iterator[BrowserContext]:
    """A window whose pages can be asked whether they are settled."""
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    context.set_default_timeout(PATIENCE)
    context.add_init_script(COUNT)
    yield context
    context.close()


@dataclass
class Watched:
    """A page and everything it did that somebody might mind."""

    page: Page
    app: App
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def open(self, query: str = "") -> Watched:
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._request)
        self.page.goto(f"{self.app.url}{query}")
        self._opened()
        return self

    def reload(self) -> None:
        """Load the page again. Requests that this cuts off are no fault of the page."""
        before = list(self.complaints)
        self.page.reload()
        self._opened()
        self.complaints[:] = before

    def settle(self) -> None:
        """Until all that was asked for is answered, and nothing else was asked for because of it."""
        self.page.evaluate("window.settled()")

    def _opened(self) -> None:
        # Another tab may be open before Compare has drawn.
        state: Literal["attached", "visible"] = "attached" if "tab=" in self.page.url else "visible"
        self.page.locator(".vd-panel canvas").first.wait_for(state=state)
        self.page.wait_for_function("window.vitdemoOpened")
        # The list of models is brought up to date as the page opens; what a test counts begins after that.
        self.settle()

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def _request(self, request: Request) -> None:
        # The heartbeat is the page's own pulse, and answers come on a line that may be opened later than the question.
        if request.url.startswith("http") and "/heartbeat/" not in request.url and "/queue/data" not in request.url:
            self.requests.append(request.url)
