"""The Segment tab: masks, parameters without a forward, a clicked patch, other photos, and the zip."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect
from vitdemo.ui.segment_controls import TITLES

from tests.browser.acts import choose, open_tab, upload
from tests.browser.driver import Watched
from tests.hostile import encode
from vitdemo.options.segment import SegmentRequest
from vitdemo.pipeline.segment import segment
from vitdemo.registry import get_spec
from vitdemo.types import Segmentation
from vitdemo.ui.examples import examples

pytestmark = pytest.mark.browser

MODEL = "dino-mini"


@pytest.fixture
def page(watched: Watched) -> Page:
    """The open Segment tab."""
    open_tab(watched.page, "Segment")
    expect(watched.page.locator("#segment-first-masks img").first).to_be_visible()
    expect(said(watched.page)).to_contain_text(MODEL)
    watched.settle()
    return watched.page


def said(page: Page) -> Any:
    return page.locator("#segment-said .vd-segments")


def expected(watched: Watched, model: str = MODEL, **parameters: Any) -> Segmentation:
    pipeline = watched.app.pipeline
    found = segment(pipeline, [pipeline.open(examples()[0].path)], get_spec(model), SegmentRequest(**parameters))
    return found[0]


def listed(found: Segmentation) -> list[str]:
    return [f"{name}: {area:.1%} of the picture" for name, area in zip(found.names, found.areas, strict=True)]


def plain(page: Page) -> None:
    """Masks of whole patches: to follow the edges takes seconds a mask."""
    page.get_by_label("Follow the photo's edges").uncheck()


def test_the_foreground_is_there_when_the_tab_is_opened_and_its_files_hold_it(page: Page, watched: Watched) -> None:
    found = expected(watched, refine=True)
    assert said(page).locator("li").all_inner_texts() == listed(found)
    rows, columns = found.patches.shape[1:]
    expect(said(page)).to_contain_text(f"{rows} \N{MULTIPLICATION SIGN} {columns} patches")
    files = taken(page)
    with Image.open(io.BytesIO(files["mask-01.png"])) as mask:
        np.testing.assert_array_equal(np.asarray(mask) > 0, found.masks[0])
    with Image.open(io.BytesIO(files["cutout.png"])) as cutout:
        assert cutout.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(cutout)[:, :, 3] > 0, found.masks.any(axis=0))
    coco = json.loads(files["coco.json"])
    assert coco["annotations"][0]["area"] == int(found.masks[0].sum())


def test_parameters_change_the_masks_without_a_forward(page: Page, watched: Watched) -> None:
    forwards = watched.app.forwards
    plain(page)
    expect(said(page).locator("li").first).to_have_text(listed(expected(watched))[0])
    choose(page, "segment-method", TITLES["attention"])
    found = expected(watched, method="attention")
    expect(said(page).locator("li").first).to_have_text(listed(found)[0])
    slider = page.locator("label:has-text('Attention kept'), div:has(> label:has-text('Attention kept'))")
    expect(slider.first).to_be_visible()
    number = page.get_by_label("number input for Attention kept")
    number.fill("0.3")
    number.press("Tab")
    found = expected(watched, method="attention", threshold=0.3)
    expect(said(page).locator("li").first).to_have_text(listed(found)[0])
    page.get_by_role("button", name="Each head").click()
    expect(page.locator("#segment-heads img")).to_have_count(get_spec(MODEL).num_heads)
    choose(page, "segment-method", TITLES["parts"])
    found = expected(watched, method="parts")
    expect(said(page).locator("li")).to_have_text(listed(found))
    assert watched.app.forwards == forwards


def test_a_clicked_patch_is_looked_for(page: Page, watched: Watched) -> None:
    choose(page, "segment-method", TITLES["similarity"])
    picture = page.locator("#segment-first-picture img")
    expect(picture).to_be_visible()
    watched.settle()
    before, forwards = picture.get_attribute("src"), watched.app.forwards
    box = picture.bounding_box()
    assert box
    picture.click(position={"x": box["width"] * 0.3, "y": box["height"] * 0.6})
    expect(picture).not_to_have_attribute("src", before or "")
    assert watched.app.forwards == forwards
    report = json.loads(taken(page)["segmentation.json"])
    assert len(report["matches"]) == 5
    width, height = watched.app.pipeline.open(examples()[0].path).size
    x, y = report["parameters"]["point"]
    # The picture may be letterboxed in its place: what counts is that another point was taken than the middle.
    assert 0 <= x < width
    assert 0 <= y < height
    assert (round(x), round(y)) != (width // 2, height // 2)


def taken(page: Page) -> dict[str, bytes]:
    """The files of the zip."""
    with page.expect_download() as download:
        page.locator("#segment-zip").click()
    with zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())) as archive:
        assert archive.testzip() is None
        return {Path(name).name: archive.read(name) for name in archive.namelist()}


@pytest.mark.thorough
def test_another_model_is_shown_beside_it(page: Page, watched: Watched) -> None:
    choose(page, "segment-beside", "ViT (vit-mini)")
    expect(page.locator("#segment-second-masks img").first).to_be_visible()
    expect(said(page).locator("strong")).to_have_text(["dino-mini", "vit-mini"])
    own = expected(watched, "vit-mini", refine=True)
    assert said(page).locator("li").all_inner_texts() == [*listed(expected(watched, refine=True)), *listed(own)]
    choose(page, "segment-beside", "none")
    expect(page.locator("#segment-second-masks")).to_have_count(0)


def test_a_link_brings_back_the_controls(page: Page, watched: Watched) -> None:
    plain(page)
    choose(page, "segment-method", TITLES["parts"])
    number = page.get_by_label("number input for Parts")
    number.fill("3")
    number.press("Tab")
    page.get_by_label("Only in the foreground").uncheck()
    found = expected(watched, method="parts", parts=3, within=False)
    expect(said(page).locator("li")).to_have_text(listed(found))
    expect(page).to_have_url(re.compile(r"tab=segment.*method=parts.*refine=0.*parts=3.*within=0"))
    watched.settle()
    url = page.url
    page.goto(url)
    page.wait_for_function("window.vitdemoOpened")
    expect(said(page).locator("li")).to_have_text(listed(found))
    expect(page.get_by_label("number input for Parts")).to_have_value("3")
    expect(page.get_by_label("Only in the foreground")).not_to_be_checked()
    expect(page.get_by_label("number input for Attention kept")).to_have_count(0)
    expect(page).to_have_url(url)


def test_other_photos_share_the_parts(page: Page, watched: Watched) -> None:
    plain(page)
    choose(page, "segment-method", TITLES["parts"])
    page.get_by_role("button", name="The same in other photos").click()
    page.locator("#segment-others input[type=file]").set_input_files(
        [
            {"name": "croc.jpg", "mimeType": "image/jpeg", "buffer": examples()[1].path.read_bytes()},
            {"name": "broken.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"},
        ]
    )
    expect(page.locator("#segment-shared img")).to_have_count(1)
    expect(said(page)).to_contain_text("broken.jpg: Not a readable image")
    choose(page, "segment-method", TITLES["similarity"])
    # Beside the map of the other photo, what is where in both.
    expect(page.locator("#segment-shared img")).to_have_count(2)
    expect(page.locator("#segment-shared")).to_contain_text("each other's nearest")


def test_without_a_photo_the_tab_says_what_to_do_and_of_nothing_that_there_is_no_foreground(page: Page) -> None:
    page.get_by_label("Remove Image").click()
    expect(said(page)).to_have_text("Drop a photo, or choose an example.")
    upload(page, "grey.png", encode(Image.new("RGB", (300, 200), (128, 128, 128)), "PNG"))
    expect(said(page)).to_contain_text("No foreground found.")
    assert said(page).locator("li").count() == 0
