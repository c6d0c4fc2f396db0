"""High-norm outlier patches, in which large networks store global information.

Darcet et al. 2024, arXiv:2309.16588, "Vision Transformers Need Registers". They show in the last hidden states before the final
LayerNorm, which hides them.
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
"""Minimum ratio to the median, for photos whose norms hardly vary."""

MOST = 0.1
"""Share of the patches above which they are not artefacts but part of the photo, such as its sky."""


def find_outliers(norms: ArrayLike, grid: Grid, *, most: float = MOST) -> Mask:
    """Mask `[h, w]` of the patches whose norm is far above the median.

    Args:
        norms: `[N]`, norm of each patch's feature.
        most: if a larger share of the patches exceeds the thresholds, none is an outlier.
    """
    lengths = patch_features(np.asarray(norms)[:, None], grid)[:, 0]
    median = float(np.median(lengths))
    # 1.4826 scales the median absolute deviation of a normal distribution to its standard deviation.
    deviation = 1.4826 * float(np.median(np.abs(lengths - median)))
    limit = max(median + FAR * deviation, median * RATIO)
    mask = lengths > limit
    if mask.mean() > most:
        mask[:] = False
    return mask.reshape(grid)


def clip_outliers(features: ArrayLike, mask: Mask) -> Floats:
    """Features `[N, D]` in which each patch of the mask `[h, w]` is replaced by the mean of its unmasked 8-neighbours.

    Patches without such neighbours follow in later rounds, from those already replaced. A full mask changes nothing.
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
