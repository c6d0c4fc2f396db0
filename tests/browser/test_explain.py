"""The Explain tab: methods, classes, resolutions, the chosen patch, and how faithful a map is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests import tiny
from tests.browser.conftest import Watched
from tests.browser.test_page import pictures, result_id, wait_for_new_result, wait_until_drawn
from tests.served import App
from vitdemo.options.explain import ExplainRequest
from vitdemo.options.methods import METHODS
from vitdemo.registry import add_folder, forget_folder, get_spec, ready_models
from vitdemo.ui.examples import examples

pytestmark = pytest.mark.browser

FIRST = ready_models()[0]
TAB = "explained"
CURVES = "#curve .vd-curve svg"
OPTION = "[role=listbox] [role=option]"
"""Of an open list; those of the explorer's own lists are no part of one."""


@pytest.fixture
def page(watched: Watched) -> Page:
    """The open Explain tab."""
    watched.page.get_by_role("tab", name="Explain").click()
    expect(watched.page.locator("#explained canvas").first).to_be_visible()
    return watched.page


def options_of(page: Page, elem: str) -> list[str]:
    page.locator(f"#{elem} input").click()
    expect(page.locator(OPTION).first).to_be_visible()
    found = page.locator(OPTION).all_inner_texts()
    page.locator(f"#{elem} input").blur()
    expect(page.locator(OPTION)).to_have_count(0)
    return [text.strip().removeprefix("✓").strip() for text in found]


def choose(page: Page, elem: str, text: str) -> None:
    """As a person does: open the list, type a little, take the entry."""
    page.locator(f"#{elem} input").click()
    page.locator(OPTION).filter(has_text=re.compile(rf"^\W*{re.escape(text)}")).first.click()


def choose_and_wait(page: Page, elem: str, text: str) -> None:
    wait_for_new_result(page, lambda: choose(page, elem, text), TAB)
    wait_until_drawn(page, TAB)


def asked(watched: Watched) -> int:
    return sum("/queue/join" in url for url in watched.requests)


def words(page: Page) -> str:
    return page.locator("#explained .vd-text").inner_text()


def said(app: App, method: str, **options: object) -> str:
    """The pipeline's own words of the first example."""
    photo = app.pipeline.open(examples()[0].path)
    return app.pipeline.explain(photo, FIRST, ExplainRequest(method=method, **options)).description  # type: ignore[arg-type]


def measure(page: Page) -> None:
    page.get_by_role("button", name="How faithful is this map?").click()
    expect(page.locator(CURVES)).to_have_count(2, timeout=90_000)


def test_every_method_has_its_map_and_says_what_it_is(page: Page, watched: Watched) -> None:
    assert options_of(page, "method") == [METHODS[name].title for name in FIRST.methods]
    seen = pictures(page, TAB)
    for name in FIRST.methods[1:]:
        watched.requests.clear()
        choose_and_wait(page, "method", METHODS[name].title)
        assert words(page) == said(watched.app, name)
        expect(page.locator("#explained .vd-caution")).to_contain_text(METHODS[name].says)
        expect(page.locator("#explained .vd-unit")).to_have_text(METHODS[name].title.lower())
        expect(page.locator("#method")).to_contain_text(METHODS[name].cost[1:])
        # One map of all layers and heads: there is nothing to choose there. Classes are for methods that explain one.
        for control in ("layer", "head", "readout"):
            expect(page.locator(f"#explained [name={control}]")).to_be_hidden()
        expect(page.locator("#target")).to_be_visible(visible=METHODS[name].class_specific)
        seen += pictures(page, TAB)
        # For the map, and for the curve that goes.
        assert asked(watched) == 1
    assert len(set(seen)) == len(FIRST.methods)


def test_back_at_attention_layers_and_heads_are_as_they_were(page: Page) -> None:
    page.locator("#explained [name=layer]").fill("2")
    page.locator("#explained [name=head]").select_option("1")
    before, text = pictures(page, TAB), words(page)
    choose_and_wait(page, "method", "Attention rollout")
    assert pictures(page, TAB) != before
    choose_and_wait(page, "method", "Attention")
    expect(page.locator("#explained [name=layer]")).to_be_visible()
    expect(page.locator("#explained [name=head]")).to_have_value("1")
    expect(page.locator("#target")).to_be_hidden()
    assert (pictures(page, TAB), words(page)) == (before, text)


def test_a_class_can_be_chosen_by_name_and_by_rank(page: Page, watched: Watched) -> None:
    choose_and_wait(page, "method", "Relevance")
    predicted = pictures(page, TAB)
    page.locator("#target input").fill("butterf")
    wait_for_new_result(page, lambda: page.locator(OPTION).filter(has_text="butterfly").first.click(), TAB)
    assert words(page) == said(watched.app, "relevance", target="butterfly")
    assert "for butterfly" in words(page)
    named = pictures(page, TAB)
    choose_and_wait(page, "target", "number 3 of the scores")
    assert words(page) == said(watched.app, "relevance", target="top:3")
    assert len({*predicted, *named, *pictures(page, TAB)}) == 3
    choose_and_wait(page, "target", "the predicted one")
    assert pictures(page, TAB) == predicted


def test_a_class_that_there_is_not_is_said_and_the_last_map_stays(page: Page) -> None:
    choose_and_wait(page, "method", "Grad-CAM")
    before, shown, text = result_id(page, TAB), pictures(page, TAB), words(page)
    page.locator("#target input").fill("<i>unicorn</i>")
    page.locator("#target input").press("Enter")
    expect(page.locator(".toast-body").first).to_contain_text(f"{FIRST.name} has no class '<i>unicorn</i>'")
    assert (result_id(page, TAB), pictures(page, TAB), words(page)) == (before, shown, text)


def test_a_resolution_gives_a_finer_map_and_zero_the_models_own(page: Page) -> None:
    number = page.locator("#resolution input[type=number]")
    expect(page.locator("#explained .vd-facts")).to_contain_text("14 \N{MULTIPLICATION SIGN} 14 patches")
    own = pictures(page, TAB)

    def enter(value: str) -> None:
        number.fill(value)
        number.press("Tab")

    wait_for_new_result(page, lambda: enter("320"), TAB)
    width, height = examples_size()
    columns, rows = (round(20 * side / max(width, height)) for side in (width, height))
    expect(page.locator("#explained .vd-facts")).to_contain_text(f"{rows} \N{MULTIPLICATION SIGN} {columns} patches")
    assert pictures(page, TAB) != own
    wait_for_new_result(page, lambda: enter("0"), TAB)
    assert pictures(page, TAB) == own


def examples_size() -> tuple[int, int]:
    from PIL import Image

    with Image.open(examples()[0].path) as picture:
        return picture.size


@pytest.mark.parametrize(
    "control", ["opacity", *(pytest.param(one, marks=pytest.mark.thorough) for one in ("colours", "smooth"))]
)
def test_a_display_control_of_a_method_asks_the_server_for_nothing(page: Page, watched: Watched, control: str) -> None:
    choose_and_wait(page, "method", "Attention rollout")
    before, forwards = pictures(page, TAB), watched.app.forwards
    watched.requests.clear()
    {
        "opacity": lambda: page.locator("#explained [name=opacity]").fill("30"),
        "colours": lambda: page.locator("#explained [name=colourMap]").select_option("viridis"),
        "smooth": lambda: page.locator("#explained [name=smooth]").uncheck(),
    }[control]()
    assert pictures(page, TAB) != before
    assert (watched.requests, watched.app.forwards) == ([], forwards)


# Similarity


def test_a_click_and_the_arrow_keys_move_the_patch_and_ask_once_each(page: Page, watched: Watched) -> None:
    choose_and_wait(page, "method", "Similarity")
    expect(page.locator("#explained .vd-caution")).to_contain_text("Click on the picture")
    canvas = page.locator("#explained .vd-picture canvas")
    box = canvas.bounding_box()
    assert box
    seen = pictures(page, TAB)
    width, height = examples_size()
    left, top, right, bottom = watched.app.pipeline.explain(
        watched.app.pipeline.open(examples()[0].path), FIRST
    ).view.crop
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
        wait_until_drawn(page, TAB)
        assert words(page) == said(watched.app, "similarity", point=point)
        page.wait_for_timeout(300)
        assert asked(watched) == 1
        # The keys go on working: the new picture has the focus.
        expect(canvas).to_be_focused()
        seen += pictures(page, TAB)
    assert len(set(seen)) == 4


def test_only_similarity_takes_clicks(page: Page, watched: Watched) -> None:
    choose_and_wait(page, "method", "Attention rollout")
    watched.requests.clear()
    page.locator("#explained .vd-picture canvas").click()
    page.wait_for_timeout(300)
    assert watched.requests == []


# Faithfulness


def test_a_map_is_measured_in_two_curves_and_in_words(page: Page) -> None:
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
    assert numbers[1] == page.locator("#explained .vd-best .vd-label").inner_text()
    assert ("both ways" in numbers[5]) == (deletion < random < insertion)
    for line in page.locator("#curve polyline").all():
        assert len((line.get_attribute("points") or "").split()) == 21
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_what_is_measured_of_attention_is_said_to_be_the_last_layers(page: Page) -> None:
    page.locator("#explained [name=layer]").fill("1")
    measure(page)
    expect(page.locator("#curve p")).to_contain_text("Attention of the last layer, mean of heads, score of")


@pytest.mark.parametrize(
    "change",
    [
        "photo",
        "class",
        *(pytest.param(one, marks=pytest.mark.thorough) for one in ("model", "method", "resolution", "patch")),
    ],
)
def test_a_curve_goes_away_with_the_map_that_it_was_of(page: Page, change: str) -> None:
    choose_and_wait(page, "method", "Similarity" if change == "patch" else "Grad-CAM")
    measure(page)
    acts = {
        "photo": lambda: page.locator("#examples").get_by_role("button").nth(1).click(),
        "model": lambda: choose(page, "model", "DINO"),
        "method": lambda: choose(page, "method", "Attention"),
        "class": lambda: choose(page, "target", "number 2 of the scores"),
        "resolution": lambda: page.locator("#resolution input[type=number]").fill("256"),
        "patch": lambda: page.locator("#explained .vd-picture canvas").click(position={"x": 200, "y": 150}),
    }
    acts[change]()
    expect(page.locator(CURVES)).to_have_count(0)


def test_a_curve_that_comes_too_late_is_not_shown_under_another_map(page: Page, watched: Watched) -> None:
    choose_and_wait(page, "method", "Grad-CAM")
    page.get_by_role("button", name="How faithful is this map?").click()
    choose_and_wait(page, "method", "Attention rollout")
    # The server finishes what it began, and nobody waits for it.
    before = -1
    while before != watched.app.forwards:
        before = watched.app.forwards
        page.wait_for_timeout(3000)
    expect(page.locator(CURVES)).to_have_count(0)


# Other models and photos


def test_another_model_keeps_the_method_and_forgets_the_class(page: Page, watched: Watched) -> None:
    choose_and_wait(page, "method", "Relevance")
    choose_and_wait(page, "target", "number 2 of the scores")
    choose_and_wait(page, "model", "BEiT")
    expect(page.locator("#method input")).to_have_value("Relevance")
    expect(page.locator("#target input")).to_have_value("the predicted one")
    expect(page.locator("#explained h2")).to_contain_text("beit-mini")
    photo = watched.app.pipeline.open(examples()[0].path)
    expected = watched.app.pipeline.explain(photo, get_spec("beit-mini"), ExplainRequest(method="relevance"))
    expect(page.locator("#explained .vd-text")).to_have_text(expected.description)


def test_another_photo_runs_the_method_that_was_chosen(page: Page, watched: Watched) -> None:
    choose_and_wait(page, "method", "LeGrad")
    wait_for_new_result(page, lambda: page.locator("#examples").get_by_role("button").nth(2).click(), TAB)
    photo = watched.app.pipeline.open(examples()[2].path)
    assert words(page) == watched.app.pipeline.explain(photo, FIRST, ExplainRequest(method="legrad")).description
    expect(page.locator("#method input")).to_have_value("LeGrad")


@pytest.fixture
def added(app: App, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Two more models on the page: an encoder without classes, and a convolutional network."""
    names = {}
    for kind in ("dino", "resnet"):
        names[kind] = add_folder(str(tiny.save(tmp_path / f"little-{kind}", kind))).name
    yield names
    for name in names.values():
        forget_folder(name)


@pytest.fixture
def page_of_more(added: dict[str, str], browser: Browser, tmp_path: Path) -> Iterator[Page]:
    """A page that was built when there were more models."""
    from tests.served import serving

    with serving(tmp_path / "gradio") as app:
        context = browser.new_context(viewport={"width": 1440, "height": 1000})
        context.set_default_timeout(20_000)
        watched = Watched(context.new_page(), app).open()
        watched.page.get_by_role("tab", name="Explain").click()
        yield watched.page
        assert watched.complaints == []
        context.close()


def choose_model(page: Page, name: str) -> None:
    page.locator("#model input").click()
    wait_for_new_result(page, page.locator(OPTION).filter(has_text=name).first.click, TAB)


def test_methods_that_do_not_apply_are_absent_and_the_list_says_why(page_of_more: Page) -> None:
    page = page_of_more
    choose_and_wait(page, "method", "Relevance")
    choose_model(page, "little-dino")
    expect(page.locator("#method input")).to_have_value("Attention")
    expect(page.locator("#method")).to_contain_text(
        "not Gradient rollout, Relevance, LeGrad, Grad-CAM: it explains a class, and this model has no classifier"
    )
    assert options_of(page, "method") == ["Attention", "Attention rollout", "Similarity"]
    expect(page.locator("#target")).to_be_hidden()
    # Without classes there is no score that could fall.
    expect(page.locator("#measure")).to_be_hidden()
    choose_model(page, "little-resnet")
    expect(page.locator("#method input")).to_have_value("Grad-CAM")
    expect(page.locator("#method")).to_contain_text("it needs attention, and a convolutional network has none")
    assert options_of(page, "method") == ["Grad-CAM", "Similarity"]
    expect(page.locator("#target")).to_be_visible()
    expect(page.locator("#measure")).to_be_visible()
    expect(page.locator("#explained .vd-text")).to_contain_text("Grad-CAM for ")


@pytest.mark.thorough
def test_a_narrow_screen_holds_every_method_and_the_curves(browser: Browser, app: App) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844})
    context.set_default_timeout(20_000)
    watched = Watched(context.new_page(), app).open()
    page = watched.page
    page.get_by_role("tab", name="Explain").click()
    for method in ("Similarity", "Relevance"):
        choose_and_wait(page, "method", method)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    measure(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    wide = page.locator("#explained .vd-explorer *, #curve *, #method, #target, #resolution").evaluate_all(
        "(all) => all.filter((one) => one.getBoundingClientRect().right > innerWidth + 1)"
        ".map((one) => one.outerHTML.slice(0, 80))"
    )
    assert wide == []
    assert watched.complaints == []
    context.close()
