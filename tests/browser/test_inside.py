"""The walk through a network: its steps, what is drawn without a request, the bench, and whole journeys in the app."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import gradio as gr
import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from tests.browser.acts import example, open_tab, too_wide
from tests.browser.driver import Watched, opened
from tests.browser.static_page import StaticPage, looks
from tests.served import App
from vitdemo.errors import VitDemoError
from vitdemo.pipeline import Pipeline
from vitdemo.pipeline.ablate import ablate
from vitdemo.registry import get_spec
from vitdemo.types import Knockout, Photo
from vitdemo.ui.inside import InsideTab
from vitdemo.ui.inside_settings import STEPS, models_offered, read_settings
from vitdemo.ui.state import PageState

pytestmark = pytest.mark.browser

MODEL = "vit-mini"


class StaticInside(StaticPage):
    """The component, whose questions are answered as by the app while `answering`, and then only noted."""

    answering = True
    tab: InsideTab
    photo: Photo

    def start(self, **given: Any) -> None:
        """Open it with these settings, and wait for what it asks for."""
        self.told = lambda name, data: self.value(data) if self.answering else None
        settings, _ = read_settings(given, MODEL)
        models = models_offered(MODEL)
        self.page.evaluate("(value) => window.show(value)", {"start": settings.json, "models": models, "notes": []})
        self.settle()

    def value(self, data: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"number": data["number"], **self.tab.answer(self.photo, {}, gr.EventData(None, data))}
        except VitDemoError as error:
            return {"number": data["number"], "error": str(error)}

    def settle(self) -> None:
        self.page.wait_for_function("() => window.within('shown !== null && !busy && !wanted')")
        self.drawn()

    def press(self, name: str) -> None:
        self.find("button:visible").get_by_text(name, exact=True).click()
        self.settle()

    def look(self, label: str) -> str:
        self.drawn()
        return looks(self.find(f"canvas[aria-label='{label}']").first)[0]

    def sent(self) -> dict[str, Any]:
        """The settings that were asked for last."""
        settings: dict[str, Any] = self.triggered()[-1][1]["settings"]
        return settings


@pytest.fixture
def inside(bare_context: BrowserContext, pipeline: Pipeline, cup: Photo) -> Iterator[StaticInside]:
    with gr.Blocks():
        tab = InsideTab(pipeline, MODEL, gr.State(PageState()))
    complaints: list[str] = []
    found = StaticInside(bare_context.new_page(), tab.view, {})
    found.page.on("pageerror", lambda error: complaints.append(str(error)))
    found.page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    found.tab, found.photo = tab, cup
    yield found
    found.page.close()
    assert complaints == []


@pytest.mark.thorough
def test_next_and_back_lead_through_all_steps_in_order(inside: StaticInside) -> None:
    inside.start()
    steps = [inside.sent()["step"]]
    expect(inside.find("[data-act=back]")).to_be_disabled()
    while inside.find("[data-act=next]").is_enabled():
        inside.press("Next")
        steps.append(inside.sent()["step"])
        expect(inside.find(f"section[data-step={steps[-1]}]")).to_be_visible()
        expect(inside.find("section:visible")).to_have_count(1)
        expect(inside.find("[aria-current=step]")).to_have_attribute("data-step", steps[-1])
        expect(inside.find(".vd-view").first).to_be_visible()
        expect(inside.find(".vd-alert, .vd-refused").locator("visible=true")).to_have_count(0)
    assert steps == [*STEPS]
    inside.press("Back")
    assert inside.sent()["step"] == "cnn"


def test_a_head_that_is_switched_off_changes_scores_and_map_and_reset_brings_them_back(inside: StaticInside) -> None:
    inside.start(step="apart")
    before = inside.look("Attention, last layer")
    head = inside.find("[aria-label='Head 2 of layer 8']")
    head.click()
    inside.settle()
    expect(head).to_have_attribute("aria-pressed", "true")
    spec = get_spec(MODEL)
    found = ablate(inside.tab.pipeline, inside.photo, spec, Knockout(heads=((7, 1),)))
    assert found.scores is not None
    first, now = (f"{score * 100:.1f}%" for score in found.scores)
    expect(inside.find(".vd-results strong")).to_contain_text(f"{spec.labels[found.target or 0]}: {first} → {now}")
    assert inside.look("Attention now") != before == inside.look("Attention before")
    assert "heads=7:1" in inside.page.url
    # The place of whoever goes by keys is kept.
    expect(head).to_be_focused()
    inside.press("Reset")
    expect(head).to_have_attribute("aria-pressed", "false")
    assert inside.look("Attention, last layer") == before
    assert "heads" not in inside.page.url


@pytest.mark.thorough
def test_a_patch_is_hidden_by_click_or_key_and_filled_as_chosen(inside: StaticInside) -> None:
    inside.start(step="apart")
    canvas = inside.find("canvas[aria-label='Click patches to hide them']")
    box = canvas.bounding_box()
    assert box is not None
    canvas.click(position={"x": box["width"] * 4.5 / 14, "y": box["height"] * 2.5 / 14})
    inside.settle()
    assert inside.sent()["patches"] == [2 * 14 + 4]
    expect(inside.find(".vd-results")).to_contain_text("1 patch hidden")
    canvas.focus()
    canvas.press("ArrowDown")
    canvas.press("Enter")
    inside.settle()
    assert inside.sent()["patches"] == [2 * 14 + 4, 3 * 14 + 4]
    grey = inside.find('img[alt="The model\'s input"]').get_attribute("src")
    inside.find("[name=fill]").select_option("mae")
    inside.settle()
    assert inside.find('img[alt="The model\'s input"]').get_attribute("src") != grey
    assert "fill=mae" in inside.page.url
    canvas.press("Enter")
    inside.settle()
    assert inside.sent()["patches"] == [2 * 14 + 4]


@pytest.mark.thorough
def test_where_all_attention_is_off_words_say_so_and_the_switches_stay(inside: StaticInside) -> None:
    inside.start(step="apart", attention="0-6")
    inside.find("[aria-label='The whole attention block of layer 8']").click()
    inside.settle()
    expect(inside.find(".vd-refused")).to_contain_text("All attention of vit-mini is off")
    inside.find("[aria-label='The whole attention block of layer 1']").click()
    inside.settle()
    expect(inside.find(".vd-refused")).to_have_count(0)
    expect(inside.find(".vd-results strong")).to_contain_text("→")


@pytest.mark.thorough
def test_a_ranking_grows_with_a_bar_ends_in_a_list_and_stops_where_it_is_told_to(inside: StaticInside) -> None:
    inside.start(step="apart")
    inside.press("Rank all heads")
    inside.page.wait_for_function("() => window.within('ranking.effects.length === 48')")
    rows = inside.find(".vd-effects li")
    expect(rows).to_have_count(12)
    expect(inside.find(".vd-rank progress")).to_be_hidden()
    starts = [data["rank"]["start"] for _, data in inside.triggered() if data["rank"]]
    assert starts == [0, 16, 32]
    # One that is stopped asks for nothing more, whatever comes of what was asked.
    inside.answering = False
    inside.find(".vd-rank button").get_by_text("Rank all blocks").click()
    expect(inside.find(".vd-rank progress")).to_be_visible()
    count, (_, last) = len(inside.triggered()), inside.triggered()[-1]
    inside.find(".vd-rank button").get_by_text("Stop").click()
    expect(inside.find(".vd-rank progress")).to_be_hidden()
    inside.page.evaluate("(value) => window.show(value)", inside.value(last))
    inside.drawn()
    assert len(inside.triggered()) == count
    inside.answering = True
    part = rows.first.locator("button")
    words = re.fullmatch(r"layer (\d), head (\d)", part.inner_text())
    assert words is not None
    part.click()
    inside.settle()
    assert inside.sent()["heads"] == [[int(words[1]) - 1, int(words[2]) - 1]]


@pytest.mark.thorough
def test_a_ranking_that_fails_says_so_and_its_bar_ends(inside: StaticInside) -> None:
    inside.start(step="apart")
    inside.answering = False
    inside.find(".vd-rank button").get_by_text("Rank all heads").click()
    (_, last) = inside.triggered()[-1]
    inside.page.evaluate("(value) => window.show(value)", {"number": last["number"], "error": "<b>Busy</b>"})
    expect(inside.find(".vd-alert")).to_have_text("<b>Busy</b> Showing the previous result.")
    expect(inside.find(".vd-rank progress")).to_be_hidden()


@pytest.mark.thorough
def test_the_same_switch_is_on_both_benches_and_one_ranking_ends_the_other(inside: StaticInside) -> None:
    inside.start(step="apart", beside="deit-mini")
    expect(inside.find(".vd-view")).to_have_count(2)
    switches = inside.find("[aria-label='Head 1 of layer 1']")
    switches.first.click()
    inside.settle()
    for switch in switches.all():
        expect(switch).to_have_attribute("aria-pressed", "true")
    expect(inside.find(".vd-results strong")).to_have_count(2)
    inside.answering = False
    ranks, bars = inside.find(".vd-rank"), inside.find(".vd-rank progress")
    ranks.nth(0).get_by_text("Rank all heads").click()
    expect(bars.nth(0)).to_be_visible()
    ranks.nth(1).get_by_text("Rank all heads").click()
    expect(bars.nth(0)).to_be_hidden()
    expect(bars.nth(1)).to_be_visible()


@pytest.mark.thorough
def test_a_patch_that_asks_is_chosen_by_click_and_keys_and_left_again(inside: StaticInside) -> None:
    inside.start(step="attention")
    said = inside.find(".vd-view > .vd-words").first
    expect(said).to_contain_text("Asking: the class token.")
    canvas = inside.find("canvas[aria-label='2. Softmax: weights']")
    before = inside.look("2. Softmax: weights")
    box = canvas.bounding_box()
    assert box is not None
    canvas.click(position={"x": box["width"] * 7.5 / 14, "y": box["height"] * 7.5 / 14})
    inside.settle()
    expect(said).to_contain_text("Asking: row 8, column 8.")
    canvas.focus()
    for key, where in (("ArrowRight", "row 8, column 9"), ("ArrowUp", "row 7, column 9")):
        canvas.press(key)
        inside.settle()
        expect(said).to_contain_text(f"Asking: {where}.")
        expect(canvas).to_be_focused()
    assert inside.look("2. Softmax: weights") != before
    assert re.search(r"point=[\d.]+,[\d.]+", inside.page.url)
    inside.set("head", "3")
    inside.settle()
    expect(said).to_contain_text("head 4 of 6")
    inside.set("head", "0")
    inside.press("Class token")
    expect(said).to_contain_text("Asking: the class token.")
    assert inside.look("2. Softmax: weights") == before
    assert "point" not in inside.page.url


@pytest.mark.thorough
def test_layers_and_sizes_are_gone_through_without_a_request(inside: StaticInside) -> None:
    inside.start(step="layers")
    asked = len(inside.triggered())
    label = "Which patches give the class alone"
    last = inside.look(label)
    inside.page.clock.install()
    inside.find("[data-act=play]").click()
    expect(inside.find("label:has([name=read]) output")).to_have_text("1 of 8")
    first = inside.look(label)
    assert first != last
    inside.page.clock.run_for(710)
    expect(inside.find("label:has([name=read]) output")).to_have_text("2 of 8")
    expect(inside.find("[data-act=play]")).to_have_text("Pause")
    inside.page.clock.run_for(7000)
    expect(inside.find("label:has([name=read]) output")).to_have_text("8 of 8")
    expect(inside.find("[data-act=play]")).to_have_text("Play")
    assert inside.look(label) == last
    inside.find(f"canvas[aria-label='{label}']").click()
    expect(inside.find(".vd-view")).to_contain_text("Alone, the chosen patch says")
    assert len(inside.triggered()) == asked
    inside.page.clock.resume()
    inside.press("Next")
    asked = len(inside.triggered())
    words = inside.find(".vd-view .vd-words")
    expect(words).to_contain_text("That is this model as it runs.")
    tokens = int(re.search(r"(\d+) tokens", words.inner_text())[1])  # type: ignore[index]
    sides = inside.run("sizesOf(first(), 0)")
    inside.set("side", str(sides.index(448)))
    expect(inside.find("label:has([name=side]) output")).to_have_text("448 px")
    expect(words).to_contain_text(f"{(tokens - 1) * 4 + 1} tokens")
    assert len(inside.triggered()) == asked


@pytest.mark.thorough
def test_each_step_has_its_own_controls_and_says_what_they_do(inside: StaticInside) -> None:
    inside.start()
    own = {
        "patches": [],
        "positions": ["again"],
        "attention": ["head", "layer", "token"],
        "distance": [],
        "layers": ["play", "read"],
        "cost": ["cut", "side"],
        "apart": ["clear", "fill"],
        "cnn": ["again", "kind", "strength"],
        "training": ["again"],
    }
    for step, names in own.items():
        if step != "patches":
            inside.find(f".vd-steps [data-step={step}]").click()
        found = inside.find(".vd-controls [data-of]:visible").evaluate_all(
            "(all) => all.map((one) => one.dataset.act || one.querySelector('input, select').name)"
        )
        assert sorted(found) == names, step
    inside.settle()
    untold = inside.find(".vd-controls label, .vd-controls button").evaluate_all(
        "(all) => all.filter((one) => !(one.title || '').endsWith('.')).map((one) => one.innerText)"
    )
    assert untold == []


@pytest.mark.thorough
def test_an_answer_to_an_older_question_is_not_shown(inside: StaticInside) -> None:
    inside.start(step="attention")
    inside.answering = False
    inside.set("layer", "1")
    (_, old) = inside.triggered()[-1]
    inside.set("layer", "2")
    inside.page.evaluate("(value) => window.show(value)", inside.value(old))
    said = inside.find(".vd-view > .vd-words").first
    expect(said).to_contain_text("Layer 8 of 8")
    (_, new) = inside.triggered()[-1]
    assert new["settings"]["layer"] == 2
    inside.page.evaluate("(value) => window.show(value)", inside.value(new))
    expect(said).to_contain_text("Layer 3 of 8")


# In the app


def figures(page: Page) -> Locator:
    return page.locator("#inside .vd-figures")


def shown(page: Page, step: str) -> None:
    """Until the step is on the page with all that it asked for."""
    expect(page.locator("#inside .vd-inside")).to_have_attribute("aria-busy", "false")
    expect(page.locator(f"#inside .vd-steps [data-step={step}]")).to_have_attribute("aria-current", "step")
    expect(figures(page).locator(".vd-view").first).to_be_visible()


@pytest.mark.thorough
@pytest.mark.parametrize("width", [1440, 390])
def test_the_whole_walk_fits_the_screen_and_every_step_has_its_link(browser: Browser, app: App, width: int) -> None:
    phone = {"has_touch": True, "is_mobile": True} if width < 400 else {}
    with opened(browser, width, 844, **phone) as context:
        watched = Watched(context.new_page(), app).open("?image=kangaroo")
        page = watched.page
        open_tab(page, "Inside")
        for step in STEPS:
            shown(page, step)
            watched.settle()
            assert too_wide(page, "#inside .vd-inside > :not(.vd-steps), #inside .vd-figures *") == [], step
            assert f"step={step}" in page.url
            assert page.locator("#inside .vd-alert:visible, #inside .vd-refused").all_inner_texts() == []
            assert figures(page).locator("canvas, svg, .vd-bars li").count() > 0
            # Numbers that could not be had are not shown as such.
            assert re.search(r"\bNaN\b|undefined|null|Infinity", figures(page).inner_text()) is None
            if step != "training":
                page.locator("#inside [data-act=next]").click()
        expect(page.locator("#inside [data-act=next]")).to_be_disabled()
        assert watched.complaints == []


@pytest.mark.thorough
def test_a_link_leads_to_a_step_and_brings_back_its_settings(watched: Watched) -> None:
    query = (
        "?tab=inside&image=cup&step=apart&model=deit-mini&beside=vit-mini&heads=7:0,7:1&mlp=2&patches=30,31&fill=mean"
    )
    other = Watched(watched.page.context.new_page(), watched.app).open(query)
    page = other.page
    shown(page, "apart")
    expect(figures(page).locator("h3 code")).to_have_text(["deit-mini", "vit-mini"])
    expect(figures(page).locator("[aria-pressed=true]")).to_have_count(6)
    expect(page.locator("#inside [name=fill]")).to_have_value("mean")
    expect(figures(page)).to_contain_text("2 patches hidden")
    scores = figures(page).locator("strong").all_inner_texts()
    # The address is the same link, and a reload follows it.
    assert {*page.url.partition("?")[2].split("&")} == {*query[1:].split("&")}
    other.reload()
    shown(page, "apart")
    expect(figures(page).locator("strong")).to_have_text(scores)
    assert other.complaints == []


@pytest.mark.thorough
@pytest.mark.parametrize("step", STEPS)
def test_each_step_opens_by_its_link_beside_a_cnn(step: str, watched: Watched) -> None:
    query = f"?tab=inside&image=crab&step={step}&model=beit-mini&beside=cnn-mini"
    query += "&layer=3&head=2&point=0.5,0.5&seed=2&kind=rotation"
    other = Watched(watched.page.context.new_page(), watched.app).open(query)
    page = other.page
    shown(page, step)
    expect(figures(page).locator("h3 code").nth(1)).to_have_text("cnn-mini")
    if step in ("attention", "layers", "cost"):
        expect(figures(page).locator(".vd-refused")).to_contain_text("cnn-mini")
    else:
        expect(figures(page).locator(".vd-refused")).to_have_count(0)
    if step == "attention":
        expect(figures(page)).to_contain_text("Layer 4 of 8, head 3 of 6")
    if step == "cnn":
        expect(page.locator("#inside [name=kind]")).to_have_value("rotation")
    assert other.complaints == []


@pytest.mark.thorough
def test_what_a_link_asks_for_that_is_not_there_is_named(watched: Watched) -> None:
    query = "?tab=inside&step=nope&beside=gone&heads=x&layer=1.5"
    other = Watched(watched.page.context.new_page(), watched.app).open(query)
    shown(other.page, "patches")
    remarks = other.page.locator("#inside .vd-remarks")
    for words in (
        "There is no step “nope”",
        "There is no model “gone”",
        "The head 'x' is not LAYER:HEAD",
        "layer must be",
    ):
        expect(remarks).to_contain_text(words)
    assert other.complaints == []


@pytest.mark.thorough
def test_another_photo_is_looked_into_where_the_tab_is_and_a_point_that_it_lacks_is_moved(watched: Watched) -> None:
    page = watched.page
    page.goto(f"{watched.app.url}?tab=inside&image=crab&step=attention&point=0.02,0.5")
    page.wait_for_function("window.vitdemoOpened")
    shown(page, "attention")
    before = page.locator("#inside .vd-inside").get_attribute("data-result") or ""
    example(page, 4).click()
    expect(page.locator("#inside .vd-inside")).not_to_have_attribute("data-result", before)
    shown(page, "attention")
    expect(figures(page).locator(".vd-refused")).to_have_count(0)
    expect(figures(page)).to_contain_text("column 1.")


@pytest.mark.thorough
def test_a_ranking_of_the_app_has_a_bar_and_a_list_and_can_be_stopped(watched: Watched) -> None:
    page = watched.page
    open_tab(page, "Inside")
    page.locator("#inside [data-step=apart]").first.click()
    shown(page, "apart")
    figures(page).get_by_text("Rank all heads").click()
    expect(figures(page).locator("progress")).to_be_visible()
    figures(page).get_by_role("button", name="Stop").click()
    expect(figures(page).locator("progress")).to_be_hidden()
    watched.settle()
    expect(figures(page).locator(".vd-effects li")).to_have_count(0)
    figures(page).get_by_text("Rank all heads").click()
    expect(figures(page).locator(".vd-effects li")).to_have_count(12)
