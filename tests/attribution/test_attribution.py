"""Maps from attention rows: layers, heads, fusions, descriptions, and agreement."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr

from vitdemo.attribution import (
    attention_map,
    describe,
    fuse,
    iou,
    of_single_patches,
    overlap,
    rank_correlation,
    why_flat,
)
from vitdemo.errors import OptionError
from vitdemo.options.explain import resolve_head, resolve_layer
from vitdemo.options.methods import METHODS
from vitdemo.registry import get_spec
from vitdemo.types import AttributionMap, Box, Fusion, View

LAYERS, HEADS = 3, 4
SPEC = get_spec("vit-mini")


@pytest.fixture
def rows() -> NDArray[np.float32]:
    return np.random.default_rng(1).random((LAYERS, HEADS, 5, 7), dtype=np.float32)


def _map(values: Any, **changes: Any) -> AttributionMap:
    fields: dict[str, Any] = {"method": "attention", "layer": 7, "head": "mean", "readout": "class", **changes}
    return AttributionMap(np.asarray(values, np.float32), **fields)


def test_attention_is_a_method() -> None:
    assert "attention" in METHODS


@pytest.mark.parametrize(("layer", "index"), [(0, 0), (2, 2), (-1, 2), (-3, 0), ("1", 1), ("-2", 1), (np.int64(1), 1)])
def test_layers_count_from_the_first_or_back_from_the_last(rows: NDArray[np.float32], layer: Any, index: int) -> None:
    found = attention_map(rows, layer, 1)
    assert found.layer == index
    assert np.array_equal(found.values, rows[index, 1])


@pytest.mark.parametrize(("head", "index"), [(0, 0), (3, 3), ("2", 2)])
def test_a_head_is_shown_as_it_is(rows: NDArray[np.float32], head: int | str, index: int) -> None:
    found = attention_map(rows, 1, head, "distillation")
    assert (found.head, found.readout, found.method, found.target) == (index, "distillation", "attention", None)
    assert np.array_equal(found.values, rows[1, index])


@pytest.mark.parametrize(("fusion", "function"), [("mean", np.mean), ("max", np.max), ("min", np.min)])
def test_fusions_are_those_of_numpy(rows: NDArray[np.float32], fusion: Fusion, function: Any) -> None:
    found = attention_map(rows, 1, fusion)
    assert found.head == fusion
    np.testing.assert_allclose(found.values, function(rows[1], axis=0), rtol=1e-6)
    np.testing.assert_array_equal(found.values, fuse(rows[1], fusion))
    assert found.values.dtype == np.float32


def test_without_options_the_heads_of_the_last_layer_are_averaged(rows: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(attention_map(rows).values, rows[-1].mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize("layer", [3, -4, "3", "first", "", "1.5", 1.5, None, "9" * 5000, float("inf"), True])
def test_a_layer_that_does_not_exist_is_refused_with_the_range(rows: NDArray[np.float32], layer: Any) -> None:
    with pytest.raises(OptionError, match="layers 0 to 2, or -3 to -1"):
        attention_map(rows, layer)
    with pytest.raises(OptionError, match="layers 0 to 11, or -12 to -1"):
        resolve_layer("twelve", 12)


@pytest.mark.parametrize("head", [4, -1, "4", "-1", "median", "", "Mean", 1.5, None, "9" * 5000, False])
def test_a_head_that_does_not_exist_is_refused_with_the_range(rows: NDArray[np.float32], head: Any) -> None:
    with pytest.raises(OptionError, match="use mean, max, min, or 0 to 3"):
        attention_map(rows, 0, head)
    with pytest.raises(OptionError, match="or 0 to 11"):
        resolve_head("all", 12)


def test_a_map_knows_its_smallest_and_its_largest_value() -> None:
    found = _map([[0.2, 0.4], [0.6, 1.2]])
    assert (found.low, found.high) == pytest.approx((0.2, 1.2))


ALL: Box = (0, 0, 224, 224)


def test_the_agreement_on_one_grid_is_spearmans() -> None:
    random_numbers = np.random.default_rng(2)
    for size in ((14, 14), (5, 9)):
        first = random_numbers.random(size).astype(np.float32)
        second = (first + random_numbers.random(size) * 0.7).astype(np.float32)
        expected = spearmanr(first.ravel(), second.ravel()).statistic
        found = rank_correlation(_map(first), View(ALL), _map(second), View(ALL))
        assert found == pytest.approx(expected, abs=1e-6)
        assert found == pytest.approx(rank_correlation(_map(second), View(ALL), _map(first), View(ALL)))


def test_ties_share_their_rank_as_spearmans_do() -> None:
    random_numbers = np.random.default_rng(3)
    first, second = (random_numbers.integers(0, 4, (8, 8)).astype(np.float32) for _ in range(2))
    expected = spearmanr(first.ravel(), second.ravel()).statistic
    assert rank_correlation(_map(first), View(ALL), _map(second), View(ALL)) == pytest.approx(expected, abs=1e-6)


def test_a_map_agrees_with_itself_and_disagrees_with_its_opposite_whatever_the_scale() -> None:
    values = np.random.default_rng(4).random((14, 14)).astype(np.float32)
    for scale in (1.0, 1e-3):
        same = rank_correlation(_map(values), View(ALL), _map(values * scale), View(ALL))
        opposite = rank_correlation(_map(values), View(ALL), _map(-values * scale), View(ALL))
        assert (same, opposite) == (pytest.approx(1), pytest.approx(-1))


def _scene(crop: Box, grid: tuple[int, int]) -> NDArray[np.float32]:
    """A smooth function of the photo's pixels, at the centres of a grid over a part of it."""
    rows = crop[1] + (np.arange(grid[0]) + 0.5) * (crop[3] - crop[1]) / grid[0]
    columns = crop[0] + (np.arange(grid[1]) + 0.5) * (crop[2] - crop[0]) / grid[1]
    y, x = np.meshgrid(rows, columns, indexing="ij")
    return (np.sin(x / 60) + np.cos(y / 45) + x / 300).astype(np.float32)


@pytest.mark.parametrize("other_grid", [(14, 14), (28, 28), (7, 21), (30, 12)], ids=str)
@pytest.mark.parametrize("other_crop", [(0, 0, 400, 300), (50, 0, 350, 300), (100, 40, 400, 260)], ids=str)
def test_maps_of_one_scene_agree_over_grids_and_crops(other_grid: tuple[int, int], other_crop: Box) -> None:
    crop = (50, 0, 350, 300)
    first, second = _scene(crop, (14, 14)), _scene(other_crop, other_grid)
    found = rank_correlation(_map(first), View(crop), _map(second), View(other_crop))
    assert found is not None
    assert found > 0.97


def test_maps_are_compared_where_they_lie_in_the_photo_not_corner_to_corner() -> None:
    scene = _scene((0, 0, 400, 300), (30, 40))
    left, right = scene[:, :30], scene[:, 10:]
    placed = rank_correlation(_map(left), View((0, 0, 300, 300)), _map(right), View((100, 0, 400, 300)))
    assert placed == pytest.approx(1, abs=1e-3)
    corner = rank_correlation(_map(left), View((0, 0, 300, 300)), _map(right), View((0, 0, 300, 300)))
    assert corner is not None
    assert corner < 0.9


def test_a_flat_map_agrees_with_nothing() -> None:
    values = np.random.default_rng(5).random((4, 4))
    assert rank_correlation(_map(np.ones((4, 4))), View(ALL), _map(values), View(ALL)) is None
    assert rank_correlation(_map(values), View(ALL), _map(np.zeros((2, 2))), View(ALL)) is None
    assert rank_correlation(_map([[3.0]]), View(ALL), _map(values), View(ALL)) is None


@pytest.mark.parametrize("other", [(100, 0, 200, 100), (0, 100, 100, 200), (150, 150, 151, 151)], ids=str)
def test_maps_without_a_common_part_agree_in_nothing(other: Box) -> None:
    values = np.random.default_rng(6).random((4, 4))
    assert rank_correlation(_map(values), View((0, 0, 100, 100)), _map(values), View(other)) is None
    assert overlap(_map(values), View((0, 0, 100, 100)), _map(values), View(other)) is None


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (
            [[2, 1, 1], [1, 5, 0]],
            [[0, 9, 1], [0, 9, 1]],
            0 / 2,
        ),  # 2 of 10 is 20%, but the 5 comes first: {4}; ties: {1}
        ([[2, 1, 1], [1, 5, 0]], [[0, 1, 1], [0, 9, 1]], 1 / 1),
        ([[1, 1, 1], [1, 1, 0]], [[1, 1, 1], [1, 1, 0]], 1 / 1),  # one of five equal ones reaches 20%
        ([[1, 1, 1], [1, 1, 0]], [[0, 1, 1], [1, 1, 1]], 0 / 2),  # the first one each
        ([[1, 1, 1], [1, 1, 1]], [[0, 1, 0], [0, 0, 0]], None),  # flat
        ([[3, 2, 2], [2, 2, 9]], [[3, 2, 2], [2, 2, 1]], 0 / 2),  # {5} and {0}
        (
            [[0.19, 0.18, 0.17], [0.16, 0.15, 0.15]],
            [[0.18, 0.19, 0.17], [0.16, 0.15, 0.15]],
            1 / 1,
        ),  # two each, the same
        (
            [[0.19, 0.18, 0.17], [0.16, 0.15, 0.15]],
            [[0.19, 0.17, 0.18], [0.16, 0.15, 0.15]],
            1 / 3,
        ),  # two each, one shared
        ([[-9, 1, 3], [-9, 0, 0]], [[0, 1, 3], [0, 0, 0]], 1 / 1),  # what is below 0 takes nothing away from the total
        ([[-1, -2, -3], [-1, -2, -3]], [[0, 1, 3], [0, 0, 0]], None),
    ],
)
def test_the_overlap_is_that_of_the_fewest_patches_with_a_fifth_of_the_mass(
    first: list[list[float]], second: list[list[float]], expected: float | None
) -> None:
    for one, other in ((first, second), (second, first)):
        assert overlap(_map(one), View(ALL), _map(other), View(ALL)) == expected


def test_the_overlap_is_taken_on_the_grid_and_the_part_of_the_photo_that_both_have() -> None:
    left = _map(_spot(4, 6))
    assert overlap(left, View((0, 0, 90, 90)), _map(_spot(4, 3)), View((30, 0, 120, 90))) == 1
    assert overlap(left, View((0, 0, 90, 90)), _map(_spot(4, 5)), View((30, 0, 120, 90))) == 0
    assert overlap(left, View((0, 0, 90, 90)), _map(_spot(4, 8)), View((30, 0, 120, 90))) is None  # flat where both saw
    fine = np.zeros((18, 18), np.float32)
    fine[8:10, 12:14] = 1
    # A quarter of its mass is in one patch; the coarser map, sampled, needs two: 14% each.
    assert overlap(left, View(ALL), _map(fine), View(ALL)) == overlap(_map(fine), View(ALL), left, View(ALL)) == 1 / 2


def test_iou_of_masks_is_exact() -> None:
    first, second = np.zeros((4, 4), np.bool_), np.zeros((4, 4), np.bool_)
    assert iou(first, second) == 0
    first[:2] = True
    assert (iou(first, second), iou(first, first)) == (0, 1)
    second[1:3] = True
    assert iou(first, second) == 4 / 12


def _spot(row: int, column: int, size: int = 9) -> NDArray[np.float32]:
    values = np.full((size, size), 0.0, np.float32)
    values[row, column] = 1
    return values


@pytest.mark.parametrize(
    ("row", "column", "place"),
    [
        (0, 0, "top left"),
        (0, 4, "top centre"),
        (0, 8, "top right"),
        (4, 0, "centre left"),
        (4, 4, "centre"),
        (4, 8, "centre right"),
        (8, 0, "bottom left"),
        (8, 4, "bottom centre"),
        (8, 8, "bottom right"),
    ],
)
def test_words_say_where_the_attention_is(row: int, column: int, place: str) -> None:
    assert describe(_map(_spot(row, column)), SPEC).endswith(f": 100% of attention on 1% of the picture, {place}")


def test_words_say_how_much_attention_lies_on_how_much_of_the_picture() -> None:
    values = np.ones((4, 5))
    values[1:3, 3:] = 5
    assert describe(_map(values), SPEC) == (
        "layer 8 of 8, mean of heads, class token: 56% of attention on 20% of the picture, centre right"
    )


def test_patches_of_at_least_half_of_the_largest_count() -> None:
    assert "75% of attention on 50% of the picture" in describe(_map([[2.0, 1.0], [0.5, 0.5]]), SPEC)
    assert "50% of attention on 25% of the picture" in describe(_map([[2.0, 0.98], [0.51, 0.51]]), SPEC)


def test_the_place_is_the_centre_of_mass() -> None:
    values = _spot(0, 0) + _spot(8, 8)
    assert describe(_map(values), SPEC).endswith("100% of attention on 2% of the picture, centre")


@pytest.mark.parametrize("values", [np.zeros((3, 3)), np.full((3, 3), 0.1), [[1.0]]])
def test_a_flat_map_is_evenly_spread(values: Any) -> None:
    assert describe(_map(values), SPEC).endswith("100% of attention on 100% of the picture, evenly spread")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head": 0, "layer": 0}, "layer 1 of 8, head 1 of 6, class token:"),
        ({"head": "max", "readout": "distillation"}, "layer 8 of 8, max of heads, distillation token:"),
        ({"head": "min", "readout": "mean"}, "layer 8 of 8, min of heads, mean of all tokens:"),
    ],
)
def test_words_say_which_layer_heads_and_tokens(changes: dict[str, Any], words: str) -> None:
    assert describe(_map(_spot(0, 0), **changes), SPEC).startswith(words)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "attention"])
def test_words_of_a_method_that_joins_all_layers_name_it_and_its_class(method: str) -> None:
    found = _map(_spot(0, 0), method=method, layer=None, head=None, readout=None)
    title = METHODS[method].title
    # Cosines are no shares.
    words = "cosine of 0.50 or more" if method == "similarity" else "100% of it"
    assert describe(found, SPEC) == f"{title}: {words} on 1% of the picture, top left"
    assert describe(found, SPEC, "sunflower") == f"{title} for sunflower: {words} on 1% of the picture, top left"


def test_a_small_area_is_not_called_nothing() -> None:
    values = np.full((37, 37), 0.001)
    values[3, 3] = 1
    assert "on under 1% of the picture" in describe(_map(values), SPEC)


def test_a_map_of_single_patches_is_told_from_one_of_an_object() -> None:
    values = 1 + 0.1 * np.random.default_rng(0).random((28, 37))
    assert not of_single_patches(_map(values))
    values[3, 3] = values[20, 30] = 40
    assert of_single_patches(_map(values))
    values[20, 31] = 40  # two that touch
    assert not of_single_patches(_map(values))
    assert not of_single_patches(_map(np.zeros((28, 37))))


def test_words_leave_out_what_is_negative() -> None:
    # Cosines are below 0 where patches are unlike.
    values = np.full((4, 4), -1.0)
    values[0, 0] = 1
    found = _map(values, method="similarity", layer=None, head=None, readout=None)
    assert describe(found, SPEC) == "Similarity: cosine of 0.50 or more on 6% of the picture, top left"
    assert describe(_map(values * 0 - 1, layer=None), SPEC).endswith(": nothing stands out")


def test_why_a_map_is_flat_names_the_methods_that_the_model_has() -> None:
    nothing = replace(_map([[0.0, 0.0]]), method="grad-cam", layer=None, target=1)
    cnn, vit = (why_flat(nothing, "cup", methods) for methods in (("grad-cam", "similarity"), tuple(METHODS)))
    assert cnn.startswith("Nothing counts for cup: the features of the last block, weighted by their gradient,")
    assert cnn.endswith("Try another class.")
    assert vit.endswith("Try another class, Gradient rollout, Relevance or LeGrad.")
    assert why_flat(replace(nothing, values=np.ones((1, 2), np.float32)), "cup", ("grad-cam",)) == ""
    assert why_flat(_map([[0.0, 0.0]]), "", ()) == ""
