"""Watches a network learn: attention on one photo, from the model folders that a run leaves at steps 1, 2, 4, 8 and so on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vitdemo.models.attention_tap import TOKEN_NAMES, record_attention
from vitdemo.models.loading import load_model
from vitdemo.models.preprocess import preprocess
from vitdemo.registry import spec_from_folder
from vitdemo.rendering.figures import picture_row
from vitdemo.rendering.overlay import overlay
from vitdemo.rendering.scale import colour_scale
from vitdemo.training.strip import STRIP, Strip, read_strip, write_strip
from vitdemo.types import AttributionMap, Box, Capture, ModelSpec, Photo, View

PICTURE = "watched.png"
"""File of a run's folder with the strip as a picture."""


class Watch:
    """Writes a strip into a run's folder; one that is resumed is continued.

    Args:
        photo: what is watched.
        about: how the run is made.
    """

    def __init__(self, photo: Photo, folder: Path, about: dict[str, Any]) -> None:
        self.photo, self.folder, self.about = photo, folder, about
        self.losses: list[float] = []

    def note(self, loss: float) -> None:
        """The loss of each step."""
        self.losses.append(loss)

    def add(self, model: Path, step: int, score: float = math.nan) -> None:
        """Attention of the model in this folder, which is the network after this step.

        Raises:
            TrainingError: the disk is full.
        """
        rows, crop = class_rows(spec_from_folder(model), self.photo)
        before = read_strip(self.folder / STRIP) if (self.folder / STRIP).exists() else None
        kept = [index for index, other in enumerate(before.steps) if other < step] if before is not None else []
        loss = sum(self.losses) / len(self.losses) if self.losses else math.nan
        self.losses.clear()
        strip = Strip(self.photo.name, crop, (step,), (loss,), (score,), rows[None].astype(np.float16), self.about)
        if before is not None and kept and before.rows.shape[1:] == rows.shape:
            strip = Strip(
                self.photo.name,
                crop,
                (*(before.steps[index] for index in kept), step),
                (*(before.losses[index] for index in kept), loss),
                (*(before.scores[index] for index in kept), score),
                np.concatenate([before.rows[kept], strip.rows]),
                self.about,
            )
        write_strip(strip, self.folder / STRIP)

    def draw(self) -> None:
        """The strip as a picture: the last layer, mean of its heads."""
        if (self.folder / STRIP).exists():
            strip_picture(read_strip(self.folder / STRIP), self.photo).save(self.folder / PICTURE)


@torch.inference_mode()
def class_rows(spec: ModelSpec, photo: Photo) -> tuple[NDArray[np.float32], Box]:
    """`[L, H, h, w]`: attention of the model's read-out to each patch, and the part of the photo that the model sees."""
    model = load_model(spec, torch.device("cpu"), torch.float32)
    batch = preprocess([photo], spec.processor)
    readout = spec.readouts[0]
    token = TOKEN_NAMES.index(readout) if readout in TOKEN_NAMES else 0
    capture = Capture(mean=True) if readout == "mean" else Capture(tokens=(token,))
    with record_attention(capture) as record:
        model(batch.pixel_values)
    rows = torch.stack([layer[0, :, spec.num_prefix_tokens :] for layer in record.rows[readout]])
    return rows.unflatten(2, spec.patch_grid).numpy(), batch.views[0].crop


def strip_picture(strip: Strip, photo: Photo, layer: int = -1, side: int = 224) -> Image.Image:
    """The maps of one layer, mean of its heads, side by side on one scale, each under its step."""
    maps = strip.rows[:, layer].astype(np.float32).mean(axis=1)
    scale = colour_scale(list(maps))
    pictures = []
    for values in maps:
        drawn = overlay(photo, View(strip.crop), AttributionMap(values, "attention", layer, "mean", None), scale=scale)
        zoom = side / max(drawn.size)
        pictures.append(drawn.resize((max(1, round(drawn.width * zoom)), max(1, round(drawn.height * zoom)))))
    captions = [
        f"step {step}" + ("" if math.isnan(score) else f", {score:.0%}")
        for step, score in zip(strip.steps, strip.scores, strict=True)
    ]
    return picture_row(pictures, captions)
