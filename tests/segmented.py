"""Segmentations that need no network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vitdemo.options.segment import SegmentRequest
from vitdemo.registry import get_spec
from vitdemo.types import Segmentation, View

SIZE, CROP = (200, 150), (20, 10, 180, 130)
"""Of the photo, and what of it is seen."""

_NAMES = {
    "attention": ("head 1", "head 2"),
    "foreground": ("object 1", "object 2"),
    "parts": ("part 1", "part 2"),
    "pca": ("foreground",),
    "similarity": (),
}


def masks() -> NDArray[np.bool_]:
    """Two of the crop, `[2, 120, 160]`, that overlap."""
    found = np.zeros((2, 120, 160), np.bool_)
    found[0, 10:70, 10:70] = True
    found[1, 50:100, 50:130] = True
    return found


def segmentation(method: str = "foreground", *, found: bool = True, keep: Sequence[int] = (0, 1)) -> Segmentation:
    """Of a grid of 4 x 6.

    Args:
        found: whether there are masks, or matches.
        keep: which masks.
    """
    names = _NAMES[method] if found else ()
    kept = [index for index in keep if index < len(names)]
    colours = np.full((4, 6, 3), (0.5, 0.2, 0.9), np.float32)
    patches = np.zeros((len(kept), 4, 6), np.bool_)
    patches[:, :2, :2] = True
    if method == "pca" and found:
        colours[~patches[0]] = 0
    values = np.linspace(-0.2, 1, 24, dtype=np.float32).reshape(4, 6)
    return Segmentation(
        spec=get_spec("dino-mini"),
        method=method,
        masks=masks()[kept],
        names=tuple(names[index] for index in kept),
        patches=patches,
        values=values if method in ("attention", "similarity") else None,
        colours=colours if method == "pca" else None,
        boxes=((20, 15, 60, 55), (30, 70, 80, 120)) if method == "similarity" and found else (),
        view=View(CROP),
        parameters=SegmentRequest(method=method).relevant,
        milliseconds=12.0,
        device="cpu",
        dtype="fp32",
        notes=("A note.",),
        scores=(0.9, 0.5) if method == "similarity" and found else (),
    )
