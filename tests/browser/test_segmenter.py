"""The Segment tab's component alone: what is drawn without a request, the point, and answers that come late."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Locator, expect

from tests.browser.static_page import StaticPage, looks
from vitdemo.pipeline import Pipeline
from vitdemo.types import Photo
from vitdemo.ui.components.segmenter import segmenter
from vitdemo.ui.segment import answer_value
from vitdemo.ui.segment_settings import models_offered, read_settings
from vitdemo.ui.segment_views import Segmenter

pytestmark = pytest.mark.browser

MODEL = "dino-mini"


class StaticSegmenter(StaticPage):
    """The component, whose questions are answered as by the app while `answering`, and then only noted."""

    answering = True
    served: Segmenter
    photo: Photo

    def start(self, **given: Any) -> None:
        """Open it with these settings, and wait for what it asks for."""
        self.told = lambda name, data: self.value(data) if self.answering else None
        settings, _ = read_settings({"refine": False, **given}, MODEL)
        self.page.evaluate(
            "(value) => window.show(value)", {"start": settings.json, "models": models_offered(MODEL), "notes": []}
        )
        self.settle()

    def value(self, data: dict[str, Any]) -> dict[str, Any]:
        settings, notes = read_settings(data["settings"], MODEL)
        found = self.served.find(self.photo, [], settings)
        return {"number": data["number"], **answer_value(found, notes, "cup", data["shown"])}

    def settle(self) -> None:
        self.page.wait_for_function("() => window.within('shown !== null && !busy && !wanted')")
        self.drawn()

    def late(self) -> None:
        """From now on nothing is answered."""
        self.answering = False

    def show(self, value: dict[str, Any]) -> None:
        self.page.evaluate("(value) => window.show(value)", value)

    @property
    def canvas(self) -> Locator:
        return self.find(".vd-view canvas")

    def look(self) -> list[str]:
        self.drawn()
        return looks(self.canvas)

    def count(self) -> int:
        return len(self.triggered())


@pytest.fixture
def segment(bare_context: BrowserContext, pipeline: Pipeline, cup: Photo) -> Iterator[StaticSegmenter]:
    settings, _ = read_settings({}, MODEL)
    component = segmenter(settings.json, models_offered(MODEL), "segmented")
    complaints: list[str] = []
    found = StaticSegmenter(bare_context.new_page(), component, {})
    found.page.on("pageerror", lambda error: complaints.append(str(error)))
    found.served, found.photo = Segmenter(pipeline), cup
    yield found
    found.page.close()
    assert complaints == []


def test_how_masks_are_drawn_asks_for_nothing(segment: StaticSegmenter) -> None:
    segment.start(method="parts")
    asked, before = segment.count(), segment.look()
    segment.find(".vd-display summary").click()
    for name, value in (("opacity", "0.2"), ("outlines", "off"), ("outliers", "on")):
        segment.set(name, value)
        now = segment.look()
        assert now != before, name
        before = now
    segment.find(".vd-items button").first.click()
    assert segment.look() != before
    segment.find(".vd-items button").first.click()
    assert segment.look() == before
    assert segment.count() == asked


@pytest.mark.thorough
def test_the_similarity_threshold_changes_picture_and_words_without_a_request(segment: StaticSegmenter) -> None:
    segment.start(method="similarity")
    asked, before = segment.count(), segment.look()
    words = segment.find(".vd-items").inner_text()
    segment.set("tau", "0.2")
    assert segment.look() != before
    assert "a cosine of 0.20 or more" in segment.find(".vd-items").inner_text() != words
    assert "of it on" not in segment.canvas.get_attribute("aria-label")  # type: ignore[operator]
    assert segment.count() == asked
    assert "tau=0.2" in segment.page.url


@pytest.mark.thorough
def test_the_automatic_threshold_is_shown_and_comes_back(segment: StaticSegmenter) -> None:
    segment.start(method="foreground")
    assert segment.run("state.tau") is None
    assert segment.find("[name=automatic]").is_checked()
    output = segment.find("label:has([name=tau]) output")
    expect(output).to_have_text("0.50")
    segment.set("tau", "0.2")
    segment.settle()
    expect(output).to_have_text("0.20")
    assert not segment.find("[name=automatic]").is_checked()
    assert "tau=0.2" in segment.page.url
    segment.find("[name=automatic]").check()
    segment.settle()
    expect(output).to_have_text("0.50")
    assert "tau" not in segment.page.url


@pytest.mark.thorough
def test_the_arrow_keys_move_the_point_of_similarity(segment: StaticSegmenter) -> None:
    segment.start(method="similarity")
    expect(segment.find(".vd-items")).to_contain_text("Patch in row 7, column 11")
    segment.canvas.focus()
    segment.page.keyboard.press("ArrowUp")
    segment.page.keyboard.press("ArrowUp")
    segment.page.keyboard.press("ArrowLeft")
    segment.settle()
    expect(segment.find(".vd-items")).to_contain_text("Patch in row 5, column 10")
    expect(segment.canvas).to_be_focused()
    (_, last) = segment.triggered()[-1]
    assert last["settings"]["point"] == segment.run("state.point")
    assert "point=" in segment.page.url


@pytest.mark.thorough
def test_a_click_outside_of_the_crop_says_that_the_model_does_not_see_it(segment: StaticSegmenter) -> None:
    segment.start(method="similarity", resolution=0)
    asked = segment.count()
    box = segment.canvas.bounding_box()
    assert box
    segment.canvas.click(position={"x": 3, "y": box["height"] / 2})
    expect(segment.find(".vd-tip")).to_have_text("dino-mini does not see this part of the photo.")
    assert segment.count() == asked
    segment.canvas.click(position={"x": box["width"] / 2, "y": box["height"] / 4})
    segment.settle()
    expect(segment.find(".vd-tip")).to_be_empty()
    assert segment.count() == asked + 1


@pytest.mark.thorough
def test_of_many_changes_the_newest_is_asked_for_and_shown(segment: StaticSegmenter) -> None:
    segment.start(method="parts", parts=2)
    asked = segment.count()
    segment.late()
    for parts in ("3", "4", "5", "6"):
        segment.set("parts", parts)
    # One is under way, the others wait; its answer comes late, and is not shown.
    assert segment.count() == asked + 1
    (_, first) = segment.triggered()[-1]
    assert first["settings"]["parts"] == 3
    segment.show(segment.value(first))
    segment.page.wait_for_function("(count) => window.triggered.length === count", arg=asked + 2)
    expect(segment.find(".vd-items li")).to_have_count(2)
    (_, last) = segment.triggered()[-1]
    assert last["settings"]["parts"] == 6
    segment.show(segment.value(last))
    expect(segment.find(".vd-items li")).to_have_count(6)
    expect(segment.find("[name=parts]")).to_have_value("6")
    # Nor an answer that comes twice.
    segment.show(segment.value(first))
    segment.drawn()
    expect(segment.find(".vd-items li")).to_have_count(6)


@pytest.mark.thorough
def test_what_is_wrong_stands_in_the_tab_and_the_last_result_stays(segment: StaticSegmenter) -> None:
    segment.start(method="foreground")
    segment.late()
    segment.set("objects", "3")
    (_, last) = segment.triggered()[-1]
    segment.show({"number": last["number"], "error": "<b>Too small</b>"})
    expect(segment.find(".vd-alert")).to_have_text("<b>Too small</b> Showing the previous result.")
    expect(segment.canvas).to_be_visible()
    segment.answering = True
    segment.set("objects", "2")
    segment.settle()
    expect(segment.find(".vd-alert")).to_be_hidden()


@pytest.mark.thorough
def test_each_method_has_its_own_controls_and_says_what_they_do(segment: StaticSegmenter) -> None:
    segment.start()
    shown = {
        "foreground": ["objects", "tau", "automatic"],
        "parts": ["parts", "tau", "automatic", "within"],
        "attention": ["threshold", "head"],
        "pca": ["tau", "automatic", "within"],
        "similarity": ["tau", "automatic", "matches"],
    }
    for method, names in shown.items():
        segment.find(f"[name=method][value={method}]").check()
        segment.settle()
        own = segment.find(".vd-segment > fieldset [data-of]:visible").locator("input, select")
        assert sorted(own.evaluate_all("(all) => all.map((one) => one.name)")) == sorted(names)
        if method == "parts":
            expect(segment.find(".vd-within")).to_have_text("Only parts of the object")
        if method == "pca":
            expect(segment.find(".vd-within")).to_have_text("Hide the background")
    untold = segment.find("label, .vd-bar button").evaluate_all(
        "(all) => all.filter((one) => !one.hidden && !(one.title || '').endsWith('.')).map((one) => one.innerText)"
    )
    assert untold == []


@pytest.mark.thorough
def test_a_contour_runs_where_values_reach_the_level_and_along_the_edge_it_has_no_line(
    segment: StaticSegmenter,
) -> None:
    inside = """(() => {
        const path = contour(Float32Array.from([0, 0, 0, 0, 1, 1, 0, 1, 1]), 3, 3, 0.5);
        const context = document.createElement("canvas").getContext("2d");
        const [fill, line] = [placed(path.fill, [0, 0, 300, 300]), placed(path.line, [0, 0, 300, 300])];
        context.lineWidth = 2;
        const has = (x, y) => context.isPointInPath(fill, x, y, "evenodd");
        const drawn = (x, y) => context.isPointInStroke(line, x, y);
        return [has(299, 299), has(150, 150), has(110, 200), has(90, 200), has(50, 50), drawn(100, 200), drawn(299.5, 200)];
    })()"""
    assert segment.run(inside) == [True, True, True, False, False, True, False]
