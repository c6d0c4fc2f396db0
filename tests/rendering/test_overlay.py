"""Overlays of maps on photos, and figures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vitdemo.rendering.figures import comparison_figure
from vitdemo.rendering.overlay import (
    COLOUR_MAPS,
    DEFAULT_COLOUR_MAP,
    DIMMED,
    FAINTEST,
    MUTED,
    colour_table,
    muted,
    overlay,
    upsample,
)
from vitdemo.rendering.scale import ColourScale
from vitdemo.types import AttributionMap, Explanation, Label, ModelSpec, Photo, Prediction, View


def _map(values: NDArray[np.float32]) -> AttributionMap:
    return AttributionMap(values, method="attention", layer=0, head="mean", readout="class")


def _noise(height: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((height, width), dtype=np.float32)


def _lightness(table: NDArray[np.uint8]) -> NDArray[np.float64]:
    """CIE L* of sRGB colours, 0 to 100 (IEC 61966-2-1, white D65)."""
    channels = table / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(luminance > (6 / 29) ** 3, 116 * np.cbrt(luminance) - 16, luminance * (29 / 3) ** 3)


@pytest.mark.parametrize("name", COLOUR_MAPS)
def test_lightness_rises_steadily_along_every_colour_table(name: str) -> None:
    table = colour_table(name)
    assert table.shape == (256, 3)
    assert table.dtype == np.uint8
    lightness = _lightness(table)
    # One step of eight bits in one channel is up to 0.35 of L*.
    assert np.diff(lightness).min() > -0.35
    assert np.diff(lightness[::8]).min() > 0
    assert np.diff(lightness[::8]).max() < 3 * np.diff(lightness[::8]).mean()
    assert lightness[-1] - lightness[0] > 60


def test_colours_are_red_green_blue() -> None:
    red, green, blue = (int(channel) for channel in colour_table("viridis")[-1])
    assert red > 200
    assert green > 200
    assert blue < 80


@pytest.mark.parametrize("grid", [(14, 14), (1, 1), (1, 9), (5, 3), (30, 45)], ids=str)
@pytest.mark.parametrize("size", [(224, 224), (101, 67), (14, 14), (3, 200), (1, 1), (7, 7)], ids=str)
def test_upsampling_is_torchs_bilinear_between_patch_centres(grid: tuple[int, int], size: tuple[int, int]) -> None:
    values = _noise(*grid)
    found = upsample(values, width=size[0], height=size[1])
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], size=(size[1], size[0]), mode="bilinear", align_corners=False
    )[0, 0].numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("crop", [(0, 0, 96, 64), (10, 5, 70, 60), (95, 0, 96, 64), (3, 3, 4, 4)], ids=str)
def test_an_overlay_has_the_size_of_the_crop(photo: Callable[..., Photo], crop: tuple[int, int, int, int]) -> None:
    image = overlay(photo(96, 64), View(crop), _map(_noise(4, 4)))
    assert image.size == (crop[2] - crop[0], crop[3] - crop[1])
    assert image.mode == "RGB"


def test_without_opacity_the_overlay_is_the_photo(photo: Callable[..., Photo]) -> None:
    one = photo(96, 64)
    image = overlay(one, View((10, 5, 70, 60)), _map(_noise(4, 4)), opacity=0)
    assert image.tobytes() == one.image.crop((10, 5, 70, 60)).tobytes()


def test_at_full_opacity_the_strongest_patch_has_the_last_colour_and_the_faintest_lets_the_photo_through(
    photo: Callable[..., Photo],
) -> None:
    one = photo(96, 64)
    values = np.array([[0.0, 1.0]], np.float32)
    pixels = np.asarray(overlay(one, View((0, 0, 96, 64)), _map(values), opacity=1))
    table = colour_table(DEFAULT_COLOUR_MAP)
    # Outside the two patch centres nothing is interpolated.
    assert np.array_equal(pixels[:, 72:], np.broadcast_to(table[-1], (64, 24, 3)))
    expected = muted(np.asarray(one.image), 1)[:, :24] * (1 - FAINTEST) + table[0] * FAINTEST
    assert abs(pixels[:, :24] - expected).max() <= 0.5 + 1e-3


def test_under_a_map_the_photo_is_darker_and_nearly_grey() -> None:
    red, grey = np.array([[[200, 0, 0]]], np.uint8), np.array([[[100, 100, 100]]], np.uint8)
    np.testing.assert_array_equal(muted(red, 0), red)
    np.testing.assert_allclose(muted(grey, 1), grey * (1 - DIMMED), rtol=1e-5)
    channels = muted(red, 1)[0, 0]
    assert channels[0] - channels[1] == pytest.approx(200 * (1 - MUTED) * (1 - DIMMED), rel=1e-4)


def test_most_of_a_map_with_one_bright_patch_is_seen_at_the_default_settings(photo: Callable[..., Photo]) -> None:
    values = _noise(14, 14)
    values[3, 3] = 40  # as attention is: one patch gets more than all others
    one, view = photo(140, 140), View((0, 0, 140, 140))
    shown = np.asarray(overlay(one, view, _map(values), heatmap=True), int).max(axis=-1)
    linear = np.asarray(overlay(one, view, _map(values), scale=ColourScale(0, 40, linear=True), heatmap=True), int).max(
        axis=-1
    )
    assert np.median(shown) > 100
    assert np.median(linear) < 30


def test_a_map_lies_over_the_photo_rows_down_and_columns_along(photo: Callable[..., Photo]) -> None:
    values = np.zeros((4, 6), np.float32)
    values[3, 1] = 1
    one, view = photo(6, 4), View((0, 0, 6, 4))  # one pixel per patch
    changed = abs(
        np.asarray(overlay(one, view, _map(values), opacity=1), int)
        - np.asarray(overlay(one, view, _map(np.zeros((4, 6), np.float32)), opacity=1), int)
    ).sum(axis=-1)
    assert np.argwhere(changed).tolist() == [[3, 1]]


def test_a_flat_map_and_a_photo_of_one_pixel_can_be_drawn(photo: Callable[..., Photo]) -> None:
    image = overlay(photo(1, 1), View((0, 0, 1, 1)), _map(np.full((14, 14), 0.3, np.float32)))
    assert image.size == (1, 1)


def _explanation(spec: ModelSpec, crop: tuple[int, int, int, int], labels: int, mapped: bool = True) -> Explanation:
    best = tuple(Label(f"a label that is rather long {index}", 0.5 / (index + 1), index) for index in range(labels))
    prediction = Prediction(spec, best, 12.0, "cpu", "fp32")
    shown = _map(_noise(14, 14)) if mapped else None
    return Explanation(prediction, shown, {}, View(crop), "words", (), (14, 14))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_a_figure_has_a_column_a_model(photo: Callable[..., Photo], vit: ModelSpec, count: int) -> None:
    one = photo(96, 64)
    explanations = tuple(_explanation(vit, (16, 0, 80, 64), labels=5) for _ in range(count))
    figure = comparison_figure(one, explanations, side=100)
    assert figure.width == count * (100 + 16) + 16
    pixels = np.asarray(figure)
    for index in range(count):
        left = 16 + index * 116
        column = pixels[16 : 16 + 100, left : left + 100]
        assert (column != 255).any(axis=-1).mean() > 0.95, "the overlay fills its square"
        caption = pixels[16 + 100 :, left : left + 100]
        assert (caption == 0).any()
    assert (pixels[:, :16] == 255).all()


def test_a_figure_shows_a_model_without_labels_or_without_a_map(photo: Callable[..., Photo], vit: ModelSpec) -> None:
    one = photo(96, 64)
    explanations = (
        _explanation(vit, (0, 0, 96, 64), labels=0),
        _explanation(vit, (0, 0, 96, 64), labels=2, mapped=False),
    )
    pixels = np.asarray(comparison_figure(one, explanations, side=96))
    with_map = pixels[16 + 16 : 16 + 80, 16 : 16 + 96]
    without = pixels[16 + 16 : 16 + 80, 16 + 112 : 16 + 208]
    assert np.array_equal(without, np.asarray(one.image))
    assert not np.array_equal(with_map, without)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1)])
def test_a_figure_of_a_thread_of_a_photo_can_be_drawn(
    photo: Callable[..., Photo], vit: ModelSpec, size: tuple[int, int]
) -> None:
    figure = comparison_figure(photo(*size), (_explanation(vit, (0, 0, *size), labels=1),), side=64)
    assert figure.width == 64 + 2 * 16


def test_a_figure_of_many_models_has_rows_of_six_and_captions_are_whole(
    photo: Callable[..., Photo], vit: ModelSpec
) -> None:
    one = _explanation(vit, (16, 0, 80, 64), labels=3)
    narrow, wide = (comparison_figure(photo(96, 64), (one,) * 7, side=side) for side in (60, 300))
    assert narrow.width == 6 * (60 + 16) + 16
    # The same words take more lines where there is less room: nothing is cut off.
    assert narrow.height - 2 * 60 > wide.height - 2 * 300
