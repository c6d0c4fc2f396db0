"""What a person does in the Train tab, in a real browser."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.acts import open_tab, too_wide
from tests.browser.driver import Watched, opened
from tests.browser.static_page import looks
from tests.photos import files, in_zip
from tests.served import App, serving
from vitdemo.registry import forget_folder
from vitdemo.training.strip import shipped_strip
from vitdemo.ui.errors import Page as BuiltPage

pytestmark = pytest.mark.browser

LONG = 90_000
"""Milliseconds that a training of a test may take, its start included."""


@pytest.fixture
def train(watched: Watched) -> Page:
    """The page with the Train tab open."""
    open_tab(watched.page, "Train")
    expect(watched.page.locator("#trainer .vd-frames li")).to_have_count(len(shipped_strip().steps))
    return watched.page


@pytest.fixture
def own_app(tmp_path: Path) -> Iterator[App]:
    """One whose trainings are its own."""
    with serving(tmp_path / "gradio", device="cpu") as served:
        yield served
    forget_folder("trained-1")


def picture(page: Page) -> str:
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return looks(page.locator("#trainer .vd-picture canvas"))[0]


@pytest.mark.thorough
def test_before_anything_is_trained_there_is_a_strip_that_can_be_stepped_through_and_played(
    train: Page, watched: Watched
) -> None:
    steps = [f"{step}" for step in shipped_strip().steps]
    assert train.locator("#trainer .vd-frames span").all_inner_texts() == steps
    expect(train.locator("#trainer .vd-about")).to_contain_text("Only these maps ship, no weights.")
    expect(train.locator("#trainer .vd-curves figure")).to_have_count(2)
    watched.settle()
    watched.requests.clear()
    last = picture(train)
    train.locator("#trainer [name=frame]").fill("0")
    first = picture(train)
    assert first != last
    expect(train.locator("#trainer .vd-text")).to_contain_text("Step 1, loss")
    train.locator("#trainer [name=frame]").fill(str(len(steps) - 1))
    assert picture(train) == last
    train.locator("#trainer [name=layer]").fill("0")
    assert picture(train) != last
    train.locator("#trainer [name=head]").select_option("2")
    train.locator("#trainer").get_by_role("button", name="Step 4", exact=True).click()
    expect(train.locator("#trainer .vd-picture canvas")).to_have_attribute("data-step", "4")
    train.locator("#trainer").get_by_role("button", name="▶ Play").click()
    expect(train.locator("#trainer .vd-picture canvas")).to_have_attribute("data-step", "8")
    train.locator("#trainer").get_by_role("button", name="❚❚ Stop").click()
    # All of it is drawn in the browser.
    assert watched.requests == []


@pytest.mark.thorough
def test_a_link_opens_the_tab_and_bad_input_has_words(watched: Watched) -> None:
    other = Watched(watched.page.context.new_page(), watched.app).open("?tab=train")
    page = other.page
    expect(page.locator("#trainer .vd-begin")).to_be_visible()
    wrong = page.locator("#trainer .vd-wrong")
    page.locator("#trainer [name=minutes]").fill("0")
    page.locator("#trainer .vd-begin").click()
    expect(wrong).to_have_text(re.compile("Minutes must be above 0"))
    page.locator("#trainer [name=minutes]").fill("1")
    page.locator("#trainer [name=kind][value=upload]").check()
    page.locator("#trainer .vd-begin").click()
    expect(wrong).to_have_text("Choose a zip or tar archive with one folder per class.")
    page.locator("#trainer [name=kind][value=folder]").check()
    page.locator("#trainer [name=path]").fill("/no/such/folder")
    page.locator("#trainer .vd-begin").click()
    expect(wrong).to_contain_text("There is no such folder or archive")
    page.locator("#trainer [name=recipe]").select_option("dino")
    assert page.locator("#trainer [name=arch] option").all_inner_texts() == ["ViT"]
    assert other.complaints == []


@pytest.mark.thorough
def test_where_training_is_off_there_is_no_tab(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path / "gradio", train=False) as app, opened(browser) as context:
        watched = Watched(context.new_page(), app).open("?tab=train")
        expect(watched.page.get_by_role("tab", name="Models")).to_be_visible()
        expect(watched.page.get_by_role("tab", name="Train")).to_have_count(0)
        expect(watched.page.locator("body")).to_contain_text("is ignored: tab=train")
        assert watched.complaints == []


@pytest.mark.thorough
def test_a_network_is_trained_on_an_archive_joins_the_tabs_and_is_downloaded(
    browser: Browser, own_app: App, tmp_path: Path
) -> None:
    archive = in_zip(tmp_path / "my photos.zip", files({"blue_sky": 12, "green": 12, "red": 12}))
    with opened(browser, accept_downloads=True) as context:
        watched = Watched(context.new_page(), own_app).open()
        page = watched.page
        open_tab(page, "Train")
        page.locator("#trainer [name=kind][value=upload]").check()
        page.locator("#trainer [name=archive]").set_input_files(archive)
        page.locator("#trainer [name=resolution]").select_option("64")
        page.locator("#trainer [name=minutes]").fill("0.1")
        page.locator("#trainer .vd-begin").click()
        # Somebody else sees that one is running, and no more.
        with opened(browser) as elsewhere:
            other = Watched(elsewhere.new_page(), own_app).open("?tab=train").page
            expect(other.locator("#trainer .vd-phase")).to_contain_text("A training of another visitor is running")
            expect(other.locator("#trainer .vd-begin")).to_be_disabled()
            expect(other.locator("#trainer [data-act=stop]")).to_be_hidden()
        expect(page.locator("#trainer .vd-train")).to_have_attribute("data-state", "done", timeout=LONG)
        assert page.locator("#trainer .vd-frames span").first.inner_text() == "1"
        expect(page.locator("#trainer .vd-text")).to_contain_text("of the held-out photos right")
        with page.expect_download() as download:
            page.locator("#trainer [data-act=pack]").click()
        packed = zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes()))
        assert "trained-1/model.safetensors" in packed.namelist()
        open_tab(page, "Explain")
        expect(page.locator("#explained h2 code")).to_have_text("trained-1")
        assert page.locator("#explained .vd-labels .vd-name").first.inner_text() in ("blue sky", "green", "red")
        open_tab(page, "Compare")
        expect(page.locator("#compared [aria-label*='trained-1']").first).to_be_visible()
        assert watched.complaints == []


@pytest.mark.thorough
def test_a_training_is_stopped_found_again_after_a_reload_and_resumed(browser: Browser, own_app: App) -> None:
    assert isinstance(own_app.page, BuiltPage)
    with opened(browser) as context:
        watched = Watched(context.new_page(), own_app).open("?tab=train")
        page = watched.page
        page.locator("#trainer [name=resolution]").select_option("64")
        page.locator("#trainer [name=minutes]").fill("0.3")
        page.locator("#trainer .vd-begin").click()
        expect(page.locator("#trainer .vd-picture canvas")).to_have_attribute("data-step", "4", timeout=LONG)
        page.locator("#trainer [data-act=stop]").click()
        expect(page.locator("#trainer .vd-train")).to_have_attribute("data-state", "stopped", timeout=LONG)
        watched.reload()
        page.locator("#trainer [data-act=resume]").click()
        expect(page.locator("#trainer .vd-train")).to_have_attribute("data-state", "done", timeout=LONG)
        expect(page.locator("#trainer [data-act=resume]")).to_be_hidden()
        assert watched.complaints == []


@pytest.mark.parametrize("width", [390, pytest.param(1440, marks=pytest.mark.thorough)])
def test_the_tab_fits_the_screen(browser: Browser, app: App, width: int) -> None:
    with opened(browser, width, 844) as context:
        page = Watched(context.new_page(), app).open("?tab=train").page
        expect(page.locator("#trainer .vd-frames li").first).to_be_visible()
        assert too_wide(page, "#trainer *") == []
        # The names of all tabs can be read.
        cut = page.locator(".tab-container button:visible").evaluate_all(
            "(all) => all.filter((one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.textContent)"
        )
        assert cut == []
