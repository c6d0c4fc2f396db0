"""Shared types and shape checks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitdemo.types import Grid

Mask = NDArray[np.bool_]
Floats = NDArray[np.float32]


def patch_features(features: ArrayLike, grid: Grid | None = None) -> Floats:
    """`[N, D]` float32.

    Raises:
        ValueError: wrong shape, wrong number of patches for the grid, or values that are not finite.
    """
    found = np.asarray(features, np.float32)
    if found.ndim != 2:
        raise ValueError(f"Features must be [N, D], not {list(found.shape)}.")
    if grid is not None and len(found) != grid[0] * grid[1]:
        raise ValueError(f"{len(found)} patches do not make a grid of {grid[0]} x {grid[1]}.")
    if not np.isfinite(found).all():
        raise ValueError("Features must be finite.")
    return found


def unit(features: ArrayLike) -> Floats:
    """Rows `[N, D]` scaled to unit norm; zero rows stay zero."""
    found = patch_features(features)
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    result: Floats = (found / np.where(norms > 0, norms, 1)).astype(np.float32, copy=False)
    return result


def flat_masks(masks: Sequence[Mask | None] | None, features: Sequence[Floats]) -> list[Mask]:
    """One flat mask `[N_i]` per photo; None means all patches.

    Raises:
        ValueError: the numbers of masks and photos, or of patches in a mask and its photo, differ.
    """
    given = [None] * len(features) if masks is None else list(masks)
    if len(given) != len(features):
        raise ValueError(f"{len(given)} masks for {len(features)} photos.")
    flat = [
        np.ones(len(own), np.bool_) if mask is None else np.asarray(mask, np.bool_).ravel()
        for mask, own in zip(given, features, strict=True)
    ]
    for mask, own in zip(flat, features, strict=True):
        if len(mask) != len(own):
            raise ValueError(f"A mask of {len(mask)} patches for a photo of {len(own)}.")
    return flat
