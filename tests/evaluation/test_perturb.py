"""Each perturbation against arrays computed by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from vitdemo.errors import OptionError
from vitdemo.evaluation.perturb import (
    occluded,
    perturb,
    rotated,
    shifted,
    shuffled,
    split_frequencies,
    without_high,
    without_low,
)
from vitdemo.options.perturbations import PERTURBATIONS, plan_of
from vitdemo.types import Photo

Pixels = np.ndarray


@pytest.fixture
def pixels(photo: Callable[..., Photo]) -> Pixels:
    return np.array(photo(30, 28, 3).image)


def _grey(rows: list[list[int]]) -> Pixels:
    return np.repeat(np.array(rows, np.uint8)[..., None], 3, axis=2)


def _cells(pixels: Pixels, count: int) -> Counter[bytes]:
    height, width = pixels.shape[0] // count, pixels.shape[1] // count
    return Counter(
        pixels[row * height : (row + 1) * height, column * width : (column + 1) * width].tobytes()
        for row in range(count)
        for column in range(count)
    )


@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_the_neutral_strength_changes_nothing_and_the_last_one_does(kind: str, pixels: Pixels) -> None:
    before = pixels.copy()
    strengths = PERTURBATIONS[kind].strengths
    assert np.array_equal(perturb(pixels, kind, strengths[0]), pixels)
    last = perturb(pixels, kind, strengths[-1])
    assert last.shape == pixels.shape
    assert last.dtype == np.uint8
    assert not np.array_equal(last, pixels)
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("cells", [2, 4, 7, 28])
def test_shuffled_cells_are_the_same_cells_and_what_is_left_over_stays(cells: int, pixels: Pixels) -> None:
    found = shuffled(pixels, cells, np.random.default_rng(0))
    assert _cells(found, cells) == _cells(pixels, cells)
    assert not np.array_equal(found, pixels)
    inside = pixels.shape[1] // cells * cells
    assert np.array_equal(found[:, inside:], pixels[:, inside:])


def test_cells_go_where_the_random_order_says() -> None:
    pixels = _grey([[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]])
    order = np.random.default_rng(5).permutation(4)
    first, second, third, fourth = (order + 1).tolist()
    expected = _grey([[first] * 2 + [second] * 2] * 2 + [[third] * 2 + [fourth] * 2] * 2)
    assert np.array_equal(shuffled(pixels, 2, np.random.default_rng(5)), expected)


def test_a_shift_repeats_the_left_edge() -> None:
    pixels = _grey([[1, 2, 3, 4], [5, 6, 7, 8]])
    assert np.array_equal(shifted(pixels, 2), _grey([[1, 1, 1, 2], [5, 5, 5, 6]]))


def test_occlusion_drops_its_share_of_the_grid_and_more_of_the_same() -> None:
    pixels = np.full((28, 42, 3), 9, np.uint8)
    gone = [(occluded(pixels, share, np.random.default_rng(1)) == 0).all(axis=2) for share in (0.1, 0.5, 0.9)]
    for share, mask in zip((0.1, 0.5, 0.9), gone, strict=True):
        whole = mask.reshape(14, 2, 14, 3).swapaxes(1, 2).reshape(196, 6)
        assert np.array_equal(whole.all(axis=1), whole.any(axis=1))
        assert whole.all(axis=1).sum() == round(share * 196)
    assert not (gone[0] & ~gone[1]).any()
    assert not (gone[1] & ~gone[2]).any()


@pytest.mark.parametrize("radius", [0.0, 0.05, 0.3, 1.0, 1.5])
def test_low_and_high_frequencies_add_up_to_the_photo(radius: float, pixels: Pixels) -> None:
    low, high = split_frequencies(pixels, radius)
    assert np.allclose(low + high, pixels, atol=1e-3)


def test_a_wave_is_on_one_side_of_the_radius() -> None:
    # Two cycles in 16 pixels: an eighth of a cycle per pixel, a quarter of the Nyquist frequency.
    wave = 100 + 50 * np.cos(2 * np.pi * 2 * np.arange(16) / 16)
    pixels = np.repeat(np.repeat(np.rint(wave).astype(np.uint8)[None, :, None], 16, axis=0), 3, axis=2)
    below, above = split_frequencies(pixels, 0.2)
    assert np.allclose(below, 100, atol=0.6)
    assert np.allclose(above, pixels - 100.0, atol=0.6)
    assert np.array_equal(without_high(pixels, 0.2), np.full_like(pixels, 100))
    assert np.array_equal(without_low(pixels, 0.2), pixels)
    assert np.array_equal(without_low(pixels, 0.3), np.full_like(pixels, 100))
    assert np.array_equal(without_high(pixels, 0.3), pixels)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_quarter_turn_goes_counter_clockwise(quarters: int, pixels: Pixels) -> None:
    square = pixels[:28, :28]
    assert np.abs(rotated(square, 90 * quarters).astype(int) - np.rot90(square, quarters).astype(int)).max() <= 1


def test_a_rotation_leaves_no_black_corner() -> None:
    assert rotated(np.full((20, 20, 3), 200, np.uint8), 45).min() == 200


def test_the_same_seed_gives_the_same_pixels_and_another_one_others(pixels: Pixels) -> None:
    for kind, strength in (("shuffle", 7), ("occlusion", 0.5)):
        first, again, other = (perturb(pixels, kind, strength, seed) for seed in ((1, 2), (1, 2), (1, 3)))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("kind", "strength", "words"),
    [
        ("blur", 1, "Unknown perturbation 'blur'. Choose from: shuffle, shift"),
        ("shuffle", 0, "whole number from 1 to 56, not 0"),
        ("shuffle", 2.5, "whole number from 1 to 56, not 2.5"),
        ("shuffle", 40, "30 x 28 pixels cannot be cut into 40 x 40 cells"),
        ("shift", -1, "from 0 to 64, not -1"),
        ("shift", 30, "leaves nothing of a photo that is 30 px wide"),
        ("occlusion", 0.95, "from 0 to 0.9, not 0.95"),
        ("low", float("nan"), "from 0 to 1.5, not nan"),
        ("high", 2, "from 0 to 1.5, not 2"),
        ("rotation", 200, "from -180 to 180, not 200"),
    ],
)
def test_what_cannot_be_done_is_said(kind: str, strength: float, words: str, pixels: Pixels) -> None:
    with pytest.raises(OptionError) as error:
        perturb(pixels, kind, strength)
    assert words in str(error.value)


def test_a_plan_begins_with_the_unperturbed_photo_and_takes_strengths_for_one_kind() -> None:
    assert list(plan_of()) == list(PERTURBATIONS)
    assert plan_of(["high"], [0.2, 0.1]) == {"high": (1.5, 0.2, 0.1)}
    for one in PERTURBATIONS.values():
        assert plan_of([one.name], one.strengths)[one.name] == one.strengths
    with pytest.raises(OptionError, match="belong to one perturbation, and 2 are"):
        plan_of(["shift", "low"], [1])
