"""What a page may ask for again: only what it was shown, never a model's work, and never with a traceback."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vitdemo.attribution import attention_map, localize
from vitdemo.export.localization import localization_json
from vitdemo.export.results import comparison_json, explanation_json, prediction_json
from vitdemo.options.explain import ExplainRequest
from vitdemo.pipeline import Pipeline
from vitdemo.registry import get_spec
from vitdemo.settings import ASSETS, Settings
from vitdemo.types import Capture, Explanation, Photo
from vitdemo.ui.components.quantise import quantised
from vitdemo.ui.result_store import Results

MODELS = ("vit-mini", "deit-mini", "beit-mini")


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(Settings(device="cpu"))


@pytest.fixture(scope="module")
def cup(pipeline: Pipeline) -> Photo:
    return pipeline.open(ASSETS / "examples" / "cup.jpg")


@pytest.fixture(scope="module")
def explanations(pipeline: Pipeline, cup: Photo) -> tuple[Explanation, ...]:
    return pipeline.compare(cup, [get_spec(name) for name in MODELS], capture=Capture(queries=True)).explanations


@pytest.fixture
def shown(cup: Photo, explanations: tuple[Explanation, ...]) -> tuple[dict[str, Callable[[Any], Any]], str]:
    """The functions that a browser may call, and the id of a result."""
    results = Results()
    return {function.__name__: function for function in results.functions()}, results.keep(cup, explanations)


def restored(answer: dict[str, Any], patches: int, heads: int) -> np.ndarray[Any, Any]:
    """As the browser does: `[n, H, P]`."""
    data = np.frombuffer(base64.b64decode(answer["data"]), np.uint8).reshape(-1, heads, patches) / 255.0
    peaks = np.array(answer["peaks"]).reshape(-1, heads, 1)
    return answer["floor"] + data**2 * (peaks - answer["floor"])


@pytest.mark.thorough
@pytest.mark.parametrize("panel", range(len(MODELS)), ids=MODELS)
def test_a_layer_comes_whole_and_each_row_is_that_of_its_patch(
    shown: Any, pipeline: Pipeline, cup: Photo, panel: int
) -> None:
    functions, key = shown
    before = pipeline.backend.forwards
    answer = functions["patch_rows"]({"id": key, "panel": panel, "layer": 5, "row": None})
    assert json.loads(json.dumps(answer)) == answer
    rows = restored(answer, 196, 6)
    assert (answer["first"], rows.shape) == (0, (196, 6, 196))
    assert pipeline.backend.forwards == before
    left, top, right, bottom = pipeline.explain(cup, get_spec(MODELS[panel])).view.crop
    for row, column in ((0, 0), (7, 3), (13, 13)):
        point = (left + (column + 0.5) / 14 * (right - left), top + (row + 0.5) / 14 * (bottom - top))
        for head in (0, 5):
            found = pipeline.explain(
                cup, get_spec(MODELS[panel]), ExplainRequest(readout="patch", point=point, layer=5, head=head)
            )
            assert found.map is not None
            error = np.abs(rows[row * 14 + column, head] - found.map.values.ravel()).max()
            assert error <= 0.005 * found.map.high


def test_one_row_can_be_asked_for(shown: Any) -> None:
    functions, key = shown
    whole = functions["patch_rows"]({"id": key, "panel": 0, "layer": 2, "row": None})
    one = functions["patch_rows"]({"id": key, "panel": 0, "layer": 2, "row": 40})
    assert one["first"] == 40
    np.testing.assert_allclose(restored(one, 196, 6)[0], restored(whole, 196, 6)[40], rtol=1e-5)


SETTINGS: dict[str, dict[str, Any]] = {
    "as it comes": {"layer": 7, "head": "mean", "readout": None, "patch": None},
    "one head": {"layer": 2, "head": "3", "readout": "class", "patch": None},
    "a patch": {"layer": 4, "head": "max", "readout": "patch", "patch": [0.4, 0.7]},
}


def options(asked: dict[str, Any], photo: Photo) -> dict[str, Any]:
    found = {"layer": asked["layer"], "head": asked["head"], "readout": asked["readout"]}
    if asked["patch"]:
        found["point"] = (asked["patch"][0] * photo.size[0], asked["patch"][1] * photo.size[1])
    return found


@pytest.mark.parametrize("setting", SETTINGS)
def test_arrays_and_reports_are_those_of_the_pipeline(shown: Any, pipeline: Pipeline, cup: Photo, setting: str) -> None:
    functions, key = shown
    asked = {"id": key, **SETTINGS[setting]}
    for panel, name in enumerate(MODELS):
        expected = pipeline.explain(cup, get_spec(name), ExplainRequest(**options(SETTINGS[setting], cup)))
        assert expected.map is not None
        answer = functions["arrays"]({**asked, "panel": panel})
        with np.load(io.BytesIO(base64.b64decode(answer["data"]))) as arrays:
            np.testing.assert_array_equal(arrays["map"], expected.map.values)
            np.testing.assert_array_equal(arrays["rows"], expected.rows["class"])
            assert tuple(arrays["crop"]) == expected.view.crop
            meta = json.loads(str(arrays["meta"]))
        report = functions["report"]({**asked, "panel": panel})["report"]
        assert report == meta == {"image": cup.name, **explanation_json(expected)}


def test_the_report_of_all_is_that_of_compare(shown: Any, pipeline: Pipeline, cup: Photo) -> None:
    functions, key = shown
    report = functions["report"]({"id": key, "panel": None, "layer": 3, "head": "max", "readout": None, "patch": None})
    expected = pipeline.compare(cup, [get_spec(name) for name in MODELS], ExplainRequest(layer=3, head="max"))
    assert report["report"] == {"image": cup.name, **comparison_json(expected)}


def test_a_methods_map_is_what_is_reported_whatever_the_controls_say(pipeline: Pipeline, cup: Photo) -> None:
    results = Results()
    found = pipeline.explain(cup, get_spec("vit-mini"), ExplainRequest(method="rollout"), capture=Capture(queries=True))
    functions = {function.__name__: function for function in results.functions()}
    asked = {"id": results.keep(cup, [found]), "panel": 0, "layer": None, "head": "4", "readout": "x", "patch": None}
    assert functions["report"](asked)["report"]["method"] == "rollout"
    assert functions["report"](asked)["report"]["results"] == [prediction_json(found.prediction)]
    assert "no attention of single patches" in functions["patch_rows"]({**asked, "layer": 1})["error"]


def test_a_box_is_measured_on_every_head_and_fusion_that_the_controls_can_choose(
    shown: Any, cup: Photo, explanations: tuple[Explanation, ...]
) -> None:
    functions, key = shown
    width, height = cup.size
    asked = {"id": key, "panel": 1, "boxes": [[0.3, 0.2, 0.4, 0.5]], "readout": "distillation", "patch": None}
    answer = functions["on_boxes"](asked)
    edges = [(0.3 * width, 0.2 * height, 0.7 * width, 0.7 * height)]
    rows = explanations[1].rows["distillation"]
    heads = rows.shape[1]
    for head, name in [(0, 0), (heads - 1, heads - 1), (heads, "mean"), (heads + 1, "max"), (heads + 2, "min")]:
        found = replace(explanations[1], map=attention_map(rows, 5, name, "distillation"))
        wanted = localization_json(localize(found, edges))
        for measure in ("energy", "iou", "emd"):
            assert answer["scores"][measure][5][head] == pytest.approx(wanted[measure], abs=1e-6)
    assert (answer["seen"], answer["even"]) == pytest.approx((wanted["seen"], wanted["even"]))
    report = functions["report"]({**asked, "layer": 5, "head": "max"})["report"]
    assert report["box"]["energy"] == pytest.approx(answer["scores"]["energy"][5][heads + 1])


def test_boxes_of_one_patchs_attention_and_of_methods_are_measured_too(
    shown: Any, pipeline: Pipeline, cup: Photo, explanations: tuple[Explanation, ...]
) -> None:
    functions, key = shown
    asked = {"id": key, "panel": 0, "boxes": [[0.3, 0.2, 0.4, 0.5]], "readout": "patch", "patch": [0.5, 0.5]}
    scores = functions["on_boxes"](asked)["scores"]
    report = functions["report"]({**asked, "layer": 3, "head": "1"})["report"]
    assert scores["energy"][3][1] == pytest.approx(report["box"]["energy"])
    rollout = pipeline.explain(cup, get_spec("vit-mini"), ExplainRequest("rollout"))
    results = Results()
    functions = {function.__name__: function for function in results.functions()}
    scores = functions["on_boxes"]({**asked, "id": results.keep(cup, [rollout])})["scores"]
    assert np.shape(scores["energy"]) == (1, 1)


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ([[0.2, 0.2, 0, 0.1]], "no area"),
        ([[1.5, 0.2, 0.1, 0.1]], "outside of the photo"),
        ([[0, 0, 1, 1]] * 21, "at most 20"),
        ([], "not understood"),
        ([[1, 2]], "not understood"),
        ([["a", 0, 1, 1]], "not understood"),
        (None, "not understood"),
    ],
    ids=str,
)
def test_boxes_that_are_none_are_answered_in_words(shown: Any, boxes: Any, words: str) -> None:
    functions, key = shown
    answer = functions["on_boxes"]({"id": key, "panel": 0, "boxes": boxes, "readout": None, "patch": None})
    assert list(answer) == ["error"]
    assert words in answer["error"]


@pytest.mark.parametrize("name", ["patch_rows", "arrays", "report"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": "guessed"}, "no longer remembers"),
        ({"panel": 9}, "0 to 2"),
        ({"panel": -1}, "0 to 2"),
        ({"panel": "first"}, "not understood"),
        ({"layer": 99}, "no layer 99"),
        ({"layer": [1]}, "no layer"),
        (None, "not understood"),
        ([], "not understood"),
        ("text", "not understood"),
        ({}, "not understood"),
    ],
    ids=str,
)
def test_a_bad_question_is_answered_in_words(shown: Any, name: str, change: Any, words: str) -> None:
    functions, key = shown
    asked = {"id": key, "panel": 0, "layer": 3, "row": None, "head": "mean", "readout": None, "patch": None}
    question = {**asked, **change} if isinstance(change, dict) and change else change
    answer = functions[name](question)
    assert list(answer) == ["error"]
    assert words in answer["error"]
    assert "Traceback" not in answer["error"]


def test_a_head_that_there_is_not_and_a_patch_of_nonsense_are_said(shown: Any) -> None:
    functions, key = shown
    asked = {"id": key, "panel": 0, "layer": 3, "head": "9", "readout": None, "patch": None}
    assert "no head 9" in functions["arrays"](asked)["error"]
    nonsense = {**asked, "head": "mean", "readout": "patch", "patch": ["a", None]}
    assert "not understood" in functions["arrays"](nonsense)["error"]


def test_the_oldest_result_is_forgotten_when_memory_is_needed(
    cup: Photo, explanations: tuple[Explanation, ...]
) -> None:
    results = Results(budget=12_000_000)
    (ask,) = (function for function in results.functions() if function.__name__ == "patch_rows")
    keys = [results.keep(cup, explanations[:1]) for _ in range(8)]
    assert len(set(keys)) == 8
    answers = ["error" in ask({"id": key, "panel": 0, "layer": 0, "row": None}) for key in keys]
    assert answers[0]
    assert not answers[-1]
    assert answers == sorted(answers, reverse=True)


def test_bytes_keep_the_order_of_small_values_and_the_sign_of_negative_ones() -> None:
    random = np.random.default_rng(0)
    values = (random.random((2, 3, 5, 7)) ** 6).astype(np.float32)
    back = restored(quantised(values), 35, 3).reshape(values.shape)
    assert np.abs(back - values).max() <= 0.004 * values.max()
    negative = (random.random((1, 1, 5, 7)) - 0.5).astype(np.float32)
    back = restored(quantised(negative), 35, 1).reshape(negative.shape)
    assert np.abs(back - negative).max() <= 0.004 * (negative.max() - negative.min())


def test_the_result_that_every_page_opens_with_is_never_dropped(
    cup: Photo, explanations: tuple[Explanation, ...]
) -> None:
    results = Results(budget=8_000_000)
    patch_rows = results.functions()[0]
    first, other = (results.keep(cup, explanations[:1]) for _ in range(2))
    results.pinned({"id": first})
    for _ in range(5):
        results.keep(cup, explanations[:1])
    asked = {"panel": 0, "layer": 0, "row": None}
    assert "error" not in patch_rows({"id": first, **asked})
    assert "no longer remembers" in patch_rows({"id": other, **asked})["error"]
