"""The explorer's arithmetic and its own parts, on a page without a server, beside what Python makes of the same results."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

from tests.browser.static_page import ADDRESS, StaticExplorer, looks
from tests.snippets import fill
from vitdemo.attribution import agreement_of
from vitdemo.export.results import explanation_json
from vitdemo.export.snippets import reproduce_explain
from vitdemo.options.explain import ExplainRequest
from vitdemo.options.methods import METHODS
from vitdemo.pipeline import Pipeline
from vitdemo.registry import default_models
from vitdemo.rendering.overlay import muted, overlay
from vitdemo.rendering.scale import colour_scale, worded
from vitdemo.settings import Settings
from vitdemo.types import Capture, Explanation, Photo

pytestmark = pytest.mark.browser

MODELS = default_models(Settings())
FIRST = MODELS[0]
LOOKS = [(7, "mean"), (3, "max"), (5, "min"), (0, "4")]
"""Layers and heads."""


@pytest.fixture
def one(explorer: StaticExplorer, cup: Photo, compared: tuple[Explanation, ...]) -> StaticExplorer:
    """The first model, as in Explain."""
    explorer.show(cup, compared[:1])
    return explorer


@pytest.fixture
def all_(explorer: StaticExplorer, cup: Photo, compared: tuple[Explanation, ...]) -> StaticExplorer:
    """All models, as in Compare."""
    explorer.show(cup, compared)
    return explorer


def explained(pipeline: Pipeline, photo: Photo, spec: Any = FIRST, **options: Any) -> Explanation:
    return pipeline.explain(photo, spec, ExplainRequest(**options))


def values_of(explanation: Explanation) -> Any:
    assert explanation.map is not None
    return explanation.map.values


def middle(explanation: Explanation, row: int, column: int) -> tuple[float, float]:
    """Of a patch, in pixels of the photo."""
    left, top, right, bottom = explanation.view.crop
    rows, columns = explanation.patch_grid
    return left + (column + 0.5) / columns * (right - left), top + (row + 0.5) / rows * (bottom - top)


def position(one: StaticExplorer, photo: Photo, explanation: Explanation, row: int, column: int) -> Any:
    """The same place on the canvas."""
    box = one.find(".vd-picture canvas").first.bounding_box()
    assert box
    x, y = middle(explanation, row, column)
    return {"x": x / photo.size[0] * box["width"], "y": y / photo.size[1] * box["height"]}


def same_words(shown: str, expected: str) -> bool:
    """Bytes in the browser, floats in Python: a patch at the very edge may fall on the other side."""
    pattern = r"(.*: )(\d+)% of attention on (\d+)% of the picture, (.*)"
    ours, theirs = re.fullmatch(pattern, shown), re.fullmatch(pattern, expected)
    assert ours, shown
    assert theirs, expected
    near = abs(int(ours[2]) - int(theirs[2])) <= 3 and abs(int(ours[3]) - int(theirs[3])) <= 1
    return near and (ours[1], ours[4]) == (theirs[1], theirs[4])


# Maps


def test_every_map_and_its_words_are_pythons(
    all_: StaticExplorer, pipeline: Pipeline, cup: Photo, compared: tuple[Explanation, ...]
) -> None:
    for layer, head in LOOKS:
        all_.set("layer", str(layer))
        all_.set("head", head)
        shown = all_.run("panels.map((panel) => Array.from(currentMap(panel).values))")
        for values, words, spec, sent in zip(shown, all_.words(), MODELS, compared, strict=True):
            wanted = explained(pipeline, cup, spec, layer=layer, head=int(head) if head.isdigit() else head)
            ours = values_of(wanted).ravel()
            # A byte stands for a share of its head's peak: 0.4% of that, at most.
            assert np.abs(np.array(values) - ours).max() <= 0.004 * sent.rows[spec.readouts[0]][layer].max(), spec.name
            # The lowest of all heads lies so far below their peaks that its words are rough.
            assert head == "min" or same_words(words, wanted.description), spec.name
    assert all_.asked == []


@pytest.mark.thorough
def test_the_read_out_can_be_chosen_and_a_model_without_it_keeps_its_own(
    all_: StaticExplorer, compared: tuple[Explanation, ...]
) -> None:
    all_.set("common", "off")
    before = all_.pictures()
    all_.set("readout", "class")
    after = all_.pictures()
    assert [old != new for old, new in zip(before, after, strict=True)] == [
        spec.readouts[0] != "class" for spec in MODELS
    ]
    assert all("class token" in text for text in all_.words())
    all_.set("common", "on")
    assert all_.pictures() != after


@pytest.mark.thorough
def test_on_one_scale_all_legends_are_the_same_and_else_each_its_own(all_: StaticExplorer) -> None:
    ends = all_.find(".vd-legend span:last-child")
    assert len(set(ends.all_inner_texts())) == 1
    all_.set("common", "off")
    own = all_.run("panels.map((panel) => Array.from(currentMap(panel).values))")
    scales = [colour_scale([np.array(values, np.float32)]) for values in own]
    assert ends.all_inner_texts() == [f"{worded(scale.high)} or more" for scale in scales]
    assert len({scale.high for scale in scales}) == len(MODELS)
    all_.set("linear", "on")
    assert ends.all_inner_texts() == [worded(max(values)) for values in own]


@pytest.mark.thorough
def test_each_display_control_changes_every_overlay(all_: StaticExplorer) -> None:
    for name, value in {
        "layer": "2",
        "head": "3",
        "opacity": "30",
        "colourMap": "viridis",
        "smooth": "off",
        "mass": "40",
    }.items():
        before = all_.pictures()
        all_.set(name, value)
        assert all(old != new for old, new in zip(before, all_.pictures(), strict=True)), name
    assert all_.asked == []


@pytest.mark.thorough
def test_the_overlay_is_pythons_within_two_grey_levels(all_: StaticExplorer, pipeline: Pipeline, cup: Photo) -> None:
    all_.set("common", "off")
    all_.set("layer", "3")
    all_.set("head", "max")
    for number, spec in enumerate(MODELS):
        with all_.page.expect_download() as download:
            all_.find(".vd-panel").nth(number).get_by_role("button", name="Save the picture").click()
        with Image.open(download.value.path()) as file:
            theirs = file.convert("RGB")
        found = explained(pipeline, cup, spec, layer=3, head="max")
        assert found.map is not None
        assert theirs.size == cup.size
        ours = np.asarray(overlay(cup, found.view, found.map), np.float32)
        difference = np.abs(np.asarray(theirs.crop(found.view.crop), np.float32) - ours)[4:-4, 4:-4]
        assert difference.mean() <= 2.0, spec.name


@pytest.mark.thorough
def test_a_threshold_keeps_the_fewest_patches_that_hold_the_share(one: StaticExplorer) -> None:
    random_numbers = np.random.default_rng(0)
    for share in (0.1, 0.4, 0.999, 1.0):
        values = random_numbers.random(150).astype(np.float32) ** 3
        kept = np.array(one.run("Array.from(brightest(Float32Array.from($0), $1))", values.tolist(), share), bool)
        order = np.sort(values)[::-1].cumsum(dtype=np.float64)
        assert kept.sum() == int(np.searchsorted(order, share * order[-1] * (1 - 1e-9))) + 1
        assert kept.all() or values[kept].min() >= values[~kept].max()
    # Of equal ones the first, and of nothing none.
    assert one.run("Array.from(brightest([1, 1, 1, 1], 0.5))") == [1, 1, 0, 0]
    assert one.run("Array.from(brightest([0, 0, 0], 0.5))") == [0, 0, 0]


@pytest.mark.thorough
def test_of_a_threshold_the_patches_that_are_kept_alone_are_drawn(
    one: StaticExplorer, pipeline: Pipeline, cup: Photo
) -> None:
    found = explained(pipeline, cup, layer=4, head=1)
    one.set("layer", "4")
    one.set("head", "1")
    one.set("opacity", "0")
    plain = _pixels(one)
    one.set("opacity", "100")
    one.set("mass", "40")
    kept = _pixels(one)
    # The others show the photo as it lies under a map.
    plain = muted(plain, 1)
    zoom = plain.shape[1] / cup.size[0]
    shown = np.zeros((14, 14), bool)
    for row, column in np.ndindex(14, 14):
        x, y = (int(place * zoom) for place in middle(found, row, column))
        shown[row, column] = np.abs(plain[y, x] - kept[y, x]).max() > 4
    wanted = one.run("Array.from(brightest(currentMap(panels[0]).values, 0.4))")
    np.testing.assert_array_equal(shown.ravel(), np.array(wanted, bool))
    one.set("mass", "100")
    assert one.find("label:has([name=mass]) output").text_content() == "all"


def _pixels(one: StaticExplorer) -> Any:
    one.drawn()
    url = one.find(".vd-picture canvas").evaluate("(canvas) => canvas.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))


@pytest.mark.thorough
def test_agreement_is_pythons_also_on_other_grids_and_crops(
    explorer: StaticExplorer, pipeline: Pipeline, cup: Photo, compared: tuple[Explanation, ...]
) -> None:
    # The third one has seen the whole photo, on a finer grid.
    finer = explained(pipeline, cup, MODELS[2], resolution=320)
    assert finer.patch_grid != compared[0].patch_grid
    assert finer.view.crop != compared[0].view.crop
    shown = (*compared[:2], finer)
    explorer.show(cup, shown)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        found = explorer.run(
            "agreementOf(...[$0, $1].map((i) => ({ panel: panels[i], map: currentMap(panels[i]), sampled: {} })))", i, j
        )
        wanted = agreement_of(shown[i], shown[j])
        assert wanted.rank_correlation is not None
        assert wanted.overlap is not None
        assert abs(found["correlation"] - wanted.rank_correlation) <= 0.01
        # One patch more or less of a dozen.
        assert abs(found["overlap"] - wanted.overlap) <= 0.12
    # A map that is flat agrees with nothing.
    assert (
        explorer.run(
            "agreementOf({ panel: panels[0], map: currentMap(panels[0]), sampled: {} },"
            " { panel: panels[1], map: { values: new Float32Array(196).fill(0.1) }, sampled: {} })"
        )
        is None
    )


# The patch that asks


def test_a_click_asks_a_patch_and_its_layer_is_fetched_once(
    one: StaticExplorer, pipeline: Pipeline, cup: Photo, compared: tuple[Explanation, ...]
) -> None:
    first, canvas = compared[0], one.find(".vd-picture canvas")

    def python(row: int, column: int, **options: Any) -> str:
        point = middle(first, row, column)
        return explained(pipeline, cup, readout="patch", point=point, **options).description

    def asks(row: int, column: int) -> str:
        one.page.wait_for_function(
            "(words) => document.querySelector('.vd-text').textContent.includes(words)",
            arg=f"row {row + 1}, column {column + 1}",
        )
        return one.words()[0]

    canvas.click(position=position(one, cup, first, 3, 4))
    assert same_words(asks(3, 4), python(3, 4))
    # Keys go on from there; Python says the same of each patch.
    for key, place in {"ArrowRight": (3, 5), "ArrowDown": (4, 5), "ArrowLeft": (4, 4), "ArrowUp": (3, 4)}.items():
        canvas.press(key)
        assert same_words(asks(*place), python(*place))
    assert [(name, what["layer"], what["row"]) for name, what in one.asked] == [("patch_rows", 7, None)]
    # Another layer is another question, once.
    for layer in (2, 5, 2):
        one.set("layer", str(layer))
        one.page.wait_for_function(
            "(words) => document.querySelector('.vd-text').textContent.startsWith(words)",
            arg=f"layer {layer + 1} of 8, ",
        )
    one.set("head", "4")
    assert same_words(one.words()[0], python(3, 4, layer=2, head=4))
    assert [what["layer"] for _, what in one.asked] == [7, 2, 5]


@pytest.mark.thorough
def test_of_many_patches_a_row_is_asked_for_at_a_time(explorer: StaticExplorer, pipeline: Pipeline, cup: Photo) -> None:
    request = ExplainRequest(resolution=480)
    found = pipeline.explain(cup, FIRST, request, capture=Capture(queries=True))
    rows, columns = found.patch_grid
    assert rows * columns > 400
    explorer.show(cup, [found])
    canvas = explorer.find(".vd-picture canvas")
    canvas.click(position=position(explorer, cup, found, 5, 7))
    explorer.find(".vd-text").filter(has_text="row 6, column 8").wait_for()
    canvas.press("ArrowRight")
    explorer.find(".vd-text").filter(has_text="row 6, column 9").wait_for()
    assert [what["row"] for _, what in explorer.asked] == [5 * columns + 7, 5 * columns + 8]
    wanted = pipeline.explain(cup, FIRST, replace(request, readout="patch", point=middle(found, 5, 8))).description
    assert same_words(explorer.words()[0], wanted)


@pytest.mark.thorough
def test_the_patch_follows_the_pointer_unless_a_click_holds_it_and_escape_leaves_it(
    one: StaticExplorer, cup: Photo, compared: tuple[Explanation, ...]
) -> None:
    canvas, text = one.find(".vd-picture canvas"), one.find(".vd-text")
    before, words = one.pictures(), one.words()

    def place(row: int, column: int) -> Any:
        return position(one, cup, compared[0], row, column)

    one.set("readout", "patch")
    for row, column in ((2, 2), (9, 11)):
        canvas.hover(position=place(row, column))
        text.filter(has_text=f"row {row + 1}, column {column + 1}").wait_for()
    canvas.click(position=place(9, 11))
    canvas.hover(position=place(1, 1))
    assert "row 10, column 12" in one.words()[0]
    canvas.click(position=place(1, 1))
    canvas.hover(position=place(5, 6))
    text.filter(has_text="row 6, column 7").wait_for()
    canvas.press("Escape")
    one.page.mouse.move(0, 0)
    assert one.find("[name=readout]").input_value() == "class"
    assert (one.pictures(), one.words()) == (before, words)


@pytest.mark.thorough
def test_under_the_pointer_stands_the_value_of_its_patch(
    one: StaticExplorer, cup: Photo, compared: tuple[Explanation, ...]
) -> None:
    values = values_of(compared[0])
    for row, column in ((0, 0), (6, 7), (13, 13)):
        one.find(".vd-picture canvas").hover(position=position(one, cup, compared[0], row, column))
        one.drawn()
        shown = re.fullmatch(r"here ([\d.]+)%", one.find(".vd-unit").inner_text())
        assert shown
        assert (
            abs(float(shown[1]) / 100 - values[row, column]) <= 0.005 * values.max() + 0.05 * values[row, column] + 1e-6
        )
    assert one.asked == []


@pytest.mark.thorough
def test_in_compare_the_same_place_asks_in_every_model(
    all_: StaticExplorer, pipeline: Pipeline, cup: Photo, compared: tuple[Explanation, ...]
) -> None:
    all_.find(".vd-picture canvas").nth(2).click(position=position(all_, cup, compared[2], 6, 6))
    for number, spec in enumerate(MODELS):
        all_.find(".vd-text").nth(number).filter(has_text="patch in row 7, column 7").wait_for()
        point = middle(compared[number], 6, 6)
        wanted = explained(pipeline, cup, spec, readout="patch", point=point).description
        assert same_words(all_.words()[number], wanted)
    assert sorted(what["panel"] for _, what in all_.asked) == list(range(len(MODELS)))


@pytest.mark.thorough
def test_what_the_server_cannot_answer_is_said_in_words(one: StaticExplorer) -> None:
    one.answers = dict.fromkeys(one.answers, lambda what: {"error": "The server no longer remembers this."})
    one.find(".vd-picture canvas").click()
    one.find(".vd-text").filter(has_text="The server no longer remembers this.").wait_for()
    one.find(".vd-panel").get_by_role("button", name="Save the raw numbers").click()
    one.find(".vd-said").filter(has_text="The server no longer remembers this.").wait_for()


# Heads and layers


@pytest.mark.thorough
def test_all_heads_of_all_layers_are_shown_and_one_can_be_brought_into_the_picture(
    one: StaticExplorer, pipeline: Pipeline, cup: Photo
) -> None:
    one.find(".vd-heads summary").click()
    one.drawn()
    cells = one.find(".vd-cells button")
    assert cells.count() == FIRST.num_layers * FIRST.num_heads
    shown = looks(cells.locator("canvas"))
    assert len(set(shown)) == len(shown)
    cell = one.page.get_by_role("button", name="layer 4, head 3", exact=True)
    cell.press("Enter")
    assert same_words(one.words()[0], explained(pipeline, cup, layer=3, head=2).description)
    assert cell.get_attribute("aria-pressed") == "true"
    assert [one.find(f"[name={name}]").input_value() for name in ("layer", "head")] == ["3", "2"]
    cell.click()
    assert one.find("[name=head]").input_value() == "mean"
    assert one.asked == []


@pytest.mark.thorough
def test_in_compare_the_heads_of_the_layer_follow_the_slider(all_: StaticExplorer) -> None:
    all_.find(".vd-heads summary").first.click()
    all_.drawn()
    cells = all_.find(".vd-cells button")
    assert cells.count() == sum(model.num_heads for model in MODELS)
    before = looks(cells.locator("canvas"))
    all_.set("layer", "1")
    assert cells.first.get_attribute("title") == "layer 2, head 1"
    after = looks(cells.locator("canvas"))
    assert all(old != new for old, new in zip(before, after, strict=True))


@pytest.mark.thorough
def test_play_walks_through_the_layers_until_it_is_stopped(
    explorer: StaticExplorer, cup: Photo, compared: tuple[Explanation, ...]
) -> None:
    explorer.page.clock.install()
    explorer.mount()
    explorer.page.evaluate("(value) => window.show(value)", explorer.value(cup, compared[:1]))
    slider = explorer.find("[name=layer]")
    explorer.find("[data-act=play]").click()
    seen = [slider.input_value()]
    for _ in range(FIRST.num_layers):
        explorer.page.clock.run_for(700)
        seen.append(slider.input_value())
    assert seen == [str(layer % FIRST.num_layers) for layer in range(FIRST.num_layers + 1)]
    explorer.page.get_by_role("button", name=re.compile("Stop")).click()
    explorer.page.clock.run_for(5000)
    assert slider.input_value() == seen[-1]
    assert explorer.asked == []


# What is shown of a method, and without a result


@pytest.mark.thorough
def test_a_method_has_its_own_words_and_scale_and_no_layers(
    explorer: StaticExplorer, pipeline: Pipeline, cup: Photo
) -> None:
    for name in ("rollout", "relevance", "similarity"):
        found = explained(pipeline, cup, method=name)
        explorer.show(cup, [found])
        assert explorer.words() == [found.description]
        method = METHODS[name]
        assert method.says in explorer.find(".vd-caution").inner_text()
        assert explorer.find(".vd-unit").inner_text() == method.title.lower()
        for control in ("layer", "head", "readout"):
            assert explorer.find(f"[name={control}]").is_hidden()
        for control, value in {"opacity": "30", "colourMap": "viridis", "smooth": "off"}.items():
            before = explorer.pictures()
            explorer.set(control, value)
            assert explorer.pictures() != before, (name, control)
        for control, value in {"opacity": "85", "colourMap": "inferno", "smooth": "on"}.items():
            explorer.set(control, value)
        before = len(explorer.triggered())
        explorer.find(".vd-picture canvas").click(position=position(explorer, cup, found, 2, 3))
        told = explorer.triggered()[before:]
        if name == "similarity":
            # The server is told of the patch: each is a map of its own.
            assert "Click the picture" in explorer.find(".vd-caution").inner_text()
            ((event, place),) = told
            wanted = np.array(middle(found, 2, 3)) / cup.size
            np.testing.assert_allclose([place["x"], place["y"]], wanted, atol=0.005)
            assert event == "select"
        else:
            assert told == []
    # A method that explains a class takes another one from the labels.
    found = explained(pipeline, cup, method="relevance")
    explorer.show(cup, [found])
    before = len(explorer.triggered())
    explorer.find(".vd-labels button").nth(1).click()
    label = found.prediction.labels[1]
    assert explorer.triggered()[before:] == [["select", {"label": label.label, "index": label.index}]]
    pressed = explorer.find(".vd-labels button[aria-pressed=true] .vd-label").all_inner_texts()
    assert pressed == [found.prediction.labels[0].label]
    assert explorer.asked == []


@pytest.mark.thorough
def test_a_model_that_doubts_says_so_and_lists_its_classes(
    explorer: StaticExplorer, cup: Photo, compared: tuple[Explanation, ...]
) -> None:
    sure, other = compared[:2]
    strict = replace(other.prediction.spec, threshold=1.0)
    doubting = replace(other, prediction=replace(other.prediction, spec=strict))
    explorer.show(cup, [sure, doubting])
    panels = explorer.find(".vd-panel")
    assert [panel.locator(".vd-tag").is_visible() for panel in panels.all()] == [False, True]
    assert panels.last.locator(".vd-tag").inner_text() == "Low confidence"
    assert "Low confidence: 1 of 2" in explorer.find(".vd-verdict").inner_text()
    labels, known = other.prediction.spec.labels, explorer.find(".vd-known")
    assert known.locator("summary").inner_text() == f"They know {len(labels)} classes"
    known.locator("summary").click()
    assert known.locator("p").inner_text() == ", ".join(labels)


@pytest.mark.thorough
def test_back_at_attention_layers_and_heads_are_as_they_were(
    explorer: StaticExplorer, pipeline: Pipeline, cup: Photo, compared: tuple[Explanation, ...]
) -> None:
    explorer.show(cup, compared[:1])
    explorer.set("layer", "2")
    explorer.set("head", "1")
    before = explorer.pictures(), explorer.words()
    explorer.show(cup, [explained(pipeline, cup, method="rollout")])
    assert explorer.pictures() != before[0]
    explorer.show(cup, compared[:1])
    assert explorer.find("[name=layer]").is_visible()
    assert (explorer.pictures(), explorer.words()) == before


def test_without_a_photo_or_with_a_refused_one_the_last_result_stays_greyed_with_the_reason(
    one: StaticExplorer,
) -> None:
    hint, root = one.find(".vd-hint"), one.find(".vd-explorer")
    before = one.pictures()
    for value, words in (
        (None, "Drop a photo, or choose an example. Showing the previous result."),
        ({"refused": "The image is cut off."}, "The image is cut off. Showing the previous result."),
    ):
        one.page.evaluate("(value) => window.show(value)", value)
        assert hint.inner_text() == words
        assert "vd-stale" in (root.get_attribute("class") or "")
        assert float(one.find(".vd-picture canvas").evaluate("(one) => getComputedStyle(one).opacity")) < 0.6
        assert one.pictures() == before


# What can be taken away


def taken(explorer: StaticExplorer, name: str) -> tuple[str, bytes]:
    with explorer.page.expect_download() as download:
        explorer.find("").get_by_role("button", name=name).first.click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


@pytest.mark.thorough
def test_raw_numbers_and_provenance_are_those_of_python(one: StaticExplorer, pipeline: Pipeline, cup: Photo) -> None:
    one.set("layer", "5")
    one.set("head", "max")
    found = explained(pipeline, cup, layer=5, head="max")
    name, data = taken(one, "Save the raw numbers")
    assert name == f"{Path(cup.name).stem}-{FIRST.name}.npz"
    with np.load(io.BytesIO(data)) as arrays:
        np.testing.assert_array_equal(arrays["map"], values_of(found))
        np.testing.assert_array_equal(arrays["rows"], found.rows["class"])
        assert json.loads(str(arrays["meta"]))["layer"] == 5
    name, data = taken(one, "Save predictions")
    assert name.endswith(".json")
    report = json.loads(data)
    wanted = json.loads(json.dumps({"image": cup.name, **explanation_json(found)}))
    for entry in (report, wanted):
        entry.pop("ms", None)
        entry["results"][0].pop("ms", None)
        entry["results"][0].pop("cached", None)
    assert report == wanted


@pytest.mark.thorough
def test_the_link_holds_what_is_chosen_and_the_page_says_when_the_photo_is_not_in_it(
    explorer: StaticExplorer, cup: Photo, compared: tuple[Explanation, ...]
) -> None:
    def address() -> dict[str, list[str]]:
        return parse_qs(urlsplit(explorer.page.url).query)

    explorer.show(cup, compared[:1], link={"tab": "explain", "model": FIRST.name, "image": "cup"})
    assert address() == {"tab": ["explain"], "model": [FIRST.name], "image": ["cup"]}
    explorer.set("layer", "2")
    explorer.set("head", "3")
    explorer.find(".vd-picture canvas").click(position=position(explorer, cup, compared[0], 10, 3))
    explorer.find(".vd-text").filter(has_text="row 11, column 4").wait_for()
    explorer.page.wait_for_url(re.compile("patch="))
    found = address()
    assert (found["layer"], found["head"], found["readout"]) == (["2"], ["3"], ["patch"])
    x, y = middle(compared[0], 10, 3)
    shares = [float(share) for share in found["patch"][0].split(",")]
    np.testing.assert_allclose(shares, [x / cup.size[0], y / cup.size[1]], atol=0.005)
    explorer.find("[data-act=link]").click()
    explorer.find(".vd-said").filter(has_text="Link copied.").wait_for()
    assert explorer.page.evaluate("navigator.clipboard.readText()") == explorer.page.url
    # A photo of one's own is not in it.
    explorer.show(cup, compared[:1], link={"tab": "explain", "model": FIRST.name, "image": ""})
    explorer.find("[data-act=link]").click()
    explorer.find(".vd-said").filter(has_text="not your photo").wait_for()
    assert "image" not in address()


@pytest.mark.thorough
def test_what_a_link_brings_is_what_is_shown(
    explorer: StaticExplorer, pipeline: Pipeline, cup: Photo, compared: tuple[Explanation, ...]
) -> None:
    x, y = middle(compared[0], 10, 3)
    shares = (x / cup.size[0], y / cup.size[1])
    explorer.show(cup, compared[:1], start={"layer": 2, "head": "3", "readout": "patch", "patch": shares})
    explorer.find(".vd-text").filter(has_text="row 11, column 4").wait_for()
    wanted = explained(pipeline, cup, layer=2, head=3, readout="patch", point=(x, y)).description
    assert same_words(explorer.words()[0], wanted)
    # What a model does not have is replaced by something that it has.
    explorer.mount()
    explorer.show(cup, compared[:1], start={"layer": 99, "head": "<script>", "readout": "nobody", "patch": None})
    assert re.match(r"layer \d of 8, mean of heads, class token: ", explorer.words()[0])


@pytest.mark.thorough
def test_the_calls_are_those_of_what_is_shown(
    explorer: StaticExplorer, cup: Photo, compared: tuple[Explanation, ...]
) -> None:
    texts = {
        name: reproduce_explain("cup.jpg", FIRST.name, ExplainRequest(readout=readout), "@HOST@")
        for name, readout in (("rows", None), ("patch", "patch"))
    }
    explorer.show(cup, compared[:1], calls=texts)
    explorer.find(".vd-calls summary").click()
    explorer.set("layer", "4")
    explorer.set("head", "2")
    host = f"'{ADDRESS.rstrip('/')}'"
    for name, text in fill(texts["rows"], 4, 2, "class").items():
        shown = explorer.find(f"[data-call={name}]").inner_text()
        assert shown == text.replace("HOST=@HOST@", f"HOST={host}"), name
    explorer.find(".vd-picture canvas").click(position=position(explorer, cup, compared[0], 6, 2))
    explorer.find(".vd-text").filter(has_text="row 7, column 3").wait_for()
    explorer.drawn()
    point = re.search(r"--point=([\d.]+),([\d.]+)", explorer.find("[data-call=cli]").inner_text())
    assert point
    np.testing.assert_allclose([float(point[1]), float(point[2])], middle(compared[0], 6, 2), atol=0.1)
    explorer.find("[data-copy=cli]").click()
    explorer.find(".vd-said").filter(has_text="Copied.").wait_for()
    copied = explorer.page.evaluate("navigator.clipboard.readText()")
    assert copied == explorer.find("[data-call=cli]").inner_text()
