"""Masks of the patches with most of the attention, as in Caron et al. 2021, arXiv:2104.14294 (DINO), figure 4."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vitdemo.errors import OptionError
from vitdemo.segmentation.arrays import Mask


def keep_mass(maps: ArrayLike, share: float) -> Mask:
    """The fewest patches of each map that hold more than this share of its mass.

    As in the paper's `visualize_attention.py`: values are sorted in ascending order and divided by their sum, and those with a
    cumulative sum above `1 - share` are kept. Of equal values, those later in row-major order are kept first.

    Args:
        maps: `[h, w]` or `[H, h, w]`; each map is normalised by itself. Negative values count as 0.
        share: above 0, at most 1, which keeps all patches.

    Returns:
        Mask of the shape of `maps`; empty for a map without mass.

    Raises:
        OptionError: the share is out of range.
        ValueError: `maps` has another shape.

    >>> keep_mass([[0.1, 0.4], [0.2, 0.3]], 0.6).tolist()
    [[False, True], [False, True]]
    """
    if not 0 < share <= 1:
        raise OptionError(f"The share of attention to keep must be above 0 and at most 1, not {share}.")
    values = np.maximum(np.asarray(maps, np.float64), 0)
    if values.ndim not in (2, 3):
        raise ValueError(f"Attention must be [h, w] or [H, h, w], not {list(values.shape)}.")
    flat = values.reshape(*values.shape[:-2], -1)
    order = np.argsort(flat, axis=-1, kind="stable")
    ascending = np.take_along_axis(flat, order, axis=-1)
    total = ascending.sum(axis=-1, keepdims=True)
    kept = np.cumsum(ascending / np.where(total > 0, total, 1), axis=-1) > 1 - share
    if share == 1:
        # Also those whose attention is rounded to 0.
        kept[:] = total > 0
    result = np.zeros(flat.shape, np.bool_)
    np.put_along_axis(result, order, kept, axis=-1)
    return result.reshape(values.shape)
