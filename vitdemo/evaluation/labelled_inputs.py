"""Labelled photos as models take them: drawn at random, decoded once, resized and cropped for all models."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitdemo.errors import ImageError, InputError
from vitdemo.evaluation.perturb import Pixels
from vitdemo.images.class_folders import BACKGROUND, label_of, read_files
from vitdemo.models.preprocess import resize_and_crop
from vitdemo.pipeline import Pipeline
from vitdemo.types import ModelSpec, Photo, Processor

PHOTOS = 200
"""Photos that are drawn by default."""

Geometry = tuple[object, ...]
"""What of a processor decides on the pixels before normalisation; models that share it share their pixels."""


@dataclass(frozen=True)
class LabelledInput:
    """A labelled photo as the models take it, before normalisation."""

    label: str
    digest: str
    """Of the photo: decides what is random about its perturbations, with the seed."""
    pixels: Mapping[Geometry, Pixels]


def draw(
    pipeline: Pipeline, data: Path, specs: Iterable[ModelSpec], photos: int = PHOTOS, seed: int = 0
) -> list[LabelledInput]:
    """Photos of a folder, zip or tar with one folder per class, drawn at random; each is decoded once for all models.

    Which photos are drawn depends on their names and the seed alone. Files that are not readable and photos of no class are
    left out.

    Args:
        photos: how many, from 1; all if there are fewer.

    Raises:
        InputError: the path is none of these, or holds no photo in a class folder.
    """
    processors = {geometry_of(spec.processor): spec.processor for spec in specs}
    kept: list[tuple[int, int, LabelledInput]] = []
    for number, (name, content) in enumerate(read_files(data)):
        rank = -int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest())
        if label_of(name) == BACKGROUND or (len(kept) == photos and rank < kept[0][0]):
            continue
        try:
            photo = pipeline.open(content)
        except ImageError:
            continue
        # Only what the models see is kept: the photos themselves may be a hundred times as large.
        one = LabelledInput(
            label_of(name), photo.digest, {key: input_of(photo, found) for key, found in processors.items()}
        )
        (heapq.heappush if len(kept) < photos else heapq.heappushpop)(kept, (rank, number, one))
    if not kept:
        raise InputError(f"{data.name} holds no photo in a class folder. Give one folder per class, with photos in it.")
    return [one for _, _, one in sorted(kept, key=lambda entry: entry[1])]


def geometry_of(processor: Processor) -> Geometry:
    """Equal for models that resize and crop alike."""
    return processor.resize, processor.crop, processor.resample


def input_of(photo: Photo, processor: Processor) -> Pixels:
    """The model's input before normalisation."""
    return np.array(resize_and_crop(photo.image, processor)[0], np.uint8)
