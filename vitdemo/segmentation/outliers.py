"""Patches of huge norm, in which a large network stores what belongs to the whole photo.

Darcet et al. 2024, arXiv:2309.16588, "Vision Transformers Need Registers". They are seen in the last hidden states before the
final normalisation, which hides them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from vitdemo.segmentation.arrays import Floats, Mask, patch_features
from vitdemo.types import Grid

FAR = 6.0
"""Robust standard deviations above the median."""

RATIO = 1.5
"""Times the median: where all norms are nearly the same, a few deviations are still nothing."""

MOST = 0.1
"""Share of the patches above which they are no artefacts, but something in the photo, such as its sky."""


def find_outliers(norms: ArrayLike, grid: Grid, *, far: float = FAR, ratio: float = RATIO, most: float = MOST) -> Mask:
    """Patches whose norm is far above the median, by the median absolute deviation, and above `ratio` times the median.

    Args:
        norms: `[N]`, length of each patch's feature.
        most: if more than this share of the patches is, none of them counts.

    Returns:
        `[h, w]`.
    """
    lengths = patch_features(np.asarray(norms)[:, None], grid)[:, 0]
    median = float(np.median(lengths))
    # 1.4826: of a normal distribution, this makes the median absolute deviation its standard deviation.
    deviation = 1.4826 * float(np.median(np.abs(lengths - median)))
    limit = max(median + far * deviation, median * ratio)
    mask = lengths > limit
    if mask.mean() > most:
        mask[:] = False
    return mask.reshape(grid)


def clip_outliers(features: ArrayLike, mask: Mask) -> Floats:
    """Features `[N, D]` in which each patch of the mask `[h, w]` is the mean of those of its 8 neighbours that are not.

    Patches without such a neighbour follow in later rounds, from those that were filled before. If the mask holds all patches,
    nothing is changed.
    """
    grid = (mask.shape[0], mask.shape[1])
    values = patch_features(features, grid).reshape(*grid, -1).copy()
    known = ~np.asarray(mask, np.bool_)
    while known.any() and not known.all():
        ring = ndimage.binary_dilation(known, np.ones((3, 3), np.bool_)) & ~known
        for row, column in np.argwhere(ring):
            place = np.s_[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
            values[row, column] = values[place][known[place]].mean(axis=0)
        known |= ring
    return values.reshape(grid[0] * grid[1], -1)
