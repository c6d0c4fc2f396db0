"""The normalised cut against a dense solver, and on features with planted objects."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import eigh

from vitdemo.errors import OptionError
from vitdemo.segmentation import Side, cut, foreground, second_eigenvector

Weights = NDArray[np.float64]
Mask = NDArray[np.bool_]


def dense(weights: Weights) -> tuple[Weights, Weights]:
    degrees = np.diag(weights.sum(axis=1))
    values, vectors = eigh(degrees - weights, degrees)
    return values, vectors


def agrees(weights: Weights) -> None:
    """Assert that eigenvalue and, if unique, eigenvector are the dense solver's, and the equation holds."""
    values, vectors = dense(weights)
    value, vector = second_eigenvector(weights.copy())
    degrees = weights.sum(axis=1)
    assert value == pytest.approx(max(0, values[1]), abs=1e-9)
    assert np.abs(degrees * vector - weights @ vector - value * degrees * vector).max() < 1e-7
    assert vector @ (degrees * vector) == pytest.approx(1)
    assert abs(degrees @ vector) < 1e-6 * degrees.sum() ** 0.5
    if len(values) < 3 or values[2] - values[1] > 1e-6:
        assert abs(vector @ (degrees * vectors[:, 1])) == pytest.approx(1, abs=1e-6)


def random_graph(seed: int) -> Weights:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 120))
    alike = rng.random((count, count)) < rng.random()
    return np.where(alike | alike.T | np.eye(count, dtype=bool), 1.0, 1e-5)


def graph_of_groups(seed: int) -> Weights:
    """Patches of few kinds, as in a drawing: eigenvalues are repeated, or lie close together."""
    rng = np.random.default_rng(seed)
    count, kinds = int(rng.integers(20, 150)), int(rng.integers(2, 9))
    kind = rng.integers(0, kinds, count)
    alike = rng.random((kinds, kinds)) < 0.4 * rng.integers(0, 2)
    return np.where((alike | alike.T | np.eye(kinds, dtype=bool))[np.ix_(kind, kind)], 1.0, 1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("make", [random_graph, graph_of_groups])
def test_the_eigenvector_is_that_of_a_dense_solver(make: object) -> None:
    assert callable(make)
    for seed in range(60):
        agrees(make(seed))


def test_the_eigenvector_is_the_same_where_iterations_do_not_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    real = cut._by_inverse

    def watched(weights: Weights, root: Weights, trivial: Weights) -> tuple[float, Weights]:
        used.append(len(weights))
        return real(weights, root, trivial)

    monkeypatch.setattr(cut, "FEW_RESTARTS", 1)
    monkeypatch.setattr(cut, "_by_inverse", watched)
    for seed in range(40):
        agrees(random_graph(seed))
        agrees(graph_of_groups(seed))
    assert len(used) > 10


def test_a_graph_in_two_pieces_is_cut_between_them() -> None:
    piece = np.random.default_rng(0).random(50) < 0.3
    weights = np.where(piece[:, None] == piece, 1.0, 1e-5)
    value, vector = second_eigenvector(weights)
    assert 0 < value < 1e-3
    assert ((vector > vector.mean()) == piece).all() or ((vector < vector.mean()) == piece).all()


def scene(grid: tuple[int, int], objects: list[Mask], seed: int = 0, noise: float = 1.0) -> NDArray[np.float32]:
    """Features around one direction for the background, and one for each object, at right angles."""
    rng = np.random.default_rng(seed)
    kinds = 1.5 * 48**0.5 * np.linalg.qr(rng.standard_normal((48, len(objects) + 1)))[0].T
    number = np.zeros(grid, np.int64)
    for index, mask in enumerate(objects):
        number[mask] = index + 1
    features: NDArray[np.float32] = (kinds[number.ravel()] + noise * rng.standard_normal((number.size, 48))).astype(
        np.float32
    )
    return features


def disc(grid: tuple[int, int], row: float, column: float, radius: float) -> Mask:
    y, x = np.mgrid[: grid[0], : grid[1]]
    inside: Mask = (y - row) ** 2 + (x - column) ** 2 <= radius**2
    return inside


@pytest.mark.parametrize("grid", [(14, 14), (20, 31), (31, 20)])
def test_a_planted_object_is_found_to_the_patch(grid: tuple[int, int]) -> None:
    for seed in range(5):
        blob = disc(grid, grid[0] * 0.45, grid[1] * 0.6, 3.5)
        found = foreground(scene(grid, [blob], seed), grid)
        assert found.found
        assert found.masks.shape == (1, *grid)
        assert (found.masks[0] == blob).all()
        assert blob[found.seeds[0]]
        assert found.eigenvectors[0][blob].min() > found.eigenvectors[0][~blob].max()
        assert 0 <= found.eigenvalues[0] < 0.5


def test_only_what_hangs_together_with_the_seed_is_the_object() -> None:
    grid = (16, 24)
    left, right = disc(grid, 8, 5, 3), disc(grid, 8, 18, 4)
    both = np.where(left | right, 1, 0).astype(bool)
    found = foreground(scene(grid, [both]), grid)
    assert (found.masks[0] == left).all() or (found.masks[0] == right).all()


def test_several_objects_are_found_one_after_the_other_without_overlap() -> None:
    grid = (24, 30)
    planted = [disc(grid, 7, 7, 4), disc(grid, 15, 21, 5), disc(grid, 19, 6, 3)]
    found = foreground(scene(grid, planted, noise=0.7), grid, objects=3)
    assert len(found.masks) == 3
    assert found.masks.sum(axis=0).max() == 1
    assert {mask.tobytes() for mask in found.masks} == {mask.tobytes() for mask in planted}
    assert not found.eigenvectors[1][found.masks[0]].any()


def test_a_cut_that_is_too_loose_finds_nothing() -> None:
    grid = (12, 12)
    features = scene(grid, [disc(grid, 6, 6, 3)], noise=0.3)
    (value,) = foreground(features, grid).eigenvalues
    assert foreground(features, grid, max_eigenvalue=value + 1e-6).found
    found = foreground(features, grid, max_eigenvalue=value - 1e-6)
    assert not found.found
    assert found.reason == "No part of the photo stands out from the rest."


def test_no_more_objects_are_reported_than_there_are() -> None:
    grid = (20, 20)
    blob = disc(grid, 10, 10, 4)
    found = foreground(scene(grid, [blob], noise=0.3), grid, objects=4)
    assert len(found.masks) == 1
    assert (found.masks[0] == blob).all()
    assert found.reason == "All patches are alike: nothing stands out."


def test_a_side_with_the_corners_of_the_photo_is_not_the_object() -> None:
    grid = (15, 15)
    # More than half of the photo, so that the few patches around it stick out most.
    blob = disc(grid, 7, 7, 7.2)
    features = scene(grid, [blob])
    assert not foreground(features, grid, side="seed").masks[0][7, 7]
    assert (foreground(features, grid, side="corners").masks[0] == blob).all()
    assert (foreground(features, grid, side="attention", attention=blob).masks[0] == blob).all()


def test_a_ground_with_two_corners_is_told_by_attention_alone() -> None:
    grid = (12, 12)
    ground = np.ones(grid, np.bool_)
    ground[1:-1, 1:-1] = ground[0, [0, 1, -2, -1]] = False
    features = scene(grid, [~ground])
    assert not (foreground(features, grid, side="corners").masks[0] & ~ground).any()
    weight = np.where(ground, 0.2, 0.3)
    assert (foreground(features, grid, side="attention", attention=weight).masks[0] == ~ground).all()
    assert not (foreground(features, grid, side="attention", attention=1 - weight).masks[0] & ~ground).any()


@pytest.mark.parametrize(("side", "attention"), [("attention", None), ("corners", np.ones((4, 5))), ("attention", [1])])
def test_attention_is_given_where_it_tells_the_side_and_nowhere_else(side: Side, attention: Any) -> None:
    with pytest.raises(ValueError, match=re.escape("given as [4, 5]")):
        foreground(np.eye(20), (4, 5), side=side, attention=attention)


def test_patches_that_are_all_alike_or_all_different_have_no_foreground() -> None:
    same = foreground(np.ones((20, 3)), (4, 5))
    assert not same.found
    assert same.masks.shape == same.eigenvectors.shape == (0, 4, 5)
    assert "nothing stands out" in same.reason
    different = foreground(np.eye(20), (4, 5))
    assert not different.found
    assert "No two patches are alike" in different.reason
    assert not foreground(np.zeros((20, 3)), (4, 5)).found
    assert not foreground(np.ones((1, 3)), (1, 1)).found


def test_patches_with_equal_features_are_on_the_same_side() -> None:
    rng = np.random.default_rng(4)
    for seed in range(10):
        kinds = np.random.default_rng(seed).standard_normal((5, 8))
        kind = rng.integers(0, 5, 96)
        found = foreground(kinds[kind], (8, 12), tau=0.1)
        values = found.eigenvectors[0].ravel()
        assert all(np.ptp(values[kind == number]) < 1e-6 for number in np.unique(kind))


def test_the_same_features_give_the_same_masks_in_every_unit() -> None:
    features = scene((18, 18), [disc((18, 18), 9, 8, 4)], noise=2.5)
    first, second = foreground(features, (18, 18), objects=2), foreground(features * 8, (18, 18), objects=2)
    assert (first.masks == second.masks).all()
    assert first.eigenvalues == second.eigenvalues


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(OptionError, match="at least -1 and below 1"):
        foreground(np.ones((4, 2)), (2, 2), tau=1)
    with pytest.raises(OptionError, match="at least 1"):
        foreground(np.ones((4, 2)), (2, 2), objects=0)
    with pytest.raises(ValueError, match="grid of 2 x 3"):
        foreground(np.ones((4, 2)), (2, 3))
