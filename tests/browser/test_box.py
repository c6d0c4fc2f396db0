"""A box on the photo: drawn, typed, measured for every model, kept while controls move, in the link, and removed."""

from __future__ import annotations

import re
import shlex
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.acts import MODELS, choose, example, open_tab, result_id, wait_for_new_result
from tests.browser.driver import Watched
from tests.browser.static_page import StaticExplorer
from tests.cli.command import run
from vitdemo.attribution import attention_map, best_heads, box_words, describe, localize
from vitdemo.export.snippets import reproduce_explain
from vitdemo.options.boxes import edges_of
from vitdemo.options.explain import ExplainRequest
from vitdemo.options.methods import METHODS
from vitdemo.settings import ASSETS
from vitdemo.types import Explanation, Photo
from vitdemo.ui.examples import examples

pytestmark = pytest.mark.browser


def drag(page: Page, canvas: Locator, start: tuple[float, float], end: tuple[float, float]) -> None:
    """From one place of a picture to another, in shares of its sides."""
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move(*at[1], steps=4)
    page.mouse.up()


def draw(explorer: StaticExplorer, start: tuple[float, float], end: tuple[float, float], number: int = 0) -> None:
    explorer.find(".vd-draw").click()
    drag(explorer.page, explorer.find(".vd-picture canvas").nth(number), start, end)


def boxes_of(explorer: StaticExplorer) -> list[list[float]]:
    """What is drawn: x, y, width and height in shares of the photo."""
    found: list[list[float]] = explorer.run("state.boxes")
    return found


def said(photo: Photo, found: Explanation, boxes: list[list[float]], layer: int, head: int | str) -> str:
    """Python's own words of one model's attention."""
    width, height = photo.size
    edges = edges_of([(x * width, y * height, w * width, h * height) for x, y, w, h in boxes], photo.size)
    if found.map is not None:
        shown = attention_map(found.rows[found.prediction.spec.readouts[0]], layer, head)
        found = Explanation(**{**vars(found), "map": shown, "description": describe(shown, found.prediction.spec)})
    return box_words(localize(found, edges))


@pytest.mark.thorough
def test_a_drawn_box_is_measured_in_every_models_crop_and_stays_while_layers_and_heads_change(
    explorer: StaticExplorer, cup: Photo, compared: tuple[Explanation, ...]
) -> None:
    explorer.show(cup, compared)
    before = explorer.pictures()
    draw(explorer, (0.3, 0.2), (0.7, 0.75), number=1)
    boxes = boxes_of(explorer)
    assert boxes[0] == pytest.approx([0.3, 0.2, 0.4, 0.55], abs=0.01)
    lines = explorer.find(".vd-on-box")
    expect(lines).to_have_text([said(cup, one, boxes, 7, "mean") for one in compared])
    assert all(one != other for one, other in zip(before, explorer.pictures(), strict=True))
    asked = len([name for name, _ in explorer.asked if name == "on_boxes"])
    explorer.set("layer", "2")
    explorer.set("head", "1")
    expect(lines).to_have_text([said(cup, one, boxes, 2, 1) for one in compared])
    # What the controls choose is looked up.
    assert len([name for name, _ in explorer.asked if name == "on_boxes"]) == asked == len(compared)


@pytest.mark.thorough
def test_a_box_in_the_models_crop_alone_is_the_same_place_of_the_photo(
    explorer: StaticExplorer, cup: Photo, compared: tuple[Explanation, ...]
) -> None:
    explorer.show(cup, compared[:1])
    explorer.set("whole", "")
    draw(explorer, (0.25, 0.25), (0.5, 0.75))
    # The crop is x from 100 to 500 of 600.
    assert boxes_of(explorer)[0] == pytest.approx([200 / 600, 0.25, 100 / 600, 0.5], abs=0.01)


@pytest.mark.thorough
def test_the_best_heads_are_pythons_and_one_click_shows_one(
    explorer: StaticExplorer, cup: Photo, compared: tuple[Explanation, ...]
) -> None:
    explorer.show(cup, compared[:1])
    draw(explorer, (0.3, 0.2), (0.7, 0.75))
    width, height = cup.size
    x, y, w, h = boxes_of(explorer)[0]
    found = localize(compared[0], [(x * width, y * height, (x + w) * width, (y + h) * height)])
    assert found.heads is not None
    best = best_heads(found.heads)
    rows = explorer.find(".vd-best-heads tbody tr")
    expect(rows).to_have_count(10)
    assert [row.locator("button").inner_text() for row in rows.all()] == [
        f"Layer {layer + 1}, head {head + 1}" for layer, head in best[:10]
    ]
    cells = explorer.find(".vd-heat tbody tr").nth(best[0][0]).locator("td").all_inner_texts()
    assert cells[best[0][1]] == f"{found.heads.energy.max():.0%}"
    rows.first.locator("button").click()
    explorer.drawn()
    assert explorer.find(".vd-on-box").inner_text() == said(cup, compared[0], boxes_of(explorer), *best[0])
    assert explorer.find("[name=head]").input_value() == str(best[0][1])
    expect(rows.first.locator("button")).to_have_attribute("aria-pressed", "true")
    explorer.set("measure", "emd")
    nearest = found.heads.distance.min()
    assert abs(float(rows.first.locator("td").last.inner_text()) - nearest) <= 0.051


@pytest.mark.thorough
def test_a_drag_is_no_click_on_a_patch_and_a_click_is_no_box(
    explorer: StaticExplorer, cup: Photo, compared: tuple[Explanation, ...]
) -> None:
    explorer.show(cup, compared[:1])
    draw(explorer, (0.3, 0.2), (0.7, 0.75))
    assert explorer.run("state.readout") == "class"
    explorer.find(".vd-draw").click()
    explorer.find(".vd-picture canvas").click()
    assert len(boxes_of(explorer)) == 1
    assert explorer.run("state.readout") == "class"
    expect(explorer.find(".vd-said")).to_have_text("Drag from one corner of the object to the opposite one.")
    explorer.page.keyboard.press("Escape")
    expect(explorer.find(".vd-draw")).to_have_attribute("aria-pressed", "false")
    assert len(boxes_of(explorer)) == 1
    explorer.find(".vd-picture canvas").click()
    assert explorer.run("state.readout") == "patch"
    # The box is measured in the attention of that patch, which Escape leaves first.
    explorer.page.keyboard.press("Escape")
    assert (explorer.run("state.readout"), len(boxes_of(explorer))) == ("class", 1)
    explorer.page.keyboard.press("Escape")
    assert boxes_of(explorer) == []
    assert not explorer.find(".vd-boxes").is_visible()
    assert not explorer.find(".vd-on-box").is_visible()


@pytest.mark.thorough
def test_by_keyboard_a_box_is_typed_and_a_bad_one_is_said(
    explorer: StaticExplorer, cup: Photo, compared: tuple[Explanation, ...]
) -> None:
    explorer.show(cup, compared[:1])
    explorer.find(".vd-draw").focus()
    explorer.page.keyboard.press("Enter")
    expect(explorer.find("[name=box-x]")).to_be_focused()
    told = explorer.find(".vd-box-said")
    for numbers, words in [
        (("", "", "", ""), "Give four numbers"),
        (("10", "10", "0", "5"), "no area"),
        (("700", "10", "5", "5"), "outside of the photo, which is 600"),
    ]:
        for side, number in zip("xywh", numbers, strict=True):
            explorer.find(f"[name=box-{side}]").fill(number)
        explorer.page.keyboard.press("Enter")
        expect(told).to_contain_text(words)
        assert boxes_of(explorer) == []
    for side, number in zip("xywh", ("200", "100", "200", "200"), strict=True):
        explorer.find(f"[name=box-{side}]").fill(number)
    explorer.page.keyboard.press("Enter")
    expect(told).to_have_text("")
    assert boxes_of(explorer) == [[0.33333, 0.25, 0.33333, 0.5]]
    expect(explorer.find(".vd-on-box")).to_have_text(said(cup, compared[0], boxes_of(explorer), 7, "mean"))
    explorer.find("[data-act=another]").click()
    drag(explorer.page, explorer.find(".vd-picture canvas"), (0.5, 0.5), (0.9, 0.9))
    assert len(boxes_of(explorer)) == 2
    expect(explorer.find(".vd-on-box")).to_have_text(said(cup, compared[0], boxes_of(explorer), 7, "mean"))
    explorer.find("[data-act=unbox]").click()
    assert boxes_of(explorer) == []
    expect(explorer.find(".vd-draw")).to_be_focused()


@pytest.mark.thorough
def test_a_box_outside_of_what_a_model_sees_is_said(
    explorer: StaticExplorer, cup: Photo, compared: tuple[Explanation, ...]
) -> None:
    explorer.show(cup, compared[:2])
    draw(explorer, (0.02, 0.2), (0.12, 0.75))
    expect(explorer.find(".vd-on-box")).to_have_text(["The box lies outside of what this model sees."] * 2)
    assert explorer.find(".vd-best-heads tbody tr").count() == 0


@pytest.mark.thorough
def test_the_calls_that_reproduce_a_result_measure_the_box(
    explorer: StaticExplorer, cup: Photo, compared: tuple[Explanation, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(ASSETS / "examples" / "cup.jpg")
    calls = {"rows": reproduce_explain(path, "vit-mini", ExplainRequest(), "@HOST@"), "patch": {}}
    explorer.show(cup, compared[:1], calls=calls)
    draw(explorer, (0.3, 0.2), (0.7, 0.75))
    explorer.find(".vd-calls summary").click()
    explorer.drawn()
    exec(explorer.find("[data-call=python]").inner_text(), {})
    wanted = explorer.find(".vd-on-box").inner_text()
    assert capsys.readouterr().out.splitlines()[-1] == wanted
    command = shlex.split(explorer.find("[data-call=cli]").inner_text())
    arguments = [one for one in command[3:] if not one.startswith(("--raw", "--out"))]
    assert wanted in run(*arguments).out


@pytest.mark.thorough
def test_from_drawing_to_a_link_that_brings_the_box_back(watched: Watched) -> None:
    page = watched.page
    tab = page.locator("#compared")
    tab.locator(".vd-draw").click()
    drag(page, tab.locator(".vd-picture canvas").first, (0.3, 0.25), (0.75, 0.8))
    watched.settle()
    link = page.url
    boxes = [[float(number) for number in parse_qs(urlsplit(link).query)["box"][0].split(",")]]
    photo = watched.app.pipeline.open(examples()[0].path)
    comparison = watched.app.pipeline.compare(photo, MODELS).explanations
    wanted = [said(photo, one, boxes, 7, "mean") for one in comparison]
    expect(tab.locator(".vd-on-box")).to_have_text(wanted)
    before = result_id(page)
    tab.locator("[name=layer]").fill("2")
    expect(tab.locator(".vd-on-box")).to_have_text([said(photo, one, boxes, 2, "mean") for one in comparison])
    open_tab(page, "Explain")
    open_tab(page, "Compare")
    assert result_id(page) == before
    # Another method is another result: the box stays.
    wait_for_new_result(page, lambda: choose(page, "compare-method", METHODS["rollout"].title))
    rollout = watched.app.pipeline.compare(photo, MODELS, ExplainRequest("rollout")).explanations
    width, height = photo.size
    edges = edges_of(
        [[boxes[0][0] * width, boxes[0][1] * height, boxes[0][2] * width, boxes[0][3] * height]], photo.size
    )
    expect(tab.locator(".vd-on-box")).to_have_text([box_words(localize(one, edges)) for one in rollout])
    assert tab.locator(".vd-best-heads tbody tr").count() == len(MODELS)
    page.goto(link)
    page.wait_for_function("window.vitdemoOpened")
    watched.settle()
    expect(page.locator("#compared .vd-on-box")).to_have_text(wanted)
    assert "box=" in page.url
    # Another photo is another place.
    example(page, 1).click()
    expect(page.locator("#compared .vd-on-box").first).to_be_hidden()
    watched.settle()
    assert not re.search(r"[?&]box=", page.url)
