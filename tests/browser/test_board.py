"""The compare board: agreement, order, other methods and classes, the swipe, and its files."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.browser.conftest import Watched
from tests.browser.test_page import best_labels, pictures, wait_for_new_result, wait_until_drawn
from vitdemo.export.results import comparison_json
from vitdemo.options.explain import ExplainRequest
from vitdemo.options.methods import METHODS
from vitdemo.registry import default_models
from vitdemo.settings import Settings
from vitdemo.types import Comparison
from vitdemo.ui.examples import examples

pytestmark = pytest.mark.browser

MODELS = default_models(Settings())
COUNT = len(MODELS)
DISPUTED = 3
"""An example on which the models do not all say the same."""


@pytest.fixture
def page(watched: Watched) -> Page:
    """Compare, with a photo on which the models disagree."""
    button = watched.page.locator("#examples").get_by_role("button").nth(DISPUTED)
    wait_for_new_result(watched.page, button.click)
    watched.settle()
    return watched.page


def compared(watched: Watched, **options: Any) -> Comparison:
    pipeline = watched.app.pipeline
    return pipeline.compare(pipeline.open(examples()[DISPUTED].path), MODELS, ExplainRequest(**options))


def order(page: Page) -> list[str]:
    return [panel.get_attribute("aria-label") or "" for panel in page.locator("#compared .vd-panel").all()]


def matrix(page: Page) -> list[list[str]]:
    wait_until_drawn(page)
    rows = page.locator("#compared .vd-matrix tbody tr").all()
    return [row.locator("td").all_inner_texts() for row in rows]


@pytest.mark.parametrize(("layer", "head"), [(7, "mean"), (2, "max")])
def test_the_matrix_holds_pythons_agreement(page: Page, watched: Watched, layer: int, head: str) -> None:
    page.locator("#compared [name=layer]").fill(str(layer))
    page.locator("#compared [name=head]").select_option(head)
    shown = matrix(page)
    pairs = iter(compared(watched, layer=layer, head=head).agreement)
    for i in range(COUNT):
        for j in range(i + 1, COUNT):
            pair = next(pairs)
            above, below = shown[i][j], shown[j][i]
            assert ("≠" in above) == ("≠" in below) == (pair.same_label is False)
            assert pair.rank_correlation is not None
            assert pair.overlap is not None
            assert abs(float(above.removesuffix(" ≠")) - pair.rank_correlation) <= 0.01
            # One patch more or less of a dozen.
            assert abs(float(below.removesuffix(" ≠").removesuffix("%")) / 100 - pair.overlap) <= 0.12


def test_who_differs_from_the_most_is_marked_and_said(page: Page, watched: Watched) -> None:
    labels = best_labels(page)
    counts = sorted(((labels.count(label), label) for label in set(labels)), reverse=True)
    assert len(counts) > 1, "the example has become too easy: choose another"
    verdict = page.locator("#compared .vd-verdict")
    expect(verdict).to_contain_text(f"{len(counts)} answers from {COUNT} models: ")
    for _, label in counts:
        expect(verdict).to_contain_text(label)
    common = counts[0][1] if counts[0][0] > counts[1][0] else None
    marked = [panel.locator(".vd-tag").is_visible() for panel in page.locator("#compared .vd-panel").all()]
    assert marked == [common is not None and label != common for label in labels]


def test_panels_can_be_sorted_by_anything(page: Page, watched: Watched) -> None:
    found = {item.prediction.spec.name: item.prediction for item in compared(watched).explanations}
    chosen = order(page)
    forwards = watched.app.forwards
    watched.requests.clear()
    sorts = {
        "name": lambda name: name,
        "best score": lambda name: -found[name].labels[0].score,
        "label": lambda name: found[name].labels[0].label,
        "size": lambda name: found[name].spec.parameters,
        "as chosen": chosen.index,
    }
    for name, value in sorts.items():
        page.locator("#compared [name=sort]").select_option(name)
        wait_until_drawn(page)
        assert order(page) == sorted(chosen, key=lambda model: (value(model), chosen.index(model)))
    page.locator("#compared [name=sort]").select_option("agreement of maps")
    wait_until_drawn(page)
    pairs = compared(watched).agreement
    mean = {
        name: np.mean(
            [pair.rank_correlation for pair in pairs if name in pair.models and pair.rank_correlation is not None]
        )
        for name in chosen
    }
    values = [mean[name] for name in order(page)]
    assert all(one >= other - 0.01 for one, other in itertools.pairwise(values))
    assert (watched.requests, watched.app.forwards) == ([], forwards)


def choose_method(page: Page, title: str) -> None:
    page.locator("#compare-method input").click()
    option = page.locator("[role=listbox] [role=option]").filter(has_text=re.compile(rf"^\W*{title}$"))
    wait_for_new_result(page, option.first.click)


def test_a_pressed_label_is_explained_in_every_model_that_has_it(page: Page, watched: Watched) -> None:
    choose_method(page, "Relevance")
    expect(page.locator("#compared .vd-caution")).to_contain_text(METHODS["relevance"].says)
    expect(page.locator("#compare-target")).to_be_visible()
    before = pictures(page)
    # One that is no model's best, so that every map changes.
    best = page.locator("#compared .vd-best .vd-label").all_inner_texts()
    labels = page.locator("#compared .vd-panel").first.locator(".vd-labels button .vd-label").all_inner_texts()
    name = next(name for name in labels if name not in best)
    label = page.locator("#compared .vd-panel").first.locator(".vd-labels button").nth(labels.index(name))
    wait_for_new_result(page, label.click)
    expected = compared(watched, method="relevance", target=name)
    assert page.locator("#compared .vd-text").all_inner_texts() == [one.description for one in expected.explanations]
    expect(page.locator("#compare-target input")).to_have_value(name)
    assert all(old != new for old, new in zip(before, pictures(page), strict=True))
    pressed = page.locator("#compared .vd-labels button[aria-pressed=true] .vd-label").all_inner_texts()
    assert pressed
    assert set(pressed) == {name}
    # What gradients weigh has no common unit: each map has its own scale.
    expect(page.locator("#compared [name=common]")).to_be_hidden()
    highest = page.locator("#compared .vd-legend").locator("span:last-child").all_inner_texts()
    assert len(set(highest)) == len(MODELS)


def test_the_swipe_shows_one_model_left_of_the_line_and_the_other_right_of_it(page: Page) -> None:
    page.locator("#compared .vd-swipe summary").click()
    page.locator("#compared [name=left]").select_option("0")
    page.locator("#compared [name=right]").select_option("2")
    page.mouse.move(0, 0)
    wait_until_drawn(page)
    same = """(x) => {
        const [swipe, left, right] = [".vd-swipe canvas", ".vd-panel:nth-child(1) .vd-picture canvas",
            ".vd-panel:nth-child(3) .vd-picture canvas"].map((one) => document.querySelector(`#compared ${one}`));
        const part = (canvas, from, to) => canvas.getContext("2d")
            .getImageData(from, 0, Math.max(1, to - from), canvas.height).data.join();
        const middle = Math.round(x * swipe.width);
        return [part(swipe, 0, middle - 3) === part(left, 0, middle - 3),
            part(swipe, middle + 3, swipe.width) === part(right, middle + 3, swipe.width)];
    }"""
    for percent in (50, 20):
        page.locator("#compared [name=swipe]").fill(str(percent))
        wait_until_drawn(page)
        assert page.evaluate(same, percent / 100) == [True, True]
    # The line can be dragged on the picture itself.
    canvas = page.locator("#compared .vd-swipe canvas")
    box = canvas.bounding_box()
    assert box
    canvas.click(position={"x": box["width"] * 0.7, "y": 20})
    expect(page.locator("#compared [name=swipe]")).to_have_value("70")


def test_the_figure_the_table_and_the_report_say_the_same(page: Page, watched: Watched) -> None:
    def taken(name: str) -> bytes:
        with page.expect_download() as download:
            page.locator("#compared").get_by_role("button", name=name, exact=True).click()
        return Path(download.value.path()).read_bytes()

    page.locator("#compared [name=layer]").fill("3")
    expected = compared(watched, layer=3)
    report = json.loads(taken("Save JSON"))
    assert report == {"image": examples()[DISPUTED].path.name, **comparison_json(expected)}
    rows = list(csv.DictReader(io.StringIO(taken("Save CSV").decode())))
    assert [row["model"] for row in rows] == [spec.name for spec in MODELS]
    for row, item in zip(rows, expected.explanations, strict=True):
        assert row["image"] == examples()[DISPUTED].path.name
        assert [row[f"label {rank}"] for rank in range(1, 6)] == [one.label for one in item.prediction.labels]
        assert float(row["score 1"]) == item.prediction.labels[0].score
        assert int(row["parameters"]) == item.prediction.spec.parameters
        assert row[f"overlap with {item.prediction.spec.name}"] == ""
    first, second = MODELS[0].name, MODELS[1].name
    assert abs(float(rows[0][f"rank correlation with {second}"]) - (expected.agreement[0].rank_correlation or 0)) < 0.01
    assert rows[0][f"overlap with {second}"] == rows[1][f"overlap with {first}"]
    with Image.open(io.BytesIO(taken("Save figure"))) as figure:
        assert figure.width >= COUNT * 360
        colours = figure.convert("RGB").getcolors(maxcolors=1 << 24)
    assert colours is not None
    assert len(colours) > 5000


def test_one_control_moves_all_panels_and_full_screen_shows_them_alone(page: Page, watched: Watched) -> None:
    watched.requests.clear()
    page.locator("#compared").get_by_role("button", name="Full screen").click()
    expect(page.locator("#compared .vd-explorer:fullscreen")).to_have_count(1)
    page.locator("#compared [name=layer]").fill("0")
    wait_until_drawn(page)
    assert all(text.startswith("layer 0, ") for text in page.locator("#compared .vd-text").all_inner_texts())
    page.evaluate("document.exitFullscreen()")
    assert watched.requests == []
