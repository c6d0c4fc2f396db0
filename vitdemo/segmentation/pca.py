"""The first three principal components of features as colours, as in Oquab et al. 2023, arXiv:2304.07193 (DINOv2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from vitdemo.segmentation.arrays import Floats, Mask, flat_masks, patch_features
from vitdemo.types import Grid

PERCENTILES = (1.0, 99.0)
"""Percentiles scaled to 0 and 1, so that a few extreme patches do not darken all others."""


@dataclass(frozen=True)
class Components:
    """Principal components shared by several photos, so that similar parts have similar colours."""

    colours: tuple[Floats, ...]
    """Per photo `[h, w, 3]`, RGB in 0..1; black outside its mask."""
    explained: tuple[float, ...]
    """Explained variance ratio of each of the three components."""


def component_colours(
    features: Sequence[ArrayLike], grids: Sequence[Grid], masks: Sequence[Mask | None] | None = None
) -> Components:
    """The first three principal components of all photos' patches as red, green and blue.

    Args:
        features: per photo `[N_i, D]`.
        masks: patches to use and colour, per photo `[h, w]`, or None for all.
    """
    rows, within = _checked(features, grids, masks)
    points = np.concatenate([own[mask] for own, mask in zip(rows, within, strict=True)])
    if not len(points):
        return Components(tuple(np.zeros((*grid, 3), np.float32) for grid in grids), (0.0, 0.0, 0.0))
    mean, axes, explained = _axes(points, 3)
    # A component without variance is 0.5 everywhere.
    projected = (points - mean) @ axes.T
    low, high = np.percentile(projected, PERCENTILES, axis=0)
    flat = np.array(explained) < 1e-9
    scale = np.where(flat | (high <= low), 1, high - low)
    scaled = np.clip(np.where(flat, 0.5, (projected - low) / scale), 0, 1)
    images = []
    ends = np.cumsum([np.count_nonzero(mask) for mask in within])[:-1]
    for grid, mask, part in zip(grids, within, np.split(scaled, ends), strict=True):
        image = np.zeros((len(mask), 3), np.float32)
        image[mask] = part
        images.append(image.reshape(*grid, 3))
    return Components(tuple(images), explained)


def _axes(
    points: NDArray[np.float64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[float, ...]]:
    """Mean `[D]`, unit axes `[count, D]` by decreasing variance, and their explained variance ratios, padded with zeros.

    The largest entry of each axis is positive, so that colours do not flip.
    """
    mean = points.mean(axis=0)
    centred = points - mean
    dimensions = points.shape[1]
    kept = min(count, dimensions)
    # torch, not SciPy, whose threads would compete with torch's, which still spin after the forward pass: 20 times slower.
    matrix = torch.from_numpy(centred)
    covariance = matrix.T @ matrix
    found, vectors = (part.numpy() for part in torch.linalg.eigh(covariance))
    found = found[dimensions - kept :]
    axes = np.zeros((count, dimensions))
    axes[:kept] = vectors.T[::-1][:kept]
    tops = axes[np.arange(count), np.argmax(np.round(np.abs(axes), 9), axis=1)]
    axes *= np.where(tops < 0, -1, 1)[:, None]
    total = float(covariance.trace())
    # Rounding errors are not variance.
    noise = 1e-12 * max(1.0, float(np.square(points).sum()))
    shares = [max(0.0, float(value)) / total if total > noise else 0.0 for value in found[::-1]]
    return mean, axes, (*shares, *[0.0] * (count - kept))


def _checked(
    features: Sequence[ArrayLike], grids: Sequence[Grid], masks: Sequence[Mask | None] | None
) -> tuple[list[NDArray[np.float64]], list[Mask]]:
    rows = [patch_features(own, grid) for own, grid in zip(features, grids, strict=True)]
    return [own.astype(np.float64) for own in rows], flat_masks(masks, rows)
