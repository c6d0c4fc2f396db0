"""The Explain tab: methods, classes, resolutions, the chosen patch, and how faithful a map is."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.acts import (
    OPTION,
    best_labels,
    choose,
    example,
    open_tab,
    pictures,
    result_id,
    wait_for_new_result,
)
from tests.browser.driver import Watched
from tests.served import App
from vitdemo.options.explain import ExplainRequest
from vitdemo.options.methods import METHODS
from vitdemo.registry import get_spec, ready_models
from vitdemo.ui.choices import cost_of
from vitdemo.ui.examples import examples

pytestmark = pytest.mark.browser

FIRST = ready_models()[0]
TAB = "explained"
CURVES = "#curve .vd-curve svg"


@pytest.fixture
def page(watched: Watched) -> Page:
    """The open Explain tab."""
    open_tab(watched.page, "Explain")
    expect(watched.page.locator("#explained canvas").first).to_be_visible()
    watched.settle()
    return watched.page


def options_of(page: Page, elem: str) -> list[str]:
    page.locator(f"#{elem} input").click()
    expect(page.locator(OPTION).first).to_be_visible()
    found = page.locator(OPTION).all_inner_texts()
    page.locator(f"#{elem} input").blur()
    expect(page.locator(OPTION)).to_have_count(0)
    return [text.strip().removeprefix("✓").strip() for text in found]


def choose_and_wait(page: Page, elem: str, text: str) -> None:
    wait_for_new_result(page, lambda: choose(page, elem, text), TAB)


def events(watched: Watched) -> int:
    """How often the server was asked to do something."""
    watched.settle()
    return sum("/queue/join" in url for url in watched.requests)


def words(page: Page) -> str:
    return page.locator("#explained .vd-text").text_content() or ""


def said(app: App, method: str, **options: Any) -> str:
    """The pipeline's own words of the first example."""
    photo = app.pipeline.open(examples()[0].path)
    return app.pipeline.explain(photo, FIRST, ExplainRequest(method=method, **options)).description


def measure(page: Page) -> None:
    page.get_by_role("button", name="Measure faithfulness").click()
    expect(page.locator(CURVES)).to_have_count(2, timeout=90_000)


@pytest.mark.thorough
def test_every_method_has_its_map_and_says_what_it_is(page: Page, watched: Watched) -> None:
    assert options_of(page, "method") == [METHODS[name].title for name in FIRST.methods]
    seen = pictures(page, TAB)
    for name in FIRST.methods[1:]:
        watched.requests.clear()
        choose_and_wait(page, "method", METHODS[name].title)
        expect(page.locator("#explained .vd-text")).to_have_text(said(watched.app, name))
        expect(page.locator("#explained .vd-caution")).to_contain_text(METHODS[name].says)
        expect(page.locator("#method")).to_contain_text(cost_of(name))
        # Classes are for methods that explain one.
        expect(page.locator("#target")).to_be_visible(visible=METHODS[name].class_specific)
        seen += pictures(page, TAB)
        # For the map, and for the curve that goes.
        assert events(watched) == 1
    assert len(set(seen)) == len(FIRST.methods)


@pytest.mark.thorough
def test_a_class_can_be_chosen_by_name_and_by_rank_and_one_that_there_is_not_is_said(
    page: Page, watched: Watched
) -> None:
    choose_and_wait(page, "method", "Relevance")
    predicted = pictures(page, TAB)
    page.locator("#target input").fill("butterf")
    wait_for_new_result(page, page.locator(OPTION).filter(has_text="butterfly").first.click, TAB)
    assert words(page) == said(watched.app, "relevance", target="butterfly")
    assert "for butterfly" in words(page)
    named = pictures(page, TAB)
    choose_and_wait(page, "target", "3rd choice")
    assert words(page) == said(watched.app, "relevance", target="top:3")
    before = result_id(page, TAB), pictures(page, TAB), words(page)
    assert len({*predicted, *named, *before[1]}) == 3
    page.locator("#target input").fill("<i>unicorn</i>")
    page.locator("#target input").press("Enter")
    expect(page.locator(".toast-body").first).to_contain_text(f"{FIRST.name} has no class '<i>unicorn</i>'")
    assert (result_id(page, TAB), pictures(page, TAB), words(page)) == before
    choose_and_wait(page, "target", "predicted class")
    assert pictures(page, TAB) == predicted


@pytest.mark.thorough
def test_a_typed_resolution_gives_a_finer_map_and_what_is_none_is_said(page: Page, watched: Watched) -> None:
    number, facts = page.locator("#resolution input"), page.locator("#explained .vd-facts")
    expect(facts).to_contain_text("14 \N{MULTIPLICATION SIGN} 14 patches")
    own = pictures(page, TAB)

    def enter(value: str) -> None:
        number.fill(value)
        number.press("Enter")

    wait_for_new_result(page, lambda: enter("320"), TAB)
    width, height = watched.app.pipeline.open(examples()[0].path).size
    columns, rows = (round(20 * side / max(width, height)) for side in (width, height))
    expect(facts).to_contain_text(f"{rows} \N{MULTIPLICATION SIGN} {columns} patches")
    assert pictures(page, TAB) != own
    enter("large")
    expect(page.locator(".toast-body").first).to_contain_text("'large' is not a resolution")
    choose_and_wait(page, "resolution", "model default")
    assert pictures(page, TAB) == own


def test_of_similarity_a_click_and_the_arrow_keys_move_the_patch_and_ask_once_each(
    page: Page, watched: Watched
) -> None:
    choose_and_wait(page, "method", "Similarity")
    canvas, photo = page.locator("#explained .vd-picture canvas"), watched.app.pipeline.open(examples()[0].path)
    box = canvas.bounding_box()
    assert box
    seen = pictures(page, TAB)
    width, height = photo.size
    left, top, right, bottom = watched.app.pipeline.explain(photo, FIRST).view.crop
    cell = ((right - left) / 14, (bottom - top) / 14)
    # The middle of the patch in the third row and the fourth column, then one to the right, then one down.
    x, y = left + 3.5 * cell[0], top + 2.5 * cell[1]
    place = {"x": x / width * box["width"], "y": y / height * box["height"]}
    acts = [
        (lambda: canvas.click(position=place), (x, y)),  # type: ignore[arg-type]
        (lambda: canvas.press("ArrowRight"), (x + cell[0], y)),
        (lambda: canvas.press("ArrowDown"), (x + cell[0], y + cell[1])),
    ]
    for act, point in acts:
        watched.requests.clear()
        wait_for_new_result(page, act, TAB)
        assert words(page) == said(watched.app, "similarity", point=point)
        assert events(watched) == 1
        # The keys go on working: the new picture has the focus.
        expect(canvas).to_be_focused()
        seen += pictures(page, TAB)
    assert len(set(seen)) == 4


# Faithfulness


@pytest.mark.thorough
def test_a_map_is_measured_in_two_curves_and_in_words_which_go_away_with_it(page: Page) -> None:
    choose_and_wait(page, "method", "Relevance")
    expect(page.locator(CURVES)).to_have_count(0)
    measure(page)
    text = page.locator("#curve p").inner_text()
    numbers = re.fullmatch(
        r"Relevance, score of “(.+)” in 20 steps. Area of deletion (0\.\d{3}) \(lower is better\), "
        r"of insertion (0\.\d{3}) \(higher is better\); patches in random order (0\.\d{3}). (.+)",
        text,
    )
    assert numbers, text
    deletion, insertion, random = (float(numbers[index]) for index in (2, 3, 4))
    assert numbers[1] == best_labels(page, TAB)[0]
    assert ("both ways" in numbers[5]) == (deletion < random < insertion)
    for line in page.locator("#curve polyline").all():
        assert len((line.get_attribute("points") or "").split()) == 21
    choose(page, "target", "2nd choice")
    expect(page.locator(CURVES)).to_have_count(0)


@pytest.mark.thorough
def test_what_is_measured_of_attention_is_said_to_be_the_last_layers(page: Page) -> None:
    page.locator("#explained [name=layer]").fill("1")
    measure(page)
    expect(page.locator("#curve p")).to_contain_text("Attention of the last layer, mean of heads, score of")


@pytest.mark.thorough
@pytest.mark.parametrize("change", ["photo", "model", "method", "resolution", "patch"])
def test_a_curve_goes_away_with_the_map_that_it_was_of(page: Page, change: str) -> None:
    choose_and_wait(page, "method", "Similarity" if change == "patch" else "Grad-CAM")
    measure(page)
    acts = {
        "photo": example(page, 1).click,
        "model": lambda: choose(page, "model", "DINO"),
        "method": lambda: choose(page, "method", "Attention"),
        "resolution": lambda: choose(page, "resolution", "320 px"),
        "patch": lambda: page.locator("#explained .vd-picture canvas").click(position={"x": 200, "y": 150}),
    }
    acts[change]()
    expect(page.locator(CURVES)).to_have_count(0)


@pytest.mark.thorough
def test_a_curve_that_comes_too_late_is_not_shown_under_another_map(page: Page, watched: Watched) -> None:
    choose_and_wait(page, "method", "Grad-CAM")
    page.get_by_role("button", name="Measure faithfulness").click()
    choose_and_wait(page, "method", "Attention rollout")
    # The server finishes what it began, and nobody waits for it.
    watched.settle()
    expect(page.locator(CURVES)).to_have_count(0)


# Other models and photos


@pytest.mark.thorough
def test_another_model_or_photo_keeps_the_method_and_forgets_the_class(page: Page, watched: Watched) -> None:
    pipeline, beit = watched.app.pipeline, get_spec("beit-mini")
    choose_and_wait(page, "method", "Relevance")
    choose_and_wait(page, "target", "2nd choice")
    choose_and_wait(page, "model", "BEiT")
    expect(page.locator("#target input")).to_have_value("predicted class")
    expect(page.locator("#explained h2")).to_contain_text("beit-mini")
    for number in (0, 2):
        if number:
            wait_for_new_result(page, example(page, number).click, TAB)
        photo = pipeline.open(examples()[number].path)
        expected = pipeline.explain(photo, beit, ExplainRequest(method="relevance"))
        expect(page.locator("#explained .vd-text")).to_have_text(expected.description)
        expect(page.locator("#method input")).to_have_value("Relevance")


@pytest.mark.thorough
def test_methods_that_do_not_apply_are_absent_and_the_details_say_why(page: Page) -> None:
    choose_and_wait(page, "method", "Relevance")
    choose_and_wait(page, "model", "MAE")
    expect(page.locator("#method input")).to_have_value("Attention")
    facts = page.locator("#explained .vd-facts")
    expect(facts).to_contain_text(
        "Gradient rollout, Relevance, LeGrad, Grad-CAM: it explains a class, and this model has no"
    )
    assert options_of(page, "method") == ["Attention", "Attention rollout", "Similarity"]
    expect(page.locator("#target")).to_be_hidden()
    # Without classes there is no score that could fall.
    expect(page.locator("#measure")).to_be_hidden()
    choose_and_wait(page, "model", "CNN")
    expect(page.locator("#method input")).to_have_value("Grad-CAM")
    expect(facts).to_contain_text("it needs attention, and a convolutional network has none")
    assert options_of(page, "method") == ["Grad-CAM", "Similarity"]
    expect(page.locator("#target")).to_be_visible()
    expect(page.locator("#measure")).to_be_visible()
    expect(page.locator("#explained .vd-text")).to_contain_text("Grad-CAM for ")
