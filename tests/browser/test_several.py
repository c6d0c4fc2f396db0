"""Several photos at once, in a real browser: uploaded, compared, sorted, opened and downloaded."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.acts import best_labels, contrast, example, expected_labels, too_wide, wait_for_new_result
from tests.browser.driver import Watched, opened
from tests.hostile import encode, photo
from tests.served import App
from vitdemo.pipeline.batch import Row, in_words, ranked, summarise
from vitdemo.registry import default_models
from vitdemo.settings import Settings
from vitdemo.ui.examples import examples

pytestmark = pytest.mark.browser

CUP, CRAB, FLOWER = (
    next(example.path for example in examples() if example.path.stem == name).read_bytes()
    for name in ("cup", "crab", "sunflower")
)
EVIL = "=1+1 <img src=x onerror=alert(1)>.jpg"
FILES = {"flower.jpg": FLOWER, "broken.jpg": CUP[:3000], EVIL: CRAB, "cup.jpg": CUP}
BROKEN = 1


def open_several(page: Page) -> Page:
    page.get_by_role("button", name="Several photos").click()
    expect(page.locator("#several-start")).to_be_visible()
    return page


@pytest.fixture
def page(watched: Watched) -> Page:
    return open_several(watched.page)


def choose(page: Page, files: dict[str, bytes]) -> None:
    page.locator("#several-files input[type=file]").set_input_files(
        [{"name": name, "mimeType": "image/jpeg", "buffer": data} for name, data in files.items()]
    )
    expect(page.locator("#several-files tr.file, #several-files .file")).to_have_count(len(files))


def start(page: Page) -> None:
    page.locator("#several-start").click()


def status(page: Page) -> Locator:
    return page.locator("#several-gallery [role=status]")


def titles(page: Page) -> list[str]:
    return page.locator("#several-gallery .vd-title").all_inner_texts()


def rows_of(app: App, files: dict[str, bytes]) -> list[Row]:
    """What the gallery must show, computed without it."""
    rows = []
    for index, (name, data) in enumerate(files.items()):
        if index == BROKEN:
            rows.append(Row(name, error="The image is cut off."))
        else:
            rows.append(summarise(name, app.pipeline.compare(app.pipeline.open(data), default_models(Settings()))))
    return rows


@pytest.mark.thorough
def test_photos_are_sorted_by_disagreement_opened_and_downloaded(watched: Watched, page: Page) -> None:
    choose(page, FILES)
    page.evaluate(
        """() => {
            const list = document.querySelector("#several-gallery ol");
            window.heights = [];
            new MutationObserver(() => { if (list.children.length) heights.push(list.getBoundingClientRect().height); })
                .observe(list, { childList: true, subtree: true });
        }"""
    )
    start(page)
    expect(status(page)).to_have_text("3 photos compared, most disagreement first. 1 could not be compared.")
    rows = rows_of(watched.app, FILES)
    order = ranked(rows)
    assert order != list(range(len(rows)))
    assert titles(page) == [rows[index].image for index in order]

    # Each has its number, its words and its labels.
    places = page.locator("#several-gallery ol > li")
    for place, row in zip(places.all()[:-1], [rows[index] for index in order], strict=False):
        expect(place.locator(".vd-number")).to_have_text(f"{row.disagreement:.2f}")
        expect(place.locator(".vd-words")).to_have_text(in_words(row))
        best = {answer.labels[0].label for answer in row.answers}
        assert set(place.locator("ul strong").all_inner_texts()) == best
    # The broken one is the last, in words, and cannot be opened.
    expect(places.last).to_contain_text("The image is cut off.")
    expect(places.last.get_by_role("button")).to_have_count(0)
    assert page.locator("#several-gallery li img[onerror]").count() == 0
    # The room was there before the photos were.
    heights = page.evaluate("window.heights")
    assert len(heights) >= 2
    assert max(heights) - min(heights) < 2

    # The table is that of the page.
    with page.expect_download() as download:
        page.get_by_role("link", name="Download CSV").click()
    text = Path(download.value.path()).read_text(encoding="utf-8-sig")
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(lines) == 3 * len(default_models(Settings())) + 1
    assert list(dict.fromkeys(line["image"].removeprefix("'") for line in lines)) == titles(page)
    assert f"'{EVIL}" in {line["image"] for line in lines}
    shown = {
        line["image"].removeprefix("'"): f"{float(line['disagreement']):.2f}" for line in lines if line["disagreement"]
    }
    assert list(shown.values()) == page.locator("#several-gallery .vd-number").all_inner_texts()
    for line, answer in zip(lines, [answer for index in order for answer in rows[index].answers], strict=False):
        assert (line["model"], line["label"]) == (answer.model, answer.labels[0].label)
        assert float(line["score"]) == pytest.approx(answer.labels[0].score, abs=1e-4)

    # A click, or Enter, makes a photo the page's.
    wait_for_new_result(page, lambda: page.get_by_role("button", name=f"Show {EVIL} above").click())
    assert best_labels(page) == expected_labels(watched.app, CRAB)
    page.get_by_role("button", name="Show cup.jpg above").focus()
    wait_for_new_result(page, lambda: page.keyboard.press("Enter"))
    assert best_labels(page) == expected_labels(watched.app, CUP)
    expect(page.locator("#compared")).to_be_in_viewport()


class Gate:
    """Lets the photos of a survey through one by one; what else is compared passes."""

    def __init__(self, pipeline: Any) -> None:
        self.compare, self.permits = pipeline.compare_each, threading.Semaphore(0)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if options.get("remember") is False and not self.permits.acquire(timeout=30):
            raise AssertionError("the test let no photo through")
        return self.compare(*arguments, **options)


@pytest.fixture
def gate(app: App, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(app.pipeline)
    monkeypatch.setattr(app.pipeline, "compare_each", gate)
    yield gate
    gate.permits.release(100)


def small(*names: str) -> dict[str, bytes]:
    return {name: encode(photo(60 + len(name), 60), "PNG") for name in names}


@pytest.mark.thorough
def test_photos_come_one_by_one_hold_up_nobody_and_can_be_stopped(watched: Watched, page: Page, gate: Gate) -> None:
    choose(page, small("a.png", "bb.png", "ccc.png"))
    start(page)
    expect(status(page)).to_contain_text("0 of 3 photos")
    assert titles(page) == ["a.png", "bb.png", "ccc.png"]
    gate.permits.release()
    expect(status(page)).to_have_text("1 of 3 photos compared.")
    expect(page.locator("#several-gallery ol img")).to_have_count(1)
    expect(page.locator("#several-start")).to_be_disabled()
    # The survey waits, and the page works.
    wait_for_new_result(page, example(page, 1).click)
    assert best_labels(page) == expected_labels(watched.app, examples()[1].path)
    page.locator("#several-stop").click()
    expect(page.locator("#several-stop")).to_be_disabled()
    gate.permits.release()
    expect(status(page)).to_have_text("Stopped: 2 of 3 photos compared, most disagreement first.")
    assert sorted(titles(page)) == ["a.png", "bb.png"]
    expect(page.locator("#several-start")).to_be_enabled()
    expect(page.get_by_role("link", name="Download CSV")).to_be_visible()


@pytest.mark.thorough
def test_two_users_wait_for_each_other_and_see_their_own_photos(
    page: Page, browser: Browser, app: App, gate: Gate
) -> None:
    with opened(browser) as context:
        other = Watched(context.new_page(), app).open()
        open_several(other.page)
        choose(page, small("mine.png"))
        choose(other.page, small("theirs.png"))
        start(page)
        expect(status(page)).to_have_text("0 of 1 photo compared.")
        start(other.page)
        expect(status(other.page)).to_have_text("Waiting: 0 of 1 photo compared.")
        # Who waits may give up, and begin again.
        other.page.locator("#several-stop").click()
        expect(status(other.page)).to_have_text("Stopped: 0 of 1 photo compared.")
        start(other.page)
        expect(status(other.page)).to_have_text("Waiting: 0 of 1 photo compared.")
        gate.permits.release()
        expect(status(page)).to_have_text("1 photo compared, most disagreement first.")
        expect(status(other.page)).to_have_text("0 of 1 photo compared.")
        gate.permits.release()
        expect(status(other.page)).to_have_text("1 photo compared, most disagreement first.")
        assert (titles(page), titles(other.page)) == (["mine.png"], ["theirs.png"])
        assert other.complaints == []


def test_too_many_photos_and_none_are_answered_in_words(watched: Watched, page: Page) -> None:
    forwards = watched.app.forwards
    start(page)
    expect(page.locator(".toast-body")).to_contain_text("Choose the photos first.")
    page.locator(".toast-close").click()
    limit = watched.app.pipeline.settings.max_photos
    choose(page, small(*(f"{index:03}.png" for index in range(limit + 1))))
    start(page)
    expect(page.locator(".toast-body")).to_contain_text(f"{limit + 1} photos were chosen; the limit is {limit}.")
    assert watched.app.forwards == forwards


@pytest.mark.thorough
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_screen_or_unreadable(browser: Browser, app: App, scheme: Any) -> None:
    with opened(browser, 390, 844, color_scheme=scheme) as context:
        watched = Watched(context.new_page(), app).open()
        page = open_several(watched.page)
        long = "a-name-without-any-place-to-break-it-at-all-which-is-very-long.jpg"
        choose(page, {long: CUP, "broken.jpg": CUP[:3000]})
        start(page)
        expect(status(page)).to_contain_text("1 photo compared")
        assert too_wide(page, "#several *") == []
        for words in (".vd-words", ".vd-maps", "ul li", ".vd-error"):
            assert contrast(page.locator(f"#several-gallery {words}").first) >= 4.5, words
        assert watched.complaints == []
