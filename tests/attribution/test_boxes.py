"""An explanation on boxes of its photo: its map, every layer and head, and the words for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vitdemo.attribution import best_heads, box_words, earth_movers_distance, energy_inside, localize, top_patches_iou
from vitdemo.errors import OptionError
from vitdemo.export.localization import localization_json
from vitdemo.options.boxes import MOST, edges_of, parse_box
from vitdemo.options.explain import ExplainRequest
from vitdemo.pipeline import Pipeline
from vitdemo.registry import get_spec
from vitdemo.settings import ASSETS, Settings
from vitdemo.types import Explanation


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(Settings(device="cpu"))


@pytest.fixture(scope="module")
def cup(pipeline: Pipeline) -> Explanation:
    """A photo of 600 x 400, of which the model sees the middle, x from 100 to 500."""
    return pipeline.explain(pipeline.open(ASSETS / "examples" / "cup.jpg"), get_spec("vit-mini"))


def test_a_box_in_pixels_of_the_photo_is_measured_on_the_models_own_crop(cup: Explanation) -> None:
    assert cup.view.crop == (100, 0, 500, 400)
    # Patches are 400 / 14 pixels: columns 3 to 6, rows 7 to 9 of them.
    side = 400 / 14
    found = localize(cup, [(100 + 3 * side, 7 * side, 100 + 7 * side, 10 * side)])
    mask = np.zeros((14, 14))
    mask[7:10, 3:7] = 1
    assert np.allclose(found.coverage, mask)
    assert found.seen == pytest.approx(1)
    assert cup.map is not None
    assert found.shown is not None
    assert found.heads is not None
    assert found.shown.energy == pytest.approx(cup.map.values[7:10, 3:7].sum() / cup.map.values.sum())
    rows = cup.rows["class"]
    assert np.allclose(found.heads.energy, energy_inside(rows, found.coverage))
    assert np.allclose(found.heads.iou, top_patches_iou(rows, found.coverage))
    exact = earth_movers_distance(rows[-1:, :2], found.coverage, exact=True)
    assert np.abs(found.heads.distance[-1:, :2] - exact).max() < 0.02


def test_json_has_every_head_with_the_most_energy_first(cup: Explanation) -> None:
    found = localize(cup, [(200, 100, 400, 300)])
    entry = localization_json(found)
    assert found.shown is not None
    assert (entry["boxes"], entry["energy"]) == ([[200, 100, 200, 200]], pytest.approx(found.shown.energy.item()))
    assert entry["patches"] == pytest.approx(49)
    assert entry["even"] == pytest.approx(0.25)
    layers, heads = cup.rows["class"].shape[:2]
    assert len({(one["layer"], one["head"]) for one in entry["heads"]}) == layers * heads
    energies = [one["energy"] for one in entry["heads"]]
    assert energies == sorted(energies, reverse=True)
    assert found.heads is not None
    assert best_heads(found.heads)[0] == np.unravel_index(found.heads.energy.argmax(), (layers, heads))


def test_a_box_that_the_model_sees_in_part_or_not_at_all_is_said(cup: Explanation) -> None:
    assert box_words(localize(cup, [(50, 0, 150, 100)])).endswith("; the model sees 50% of the box")
    outside = localize(cup, [(0, 0, 90, 400)])
    assert box_words(outside) == "The box lies outside of what this model sees."
    assert localization_json(outside)["energy"] is None
    assert localization_json(outside)["heads"] == []
    two = localize(cup, [(200, 100, 300, 200), (300, 200, 400, 300)])
    assert " inside the boxes, IoU " in box_words(two)


def test_a_map_of_all_layers_has_no_heads_and_a_missing_or_empty_one_is_said(
    pipeline: Pipeline, cup: Explanation
) -> None:
    photo = pipeline.open(ASSETS / "examples" / "cup.jpg")
    boxes = [(200.0, 100.0, 400.0, 300.0)]
    rollout = localize(pipeline.explain(photo, get_spec("vit-mini"), ExplainRequest("rollout")), boxes)
    assert rollout.shown is not None
    assert rollout.heads is None
    assert box_words(localize(replace(cup, map=None), boxes)) == "There is no map to measure."
    assert cup.map is not None
    flat = replace(cup, map=replace(cup.map, values=np.zeros((14, 14), np.float32)))
    assert box_words(localize(flat, boxes)) == "The map is nowhere above 0: nothing is inside the box."


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d"])
def test_what_is_no_box_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="four numbers"):
        parse_box(text)


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((10, 10, 0, 5), "no area"),
        ((10, 10, 5, -5), "no area"),
        ((100, 0, 5, 5), "outside of the photo, which is 100 x 80 pixels"),
        ((-9, 0, 5, 5), "outside"),
        ((0, float("nan"), 5, 5), "finite"),
    ],
)
def test_a_box_without_an_area_or_outside_of_the_photo_is_refused(box: tuple[float, ...], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        edges_of([box], (100, 80))


def test_no_more_boxes_are_measured_than_said() -> None:
    with pytest.raises(OptionError, match=f"at most {MOST}"):
        edges_of([(0, 0, 1, 1)] * (MOST + 1), (100, 80))
