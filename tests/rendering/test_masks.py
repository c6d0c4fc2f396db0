"""Masks, components and matches drawn over the crop."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.segmented import CROP, SIZE, masks, segmentation
from vitdemo.options.segment import METHODS
from vitdemo.rendering.masks import COLOURS, colours_of, components_image, label_map, segmentation_overlay
from vitdemo.types import Photo

Maker = Callable[..., Photo]

# Machado, Oliveira & Fernandes 2009, severity 1, on linear RGB.
EYES = {
    "all cones": np.eye(3),
    "no red cones": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no green cones": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


def _lab(colour: str, eye: Any) -> NDArray[np.float64]:
    channels = np.array(list(bytes.fromhex(colour[1:]))) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = to_xyz @ np.clip(np.array(eye) @ linear, 0, 1) / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eye", list(EYES))
def test_no_two_colours_look_alike(eye: str) -> None:
    seen = {colour: _lab(colour, EYES[eye]) for colour in COLOURS}
    for first, second in combinations(COLOURS, 2):
        assert np.linalg.norm(seen[first] - seen[second]) > 16, (first, second)


def test_what_looks_alike_to_some_eyes_would_be_noticed() -> None:
    red, green = (_lab(colour, EYES["no green cones"]) for colour in ("#A05000", "#6B6B00"))
    assert np.linalg.norm(red - green) < 16


def test_the_first_of_overlapping_masks_keeps_its_label() -> None:
    labels = label_map(masks(), [1, 2])
    assert labels.dtype == np.uint8
    assert (labels[masks()[0]] == 1).all()
    assert (labels[masks()[1] & ~masks()[0]] == 2).all()
    assert (labels[~masks().any(axis=0)] == 0).all()
    assert (masks()[0] & masks()[1]).any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("found", [True, False])
def test_the_overlay_of_every_method_has_the_size_of_the_crop(photo: Maker, method: str, found: bool) -> None:
    image = segmentation_overlay(photo(*SIZE), segmentation(method, found=found))
    assert (image.mode, image.size) == ("RGB", (CROP[2] - CROP[0], CROP[3] - CROP[1]))


def test_inside_of_a_mask_is_its_colour_outside_is_the_photo(photo: Maker) -> None:
    one, found = photo(*SIZE), segmentation("foreground")
    pixels = np.asarray(segmentation_overlay(one, found, opacity=1))
    crop = np.asarray(one.image.crop(CROP))
    inside, outside = np.zeros((120, 160), bool), np.zeros((120, 160), bool)
    # Away from outlines and from the numbers at the middles.
    inside[15:25, 15:65], outside[105:, 136:] = True, True
    assert (pixels[inside] == colours_of([1])[0]).all()
    assert np.array_equal(pixels[outside], crop[outside])


def test_a_mask_has_an_outline_even_without_a_fill(photo: Maker) -> None:
    one, found = photo(*SIZE), segmentation("foreground")
    changed = (np.asarray(segmentation_overlay(one, found, opacity=0)) != np.asarray(one.image.crop(CROP))).any(axis=-1)
    assert changed[10, 10:70].all()
    assert not changed[105:, 136:].any()


def test_a_part_has_the_same_colour_in_every_photo(photo: Maker) -> None:
    both, second = segmentation("parts"), segmentation("parts", keep=[1])
    assert (both.names, second.names) == (("part 1", "part 2"), ("part 2",))
    pixels = [np.asarray(segmentation_overlay(photo(*SIZE), found, opacity=1)) for found in (both, second)]
    place = (60, 120)
    assert masks()[1][place]
    assert not masks()[0][place]
    assert (pixels[0][place] == pixels[1][place]).all()
    assert (pixels[0][place] == colours_of([2])[0]).all()


def test_several_masks_are_numbered_and_a_single_one_is_not(photo: Maker) -> None:
    def black(**options: Any) -> int:
        pixels = np.asarray(segmentation_overlay(photo(*SIZE), segmentation("foreground", **options), opacity=0.5))
        return int((pixels == 0).all(axis=-1)[20:60, 20:60].sum())

    assert black() > black(keep=[0]) == 0


def test_matches_are_boxed(photo: Maker) -> None:
    one = photo(*SIZE)
    with_boxes = np.asarray(segmentation_overlay(one, segmentation("similarity")), int)
    without = np.asarray(segmentation_overlay(one, segmentation("similarity", found=False)), int)
    changed = (with_boxes != without).any(axis=-1)
    left, top, right, bottom = segmentation("similarity").boxes[0]
    assert changed[top, left:right].all()
    assert changed[bottom - 1, left:right].all()
    assert changed[top:bottom, left].all()
    assert not changed[:, 85:].any()


def test_components_keep_their_colour_up_to_the_edge_of_the_mask_and_are_black_outside() -> None:
    found = segmentation("pca")
    pixels = np.asarray(components_image(found))
    inside = found.masks.any(axis=0)
    assert pixels.shape == (120, 160, 3)
    assert (pixels[~inside] == 0).all()
    assert pixels[inside][:, 0].min() >= 0.5 * 255 - 1


def test_components_without_a_mask_fill_the_crop() -> None:
    assert (np.asarray(components_image(segmentation("pca", found=False)))[:, :, 0] > 0).all()


def test_a_segmentation_without_components_has_no_picture_of_them() -> None:
    with pytest.raises(ValueError, match="parts has no components"):
        components_image(segmentation("parts"))
