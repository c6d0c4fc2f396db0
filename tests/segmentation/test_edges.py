"""Patch masks to pixels, on drawn images whose true mask is known."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from vitdemo.attribution import iou
from vitdemo.segmentation import enlarge, refine
from vitdemo.segmentation.edges import NO_EDGE

Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]


def drawn(width: int, height: int, seed: int = 0) -> tuple[Pixels, Mask]:
    """A warm ellipse on a cold ground, both noisy, and where it is."""
    rng = np.random.default_rng([width, height, seed])
    y, x = np.mgrid[:height, :width]
    centre = rng.uniform(0.4, 0.6, 2)
    radii = rng.uniform(0.15, 0.3, 2)
    inside = ((x / width - centre[0]) / radii[0]) ** 2 + ((y / height - centre[1]) / radii[1]) ** 2 < 1
    colours = np.where(inside[..., None], [210, 120, 60], [60, 90, 130]) + rng.normal(0, 18, (height, width, 3))
    return np.clip(colours, 0, 255).astype(np.uint8), inside


def on_patches(mask: Mask, grid: tuple[int, int]) -> Mask:
    """The patches of which more than half is in the mask."""
    shares = cv2.resize(mask.astype(np.float32), (grid[1], grid[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(shares > 0.5)


def disc(shape: tuple[int, int], squared_radius: float) -> Mask:
    y, x = np.mgrid[: shape[0], : shape[1]]
    inside: Mask = (y - shape[0] / 2) ** 2 + (x - shape[1] / 2) ** 2 < squared_radius
    return inside


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("width", "height", "grid"), [(224, 224, (14, 14)), (320, 200, (10, 16)), (900, 1300, (24, 16))]
)
def test_a_refined_mask_is_nearer_to_the_truth_than_its_patches(width: int, height: int, grid: tuple[int, int]) -> None:
    for seed in range(3):
        photo, truth = drawn(width, height, seed)
        mask = on_patches(truth, grid)
        found = refine(photo, mask)
        blocky = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT) > 0
        assert found.refined, found.note
        assert found.mask.shape == (height, width)
        assert iou(found.mask, truth) > max(0.95, iou(blocky, truth), iou(enlarge(mask, width, height), truth))


def test_a_mask_one_patch_too_large_is_pulled_in_and_one_too_small_is_let_out() -> None:
    photo, truth = drawn(320, 320)
    mask = on_patches(truth, (20, 20)).astype(np.uint8)
    for wrong in (cv2.dilate(mask, np.ones((3, 3))), cv2.erode(mask, np.ones((3, 3)))):
        found = refine(photo, wrong > 0, band=1.6)
        assert iou(found.mask, truth) > 0.93
        assert iou(enlarge(wrong > 0, 320, 320), truth) < 0.8


@pytest.mark.thorough
def test_the_same_photo_and_mask_give_the_same_pixels_whatever_ran_before() -> None:
    rng = np.random.default_rng(0)
    mask = disc((16, 18), 30)
    for _ in range(8):
        # Colours that tell little, so that it matters where the clusters start.
        photo = cv2.resize(rng.integers(0, 256, (80, 90, 3), dtype=np.uint8), (180, 160)).astype(np.uint8)
        photo[disc((160, 180), 2500)] //= 2
        found = []
        for state in (1, 12345, 777):
            cv2.setRNGSeed(state)
            found.append(refine(photo, mask, band=1.5))
        assert found[0].refined
        assert (found[0].mask == found[1].mask).all()
        assert (found[0].mask == found[2].mask).all()


@pytest.mark.parametrize("value", [False, True])
def test_an_empty_or_a_whole_mask_stays_one_and_says_so(value: bool) -> None:
    photo, _ = drawn(64, 48)
    found = refine(photo, np.full((3, 4), value))
    assert (found.mask == value).all()
    assert not found.refined
    assert "no edge to refine" in found.note


@pytest.mark.parametrize("place", [(0, 0), (5, 6), (11, 15)])
def test_one_patch_alone_has_no_sure_inside_and_is_refined_or_kept(place: tuple[int, int]) -> None:
    photo, _ = drawn(256, 192)
    mask = np.zeros((12, 16), np.bool_)
    mask[place] = True
    found = refine(photo, mask)
    assert found.mask.any()
    assert not found.mask.all()
    # Nothing far from the patch was added.
    rows, columns = np.nonzero(found.mask)
    assert abs(rows / 16 - place[0] - 0.5).max() < 2.5
    assert abs(columns / 16 - place[1] - 0.5).max() < 2.5


def test_all_but_one_patch_has_no_sure_outside_and_is_refined_or_kept() -> None:
    photo, _ = drawn(256, 192)
    mask = np.ones((12, 16), np.bool_)
    mask[6, 8] = False
    found = refine(photo, mask)
    assert found.mask.mean() > 0.9


def test_a_photo_of_one_colour_keeps_the_patches_or_moves_the_edge_by_a_patch_at_most() -> None:
    mask = np.zeros((10, 10), np.bool_)
    mask[3:7, 3:7] = True
    found = refine(np.full((100, 100, 3), 128, np.uint8), mask)
    assert found.mask[45:55, 45:55].all()
    assert not found.mask[:15].any()


def test_colours_that_contradict_the_mask_are_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    photo, truth = drawn(120, 120)
    mask = on_patches(truth, (12, 12))

    def speck(_photo: object, seeds: Pixels, *_others: object) -> None:
        seeds[:] = cv2.GC_PR_BGD
        seeds[60, 60] = cv2.GC_PR_FGD

    monkeypatch.setattr(cv2, "grabCut", speck)
    found = refine(photo, mask)
    assert not found.refined
    assert found.note == NO_EDGE
    assert (found.mask == enlarge(mask, 120, 120)).all()


@pytest.mark.parametrize("outcome", [cv2.GC_BGD, cv2.GC_FGD, None])
def test_where_grabcut_degenerates_the_enlarged_mask_is_given_and_the_note_says_so(
    monkeypatch: pytest.MonkeyPatch, outcome: int | None
) -> None:
    def degenerate(_photo: object, seeds: Pixels, *_others: object) -> None:
        if outcome is None:
            raise cv2.error("assertion failed")
        seeds[:] = outcome

    monkeypatch.setattr(cv2, "grabCut", degenerate)
    photo, truth = drawn(120, 90)
    mask = on_patches(truth, (9, 12))
    found = refine(photo, mask)
    assert not found.refined
    assert found.note == NO_EDGE
    assert (found.mask == enlarge(mask, 120, 90)).all()


def test_large_photos_are_worked_on_at_a_limited_side(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = []
    real: Callable[..., object] = cv2.grabCut

    def watched(photo: Pixels, *others: object) -> object:
        sides.append(photo.shape[:2])
        return real(photo, *others)

    monkeypatch.setattr(cv2, "grabCut", watched)
    photo, truth = drawn(1500, 1000)
    found = refine(photo, on_patches(truth, (20, 30)), side=300)
    assert sides == [(200, 300)]
    assert found.mask.shape == (1000, 1500)
    assert iou(found.mask, truth) > 0.95


def test_random_masks_on_photos_of_any_size_never_fail() -> None:
    rng = np.random.default_rng(2)
    for _ in range(40):
        height, width = (int(size) for size in rng.integers(1, 60, 2))
        grid = tuple(int(size) for size in rng.integers(1, 9, 2))
        photo = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        found = refine(photo, rng.random(grid) < rng.random())
        assert found.mask.shape == (height, width)
        assert found.refined == (not found.note)


def test_enlarging_keeps_a_single_patch() -> None:
    mask = np.zeros((5, 5), np.bool_)
    mask[2, 2] = True
    big = enlarge(mask, 80, 80)
    assert 0.3 * 256 < big.sum() < 256
    assert big[40, 40]


def test_a_photo_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="of bytes"):
        refine(np.zeros((4, 4, 3), np.float32), np.ones((2, 2), np.bool_))
    with pytest.raises(ValueError, match=r"must be \[h, w\]"):
        refine(np.zeros((4, 4, 3), np.uint8), np.ones(2, np.bool_))
