"""Masks without speckles: single patches and slivers that no person would call a region."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vitdemo.segmentation.arrays import Mask

FEW = 0.05
"""Share of a mask's largest region below which another one is a speckle."""


def without_speckles(mask: Mask, smallest: float, few: float = FEW) -> Mask:
    """A mask `[H, W]` without regions of less than `smallest` pixels or `few` of its largest one, which stays whatever its size.

    >>> without_speckles(np.array([[True, True, False, True]]), smallest=2).tolist()
    [[True, True, False, False]]
    """
    count, regions, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count <= 2:
        return mask
    sizes = stats[:, cv2.CC_STAT_AREA]
    keep = (sizes >= max(smallest, few * sizes[1:].max())) | (sizes == sizes[1:].max())
    keep[0] = False
    kept: Mask = keep[regions]
    return kept


def without_holes(mask: Mask, smallest: float) -> Mask:
    """A mask whose gaps of less than `smallest` pixels are filled."""
    filled: Mask = ~without_speckles(~mask, smallest, few=0)
    return filled


def largest_share(mask: Mask) -> float:
    """The share of a mask's area that its largest region has; 1 of an empty mask."""
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    sizes = stats[1:, cv2.CC_STAT_AREA]
    return float(sizes.max() / sizes.sum()) if count > 1 else 1.0


def absorb_speckles(labels: NDArray[np.uint8], smallest: float) -> NDArray[np.uint8]:
    """A label map `[H, W]` whose speckles have the label that is most frequent around them; 0, which is none, where that is all.

    >>> absorb_speckles(np.array([[1, 1, 2, 2, 2], [1, 1, 2, 1, 2]], np.uint8), smallest=2).tolist()
    [[1, 1, 2, 2, 2], [1, 1, 2, 2, 2]]
    """
    result = labels.copy()
    for number in np.unique(labels[labels > 0]).tolist():
        mask = labels == number
        dropped = mask & ~without_speckles(mask, smallest)
        count, regions, stats, _ = cv2.connectedComponentsWithStats(dropped.astype(np.uint8), connectivity=8)
        for region in range(1, count):
            left, top, width, height, _ = stats[region].tolist()
            place = np.s_[max(0, top - 1) : top + height + 1, max(0, left - 1) : left + width + 1]
            inside = regions[place] == region
            ring = (cv2.dilate(inside.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0) & ~inside
            around = np.bincount(result[place][ring])
            around[:1] = 0
            result[place][inside] = int(around.argmax()) if around.any() else 0
    return result
