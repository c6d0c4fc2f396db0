"""Overlays of maps on photos. The browser draws the same, in ui/static/explorer/draw.js."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitdemo.rendering.scale import ColourScale, colour_scale
from vitdemo.types import AttributionMap, Photo, View

COLOUR_MAPS = ("inferno", "viridis", "magma", "plasma", "cividis")
"""Perceptually uniform ones only, readable in grey and with colour blindness."""

DEFAULT_COLOUR_MAP = "inferno"
DEFAULT_OPACITY = 0.85
FAINTEST = 0.1
"""Opacity of the lowest value, as a share of the chosen opacity, so that the photo shows where attention is low."""

MUTED, DIMMED = 0.75, 0.4
"""Shares of its colour and of its light that a photo loses under a map of full opacity."""

LUMINOSITY = np.array([0.3, 0.59, 0.11], np.float32)
"""Of red, green and blue: those of the "saturation" blend mode (W3C Compositing and Blending Level 1)."""


@lru_cache(maxsize=16)
def colour_table(name: str) -> NDArray[np.uint8]:
    """256 RGB colours, `[256, 3]`, of one of `COLOUR_MAPS`."""
    ramp = np.arange(256, dtype=np.uint8).reshape(-1, 1)
    bgr = cv2.applyColorMap(ramp, getattr(cv2, f"COLORMAP_{name.upper()}"))
    return np.ascontiguousarray(bgr[:, 0, ::-1])


def upsample(values: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """`[h, w]` to `[height, width]`, bilinear between patch centres.

    >>> upsample(np.array([[0, 1]], np.float32), width=4, height=1).tolist()
    [[0.0, 0.25, 0.75, 1.0]]
    """
    resized = cv2.resize(values.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.float32)


def muted(pixels: NDArray[np.uint8], opacity: float) -> NDArray[np.float32]:
    """A photo `[h, w, 3]` as it lies under a map: darker and nearly grey, so that the colours are the map's."""
    photo = pixels.astype(np.float32)
    grey = photo @ LUMINOSITY
    return (photo + (grey[:, :, None] - photo) * (opacity * MUTED)) * np.float32(1 - opacity * DIMMED)


def overlay(
    photo: Photo,
    view: View,
    attribution: AttributionMap,
    opacity: float = DEFAULT_OPACITY,
    scale: ColourScale | None = None,
    heatmap: bool = False,
) -> Image.Image:
    """The view of the photo, at the photo's resolution, with the map in colour over it.

    Args:
        scale: what the colours stand for; that of this map alone by default.
        heatmap: only the map.
    """
    crop = photo.image.crop(view.crop)
    scale = scale or colour_scale([attribution.values])
    shares = scale.shares(upsample(attribution.values, crop.width, crop.height))
    indices = np.rint(shares * 255).astype(np.uint8)
    colours = colour_table(DEFAULT_COLOUR_MAP)
    if heatmap:
        return Image.fromarray(colours[indices])
    weights = opacity * (FAINTEST + (1 - FAINTEST) * np.arange(256, dtype=np.float32) / 255)
    weight = weights[indices][:, :, None]
    blended = muted(np.asarray(crop), opacity) * (1 - weight) + colours[indices] * weight
    return Image.fromarray(np.rint(blended).astype(np.uint8))
