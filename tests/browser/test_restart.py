"""The server goes away and comes back, or another one does, while a page is open; and two pages at once."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from tests.browser.acts import COUNT, best_labels, example, expected_labels, pictures, upload, wait_for_new_result
from tests.browser.driver import Watched, opened
from tests.hostile import encode, photo
from tests.served import App, serving
from vitdemo.settings import ROOT
from vitdemo.ui.components.photo import GONE
from vitdemo.ui.examples import examples

pytestmark = pytest.mark.browser

LOST, BACK, RESTARTED, RELOADED = "was lost. Trying again", "Connected again", "was restarted", "was loaded anew"


class Wire:
    """An address whose connections go on to a server, until they are cut."""

    def __init__(self, port: int) -> None:
        self.target: int | None = port
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self.target = None
        for end in list(self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self, port: int) -> None:
        self.target = port

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self.target is None:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self.target))
                self._open |= {near, far}
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open -= {source, sink}


def port_of(url: str) -> int:
    return httpx.URL(url).port or 80


@pytest.fixture
def wire(app: App) -> Iterator[Wire]:
    wire = Wire(port_of(app.url))
    yield wire
    wire.close()


@pytest.fixture
def page(context: BrowserContext, app: App, wire: Wire) -> Page:
    """A page with a photo of the user's own, that knows whether it was loaded anew."""
    return own_photo(context, App(wire.url, app.pipeline, app.page))


def own_photo(context: BrowserContext, app: App, again: bool = True) -> Page:
    watched = Watched(context.new_page(), app).open()
    wait_for_new_result(watched.page, lambda: take(watched.page, "mine.png", encode(photo(300, 200), "PNG")))
    watched.page.evaluate("window.mark = 1")
    watched.settle()
    try:
        # Of an answer that is under way, Gradio itself knows that it was cut, and loads the page anew.
        watched.page.wait_for_function("() => window.answering() === 0")
    except PlaywrightTimeout:
        # Rarely, on a busy machine, Gradio keeps a line open whose answers have all come.
        if not again:
            raise
        watched.page.close()
        return own_photo(context, app, again=False)
    return watched.page


def take(page: Page, name: str, data: bytes) -> None:
    """Take the old photo away, see that it is gone, and choose this one."""
    page.get_by_label("Remove Image").click()
    expect(page.locator("#compared .vd-hint")).to_be_visible()
    upload(page, name, data)


def says(page: Page, words: str) -> None:
    expect(page.get_by_role("status").filter(has_text=words)).to_be_visible()


def same_page(page: Page) -> bool:
    return bool(page.evaluate("window.mark === 1"))


@pytest.mark.thorough
def test_a_cut_connection_is_said_and_what_is_asked_for_meanwhile_is_answered_when_the_server_is_back(
    page: Page, wire: Wire, app: App
) -> None:
    assert page.locator("#vd-connection").inner_text() == ""
    wire.cut()
    says(page, LOST)
    # The page can still be read.
    before = pictures(page)
    page.locator("#compared [name=layer]").fill("2")
    assert pictures(page) != before
    page.locator("#models .token-remove").first.click()
    assert page.locator("#compared .vd-panel").count() == COUNT
    with page.expect_request("**/heartbeat/**"):
        wire.mend(port_of(app.url))
        says(page, BACK)
    expect(page.locator("#compared .vd-panel")).to_have_count(COUNT - 1)
    assert best_labels(page) == expected_labels(app, photo(300, 200))[1:]
    assert same_page(page)
    assert page.locator(".toast-body").count() == 0
    # It notices the next time, too.
    wire.cut()
    says(page, LOST)


@pytest.fixture(scope="module")
def another(app: App) -> Iterator[App]:
    # Two servers in one process share one folder for uploads: Gradio takes it from the environment.
    with serving(Path(os.environ["GRADIO_TEMP_DIR"])) as served:
        yield served


@pytest.mark.thorough
def test_of_another_server_the_page_is_loaded_when_something_is_asked_for(page: Page, wire: Wire, another: App) -> None:
    wire.cut()
    says(page, LOST)
    wire.mend(port_of(another.url))
    says(page, RESTARTED)
    assert same_page(page)
    example(page, 1).click()
    says(page, RELOADED)
    assert not same_page(page)
    expect(page.locator("#compared .vd-best .vd-label")).to_have_text(expected_labels(another, examples()[0].path))
    wait_for_new_result(page, example(page, 1).click)
    expect(page.locator("#compared .vd-best .vd-label")).to_have_text(expected_labels(another, examples()[1].path))


@pytest.mark.thorough
def test_what_was_asked_for_while_the_server_was_away_loads_the_page_of_another_one(
    page: Page, wire: Wire, another: App
) -> None:
    wire.cut()
    page.locator("#models .token-remove").first.click()
    wire.mend(port_of(another.url))
    says(page, RELOADED)
    expect(page.locator("#compared .vd-panel")).to_have_count(COUNT)


@pytest.mark.thorough
def test_the_page_can_be_loaded_anew_by_its_button(page: Page, wire: Wire, another: App) -> None:
    wire.cut()
    says(page, LOST)
    expect(page.get_by_role("status").get_by_role("button")).to_be_hidden()
    wire.mend(port_of(another.url))
    page.get_by_role("status").get_by_role("button", name="Reload").click()
    says(page, RELOADED)
    assert not same_page(page)


@contextlib.contextmanager
def server(port: int, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`python app.py`, until it ends or the block does."""
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(folder), "GRADIO_SERVER_PORT": str(port)}
    command = [sys.executable, "-u", "app.py"]
    started = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert started.stdout
        # It says where it runs when it does.
        assert any("Running on local URL" in line for line in started.stdout)
        yield started
    finally:
        started.kill()
        started.wait()


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_a_server_that_is_told_to_end_deletes_the_photos_of_open_pages_and_the_page_outlives_it(
    context: BrowserContext, app: App, tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with server(port, tmp_path) as first:
        page = own_photo(context, App(f"http://127.0.0.1:{port}/", app.pipeline, app.page))
        assert list(tmp_path.rglob("mine.png"))
        first.send_signal(signal.SIGTERM)
        assert first.wait(timeout=60) == 0
    assert not list(tmp_path.rglob("mine.png"))
    says(page, LOST)
    with server(port, tmp_path):
        says(page, RESTARTED)
        page.locator("#models .token-remove").first.click()
        says(page, RELOADED)
        wait_for_new_result(page, lambda: take(page, "mine.png", encode(photo(240, 160), "PNG")))
        assert page.locator("#compared .vd-panel").count() == COUNT


@pytest.mark.thorough
def test_a_photo_that_was_deleted_meanwhile_is_asked_for_again(context: BrowserContext, tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        page = own_photo(context, served)
        for stored in tmp_path.rglob("mine.png"):
            stored.unlink()
        page.locator("#models .token-remove").first.click()
        expect(page.get_by_text(GONE)).to_be_visible()
        wait_for_new_result(page, lambda: take(page, "mine.png", encode(photo(300, 200), "PNG")))
        assert best_labels(page) == expected_labels(served, photo(300, 200))[1:]
        page.close()


@pytest.mark.thorough
def test_two_pages_at_once_show_each_its_own(browser: Browser, app: App) -> None:
    with opened(browser) as one, opened(browser) as other:
        pages = [Watched(context.new_page(), app).open().page for context in (one, other)]
        # The first page goes without the first model, the second one without the second.
        for which, page in enumerate(pages):
            wait_for_new_result(page, page.locator("#models .token-remove").nth(which).click)
        for turn in range(2):
            photos = [photo(200 + 40 * turn, 200), photo(200, 240 + 40 * turn)]
            # Both ask before either is answered.
            for which, page in enumerate(pages):
                take(page, f"{turn}-{which}.png", encode(photos[which], "PNG"))
            for which, page in enumerate(pages):
                wanted = expected_labels(app, photos[which])
                del wanted[which]
                expect(page.locator("#compared .vd-best .vd-label")).to_have_text(wanted)
