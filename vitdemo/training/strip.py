"""Attention as it emerges: maps of one photo at steps 1, 2, 4, 8 and so on of a training. Imports no torch: the page reads it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitdemo.errors import TrainingError
from vitdemo.settings import ASSETS
from vitdemo.types import Box

STRIP = "watched.npz"
"""File of a run's folder with what was watched so far."""

SHIPPED = ASSETS / "strip.npz"


@dataclass(frozen=True)
class Strip:
    """What a network attends to on one photo, at some steps of its training."""

    photo: str
    """The photo's file name; of the strip that ships, an example's."""
    crop: Box
    """The part that the network sees, in pixels of the upright photo."""
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    """Mean training loss of the steps since the one before."""
    scores: tuple[float, ...]
    """Accuracy on held-out photos at that step, 0 to 1; NaN for a recipe without a classifier."""
    rows: NDArray[np.float16]
    """`[S, L, H, h, w]`: attention of the read-out's query to each patch, at S steps in L layers and H heads."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """How the run was made."""


def write_strip(strip: Strip, path: Path) -> None:
    """Write a strip at once: whoever reads the file meanwhile finds it whole.

    Raises:
        TrainingError: the file cannot be written.
    """
    part = path.with_suffix(".part.npz")
    words = {"photo": strip.photo, "about": dict(strip.about)}
    try:
        np.savez_compressed(
            part,
            rows=strip.rows,
            crop=np.array(strip.crop, np.int64),
            steps=np.array(strip.steps, np.int64),
            losses=np.array(strip.losses, np.float32),
            scores=np.array(strip.scores, np.float32),
            meta=np.array(json.dumps(words)),
        )
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise TrainingError(f"{path.name} cannot be written: {error.strerror or error}.") from error


def read_strip(path: Path) -> Strip:
    """The strip in a file.

    Raises:
        TrainingError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as found:
            words = json.loads(str(found["meta"]))
            left, top, right, bottom = (int(edge) for edge in found["crop"])
            return Strip(
                photo=str(words["photo"]),
                crop=(left, top, right, bottom),
                steps=tuple(int(step) for step in found["steps"]),
                losses=_floats(found["losses"]),
                scores=_floats(found["scores"]),
                rows=np.asarray(found["rows"], np.float16),
                about=words["about"],
            )
    except Exception as error:  # damaged files raise many kinds
        raise TrainingError(f"{path.name} is missing or damaged.") from error


@lru_cache(maxsize=1)
def shipped_strip() -> Strip:
    """The one that ships: of the from-scratch ViT on one of the examples, made by `python -m scripts.make_strip`."""
    return read_strip(SHIPPED)


def _floats(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(float(value), 5) for value in values)
