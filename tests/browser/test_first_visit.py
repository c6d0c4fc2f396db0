"""A first visit, on a desk and on a phone: from the page as it opens to a saved picture of one's own photo."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.browser.acts import best_labels, open_tab, upload, wait_for_new_result
from tests.browser.driver import Watched, opened
from tests.hostile import encode
from tests.served import App
from vitdemo.pipeline import Pipeline
from vitdemo.ui.examples import examples

pytestmark = pytest.mark.browser

SHIFTS = """() => new Promise((done) => {
    let sum = 0;
    const add = (list) => list.forEach((entry) => { if (!entry.hadRecentInput) sum += entry.value; });
    new PerformanceObserver((list) => add(list.getEntries())).observe({ type: "layout-shift", buffered: true });
    setTimeout(() => done(sum), 100);
})"""
"""Cumulative layout shift since the page began to be shown."""


def top(page: Page, selector: str) -> float:
    """Pixels from the top of the page."""
    found: float = page.locator(selector).first.evaluate("(one) => one.getBoundingClientRect().top + scrollY")
    return found


def saved(page: Page) -> Image.Image:
    """The picture of the first model."""
    page.locator("#compared .vd-facts summary").first.click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the picture as seen").first.click()
    return Image.open(io.BytesIO(Path(download.value.path()).read_bytes()))


def crab() -> bytes:
    """A photo that is none of the examples any more."""
    path = next(example.path for example in examples() if example.label == "crab")
    with Image.open(path) as image:
        return encode(image.convert("RGB").resize((480, 320)), "JPEG")


def test_on_a_desk_the_maps_are_seen_at_once_and_a_photo_of_ones_own_is_saved(browser: Browser, app: App) -> None:
    with opened(browser, 1440, 900) as context:
        watched = Watched(context.new_page(), app).open()
        page = watched.page
        assert top(page, "#compared .vd-picture canvas") <= 300
        assert top(page, "#compared .vd-verdict") <= 300
        expect(page.locator("#compared .vd-verdict")).not_to_be_empty()
        assert page.evaluate(SHIFTS) <= 0.02
        forwards = app.forwards
        wait_for_new_result(page, lambda: upload(page, "crab.jpg", crab()))
        watched.settle()
        assert app.forwards - forwards == len(best_labels(page))
        assert saved(page).size == (480, 320)
        # Smaller screens show the maps above the fold, too.
        page.set_viewport_size({"width": 1280, "height": 720})
        page.evaluate("scrollTo(0, 0)")
        assert top(page, "#compared .vd-picture canvas") <= 400
        assert watched.complaints == []


def test_on_a_phone_the_answer_comes_before_the_controls(phone: Watched) -> None:
    page = phone.page
    tabs = page.get_by_role("tab").evaluate_all("(all) => all.map((one) => one.getBoundingClientRect().top)")
    assert len(set(tabs)) == 1
    order = ["#photo", "[role=tab]", "#compared .vd-verdict", "#compared .vd-picture canvas", "#compared .vd-controls"]
    places = [top(page, selector) for selector in [*order, "#models"]]
    assert places == sorted(places)
    wait_for_new_result(page, lambda: upload(page, "crab.jpg", crab()))
    phone.settle()
    # The new answer is on the screen.
    assert 0 <= page.locator("#compared .vd-verdict").evaluate("(one) => one.getBoundingClientRect().top") < 400
    assert saved(page).size == (480, 320)
    for tab in ("Live", "Models"):
        open_tab(page, tab)
        expect(page.locator("#photo")).to_be_hidden()


@pytest.mark.thorough
def test_all_layers_are_saved_as_an_animation(watched: Watched, pipeline: Pipeline) -> None:
    page = watched.page
    with page.expect_download() as download:
        page.locator("#compared").get_by_role("button", name="Save animation").click()
    with Image.open(download.value.path()) as film:
        assert (film.format, getattr(film, "n_frames", 1)) == ("GIF", 8)
        seen = set()
        for number in range(8):
            film.seek(number)
            seen.add(film.convert("RGB").tobytes())
    assert len(seen) == 8
    expect(page.locator("#compared .vd-layer-number")).to_have_text("8 of 8")
