"""Photos of nothing: one colour all over."""

from __future__ import annotations

import numpy as np
from PIL import Image

from vitdemo.types import Box, Photo

SAMPLES = 128
"""Pixels that are looked at along each side. Taken, not averaged: a fine pattern is not a plain colour."""

FAINT = 3.0
"""Standard deviation of each channel, of 255, below which there is nothing but noise."""

LABELS_MEAN_NOTHING = "The image is of one colour: its labels mean nothing."


def is_plain(photo: Photo, crop: Box) -> bool:
    """Whether the part of a photo that a model sees is of one colour, up to noise.

    >>> from vitdemo.images.open import open_image
    >>> is_plain(open_image(np.full((40, 60, 3), 128, np.uint8)), (10, 0, 50, 40))
    True
    """
    left, top, right, bottom = crop
    size = (min(SAMPLES, right - left), min(SAMPLES, bottom - top))
    seen = np.asarray(photo.image.resize(size, Image.Resampling.NEAREST, crop), np.float32)
    return bool((seen.std(axis=(0, 1)) < FAINT).all())
