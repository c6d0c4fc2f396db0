"""What a person does in the Choose tab, in a real browser."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.acts import open_tab, too_wide
from tests.browser.driver import Watched, opened
from tests.photos import files, in_tar
from tests.served import App, serving
from vitdemo.registry import forget_folder

pytestmark = pytest.mark.browser

LONG = 90_000
"""Milliseconds that a comparison of a test may take."""


@pytest.fixture
def own_app(tmp_path: Path) -> Iterator[App]:
    """One whose comparisons are its own."""
    with serving(tmp_path / "gradio", device="cpu") as served:
        yield served
    forget_folder("dino-mini-probe")


@pytest.mark.thorough
def test_a_link_opens_the_tab_with_its_models_and_bad_input_has_words(watched: Watched) -> None:
    other = Watched(watched.page.context.new_page(), watched.app).open("?tab=choose&models=dino-mini,cnn-mini,no-such")
    page = other.page
    begin, fault = page.locator("#chooser .vd-begin"), page.locator("#chooser .vd-fault")
    expect(begin).to_have_text("Compare 2 models")
    expect(fault).to_have_text("Not on this server, and left out: no-such.")
    expect(page).to_have_url(re.compile(r"\?tab=choose&models=dino-mini,cnn-mini$"))
    page.locator("#chooser [name=kind][value=upload]").check()
    begin.click()
    expect(fault).to_have_text("Choose a zip or tar archive of photos.")
    page.locator("#chooser [name=kind][value=folder]").check()
    page.locator("#chooser [name=path]").fill("/no/such/folder")
    begin.click()
    expect(fault).to_contain_text("There is no such folder or archive")
    for name in ("dino-mini", "cnn-mini"):
        page.locator(f"#chooser [name=model][value={name}]").uncheck()
    begin.click()
    expect(fault).to_have_text("Choose at least one model.")
    assert other.complaints == []


@pytest.mark.thorough
def test_an_archive_gives_a_verdict_reasons_a_probe_and_a_photo_in_compare(
    browser: Browser, own_app: App, tmp_path: Path
) -> None:
    content = {**files({"blue_sky": 8, "green": 8, "red": 8}), "red/notes.png": b"none"}
    archive = in_tar(tmp_path / "my photos.tar", content)
    with opened(browser, accept_downloads=True) as context:
        watched = Watched(context.new_page(), own_app).open("?tab=choose&models=dino-mini,cnn-mini")
        page = watched.page
        chooser = page.locator("#chooser")
        chooser.locator("[name=kind][value=upload]").check()
        chooser.locator("[name=archive]").set_input_files(archive)
        chooser.locator(".vd-begin").click()
        expect(chooser.locator(".vd-verdict")).to_contain_text("mini", timeout=LONG)
        expect(chooser.locator(".vd-table tbody tr")).to_have_count(2)
        expect(chooser.locator(".vd-skipped summary")).to_have_text("1 file was left out")
        expect(chooser.locator(".vd-point")).to_have_count(2)
        # A point says its numbers to the pointer and to keys, and chooses its model.
        point = chooser.locator(".vd-point[data-model=cnn-mini]")
        point.focus()
        expect(chooser.locator(".vd-tip")).to_contain_text("cnn-mini: probe ")
        page.keyboard.press("Enter")
        expect(chooser.locator(".vd-chosen")).to_have_attribute("data-model", "cnn-mini")
        chooser.locator(".vd-table [name=chosen][value=dino-mini]").check()
        expect(chooser.locator("[name=a]")).to_have_value("dino-mini")
        expect(chooser.locator("[name=b]")).to_have_value("cnn-mini")
        chooser.get_by_role("button", name="ms alone", exact=True).click()
        expect(chooser.get_by_role("columnheader", name="ms alone")).to_have_attribute("aria-sort", "ascending")
        # A photo of the map by keys: its neighbours by both models.
        expect(chooser.locator(".vd-why")).to_have_attribute("aria-busy", "false")
        chooser.locator(".vd-map").first.focus()
        page.keyboard.press("ArrowRight")
        expect(chooser.locator(".vd-peek img")).to_be_visible()
        page.keyboard.press("Enter")
        expect(chooser.locator(".vd-near .vd-thumb")).to_have_count(16)
        for view, found in {
            "differences": ".vd-view[data-of=differences] p",
            "confusions": ".vd-view[data-of=confusions] h3",
            "clusters": ".vd-group",
            "unusual": ".vd-matrix",
        }.items():
            chooser.locator(f"[data-view={view}]").click()
            expect(chooser.locator(found).locator("visible=true").first).to_be_visible()
        # All of it is here again after a reload.
        watched.reload()
        expect(chooser.locator(".vd-verdict")).to_contain_text("mini")
        with page.expect_download() as report:
            chooser.locator("[data-file=report]").click()
        assert "<html" in Path(report.value.path()).read_text(encoding="utf-8")
        chooser.locator(".vd-table [name=chosen][value=dino-mini]").check()
        chooser.locator(".vd-probe").click()
        with page.expect_download(timeout=LONG) as download:
            chooser.locator(".vd-pack").click()
        assert "dino-mini-probe/model.safetensors" in zipfile.ZipFile(download.value.path()).namelist()
        # Somebody else sees none of it.
        with opened(browser) as elsewhere:
            other = Watched(elsewhere.new_page(), own_app).open("?tab=choose").page
            expect(other.locator("#chooser .vd-begin")).to_be_enabled()
            expect(other.locator("#chooser .vd-result")).to_be_hidden()
        open_tab(page, "Explain")
        expect(page.locator("#explained h2 code")).to_have_text("dino-mini-probe")
        open_tab(page, "Choose")
        expect(chooser.locator(".vd-why")).to_have_attribute("aria-busy", "false")
        chooser.locator(".vd-map").first.focus()
        page.keyboard.press("Enter")
        expect(chooser.locator(".vd-photo")).to_have_attribute("data-photo", "0")
        chooser.locator(".vd-open").click()
        expect(page.get_by_role("tab", name="Compare")).to_have_attribute("aria-selected", "true")
        expect(page.locator("#compared h2 code, #compared h3 code").filter(has_text="cnn-mini").first).to_be_visible()
        assert watched.complaints == []


@pytest.mark.thorough
def test_a_comparison_is_cancelled_and_resumed(browser: Browser, own_app: App) -> None:
    with opened(browser) as context:
        watched = Watched(context.new_page(), own_app).open("?tab=choose&models=vit-mini,cnn-mini")
        chooser = watched.page.locator("#chooser")
        chooser.locator(".vd-begin").click()
        expect(chooser.locator(".vd-models-done li").first).to_be_visible(timeout=LONG)
        chooser.locator("[data-act=stop]").click()
        expect(chooser.locator(".vd-fault")).to_contain_text("What is done is kept", timeout=LONG)
        chooser.locator("[data-act=resume]").click()
        expect(chooser.locator(".vd-verdict")).to_contain_text("mini", timeout=LONG)
        assert watched.complaints == []


@pytest.mark.parametrize("width", [390, pytest.param(1440, marks=pytest.mark.thorough)])
def test_the_tab_fits_the_screen_and_the_names_of_all_tabs_can_be_read(browser: Browser, app: App, width: int) -> None:
    with opened(browser, width, 844) as context:
        page = Watched(context.new_page(), app).open("?tab=choose").page
        expect(page.locator("#chooser .vd-begin")).to_be_visible()
        assert too_wide(page, "#chooser *") == []
        tabs = page.locator(".tab-container button:visible")
        cut = tabs.evaluate_all(
            "(all) => all.filter((one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.textContent)"
        )
        assert cut == []
        assert len({round(box["y"]) for box in (tab.bounding_box() for tab in tabs.all()) if box}) == 1
