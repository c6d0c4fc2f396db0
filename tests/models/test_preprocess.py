"""Pixels equal those of transformers' processors, and a view is exactly the part of the photo they show."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BeitImageProcessorPil, DeiTImageProcessorPil, ViTImageProcessorPil

from vitdemo.errors import OptionError
from vitdemo.models.preprocess import LONG, at_resolution, preprocess, resize_and_crop
from vitdemo.registry import processor_from_config
from vitdemo.types import ModelSpec, Photo, Processor

IMAGENET: dict[str, Any] = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
CROP_48 = {"do_center_crop": True, "crop_size": {"height": 48, "width": 48}}

CONFIGS: dict[str, dict[str, Any]] = {
    "stretch": {"size": {"height": 48, "width": 48}},
    "stretch, not square": {"size": {"height": 40, "width": 56}},
    "shortest edge": {"size": {"shortest_edge": 48}, **CROP_48},
    "shortest edge, larger than the crop": {"size": {"shortest_edge": 55}, **CROP_48},
    "crop alone": {"do_resize": False, **CROP_48},
    "crop larger than the resize": {"size": {"shortest_edge": 33}, **CROP_48},
    "odd crop": {"size": {"shortest_edge": 50}, "do_center_crop": True, "crop_size": {"height": 47, "width": 45}},
    "stretch and crop": {"size": {"height": 56, "width": 56}, **CROP_48},
}
SIZES = [(96, 64), (64, 96), (48, 48), (47, 61), (31, 20), (201, 33), (1, 1), (2, 7)]
PROCESSORS: dict[str, Any] = {"ViT": ViTImageProcessorPil, "DeiT": DeiTImageProcessorPil, "BEiT": BeitImageProcessorPil}


def _stock_bytes(image: Image.Image, config: dict[str, Any], family: str = "ViT") -> np.ndarray[Any, Any]:
    """`[H, W, 3]`: transformers' output before rescaling and normalisation."""
    options = {"do_center_crop": False, **config, "do_rescale": False, "do_normalize": False}
    pixels = PROCESSORS[family](**options)(image, return_tensors="np")["pixel_values"][0]
    return np.asarray(pixels.transpose(1, 2, 0))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_the_resized_and_cropped_bytes_are_those_of_transformers(
    photo: Callable[..., Photo], config: dict[str, Any], size: tuple[int, int]
) -> None:
    image = photo(*size).image
    pixels, _ = resize_and_crop(image, processor_from_config({**config, **IMAGENET}))
    assert np.array_equal(np.asarray(pixels), _stock_bytes(image, config))


@pytest.mark.parametrize("resample", list(Image.Resampling), ids=lambda filter_: filter_.name)
@pytest.mark.parametrize("name", ["stretch", "shortest edge, larger than the crop"])
def test_every_filter_gives_the_bytes_of_transformers(
    photo: Callable[..., Photo], resample: Image.Resampling, name: str
) -> None:
    config = {**CONFIGS[name], "resample": int(resample)}
    for size in ((150, 77), (23, 31)):
        image = photo(*size).image
        pixels, _ = resize_and_crop(image, processor_from_config({**config, **IMAGENET}))
        assert np.array_equal(np.asarray(pixels), _stock_bytes(image, config))


@pytest.mark.parametrize("family", PROCESSORS)
@pytest.mark.parametrize("name", ["stretch", "shortest edge"])
def test_the_tensor_is_that_of_every_familys_own_processor(photo: Callable[..., Photo], family: str, name: str) -> None:
    # Both round at the seventh digit, at different steps.
    processor = PROCESSORS[family](**{"do_center_crop": False, **CONFIGS[name], **IMAGENET})
    ours = processor_from_config({**processor.to_dict()})
    image = photo(101, 67)
    expected = processor(image.image, return_tensors="pt")["pixel_values"]
    batch = preprocess([image], ours)
    assert batch.pixel_values.dtype == torch.float32
    torch.testing.assert_close(batch.pixel_values, expected, atol=1e-6, rtol=0)


def test_a_processor_that_neither_scales_nor_normalises_gives_the_bytes(photo: Callable[..., Photo]) -> None:
    processor = processor_from_config({"size": 32, "do_rescale": False, "do_normalize": False})
    values = preprocess([photo(32, 32)], processor).pixel_values[0].permute(1, 2, 0).numpy()
    assert np.array_equal(values, np.asarray(photo(32, 32).image))


@pytest.mark.thorough
@pytest.mark.parametrize("size", [(37, 1500), (1500, 37), (7, 900), (2, 333), (333, 2)])
@pytest.mark.parametrize("saturated", [False, True])
@pytest.mark.parametrize("resample", list(Image.Resampling), ids=lambda filter_: filter_.name)
def test_of_a_long_photo_only_the_part_around_the_crop_is_made_within_one_grey_level(
    photo: Callable[..., Photo], size: tuple[int, int], saturated: bool, resample: Image.Resampling
) -> None:
    config = {"size": {"shortest_edge": 50}, **CROP_48, "resample": int(resample)}
    image = photo(*size).image
    if saturated:  # overshooting filters are clipped after each of their two passes
        image = image.point(lambda value: 255 if value > 110 else 0)
    resized = 50 * max(size) * 50 // min(size)
    assert resized > LONG * 48 * 48, "this photo takes the usual path"
    pixels, _ = resize_and_crop(image, processor_from_config({**config, **IMAGENET}))
    difference = np.asarray(pixels).astype(int) - _stock_bytes(image, config).astype(int)
    assert abs(difference).max() <= 1


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1)])
def test_a_thread_of_a_photo_is_seen_at_its_middle(photo: Callable[..., Photo], size: tuple[int, int]) -> None:
    processor = processor_from_config(
        {"size": {"shortest_edge": 224}, "do_center_crop": True, "crop_size": 224, **IMAGENET}
    )
    batch = preprocess([photo(*size)], processor)
    assert batch.pixel_values.shape == (1, 3, 224, 224)
    assert torch.isfinite(batch.pixel_values).all()
    left, top, right, bottom = batch.views[0].crop
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]
    assert abs((left + right) / 2 - size[0] / 2) <= 1
    assert abs((top + bottom) / 2 - size[1] / 2) <= 1
    assert (right - left) * (bottom - top) <= 2


@pytest.mark.parametrize(
    ("name", "size", "crop"),
    [
        ("stretch", (96, 64), (0, 0, 96, 64)),
        ("stretch", (1, 1), (0, 0, 1, 1)),
        ("shortest edge", (96, 64), (16, 0, 80, 64)),
        ("shortest edge", (64, 96), (0, 16, 64, 80)),
        ("shortest edge", (48, 48), (0, 0, 48, 48)),
        ("shortest edge", (480, 480), (0, 0, 480, 480)),
        ("shortest edge, larger than the crop", (550, 550), (30, 30, 510, 510)),
        ("crop alone", (96, 64), (24, 8, 72, 56)),
        ("crop alone", (10, 64), (0, 8, 10, 56)),
    ],
)
def test_the_view_is_the_part_of_the_photo_that_the_pixels_show(
    photo: Callable[..., Photo], name: str, size: tuple[int, int], crop: tuple[int, int, int, int]
) -> None:
    _, view = resize_and_crop(photo(*size).image, processor_from_config({**CONFIGS[name], **IMAGENET}))
    assert view.crop == crop


@pytest.mark.parametrize("size", [(96, 64), (64, 96), (211, 64), (97, 61)])
def test_the_pixels_are_the_view_resized(photo: Callable[..., Photo], size: tuple[int, int]) -> None:
    # A smooth image differs little at the borders, where the filter reaches beyond the view.
    image = photo(12, 9).image.resize(size, Image.Resampling.BICUBIC)
    pixels, view = resize_and_crop(image, processor_from_config({**CONFIGS["shortest edge"], **IMAGENET}))
    cut = image.crop(view.crop).resize(pixels.size, Image.Resampling.BILINEAR)
    assert abs(np.asarray(pixels, int) - np.asarray(cut, int)).mean() < 2.5


def test_photos_of_different_sizes_share_a_batch_and_keep_their_order(photo: Callable[..., Photo]) -> None:
    processor = processor_from_config({**CONFIGS["shortest edge"], **IMAGENET})
    photos = [photo(96, 64), photo(30, 70), photo(48, 48)]
    together = preprocess(photos, processor)
    for index, one in enumerate(photos):
        alone = preprocess([one], processor)
        assert torch.equal(together.pixel_values[index], alone.pixel_values[0])
        assert together.views[index] == alone.views[0]


def test_the_photo_is_left_as_it_was(photo: Callable[..., Photo]) -> None:
    image = photo(60, 40)
    before = image.image.tobytes()
    batch = preprocess([image], processor_from_config({**CONFIGS["stretch"], **IMAGENET}))
    batch.pixel_values.zero_()
    assert image.image.tobytes() == before


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (500, 500), (1000, 37), (3, 2), (1, 5000)])
@pytest.mark.parametrize("long_side", [16, 100, 224, 448, 1000])
def test_a_resolution_keeps_the_shape_of_the_photo_in_whole_patches(
    vit: ModelSpec, size: tuple[int, int], long_side: int
) -> None:
    processor, notes = at_resolution(vit, size, long_side, 10_000)
    assert isinstance(processor.resize, tuple)
    height, width = processor.resize
    assert processor.crop is None
    assert height % vit.patch_size == width % vit.patch_size == 0
    assert abs(max(height, width) - long_side) <= vit.patch_size / 2
    # The short side is that of the photo's own shape, to half a patch, and at least one patch.
    short = max(vit.patch_size, max(height, width) * min(size) / max(size))
    assert abs(min(height, width) - short) <= vit.patch_size * 3 / 4
    assert (height <= width) == (size[1] <= size[0]) or height == width
    assert notes == ()


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (500, 500), (2000, 90), (1, 5000)])
@pytest.mark.parametrize("limit", [1, 10, 196, 1000])
def test_a_resolution_beyond_the_token_limit_is_lowered_and_said_so(
    vit: ModelSpec, size: tuple[int, int], limit: int
) -> None:
    processor, notes = at_resolution(vit, size, 100_000, limit)
    assert isinstance(processor.resize, tuple)
    rows, columns = (side // vit.patch_size for side in processor.resize)
    assert 1 <= rows * columns <= limit
    (note,) = notes
    assert f"from 100000 to {max(processor.resize)} pixels" in note
    assert f"{limit} patches are the limit" in note
    # Not lowered further than needed: one patch more along the long side would be too many.
    larger, _ = at_resolution(vit, size, max(processor.resize) + vit.patch_size, 10**9)
    assert isinstance(larger.resize, tuple)
    assert math.prod(larger.resize) > limit * vit.patch_size**2


def test_a_resolution_at_the_limit_is_not_lowered(vit: ModelSpec) -> None:
    processor, notes = at_resolution(vit, (500, 500), 10 * vit.patch_size, 100)
    assert processor.resize == (10 * vit.patch_size,) * 2
    assert notes == ()


def test_without_a_resolution_the_model_gets_its_own_input(vit: ModelSpec) -> None:
    assert at_resolution(vit, (640, 480), None, 10) == (vit.processor, ())


@pytest.mark.parametrize("long_side", [0, 1, 15, -100])
def test_a_resolution_of_less_than_a_patch_is_refused_with_the_size_of_a_patch(vit: ModelSpec, long_side: int) -> None:
    with pytest.raises(OptionError, match=r"at least one patch of vit-mini: 16 pixels"):
        at_resolution(vit, (640, 480), long_side, 100)


def test_a_resolution_shows_the_whole_photo(vit: ModelSpec, photo: Callable[..., Photo]) -> None:
    processor, _ = at_resolution(vit, (96, 64), 48, 100)
    batch = preprocess([photo(96, 64)], processor)
    assert batch.pixel_values.shape == (1, 3, 32, 48)
    assert batch.views[0].crop == (0, 0, 96, 64)


def test_a_resolution_changes_nothing_but_resize_and_crop(vit: ModelSpec) -> None:
    processor, _ = at_resolution(vit, (96, 64), 48, 100)
    expected: Processor = replace(vit.processor, resize=(32, 48), crop=None)
    assert processor == expected
