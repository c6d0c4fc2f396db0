"""A headless Chromium on the running app."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.hostile import encode
from tests.served import App
from vitdemo.pipeline import Pipeline
from vitdemo.settings import get_settings
from vitdemo.ui.examples import examples

# Two busy cores are shared by two browsers and their servers.
expect.set_options(timeout=15_000)

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


def chromium() -> str | None:
    """Debian's browser where there is one; None means the one that Playwright brings."""
    return shutil.which("chromium", path="/usr/bin")


@dataclass
class Watched:
    """A page and everything it did that somebody might mind."""

    page: Page
    app: App
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    waiting: set[Request] = field(default_factory=set)
    """Requests that are not answered yet, the line that answers come on among them."""

    def open(self) -> Watched:
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._request)
        self.page.on("requestfinished", lambda request: self.waiting.discard(request))
        self.page.on("requestfailed", lambda request: self.waiting.discard(request))
        # The list of models is brought up to date as the page opens; what a test counts begins after that.
        with self.page.expect_response(lambda response: "/queue/data" in response.url):
            self.page.goto(self.app.url)
        self.page.wait_for_selector("#compared .vd-panel canvas")
        self.page.wait_for_function("window.vitdemoOpened")
        return self

    def reload(self) -> None:
        """Load the page again. Requests that this cuts off are no fault of the page."""
        before = list(self.complaints)
        with self.page.expect_response(lambda response: "/queue/data" in response.url):
            self.page.reload()
        self.page.wait_for_selector(".vd-panel canvas")
        self.page.wait_for_function("window.vitdemoOpened")
        self.complaints[:] = before

    def settle(self) -> None:
        """Until the page has asked for nothing for a while: what a tab asks for as it opens comes in several steps."""
        quiet = 0
        while quiet < 8:
            before = len(self.requests)
            self.page.wait_for_timeout(500)
            quiet = quiet + 1 if before == len(self.requests) else 0
            # The line that answers come on is kept open now and then although nothing is to come: then time alone tells.
            if quiet and not self.waiting:
                return

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def _request(self, request: Request) -> None:
        # The heartbeat is the page's own pulse, and answers come on a line that may be opened later than the question.
        if not request.url.startswith("http") or "/heartbeat/" in request.url:
            return
        self.waiting.add(request)
        if "/queue/data" not in request.url:
            self.requests.append(request.url)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A browser on busy cores is late now and then: what fails twice is a fault. The report counts what ran again."""
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    # The camera looks at an example, one JPEG after the other being all that there is to MJPEG.
    film = tmp_path_factory.mktemp("camera") / "film.mjpeg"
    pipeline_photo = Pipeline(get_settings()).open(examples()[0].path).image.resize((640, 640))
    film.write_bytes(encode(pipeline_photo, "JPEG", quality=92) * 20)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=chromium(), args=[*FLAGS, f"--use-file-for-fake-video-capture={film}"]
        )
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def shared_context(browser: Browser) -> Iterator[BrowserContext]:
    """One for all tests: its cache makes a page open in half the time."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    context.set_default_timeout(20_000)
    yield context
    context.close()


@pytest.fixture
def context(shared_context: BrowserContext, app: App) -> Iterator[BrowserContext]:
    if not shared_context.pages:
        # A page of nothing that stays: as long as there is one, its process does, with the code that it compiled.
        shared_context.new_page().goto(f"{app.url}favicon.ico")
    kept = shared_context.pages[0]
    yield shared_context
    for page in shared_context.pages:
        if page != kept:
            page.close()
    shared_context.clear_permissions()


@pytest.fixture
def watched(context: BrowserContext, app: App) -> Iterator[Watched]:
    watched = Watched(context.new_page(), app).open()
    yield watched
    assert watched.complaints == []
