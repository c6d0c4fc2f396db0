"""Several models on one photo: agreement, order, the swipe, and the board's files; on a page without a server."""

from __future__ import annotations

import csv
import io
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser.static_page import StaticExplorer
from vitdemo.export.results import comparison_json
from vitdemo.options.explain import ExplainRequest
from vitdemo.pipeline import Pipeline
from vitdemo.registry import default_models
from vitdemo.settings import Settings
from vitdemo.types import Capture, Comparison, Explanation, Photo, Prediction
from vitdemo.ui.examples import examples, opened

pytestmark = pytest.mark.browser

MODELS = default_models(Settings())
COUNT = len(MODELS)


@pytest.fixture(scope="module")
def disputed(pipeline: Pipeline) -> Photo:
    """An example on which the models do not all say the same."""
    for example in examples():
        photo = pipeline.open(example.path)
        found = pipeline.compare(photo, MODELS).explanations
        if len({one.prediction.labels[0].label for one in found}) > 1:
            return replace(photo, name=example.path.name)
    raise AssertionError("the examples have become too easy: add another")


@pytest.fixture(scope="module")
def comparison(pipeline: Pipeline, disputed: Photo) -> Comparison:
    return pipeline.compare(disputed, MODELS, capture=Capture(queries=True))


@pytest.fixture
def board(explorer: StaticExplorer, disputed: Photo, comparison: Comparison) -> StaticExplorer:
    explorer.show(disputed, comparison.explanations)
    return explorer


def order(board: StaticExplorer) -> list[str]:
    return [panel.get_attribute("aria-label") or "" for panel in board.find(".vd-panel").all()]


@pytest.mark.thorough
@pytest.mark.parametrize(("layer", "head"), [(7, "mean"), (2, "max")])
def test_the_matrix_holds_pythons_agreement(
    board: StaticExplorer, pipeline: Pipeline, disputed: Photo, layer: int, head: str
) -> None:
    board.set("layer", str(layer))
    board.set("head", head)
    shown = [row.locator("td").all_text_contents() for row in board.find(".vd-matrix tbody tr").all()]
    pairs = pipeline.compare(disputed, MODELS, ExplainRequest(layer=layer, head=head)).agreement
    for (i, j), pair in zip(itertools.combinations(range(COUNT), 2), pairs, strict=True):
        above, below = shown[i][j], shown[j][i]
        assert ("≠" in above) == ("≠" in below) == (pair.same_label is False)
        assert pair.rank_correlation is not None
        assert pair.overlap is not None
        assert abs(float(above.removesuffix(" ≠")) - pair.rank_correlation) <= 0.01
        # One patch more or less of a dozen.
        assert abs(float(below.removesuffix(" ≠").removesuffix("%")) / 100 - pair.overlap) <= 0.12


def relabelled(explanation: Explanation, label: str) -> Explanation:
    """The same, whose best label is this one."""
    prediction = explanation.prediction
    best = replace(prediction.labels[0], label=label)
    return replace(explanation, prediction=replace(prediction, labels=(best, *prediction.labels[1:])))


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("labels", "verdict"),
    [
        ("aaaaa", "All five say a"),
        ("abaab", "3 a, 2 b"),
        ("abbcd", "2 b, 1 a, 1 c, 1 d"),
        # Nobody differs from the most where there is no most.
        ("aabbc", "A tie: 2 a, 2 b, 1 c"),
    ],
    ids=["one", "two", "four", "a tie"],
)
def test_who_says_what_is_said_with_a_colour_for_each_answer(
    explorer: StaticExplorer, disputed: Photo, comparison: Comparison, labels: str, verdict: str
) -> None:
    shown = [relabelled(*pair) for pair in zip(comparison.explanations, labels, strict=True)]
    explorer.show(disputed, shown)
    assert explorer.find(".vd-verdict").inner_text().startswith(verdict)
    colours = explorer.find(".vd-panel").evaluate_all(
        "(all) => all.map((one) => one.style.getPropertyValue('--answer'))"
    )
    # A colour stands for an answer, and for no other one.
    assert len(set(zip(labels, colours, strict=True))) == len(set(labels)) == len(set(colours))
    named = explorer.find(".vd-verdict strong").evaluate_all(
        "(all) => all.map((one) => [one.textContent.slice(-1), one.style.getPropertyValue('--answer')])"
    )
    assert {tuple(pair) for pair in named} == set(zip(labels, colours, strict=True))


@pytest.mark.thorough
def test_of_a_labelled_example_right_and_wrong_answers_are_marked(
    explorer: StaticExplorer, pipeline: Pipeline, comparison: Comparison
) -> None:
    example = next(one for one in examples() if one.label == "sunflower")
    labels = ["sunflower", "sunflower", "lotus", "sunflower", "lamp"]
    shown = [relabelled(*pair) for pair in zip(comparison.explanations, labels, strict=True)]
    explorer.show(opened(pipeline, example), shown)
    assert "it is sunflower: 3 of 5 right" in explorer.find(".vd-verdict").inner_text()
    marked = [panel.locator(".vd-right-mark").count() for panel in explorer.find(".vd-panel").all()]
    assert [label == "sunflower" for label in labels] == [bool(count) for count in marked]
    assert explorer.find(".vd-panel .vd-wrong-mark").count() == 2


@pytest.mark.thorough
def test_panels_can_be_sorted_by_anything(board: StaticExplorer, comparison: Comparison) -> None:
    found: dict[str, Prediction] = {one.prediction.spec.name: one.prediction for one in comparison.explanations}
    chosen = order(board)
    for name, value in {
        "name": lambda name: name,
        "best score": lambda name: -found[name].labels[0].score,
        "label": lambda name: found[name].labels[0].label,
        "size": lambda name: found[name].spec.parameters,
        "time": lambda name: found[name].milliseconds,
        "as chosen": chosen.index,
    }.items():
        board.set("sort", name)
        assert order(board) == sorted(chosen, key=lambda model: (value(model), chosen.index(model))), name  # type: ignore[no-untyped-call]
    board.set("sort", "agreement of maps")
    mean = {
        name: np.mean([pair.rank_correlation or 0.0 for pair in comparison.agreement if name in pair.models])
        for name in chosen
    }
    values = [mean[name] for name in order(board)]
    assert all(one >= other - 0.01 for one, other in itertools.pairwise(values))
    assert board.asked == []


@pytest.mark.thorough
def test_of_gradients_each_map_has_its_own_scale(
    explorer: StaticExplorer, pipeline: Pipeline, disputed: Photo, comparison: Comparison
) -> None:
    label = comparison.explanations[0].prediction.labels[3].label
    found = pipeline.compare(disputed, MODELS, ExplainRequest("relevance", target=label)).explanations
    explorer.show(disputed, found)
    assert explorer.words() == [one.description for one in found]
    assert explorer.find("[name=common]").is_hidden()
    assert len(set(explorer.run("scalesOf(panels.map(currentMap)).map((scale) => scale.high)"))) == COUNT
    pressed = explorer.find(".vd-labels button[aria-pressed=true] .vd-label").all_inner_texts()
    assert set(pressed) == {label}


@pytest.mark.thorough
def test_the_swipe_shows_one_model_left_of_the_line_and_the_other_right_of_it(board: StaticExplorer) -> None:
    board.find(".vd-swipe summary").click()
    board.set("left", "0")
    board.set("right", "2")
    same = """(x) => {
        const [swipe, left, right] = [".vd-swipe canvas", ".vd-panel:nth-child(1) .vd-picture canvas",
            ".vd-panel:nth-child(3) .vd-picture canvas"].map((one) => document.querySelector(`#shown ${one}`));
        const part = (canvas, from, to) => canvas.getContext("2d")
            .getImageData(from, 0, Math.max(1, to - from), canvas.height).data.join();
        const middle = Math.round(x * swipe.width);
        return [part(swipe, 0, middle - 3) === part(left, 0, middle - 3),
            part(swipe, middle + 3, swipe.width) === part(right, middle + 3, swipe.width)];
    }"""
    for percent in (50, 20):
        board.set("swipe", str(percent))
        assert board.page.evaluate(same, percent / 100) == [True, True]
    # The line can be dragged on the picture itself.
    canvas = board.find(".vd-swipe canvas")
    box = canvas.bounding_box()
    assert box
    canvas.click(position={"x": box["width"] * 0.7, "y": 20})
    assert board.find("[name=swipe]").input_value() == "70"


def taken(board: StaticExplorer, name: str) -> bytes:
    with board.page.expect_download() as download:
        board.page.get_by_role("button", name=name, exact=True).click()
    return Path(download.value.path()).read_bytes()


def test_the_figure_the_table_and_the_report_say_the_same(
    board: StaticExplorer, pipeline: Pipeline, disputed: Photo, comparison: Comparison
) -> None:
    board.set("layer", "3")
    report = json.loads(taken(board, "Save JSON"))
    expected = pipeline.compare(disputed, MODELS, ExplainRequest(layer=3))
    wanted = json.loads(json.dumps({"image": disputed.name, **comparison_json(expected)}))
    # The forward was another one.
    for entry in (*report["results"], *wanted["results"]):
        del entry["ms"]
    assert report == wanted
    rows = list(csv.DictReader(io.StringIO(taken(board, "Save CSV").decode(), newline="")))
    assert [row["model"] for row in rows] == [spec.name for spec in MODELS]
    for row, item in zip(rows, expected.explanations, strict=True):
        assert row["image"] == disputed.name
        assert [row[f"label {rank}"] for rank in range(1, 6)] == [one.label for one in item.prediction.labels]
        assert float(row["score 1"]) == item.prediction.labels[0].score
        assert int(row["parameters"]) == item.prediction.spec.parameters
        assert row[f"overlap with {item.prediction.spec.name}"] == ""
    first, second = MODELS[0].name, MODELS[1].name
    # To the last digit: whatever is saved comes from the same numbers.
    assert float(rows[0][f"rank correlation with {second}"]) == expected.agreement[0].rank_correlation
    assert float(rows[0][f"overlap with {second}"]) == expected.agreement[0].overlap
    assert rows[0][f"overlap with {second}"] == rows[1][f"overlap with {first}"]
    for row, entry in zip(rows, report["results"], strict=True):
        assert (float(row["lowest"]), float(row["highest"])) == (entry["min"], entry["max"])
        assert row["map"] == entry["description"]
    with Image.open(io.BytesIO(taken(board, "Save figure"))) as figure:
        assert figure.width >= COUNT * 360
        colours = figure.convert("RGB").getcolors(maxcolors=1 << 24)
    assert colours is not None
    assert len(colours) > 5000


@pytest.mark.thorough
def test_no_cell_of_the_table_is_a_formula_and_none_breaks_its_line(
    explorer: StaticExplorer, disputed: Photo, comparison: Comparison
) -> None:
    labels = ["=1+1", 'a "b", c', "@x", "two\nlines"]
    names = ["=HYPERLINK(1).png", "a,b.png", "-c.png", '"d".png']
    for name, label in zip(names, labels, strict=True):
        explorer.show(
            replace(disputed, name=name), [relabelled(comparison.explanations[0], label), *comparison.explanations[1:2]]
        )
        text = taken(explorer, "Save CSV").decode()
        row, other = csv.DictReader(io.StringIO(text, newline=""))
        assert row["image"] in (name, f"'{name}")
        assert row["label 1"] in (label, f"'{label}")
        assert not any(str(cell).startswith(("=", "+", "@")) for cell in (*row.values(), *other.values()))
        assert row["image"] == f"'{name}" or name[0] not in "=-+@"


@pytest.mark.thorough
def test_full_screen_shows_the_board_alone_and_one_control_moves_all_panels(board: StaticExplorer) -> None:
    board.page.get_by_role("button", name="Full screen").click()
    board.find(".vd-explorer:fullscreen").wait_for()
    board.set("layer", "0")
    assert all(text.startswith("layer 1 of ") for text in board.words())
    board.page.evaluate("document.exitFullscreen()")
    assert board.asked == []
