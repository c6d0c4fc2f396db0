"""How far maps stay on a box: hand-made cases, and references that go patch by patch."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray

from vitdemo.attribution import localization
from vitdemo.attribution.localization import (
    box_coverage,
    earth_movers_distance,
    energy_inside,
    mask_coverage,
    share_seen,
    top_patches_iou,
)

Array = NDArray[np.float64]


def _box(rows: int, cols: int, box: tuple[int, int, int, int]) -> Array:
    """Whole patches from left, top to right, bottom."""
    mask = np.zeros((rows, cols))
    mask[box[1] : box[3], box[0] : box[2]] = 1
    return mask


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


# ---- coverage ----


def test_a_box_covers_patches_by_the_share_that_counting_fine_points_gives() -> None:
    crop, grid, boxes = (10, 4, 110, 64), (6, 5), [(23.5, 7.25, 71.0, 40.5), (60.0, 30.0, 130.0, 50.0)]
    found = box_coverage(boxes, crop, grid)
    x = 10 + (np.arange(2000) + 0.5) / 2000 * 100
    y = 4 + (np.arange(2400) + 0.5) / 2400 * 60
    inside = np.zeros((2400, 2000), bool)
    for left, top, right, bottom in boxes:
        inside |= ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))
    assert np.allclose(found, inside.reshape(6, 400, 5, 400).mean(axis=(1, 3)), atol=3e-3)


def test_a_painted_mask_covers_what_the_same_box_covers_even_if_pixels_are_cut_by_patches() -> None:
    mask = np.zeros((50, 70), bool)
    mask[11:30, 20:47] = True
    crop, grid = (3, 0, 66, 50), (7, 9)
    assert np.allclose(mask_coverage(mask, crop, grid), box_coverage([(20, 11, 47, 30)], crop, grid))


def test_boxes_that_overlap_count_once() -> None:
    assert box_coverage([(0, 0, 3, 4), (2, 0, 4, 4)], (0, 0, 4, 4), (2, 2)).tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("box", "seen"), [((0, 0, 4, 4), 1.0), ((-4, 0, 4, 4), 0.5), ((8, 0, 12, 4), 0.0), ((3, 3, 3, 5), 0.0)]
)
def test_how_much_of_a_box_a_model_sees(box: tuple[int, int, int, int], seen: float) -> None:
    assert share_seen([box], (0, 0, 8, 8)) == seen


# ---- energy ----


def test_energy_is_the_share_of_the_mass_that_lies_in_the_object() -> None:
    maps = np.array([[[6.0, 2.0], [1.0, 1.0]], [[0.0, -9.0], [0.0, 4.0]], [[-1.0, 0.0], [0.0, 0.0]]])
    found = energy_inside(maps, np.array([[1.0, 0.5], [0.0, 0.0]]))
    assert found[:2].tolist() == [0.7, 0.0]
    assert np.isnan(found[2])


def test_an_even_map_has_the_share_of_the_picture_that_the_object_has(rng: np.random.Generator) -> None:
    mask = rng.random((5, 7))
    assert energy_inside(np.full((2, 3, 5, 7), 0.2), mask) == pytest.approx(np.full((2, 3), mask.mean()))


# ---- overlap of the top patches ----


def test_iou_of_whole_patches_is_that_of_sets(rng: np.random.Generator) -> None:
    maps, mask = rng.random((20, 6, 6)), _box(6, 6, (1, 2, 4, 5))
    object_ = set(np.flatnonzero(mask))
    wanted = []
    for values in maps:
        top = set(sorted(range(36), key=values.ravel().tolist().__getitem__, reverse=True)[:9])
        wanted.append(len(top & object_) / len(top | object_))
    assert top_patches_iou(maps, mask) == pytest.approx(wanted)


def test_a_map_that_is_highest_on_all_of_the_object_has_an_iou_of_1() -> None:
    mask = _box(4, 5, (1, 1, 3, 4))
    assert top_patches_iou(mask + np.arange(20).reshape(4, 5) / 100, mask) == 1


def test_patches_that_are_covered_in_part_count_in_part() -> None:
    # Two patches, rounded from 1.5: they hold 1.5 of the object, and 2 together with it.
    assert top_patches_iou(np.array([[5.0, 4.0, 1.0]]), np.array([[1.0, 0.5, 0.0]])) == 0.75


def test_equal_values_share_the_places_that_are_left_so_no_order_counts() -> None:
    mask = np.array([[1.0, 1.0, 0.0, 0.0]])
    # One place for three patches: a third of each.
    ordered = [np.array([[9.0, *rest]]) for rest in set(permutations((3.0, 3.0, 3.0)))]
    assert [top_patches_iou(one, mask).item() for one in ordered] == [pytest.approx((1 + 1 / 3) / (2 + 2 / 3))]
    assert top_patches_iou(np.ones((1, 4)), mask) == pytest.approx((0.5 * 2) / (2 + 0.5 * 2))


# ---- earth mover's distance ----


def test_mass_in_one_patch_moves_the_mean_distance_to_the_object() -> None:
    single = np.zeros((6, 6))
    single[0, 0] = 3
    mask = _box(6, 6, (3, 4, 5, 6))
    wanted = np.mean([np.hypot(row, column) for row in (4, 5) for column in (3, 4)])
    assert earth_movers_distance(single, mask) == pytest.approx(wanted, abs=0.01)
    assert earth_movers_distance(single, mask, exact=True) == pytest.approx(wanted)


@pytest.mark.parametrize("exact", [False, True])
def test_what_lies_evenly_on_the_object_moves_nowhere(exact: bool) -> None:
    mask = _box(5, 5, (1, 1, 3, 4))
    assert earth_movers_distance(mask * 7, mask, exact) == pytest.approx(0)


def test_the_exact_distance_is_the_least_over_all_ways_to_assign_units(rng: np.random.Generator) -> None:
    for _ in range(5):
        units = rng.integers(0, 20, 4)
        values = np.bincount(units, minlength=20).reshape(4, 5)
        mask = np.zeros(20)
        ends = rng.choice(20, 4, replace=False)
        mask[ends] = 1
        places = np.argwhere(np.ones((4, 5)))
        wanted = min(
            np.mean([np.linalg.norm(places[a] - places[b]) for a, b in zip(units, order, strict=True)])
            for order in permutations(ends)
        )
        assert earth_movers_distance(values, mask.reshape(4, 5), exact=True) == pytest.approx(wanted)


def test_all_maps_at_once_are_within_a_fiftieth_of_a_patch_of_the_linear_programme(rng: np.random.Generator) -> None:
    maps = rng.gamma(0.3, size=(4, 3, 14, 14)) + 0.01
    maps[0] = np.exp(8 * maps[0])  # a few patches that hold nearly all
    for mask in (box_coverage([(2.3, 4.4, 7.7, 11.1)], (0, 0, 14, 14), (14, 14)), _box(14, 14, (13, 13, 14, 14))):
        found, wanted = earth_movers_distance(maps, mask), earth_movers_distance(maps, mask, exact=True)
        assert found.shape == (4, 3)
        assert np.abs(found - wanted).max() < 0.02


def test_on_a_fine_grid_blocks_move_in_place_of_patches(rng: np.random.Generator) -> None:
    maps = rng.gamma(0.3, size=(2, 27, 25)) + 0.01
    mask = _box(27, 25, (4, 9, 9, 13))
    found, wanted = earth_movers_distance(maps, mask), earth_movers_distance(maps, mask, exact=True)
    assert max(mask.shape) > localization.BLOCKED
    assert np.abs(found - wanted).max() < 0.2


def test_without_mass_or_without_an_object_there_is_no_distance() -> None:
    assert np.isnan(earth_movers_distance(np.zeros((3, 3)), np.ones((3, 3))))
    assert np.isnan(earth_movers_distance(np.ones((2, 3, 3)), np.zeros((3, 3)))).all()
