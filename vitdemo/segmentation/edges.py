"""From patch masks to pixel masks that follow the edges of the photo.

GrabCut of Rother, Kolmogorov & Blake 2004, initialised by the mask: pixels far inside are foreground, far outside background.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vitdemo.attribution import iou
from vitdemo.segmentation.arrays import Floats, Mask

SIDE = 640
"""Long side, in pixels, at which GrabCut runs: its time is proportional to the area."""

BAND = 1.0
"""Width of the uncertain band on each side of the mask's edge, in patches."""

ITERATIONS = 4

AGREEMENT = 0.4
"""Intersection over union with the patch mask below which a result is rejected."""


NO_EDGE = "No clear edge; patch outline kept"
"""Said of a mask that the colours of the photo do not tell from the rest."""


@dataclass(frozen=True)
class Refined:
    """A mask in pixels."""

    mask: Mask
    """`[H, W]`."""
    refined: bool
    """Whether it follows the edges of the photo; if not, it is the enlarged patch mask."""
    note: str = ""
    """Why it is not refined."""


def enlarge(mask: Mask, width: int, height: int) -> Mask:
    """A patch mask `[h, w]` upsampled to `[height, width]`: bilinear between patch centres, thresholded at one half.

    A single patch shrinks, but does not vanish.
    """
    smooth: Mask = _resize(mask, width, height) >= 0.5
    return smooth


def refine(photo: NDArray[np.uint8], mask: Mask, *, side: int = SIDE, band: float = BAND) -> Refined:
    """Snap the edge of a patch mask to the edges of the photo. Deterministic.

    Args:
        photo: `[H, W, 3]` RGB, the crop that the mask covers.
        mask: `[h, w]`, on any grid.
        side: long side, in pixels, at which GrabCut runs; the result has the photo's size.
        band: in patches; pixels farther from the mask's edge do not change.

    Returns:
        The enlarged mask and a note if the mask is empty or full, or GrabCut finds no plausible edge.

    Raises:
        ValueError: wrong shapes or dtype.
    """
    pixels = np.asarray(photo)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"The photo must be [H, W, 3] of bytes, not {list(pixels.shape)} of {pixels.dtype}.")
    if mask.ndim != 2 or not mask.size:
        raise ValueError(f"The mask must be [h, w], not {list(mask.shape)}.")
    height, width = pixels.shape[:2]
    plain = enlarge(mask, width, height)
    if not mask.any() or mask.all():
        covered = "nothing" if not mask.any() else "all"
        return Refined(plain, False, f"The mask covers {covered} of the photo: there is no edge to refine.")
    scale = min(1.0, side / max(width, height))
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    seeds = _seeds(mask, *small, band)
    resized = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA) if scale < 1 else pixels
    found = _grab_cut(np.ascontiguousarray(resized), seeds)
    if found is None or not found.any() or found.all() or iou(found, enlarge(mask, *small)) < AGREEMENT:
        return Refined(plain, False, NO_EDGE)
    return Refined(found if scale == 1 else _resize(found, width, height) >= 0.5, True)


def _seeds(mask: Mask, width: int, height: int, band: float) -> NDArray[np.uint8]:
    """GrabCut's initial labels, `[height, width]`: sure and probable foreground and background.

    A mask thinner than twice the band has no sure foreground, but its probable one keeps the class from being empty.
    """
    inside = enlarge(mask, width, height)
    if not inside.any() or inside.all():
        inside = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT) > 0
    reach = [max(1, round(band * size / count)) for size, count in ((width, mask.shape[1]), (height, mask.shape[0]))]
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach[0] + 1, 2 * reach[1] + 1))
    flat = inside.astype(np.uint8)
    # The border of the photo is not an edge of the object.
    sure = cv2.erode(flat, kernel, borderType=cv2.BORDER_REPLICATE) > 0
    possible = cv2.dilate(flat, kernel, borderType=cv2.BORDER_REPLICATE) > 0
    seeds = np.where(inside, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    seeds[sure] = cv2.GC_FGD
    seeds[~possible] = cv2.GC_BGD
    return seeds


def _grab_cut(pixels: NDArray[np.uint8], seeds: NDArray[np.uint8]) -> Mask | None:
    """`[H, W]`, or None if OpenCV fails or a class is empty."""
    foreground = (seeds == cv2.GC_FGD) | (seeds == cv2.GC_PR_FGD)
    if not foreground.any() or foreground.all():
        return None
    background, objects = np.zeros((1, 65)), np.zeros((1, 65))
    # The colour models are initialised at random, from a generator per thread.
    cv2.setRNGSeed(0)
    try:
        cv2.grabCut(pixels, seeds, (0, 0, 1, 1), background, objects, ITERATIONS, cv2.GC_INIT_WITH_MASK)
    except cv2.error:
        return None
    result: Mask = (seeds == cv2.GC_FGD) | (seeds == cv2.GC_PR_FGD)
    return result


def _resize(mask: Mask, width: int, height: int) -> Floats:
    return np.asarray(cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
