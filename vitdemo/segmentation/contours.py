"""Outlines and areas of masks."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vitdemo.segmentation.arrays import Mask


@dataclass(frozen=True)
class Outline:
    """A closed polygon around a piece of a mask, or around a hole in it."""

    points: NDArray[np.int32]
    """`[n, 2]`: x and y of border pixels, those of the mask itself; the last is joined to the first."""
    hole: bool


def outlines(mask: Mask, *, tolerance: float = 0.0, smallest: int = 1) -> tuple[Outline, ...]:
    """The outlines of a mask `[H, W]`, longest first.

    Args:
        tolerance: pixels by which a polygon may leave the true outline to have fewer points.
        smallest: pixels below which a piece or a hole has no outline.
    """
    found, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    kept = []
    for contour, links in zip(found, tree[0] if len(found) else (), strict=True):
        # Pixels of a polygon through pixel centres: Pick's theorem, with the border counted.
        area = cv2.contourArea(contour) + cv2.arcLength(contour, True) / 2 + 1
        if area < smallest:
            continue
        points = cv2.approxPolyDP(contour, tolerance, True) if tolerance > 0 else contour
        kept.append(Outline(points[:, 0].astype(np.int32), bool(links[3] >= 0)))
    return tuple(sorted(kept, key=lambda outline: -cv2.arcLength(outline.points, True)))


def areas(masks: Mask) -> tuple[float, ...]:
    """The share of the photo that each mask of `[n, H, W]` holds, 0 to 1.

    >>> areas(np.array([[[True, False], [False, False]]]))
    (0.25,)
    """
    return tuple(float(mask.mean()) for mask in masks)
