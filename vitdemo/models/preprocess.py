"""RGB photo to pixel tensor, and the exact part of the photo that the tensor shows.

The results equal those of transformers' Pillow processors. Of a very elongated photo only the surroundings of the crop are
resized, so that 1 x 5000 pixels do not become 224 x 1,120,000; there single pixels may differ by one grey level, or, with the
nearest-neighbour filter, by one position at a tie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vitdemo.errors import OptionError
from vitdemo.types import ModelSpec, Photo, PixelBatch, Processor, View

_SUPPORT = {0: 1.0, 1: 3.0, 2: 1.0, 3: 2.0, 4: 1.0, 5: 1.0}
"""Radius of Pillow's filters in source pixels, or in output pixels when downscaling."""

LONG = 8
"""A photo is resized in full only up to this many times the area of its crop."""


def preprocess(photos: Sequence[Photo], processor: Processor) -> PixelBatch:
    """Photos to one `[B, 3, H, W]` float32 tensor, and the view of each.

    Raises:
        ValueError: without resize or crop, photos of different sizes cannot share a batch.
    """
    arrays, views = [], []
    for photo in photos:
        pixels, view = resize_and_crop(photo.image, processor)
        arrays.append(normalise(pixels, processor))
        views.append(view)
    return PixelBatch(pixel_values=torch.from_numpy(np.stack(arrays)), views=tuple(views))


def at_resolution(
    spec: ModelSpec, size: tuple[int, int], long_side: int | None, max_tokens: int
) -> tuple[Processor, tuple[str, ...]]:
    """The model's processor, or one for the whole photo in its own aspect ratio, with a long side of about `long_side`.

    Args:
        size: `(width, height)` of the photo.
        long_side: pixels, rounded to whole patches; None for the model's own processor.
        max_tokens: the largest number of patches; a long side that gives more is lowered.

    Returns:
        The processor, and notes for the user.

    Raises:
        OptionError: the long side is shorter than a patch.
    """
    if long_side is None:
        return spec.processor, ()
    patch = spec.patch_size
    if long_side < patch:
        raise OptionError(f"The resolution must be at least one patch of {spec.name}: {patch} pixels.")
    cells = min(long_side / patch, math.sqrt(max_tokens * max(size) / min(size)))
    while True:
        columns, rows = (max(1, round(cells * side / max(size))) for side in size)
        if rows * columns <= max_tokens:
            break
        cells -= 0.5
    notes: tuple[str, ...] = ()
    if max(rows, columns) < round(long_side / patch):
        lowered = max(rows, columns) * patch
        notes = (
            f"The resolution was lowered from {long_side} to {lowered} pixels: {max_tokens} patches are the limit.",
        )
    return replace(spec.processor, resize=(rows * patch, columns * patch), crop=None), notes


def input_size(spec: ModelSpec, processor: Processor) -> tuple[int, int]:
    """`(height, width)` in pixels of a processor's output for a model."""
    size = processor.crop or processor.resize
    return size if isinstance(size, tuple) else spec.image_size


def view_of(size: tuple[int, int], processor: Processor) -> View:
    """The part of a photo of `(width, height)` that the processor's output shows."""
    width, height = size
    new_width, new_height = _resized(width, height, processor)
    if processor.crop is None:
        return View(crop=(0, 0, width, height))
    crop_height, crop_width = processor.crop
    left, top = _offset(new_width, crop_width), _offset(new_height, crop_height)
    x_scale, y_scale = width / new_width, height / new_height
    box = (
        max(0, round(left * x_scale)),
        max(0, round(top * y_scale)),
        min(width, round((left + crop_width) * x_scale)),
        min(height, round((top + crop_height) * y_scale)),
    )
    # At least one pixel of a photo that is thinner than one output pixel.
    return View(crop=(box[0], box[1], max(box[2], box[0] + 1), max(box[3], box[1] + 1)))


def resize_and_crop(image: Image.Image, processor: Processor) -> tuple[Image.Image, View]:
    """The model's input before normalisation, and its view of the photo."""
    width, height = image.size
    new_width, new_height = _resized(width, height, processor)
    view = view_of(image.size, processor)
    if processor.crop is None:
        return _resize(image, (new_width, new_height), processor), view
    crop_height, crop_width = processor.crop
    left, top = _offset(new_width, crop_width), _offset(new_height, crop_height)
    window = _resize_window(
        image, (new_width, new_height), (left, top, left + crop_width, top + crop_height), processor
    )
    return window, view


def _resized(width: int, height: int, processor: Processor) -> tuple[int, int]:
    if processor.resize is None:
        return width, height
    if isinstance(processor.resize, tuple):
        return processor.resize[1], processor.resize[0]
    # The long side is rounded down, as in transformers.
    short = processor.resize
    if width <= height:
        return short, max(1, int(short * height / width))
    return max(1, int(short * width / height)), short


def _offset(size: int, crop: int) -> int:
    """Start of a centre crop; negative if the image is smaller and padded with black."""
    return (size - crop) // 2 if size >= crop else -math.ceil((crop - size) / 2)


def _resize(image: Image.Image, size: tuple[int, int], processor: Processor) -> Image.Image:
    return image if image.size == size else image.resize(size, resample=Image.Resampling(processor.resample))


def _resize_window(
    image: Image.Image, size: tuple[int, int], window: tuple[int, int, int, int], processor: Processor
) -> Image.Image:
    """`image` resized to `size`, then cut to `window`."""
    if size[0] * size[1] <= LONG * (window[2] - window[0]) * (window[3] - window[1]):
        return _resize(image, size, processor).crop(window)
    # Only the window and the filter's support around it are computed.
    boxes = []
    for axis in (0, 1):
        scale = image.size[axis] / size[axis]
        reach = math.ceil(_SUPPORT[processor.resample] * max(1.0, 1 / scale)) + 1
        boxes.append((max(0, window[axis] - reach), min(size[axis], window[axis + 2] + reach), scale))
    (left, right, x_scale), (top, bottom, y_scale) = boxes
    # Horizontally first, as for a whole image; for a part, Pillow may choose the other order, which clips differently.
    resample = Image.Resampling(processor.resample)
    columns = (left * x_scale, 0, min(right * x_scale, image.width), image.height)
    image = image.resize((right - left, image.height), resample, box=columns)
    rows = (0, top * y_scale, image.width, min(bottom * y_scale, image.height))
    image = image.resize((image.width, bottom - top), resample, box=rows)
    return image.crop((window[0] - left, window[1] - top, window[2] - left, window[3] - top))


def normalise(image: Image.Image | NDArray[np.uint8], processor: Processor) -> NDArray[np.float32]:
    """`[H, W, 3]` uint8 to `[3, H, W]` float32: one multiply and one add per channel."""
    mean, std = np.asarray(processor.mean), np.asarray(processor.std)
    scale = (processor.rescale / std).astype(np.float32)
    shift = (-mean / std).astype(np.float32)
    pixels = np.asarray(image, dtype=np.float32) * scale + shift
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
