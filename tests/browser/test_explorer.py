"""The explorer's own parts: the patch that asks, all heads, the walk through layers, the threshold, what can be taken away."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Watched
from tests.browser.test_page import pictures, upload, wait_for_new_result, wait_until_drawn
from tests.hostile import encode, photo
from tests.served import App
from vitdemo.export.results import explanation_json
from vitdemo.export.snippets import fill, reproduce_compare, reproduce_explain
from vitdemo.options.explain import ExplainRequest
from vitdemo.pipeline import Pipeline
from vitdemo.registry import default_models
from vitdemo.rendering.overlay import overlay
from vitdemo.settings import Settings
from vitdemo.types import Explanation
from vitdemo.ui.examples import examples

pytestmark = pytest.mark.browser

FIRST = default_models(Settings())[0]
COUNT = len(default_models(Settings()))
ONE, ALL = "explained", "compared"


@pytest.fixture
def page(watched: Watched) -> Page:
    """The open Explain tab."""
    opened = open_explain(watched.page)
    watched.settle()
    return opened


def open_explain(page: Page) -> Page:
    page.get_by_role("tab", name="Explain").click()
    expect(page.locator("#explained .vd-picture canvas")).to_be_visible()
    return page


def picture(page: Page, tab: str = ONE, index: int = 0) -> Any:
    return page.locator(f"#{tab} .vd-picture canvas").nth(index)


def words(page: Page, tab: str = ONE, index: int = 0) -> str:
    wait_until_drawn(page, tab)
    return page.locator(f"#{tab} .vd-text").nth(index).inner_text()


def explained(pipeline: Pipeline, model: Any = FIRST, **options: Any) -> Explanation:
    return pipeline.explain(pipeline.open(examples()[0].path), model, ExplainRequest(**options))


def place_of(pipeline: Pipeline, row: int, column: int) -> tuple[float, float]:
    """The middle of a patch, in pixels of the photo."""
    left, top, right, bottom = explained(pipeline).view.crop
    return left + (column + 0.5) / 14 * (right - left), top + (row + 0.5) / 14 * (bottom - top)


def position(page: Page, pipeline: Pipeline, row: int, column: int, tab: str = ONE) -> dict[str, float]:
    """The same place on the canvas."""
    box = picture(page, tab).bounding_box()
    width, height = pipeline.open(examples()[0].path).size
    x, y = place_of(pipeline, row, column)
    return {"x": x / width * box["width"], "y": y / height * box["height"]}


def same_words(shown: str, expected: str) -> bool:
    """Bytes in the browser, floats in Python: a patch at the very edge may fall on the other side."""
    pattern = r"(.*: )(\d+)% of attention on (\d+)% of the picture, (.*)"
    one, other = re.fullmatch(pattern, shown), re.fullmatch(pattern, expected)
    assert one, shown
    assert other, expected
    near = abs(int(one[2]) - int(other[2])) <= 3 and abs(int(one[3]) - int(other[3])) <= 1
    return near and (one[1], one[4]) == (other[1], other[4])


def questions(watched: Watched) -> int:
    return sum("component_server" in url for url in watched.requests)


# The patch that asks


def test_a_click_asks_a_patch_and_its_layer_is_fetched_once(page: Page, watched: Watched) -> None:
    pipeline, forwards = watched.app.pipeline, watched.app.forwards
    watched.requests.clear()
    picture(page).click(position=position(page, pipeline, 3, 4))
    expect(page.locator("#explained .vd-text")).to_contain_text("patch in row 3, column 4")
    said = explained(pipeline, readout="patch", point=place_of(pipeline, 3, 4)).description
    assert same_words(words(page), said)
    assert questions(watched) == len(watched.requests) == 1
    # Keys go on from there; Python says the same of each patch.
    for key, (row, column) in {
        "ArrowRight": (3, 5),
        "ArrowDown": (4, 5),
        "ArrowLeft": (4, 4),
        "ArrowUp": (3, 4),
    }.items():
        picture(page).press(key)
        said = explained(pipeline, readout="patch", point=place_of(pipeline, row, column)).description
        assert same_words(words(page), said)
    assert len(watched.requests) == 1
    # Another layer is another question, once.
    for layer in (2, 5, 2):
        page.locator("#explained [name=layer]").fill(str(layer))
        expect(page.locator("#explained .vd-text")).to_contain_text(f"layer {layer}, ")
    page.locator("#explained [name=head]").select_option("4")
    said = explained(pipeline, readout="patch", point=place_of(pipeline, 3, 4), layer=2, head=4).description
    assert same_words(words(page), said)
    assert len(watched.requests) == 3
    assert watched.app.forwards == forwards


def test_the_patch_follows_the_pointer_unless_a_click_holds_it_and_escape_leaves_it(
    page: Page, watched: Watched
) -> None:
    pipeline = watched.app.pipeline
    before, text = pictures(page, ONE), words(page)
    page.locator("#explained [name=readout]").select_option("patch")
    picture(page).hover(position=position(page, pipeline, 2, 2))
    expect(page.locator("#explained .vd-text")).to_contain_text("row 2, column 2")
    picture(page).hover(position=position(page, pipeline, 9, 11))
    expect(page.locator("#explained .vd-text")).to_contain_text("row 9, column 11")
    picture(page).click(position=position(page, pipeline, 9, 11))
    picture(page).hover(position=position(page, pipeline, 1, 1))
    assert "row 9, column 11" in words(page)
    picture(page).click(position=position(page, pipeline, 1, 1))
    picture(page).hover(position=position(page, pipeline, 5, 6))
    expect(page.locator("#explained .vd-text")).to_contain_text("row 5, column 6")
    picture(page).press("Escape")
    page.mouse.move(0, 0)
    expect(page.locator("#explained [name=readout]")).to_have_value("class")
    assert (pictures(page, ONE), words(page)) == (before, text)


def test_under_the_pointer_stands_the_value_of_its_patch(page: Page, watched: Watched) -> None:
    pipeline = watched.app.pipeline
    attribution = explained(pipeline).map
    assert attribution is not None
    watched.requests.clear()
    for row, column in ((0, 0), (6, 7), (13, 13)):
        picture(page).hover(position=position(page, pipeline, row, column))
        wait_until_drawn(page, ONE)
        shown = re.fullmatch(r"here (\d+\.\d\d)%", page.locator("#explained .vd-unit").inner_text())
        assert shown
        assert abs(float(shown[1]) / 100 - attribution.values[row, column]) <= 0.005 * attribution.high + 5e-5
    assert watched.requests == []


def test_a_touch_asks_a_patch(browser: Browser, app: App) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    context.set_default_timeout(20_000)
    watched = Watched(context.new_page(), app).open()
    page = open_explain(watched.page)
    picture(page).tap(position=position(page, app.pipeline, 4, 9))
    expect(page.locator("#explained .vd-text")).to_contain_text("patch in row 4, column 9")
    picture(page).tap(position=position(page, app.pipeline, 8, 2))
    expect(page.locator("#explained .vd-text")).to_contain_text("patch in row 8, column 2")
    assert watched.complaints == []
    context.close()


def test_in_compare_the_same_place_asks_in_every_model(watched: Watched) -> None:
    page, pipeline = watched.page, watched.app.pipeline
    watched.requests.clear()
    picture(page, ALL, 2).click(position=position(page, pipeline, 6, 6, ALL))
    for index, model in enumerate(default_models(Settings())):
        expect(page.locator("#compared .vd-text").nth(index)).to_contain_text("patch in row 6, column 6")
        said = explained(pipeline, model, readout="patch", point=place_of(pipeline, 6, 6)).description
        assert same_words(words(page, ALL, index), said)
    assert questions(watched) == len(watched.requests) == COUNT


def test_a_result_that_the_server_forgot_is_said_in_words(page: Page) -> None:
    page.route(
        "**/component_server/**", lambda route: route.fulfill(json={"error": "The server no longer remembers this."})
    )
    picture(page).click()
    expect(page.locator("#explained .vd-text")).to_have_text("The server no longer remembers this.")
    page.unroute("**/component_server/**")


# Heads and layers


def test_all_heads_of_all_layers_are_shown_and_one_can_be_brought_into_the_picture(
    page: Page, watched: Watched
) -> None:
    watched.requests.clear()
    page.locator("#explained .vd-heads summary").click()
    cells = page.locator("#explained .vd-cells button")
    expect(cells).to_have_count(FIRST.num_layers * FIRST.num_heads)
    looks = cells.locator("canvas").evaluate_all("(all) => all.map((one) => one.toDataURL())")
    assert len(set(looks)) == len(looks)
    cell = page.get_by_role("button", name="layer 3, head 2", exact=True)
    cell.press("Enter")
    assert same_words(words(page), explained(watched.app.pipeline, layer=3, head=2).description)
    expect(cell).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#explained [name=head]")).to_have_value("2")
    expect(page.locator("#explained [name=layer]")).to_have_value("3")
    cell.click()
    expect(page.locator("#explained [name=head]")).to_have_value("mean")
    assert watched.requests == []


def test_in_compare_the_heads_of_the_layer_follow_the_slider(watched: Watched) -> None:
    page = watched.page
    page.locator("#compared .vd-heads summary").first.click()
    cells = page.locator("#compared .vd-cells button")
    expect(cells).to_have_count(sum(model.num_heads for model in default_models(Settings())))
    before = cells.locator("canvas").evaluate_all("(all) => all.map((one) => one.toDataURL())")
    page.locator("#compared [name=layer]").fill("1")
    expect(cells.first).to_have_attribute("title", "layer 1, head 0")
    after = cells.locator("canvas").evaluate_all("(all) => all.map((one) => one.toDataURL())")
    assert all(old != new for old, new in zip(before, after, strict=True))


def test_play_walks_through_the_layers_until_it_is_stopped(page: Page, watched: Watched) -> None:
    watched.requests.clear()
    button = page.get_by_role("button", name=re.compile("Play layers"))
    button.click()
    slider = page.locator("#explained [name=layer]")
    for layer in ("0", "1", "2"):
        expect(slider).to_have_value(layer)
    page.get_by_role("button", name=re.compile("Stop")).click()
    stopped = slider.input_value()
    page.wait_for_timeout(1600)
    assert slider.input_value() == stopped
    assert watched.requests == []


def test_a_threshold_keeps_the_fewest_patches_that_hold_the_share(page: Page, watched: Watched) -> None:
    attribution = explained(watched.app.pipeline, layer=4, head=1).map
    assert attribution is not None
    page.locator("#explained [name=layer]").fill("4")
    page.locator("#explained [name=head]").select_option("1")
    page.mouse.move(0, 0)
    page.locator("#explained [name=opacity]").fill("0")
    plain = _pixels(pictures(page, ONE)[0])
    page.locator("#explained [name=opacity]").fill("100")
    page.locator("#explained [name=mass]").fill("40")
    watched.requests.clear()
    kept = _pixels(pictures(page, ONE)[0])
    left, top, right, bottom = explained(watched.app.pipeline).view.crop
    zoom = plain.shape[1] / watched.app.pipeline.open(examples()[0].path).size[0]
    shown = np.zeros((14, 14), bool)
    for row in range(14):
        for column in range(14):
            x = int((left + (column + 0.5) / 14 * (right - left)) * zoom)
            y = int((top + (row + 0.5) / 14 * (bottom - top)) * zoom)
            shown[row, column] = np.abs(plain[y, x].astype(int) - kept[y, x]).max() > 2
    order = np.sort(attribution.values.ravel())[::-1].cumsum()
    count = int(np.searchsorted(order, 0.4 * order[-1])) + 1
    assert abs(shown.sum() - count) <= 1
    assert attribution.values[shown].min() >= attribution.values[~shown].max() - 0.005 * attribution.high
    page.locator("#explained [name=mass]").fill("100")
    expect(page.locator("#explained label:has([name=mass]) output")).to_have_text("all")
    assert watched.requests == []


def _pixels(url: str) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))


# What can be taken away


def taken(page: Page, name: str, tab: str = ONE) -> tuple[str, bytes]:
    with page.expect_download() as download:
        page.locator(f"#{tab}").get_by_role("button", name=name).first.click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def test_raw_numbers_and_provenance_are_those_of_python(page: Page, watched: Watched) -> None:
    pipeline = watched.app.pipeline
    page.locator("#explained [name=layer]").fill("5")
    page.locator("#explained [name=head]").select_option("max")
    found = explained(pipeline, layer=5, head="max")
    assert found.map is not None
    name, data = taken(page, "Save the raw numbers")
    assert name == f"{examples()[0].path.stem}-{FIRST.name}.npz"
    with np.load(io.BytesIO(data)) as arrays:
        np.testing.assert_array_equal(arrays["map"], found.map.values)
        np.testing.assert_array_equal(arrays["rows"], found.rows["class"])
        assert json.loads(str(arrays["meta"]))["layer"] == 5
    name, data = taken(page, "Save predictions")
    assert name.endswith(".json")
    report = json.loads(data)
    assert report == {"image": examples()[0].path.name, **explanation_json(found)}


def test_the_browsers_overlay_is_pythons_within_two_grey_levels(watched: Watched) -> None:
    page, pipeline = watched.page, watched.app.pipeline
    page.locator("#compared [name=common]").uncheck()
    seen = pipeline.open(examples()[0].path)
    for layer, head in ((7, "mean"), (3, "1")):
        page.locator("#compared [name=layer]").fill(str(layer))
        page.locator("#compared [name=head]").select_option(head)
        wait_until_drawn(page)
        for spec in default_models(Settings()):
            panel = page.locator("#compared .vd-panel", has=page.locator(f"code[title={spec.name}]"))
            with page.expect_download() as download:
                panel.get_by_role("button", name="Save the picture").click()
            with Image.open(download.value.path()) as file:
                theirs = file.convert("RGB")
            found = explained(pipeline, spec, layer=layer, head=head if head == "mean" else int(head))
            assert found.map is not None
            assert theirs.size == seen.size
            ours = np.asarray(overlay(seen, found.view, found.map), np.float32)
            difference = np.abs(np.asarray(theirs.crop(found.view.crop), np.float32) - ours)[4:-4, 4:-4]
            assert difference.mean() <= 2.0, spec.name


# Links


def open_again(page: Page, app: App, url: str) -> Page:
    """Somebody else opens the link."""
    other = page.context.new_page()
    other.goto(url)
    other.wait_for_function("window.vitdemoOpened")
    return other


def look_alike(page: Page, other: Page) -> None:
    """Both may still be decoding their photo."""
    for _ in range(50):
        if pictures(other, ONE) == pictures(page, ONE):
            return
        other.wait_for_timeout(100)
    assert pictures(other, ONE) == pictures(page, ONE)


def test_a_link_brings_back_model_method_class_and_photo(page: Page, watched: Watched) -> None:
    example = page.locator("#examples").get_by_role("button").nth(4)
    wait_for_new_result(page, example.click, ONE)
    page.locator("#method input").click()
    wait_for_new_result(
        page, lambda: page.locator("[role=listbox] [role=option]").filter(has_text="Relevance").first.click(), ONE
    )
    wait_for_new_result(page, lambda: page.locator("#explained .vd-labels button").nth(1).click(), ONE)
    url, text = page.url, words(page)
    assert "method=relevance" in url
    other = open_again(page, watched.app, url)
    expect(other.locator("#explained .vd-text")).to_have_text(text)
    look_alike(page, other)
    assert other.url == url
    other.close()


def test_a_link_to_a_model_without_attention_opens_with_a_method_that_it_has(page: Page, watched: Watched) -> None:
    other = open_again(page, watched.app, f"{watched.app.url}?tab=explain&model=cnn-mini&image=kangaroo")
    expect(other.locator("#explained .vd-text")).to_contain_text("Grad-CAM for ")
    expect(other.locator("#method input")).to_have_value("Grad-CAM")
    # A message would go away by itself.
    other.wait_for_timeout(1000)
    assert other.locator(".toast-body").count() == 0
    other.close()


def test_a_link_brings_back_layer_head_and_patch(page: Page, watched: Watched) -> None:
    page.locator("#explained [name=head]").select_option("3")
    page.locator("#explained [name=layer]").fill("2")
    picture(page).click(position=position(page, watched.app.pipeline, 10, 3))
    expect(page.locator("#explained .vd-text")).to_contain_text("row 10, column 3")
    expect(page).to_have_url(re.compile("patch="))
    page.mouse.move(0, 0)
    text = words(page)
    other = open_again(page, watched.app, page.url)
    expect(other.locator("#explained .vd-text")).to_have_text(text)
    look_alike(page, other)
    other.close()


BROKEN_LINKS = [
    "tab=explain&model=no-such-model",
    "tab=compare&models=vit-mini,../../etc",
    "tab=explain&layer=1e999&head=%3Cscript%3E&patch=a,b&resolution=x",
    "tab=compare&method=relevance&target=unicorn",
    "image=http://10.0.0.1/a.png",
]


@pytest.mark.parametrize(
    "query", [BROKEN_LINKS[0], *(pytest.param(q, marks=pytest.mark.thorough) for q in BROKEN_LINKS[1:])]
)
def test_a_link_that_cannot_be_followed_leaves_a_working_page(watched: Watched, query: str) -> None:
    page = watched.page
    page.goto(f"{watched.app.url}?{query}")
    page.wait_for_function("window.vitdemoOpened")
    page.get_by_role("tab", name="Compare").click()
    expect(page.locator("#compared .vd-panel canvas").first).to_be_visible()
    wait_for_new_result(page, page.locator("#examples").get_by_role("button").nth(3).click)
    assert page.locator("#compared .vd-panel").count() == COUNT
    watched.settle()
    # What the next link cuts off is no fault of the page.
    cut = ("AbortError", "Connection errored out")
    watched.complaints[:] = [one for one in watched.complaints if not any(words in one for words in cut)]


def test_a_photo_of_ones_own_is_not_in_the_link_and_the_page_says_so(watched: Watched) -> None:
    page = watched.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=watched.app.url.rstrip("/"))
    wait_for_new_result(page, lambda: upload(page, "holiday at home.png", encode(photo(310, 210), "PNG")))
    page.locator("#compared [name=layer]").fill("3")
    page.locator("#compared").get_by_role("button", name="Copy link").click()
    expect(page.locator("#compared .vd-said")).to_contain_text("not your photo")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.url
    assert "image=" not in copied
    assert "holiday" not in copied
    assert "layer=3" in copied


# Reproduce


def call(page: Page, tab: str, name: str) -> str:
    return page.locator(f"#{tab} [data-call={name}]").inner_text()


def test_the_calls_are_those_of_what_is_shown(page: Page, watched: Watched) -> None:
    page.locator("#explained .vd-calls summary").click()
    page.locator("#explained [name=layer]").fill("4")
    page.locator("#explained [name=head]").select_option("2")
    wait_until_drawn(page, ONE)
    image = str(examples()[0].path.relative_to(Path.cwd()))
    host = f"'{watched.app.url.rstrip('/')}'"
    texts = reproduce_explain(image, FIRST.name, ExplainRequest(), "HOST")
    expected = fill(texts, 4, 2, "class")
    assert call(page, ONE, "python") == expected["python"]
    assert call(page, ONE, "cli") == expected["cli"]
    assert call(page, ONE, "curl") == expected["curl"].replace("HOST=HOST", f"HOST={host}")
    picture(page).click(position=position(page, watched.app.pipeline, 6, 2))
    expect(page.locator("#explained .vd-text")).to_contain_text("row 6, column 2")
    wait_until_drawn(page, ONE)
    point = re.search(r"--point=([\d.]+),([\d.]+)", call(page, ONE, "cli"))
    assert point
    np.testing.assert_allclose([float(point[1]), float(point[2])], place_of(watched.app.pipeline, 6, 2), atol=0.1)


def test_compare_has_its_calls_too(watched: Watched) -> None:
    page = watched.page
    page.locator("#compared .vd-calls summary").click()
    wait_until_drawn(page)
    image = str(examples()[0].path.relative_to(Path.cwd()))
    texts = fill(
        reproduce_compare(image, [spec.name for spec in default_models(Settings())], ExplainRequest(), "HOST"),
        7,
        "mean",
        "",
    )
    assert call(page, ALL, "python") == texts["python"]
    assert call(page, ALL, "cli") == texts["cli"]


ACTS: dict[str, Callable[[Page], object]] = {
    "example": lambda page: page.locator("#examples").get_by_role("button").nth(2).click(),
    "model": lambda page: page.locator("#models .token-remove").first.click(),
}


@pytest.mark.parametrize("act", ACTS)
def test_nothing_moves_after_a_result_has_come(watched: Watched, act: str) -> None:
    page = watched.page
    page.evaluate(
        """() => {
            window.shifts = [];
            new PerformanceObserver((list) => window.shifts.push(...list.getEntries().map((one) => [one.startTime, one.value])))
                .observe({ type: "layout-shift" });
            const root = document.querySelector("#compared .vd-explorer");
            new MutationObserver(() => requestAnimationFrame(() => requestAnimationFrame(() => {
                window.arrived = performance.now();
            }))).observe(root, { attributes: true, attributeFilter: ["data-result"] });
        }"""
    )
    wait_for_new_result(page, lambda: ACTS[act](page))
    page.wait_for_timeout(1200)
    late = page.evaluate("window.shifts.filter(([time]) => time > window.arrived)")
    assert late == []
