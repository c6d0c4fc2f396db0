"""Overlays of maps on photos, and figures. The browser uses the same colour tables and the same upsampling."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vitdemo.types import AttributionMap, Explanation, Photo, Reconstruction, View

COLOUR_MAPS = ("inferno", "viridis", "magma", "plasma", "cividis")
"""Perceptually uniform ones only, readable in grey and with colour blindness."""

DEFAULT_COLOUR_MAP = "inferno"
DEFAULT_OPACITY = 0.8
FAINTEST = 0.25
"""Opacity of the lowest value, as a share of the chosen opacity, so that the photo shows where attention is low."""


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


def overlay(photo: Photo, view: View, attribution: AttributionMap, opacity: float = DEFAULT_OPACITY) -> Image.Image:
    """The view of the photo, at the photo's resolution, with the map in colour over it."""
    crop = photo.image.crop(view.crop)
    values = upsample(attribution.scaled(), crop.width, crop.height)
    indices = np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)
    weights = opacity * (FAINTEST + (1 - FAINTEST) * np.arange(256, dtype=np.float32) / 255)
    weight = weights[indices][:, :, None]
    blended = np.asarray(crop, np.float32) * (1 - weight) + colour_table(DEFAULT_COLOUR_MAP)[indices] * weight
    return Image.fromarray(np.rint(blended).astype(np.uint8))


def reconstruction_figure(photo: Photo, found: Reconstruction) -> Image.Image:
    """The crop, the masked input and the reconstruction in a row."""
    width, height = found.seen.size
    crop = photo.image.crop(found.view.crop).resize((width, height), Image.Resampling.LANCZOS)
    figure = Image.new("RGB", (3 * width + 16, height), "white")
    for index, image in enumerate((crop, found.seen, found.filled)):
        figure.paste(image, (index * (width + 8), 0))
    return figure


def comparison_figure(photo: Photo, explanations: tuple[Explanation, ...], side: int = 320) -> Image.Image:
    """One column per model: overlay, name, best labels. Captions are black on white."""
    margin, line = 16, 22
    columns = max(1, len(explanations))
    figure = Image.new("RGB", (columns * (side + margin) + margin, side + 6 * line + 2 * margin), "white")
    draw = ImageDraw.Draw(figure)
    bold, plain = ImageFont.load_default(17), ImageFont.load_default(15)
    for index, explanation in enumerate(explanations):
        left = margin + index * (side + margin)
        image = photo.image.crop(explanation.view.crop)
        if explanation.map is not None:
            image = overlay(photo, explanation.view, explanation.map)
        scale = side / max(image.size)
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
        figure.paste(image, (left + (side - image.width) // 2, margin + (side - image.height) // 2))
        prediction = explanation.prediction
        top = margin + side + line // 3
        draw.text((left, top), f"{prediction.spec.name}  {prediction.milliseconds:.0f} ms", fill="black", font=bold)
        for rank, label in enumerate(prediction.labels[:3]):
            position = (left, top + (rank + 1) * line)
            draw.text(position, f"{label.score:4.0%}  {label.label}", fill="black", font=plain)
        if not prediction.labels:
            draw.text((left, top + line), "no classifier: self-supervised", fill="black", font=plain)
    return figure
