"""The Segment tab on the running page: masks, files, links, other photos and words where something is wrong."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.browser.acts import example, open_tab, upload
from tests.browser.driver import Watched
from tests.hostile import encode
from vitdemo.options.segment import SegmentRequest
from vitdemo.pipeline.segment import segment
from vitdemo.registry import get_spec
from vitdemo.types import Segmentation
from vitdemo.ui.examples import examples, opening_example
from vitdemo.ui.segment_views import tidied
from vitdemo.ui.state import SEGMENT

pytestmark = pytest.mark.browser

MODEL = "dino-mini"


@pytest.fixture
def page(watched: Watched) -> Page:
    """The open Segment tab."""
    open_tab(watched.page, "Segment")
    expect(root(watched.page)).to_have_attribute("data-result", re.compile(r"\d"))
    watched.settle()
    return watched.page


def chosen(page: Page) -> str:
    """The file that the page's photo is."""
    return str(page.locator("#photo img").get_attribute("src")).rsplit("/", 1)[-1]


@pytest.mark.thorough
def test_until_a_photo_is_chosen_segment_shows_the_crab_and_compare_the_first_example(
    page: Page, watched: Watched
) -> None:
    assert chosen(page) == "crab.jpg"
    open_tab(page, "Compare")
    watched.settle()
    assert chosen(page) == examples()[0].path.name
    expect(page.locator("#compared .vd-verdict")).to_contain_text("All five say sunflower")
    example(page, 1).click()
    open_tab(page, "Segment")
    watched.settle()
    assert chosen(page) == "crocodile.jpg"


@pytest.mark.thorough
def test_a_cut_out_is_transparent_where_no_mask_is(page: Page, watched: Watched) -> None:
    corner = "canvas => [...canvas.getContext('2d').getImageData(2, 2, 1, 1).data][3]"
    canvas = root(page).locator(".vd-view canvas")
    assert canvas.evaluate(corner) == 255
    root(page).get_by_role("button", name="Cut-out").click()
    watched.settle()
    assert canvas.evaluate(corner) == 0
    with page.expect_download() as download:
        root(page).get_by_role("button", name="Save picture").click()
    assert download.value.suggested_filename == "crab-cut-out.png"
    saved = Image.open(download.value.path())
    assert saved.mode == "RGBA"
    assert 0.1 < (np.asarray(saved)[..., 3] > 128).mean() < 0.4


@pytest.mark.thorough
def test_more_models_are_found_from_the_list_of_segment_too(page: Page, watched: Watched) -> None:
    root(page).get_by_role("button", name="+ More").click()
    expect(page.locator("#picker dialog")).to_be_visible()
    watched.settle()


def root(page: Page) -> Locator:
    return page.locator("#segmented .vd-segment")


def items(page: Page) -> Locator:
    return root(page).locator(".vd-items li")


def control(page: Page, name: str) -> Locator:
    return root(page).locator(f"[name={name}]")


def choose(page: Page, title: str) -> None:
    """A method, by its button."""
    root(page).get_by_role("radio", name=title, exact=True).check()


def unfold(page: Page, title: str) -> None:
    root(page).locator("summary", has_text=title).click()


def answered(page: Page, act: Callable[[], object]) -> None:
    """Until what it asks for is shown."""
    before = root(page).get_attribute("data-result") or ""
    act()
    expect(root(page)).not_to_have_attribute("data-result", before)
    expect(root(page)).to_have_attribute("aria-busy", "false")


def plain(page: Page) -> None:
    """Masks of whole patches: to follow the edges takes seconds a mask."""
    unfold(page, "Display")
    answered(page, lambda: page.get_by_label("Snap to edges").uncheck())


def expected(watched: Watched, model: str = MODEL, **parameters: Any) -> Segmentation:
    pipeline = watched.app.pipeline
    found = segment(
        pipeline, [pipeline.open(opening_example(SEGMENT).path)], get_spec(model), SegmentRequest(**parameters)
    )
    return tidied(found[0])


def listed(found: Segmentation) -> list[str]:
    return [f"{name}: {area:.1%} of the picture" for name, area in zip(found.names, found.areas, strict=True)]


def taken(page: Page) -> dict[str, bytes]:
    """The files of the zip."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Download results").click()
    with zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_foreground_is_there_when_the_tab_is_opened_and_its_files_hold_it(page: Page, watched: Watched) -> None:
    found = expected(watched, refine=True)
    assert items(page).all_inner_texts() == listed(found)
    box = root(page).locator(".vd-view canvas").bounding_box()
    assert box
    assert box["y"] <= 300
    rows, columns = found.patches.shape[1:]
    unfold(page, "Details")
    expect(root(page).locator(".vd-facts")).to_contain_text(f"{rows} \N{MULTIPLICATION SIGN} {columns} patches")
    files = taken(page)
    with Image.open(io.BytesIO(files["mask-01.png"])) as mask:
        np.testing.assert_array_equal(np.asarray(mask) > 0, found.masks[0])
    with Image.open(io.BytesIO(files["cutout.png"])) as cutout:
        assert cutout.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(cutout)[:, :, 3] > 0, found.masks.any(axis=0))
    coco = json.loads(files["coco.json"])
    assert coco["annotations"][0]["area"] == int(found.masks[0].sum())


@pytest.mark.thorough
def test_parameters_change_the_masks_without_a_forward(page: Page, watched: Watched) -> None:
    forwards = watched.app.forwards
    plain(page)
    expect(items(page)).to_have_text(listed(expected(watched)))
    choose(page, "Attention")
    expect(items(page)).to_have_text(listed(expected(watched, method="attention")))
    control(page, "threshold").fill("0.3")
    expect(items(page)).to_have_text(listed(expected(watched, method="attention", threshold=0.3)))
    unfold(page, "Each head")
    heads = root(page).locator(".vd-cells button")
    expect(heads).to_have_count(get_spec(MODEL).num_heads)
    heads.nth(1).click()
    expect(items(page)).to_have_text(listed(expected(watched, method="attention", threshold=0.3, head=1)))
    expect(control(page, "head")).to_have_value("1")
    choose(page, "Parts")
    expect(items(page)).to_have_text(listed(expected(watched, method="parts")))
    assert watched.app.forwards == forwards


@pytest.mark.thorough
def test_the_resolution_is_typed_or_stepped_with_the_arrow_keys(page: Page) -> None:
    plain(page)
    unfold(page, "Details")
    resolution = page.get_by_label("Resolution")
    resolution.fill("448")
    answered(page, lambda: resolution.press("Enter"))
    expect(root(page).locator(".vd-facts")).to_contain_text("16 \N{MULTIPLICATION SIGN} 28 patches")
    answered(page, lambda: resolution.press("ArrowDown"))
    expect(resolution).to_have_value("416")
    expect(root(page).locator(".vd-facts")).to_contain_text("15 \N{MULTIPLICATION SIGN} 26 patches")
    expect(page).to_have_url(re.compile("resolution=416"))


@pytest.mark.thorough
def test_a_second_model_has_its_picture_its_words_and_its_files(page: Page, watched: Watched) -> None:
    plain(page)
    answered(page, lambda: control(page, "beside").select_option("vit-mini"))
    expect(root(page).locator("h2 code")).to_have_text(["dino-mini", "vit-mini"])
    own = expected(watched, "vit-mini")
    assert items(page).all_inner_texts() == [*listed(expected(watched)), *listed(own)]
    files = taken(page)
    with Image.open(io.BytesIO(files["vit-mini/mask-01.png"])) as mask:
        np.testing.assert_array_equal(np.asarray(mask) > 0, own.masks[0])
    assert json.loads(files["vit-mini/segmentation.json"])["model"] == "vit-mini"
    assert json.loads(files["segmentation.json"])["model"] == "dino-mini"


@pytest.mark.thorough
def test_a_link_brings_back_the_controls(page: Page, watched: Watched) -> None:
    plain(page)
    choose(page, "Parts")
    control(page, "parts").fill("3")
    page.get_by_label("Only parts of the object").uncheck()
    found = expected(watched, method="parts", parts=3, within=False)
    expect(items(page)).to_have_text(listed(found))
    expect(page).to_have_url(re.compile(r"tab=segment.*method=parts.*refine=0.*parts=3.*within=0"))
    watched.settle()
    url, forwards = page.url, watched.app.forwards
    page.goto(url)
    page.wait_for_function("window.vitdemoOpened")
    expect(items(page)).to_have_text(listed(found))
    expect(control(page, "parts")).to_have_value("3")
    expect(page.get_by_label("Only parts of the object")).not_to_be_checked()
    expect(control(page, "threshold")).to_be_hidden()
    expect(page).to_have_url(url)
    assert watched.app.forwards == forwards


@pytest.mark.thorough
def test_what_a_link_asks_for_in_vain_is_said_in_one_line_and_defaults_are_used(watched: Watched) -> None:
    page = watched.page
    page.goto(f"{watched.app.url}?tab=segment&method=nope&parts=99&beside=<html>&tau=much&head=77&refine=0")
    page.wait_for_function("window.vitdemoOpened")
    expect(items(page)).to_have_text(listed(expected(watched)))
    remarks = root(page).locator(".vd-remarks")
    for words in (
        "There is no method “nope”; using Foreground.",
        "Parts goes from 2 to 8; using 8 instead of 99.",
        "There is no model “<html>”; comparing with none.",
        "Similarity threshold must be a number, not “much”; using",
        "dino-mini has no head “77”; using the mean of heads.",
    ):
        expect(remarks).to_contain_text(words)
    expect(page.locator(".toast-body")).to_have_count(0)
    expect(control(page, "parts")).to_have_value("8")


@pytest.mark.thorough
def test_a_photo_is_segmented_when_it_is_chosen_or_else_when_the_tab_is_opened(page: Page, watched: Watched) -> None:
    plain(page)
    answered(page, lambda: example(page, 1).click())
    expect(page).to_have_url(re.compile("image=crocodile"))
    open_tab(page, "Models")
    watched.settle()
    before = root(page).get_attribute("data-result")
    page.locator("#examples button").nth(2).evaluate("(one) => one.click()")  # the panel is not shown there
    watched.settle()
    assert root(page).get_attribute("data-result") == before
    answered(page, lambda: open_tab(page, "Segment"))
    expect(page).to_have_url(re.compile("image=pyramid"))
    # Nothing new: nothing is asked for.
    open_tab(page, "Models")
    watched.requests.clear()
    open_tab(page, "Segment")
    watched.settle()
    assert not any("/queue/join" in request for request in watched.requests[1:])


@pytest.mark.thorough
def test_other_photos_share_the_parts(page: Page) -> None:
    plain(page)
    choose(page, "Parts")
    unfold(page, "Find in other photos")
    control(page, "others").set_input_files(
        [
            {"name": "croc.jpg", "mimeType": "image/jpeg", "buffer": examples()[1].path.read_bytes()},
            {"name": "broken.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"},
        ]
    )
    found = root(page).locator(".vd-found")
    expect(found.locator("canvas")).to_have_count(1)
    expect(root(page).locator(".vd-remarks")).to_contain_text("broken.jpg: Not a readable image")
    choose(page, "Similarity")
    # Beside the map of the other photo, what is where in both.
    expect(found.locator("img")).to_have_count(1)
    expect(found).to_contain_text(re.compile(r"croc\.jpg: \d+ mutual match"))
    assert {name.split("/")[0] for name in taken(page)} == {"crab", "croc"}


@pytest.mark.thorough
def test_of_a_file_that_was_not_uploaded_nothing_is_shown(watched: Watched, page: Page) -> None:
    choose(page, "Parts")
    watched.settle()
    page.route("**/upload*", lambda route: route.fulfill(json=["/etc/hostname"]))
    picture = {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": examples()[1].path.read_bytes()}
    control(page, "others").set_input_files([picture])
    told = "The server does not answer. Try again. Showing the previous result."
    expect(root(page).get_by_role("alert")).to_have_text(told)
    expect(root(page)).to_have_attribute("aria-busy", "false")
    expect(root(page).locator(".vd-found canvas")).to_have_count(0)
    # The browser itself tells of the refusal.
    assert ["400" in complaint for complaint in watched.complaints] == [True]
    watched.complaints.clear()


@pytest.mark.thorough
def test_without_a_photo_the_tab_says_what_to_do_and_of_nothing_that_there_is_no_foreground(page: Page) -> None:
    page.get_by_label("Remove Image").click()
    alert = root(page).get_by_role("alert")
    expect(alert).to_have_text("Drop a photo, or choose an example. Showing the previous result.")
    upload(page, "grey.png", encode(Image.new("RGB", (300, 200), (128, 128, 128)), "PNG"))
    expect(root(page).locator("figcaption")).to_contain_text("No foreground found.")
    expect(alert).to_be_hidden()
    assert items(page).count() == 0
