"""What the page says where the server has no place for it, in a real browser."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from tests.browser.acts import open_tab, result_id, upload
from tests.browser.driver import Watched
from tests.hostile import encode, photo
from tests.served import App
from vitdemo.ui import fair_queue

pytestmark = pytest.mark.browser


@pytest.fixture
def full(app: App, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Four jobs of others run, and three wait, as many as may, until this is set."""
    backend, go = app.pipeline.backend, threading.Event()
    run = backend.run

    def held(*arguments: Any, **options: Any) -> Any:
        go.wait(60)
        return run(*arguments, **options)

    monkeypatch.setattr(backend, "run", held)
    monkeypatch.setattr(app.page._queue, "places", 3)
    monkeypatch.setattr(fair_queue, "UNREAD", 60)
    url = f"{app.url}gradio_api/"
    (path,) = httpx.post(f"{url}upload", files={"files": ("a.png", encode(photo(), "PNG"))}).json()
    given = {"image": {"path": path, "meta": {"_type": "gradio.FileData"}}, "models": ["vit-mini"]}
    events = []
    for running in (1, 2, 3, 4, 4, 4, 4):
        events.append(httpx.post(f"{url}call/v2/classify", json=given).json()["event_id"])
        while app.page._queue.get_active_worker_count() < running:
            time.sleep(0.01)
    yield go
    go.set()
    for event in events:
        assert "complete" in httpx.get(f"{url}call/v2/classify/{event}", timeout=60).text


@pytest.mark.thorough
def test_a_page_that_may_not_wait_says_how_many_do_and_greys_what_is_not_of_its_photo(
    watched: Watched, full: threading.Event
) -> None:
    page = watched.page
    hint, panel = page.locator("#compared .vd-hint"), page.locator("#compared .vd-panel canvas").first
    before = result_id(page)
    busy = "The server is busy: 3 jobs wait. Try again in a moment."
    upload(page, "mine.png", encode(photo(200, 140), "PNG"))
    page.locator("#photo img").wait_for()
    expect(hint).to_have_text(f"{busy} Showing the previous result.")
    expect(page.locator(".toast-body").first).to_contain_text(busy)
    expect(page.locator("#compared .error")).to_be_hidden()
    assert float(panel.evaluate("node => getComputedStyle(node).opacity")) < 0.5
    open_tab(page, "Segment")
    expect(page.locator("#segmented .vd-alert")).to_have_text(busy)
    open_tab(page, "Compare")
    # When there is room again, what is missing comes as its tab is opened.
    full.set()
    while watched.app.page._queue.get_active_worker_count() or len(watched.app.page._queue):
        time.sleep(0.01)
    watched.settle()
    open_tab(page, "Explain")
    open_tab(page, "Compare")
    expect(page.locator("#compared .vd-explorer")).not_to_have_attribute("data-result", before)
    expect(hint).not_to_contain_text("busy")
    assert all("503" in complaint for complaint in watched.complaints)
    watched.complaints.clear()
