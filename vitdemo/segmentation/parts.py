"""Parts of objects: patches clustered by their features, with the same numbers in all photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.vq import kmeans2, vq

from vitdemo.errors import OptionError
from vitdemo.segmentation.arrays import Floats, Mask, flat_masks, patch_features, unit

STARTS = 4
"""Runs of k-means, of which the best counts."""
ITERATIONS = 30


@dataclass(frozen=True)
class Parts:
    """Clusters of patches over several photos, the largest first."""

    labels: tuple[NDArray[np.int64], ...]
    """Per photo `[N_i]`, in row-major order: the number of the part, -1 outside the photo's mask."""
    centres: Floats
    """`[k, D]`: mean of each part's unit features."""
    sizes: tuple[int, ...]
    """Number of patches of each part, over all photos."""


def find_parts(
    features: Sequence[ArrayLike], count: int, *, masks: Sequence[Mask | None] | None = None, seed: int = 0
) -> Parts:
    """Cluster the patches of all photos together by k-means of their unit features.

    Args:
        features: per photo `[N_i, D]`.
        count: number of clusters; fewer if there are fewer distinct patches.
        masks: patches to cluster, per photo `[h, w]` or `[N_i]`, or None for all.

    Returns:
        No parts, and -1 everywhere, if the masks are empty.

    Raises:
        OptionError: the count is below 1.
    """
    if count < 1:
        raise OptionError(f"The number of parts must be at least 1, not {count}.")
    rows = [unit(patch_features(own)) for own in features]
    within = flat_masks(masks, rows)
    points = np.concatenate([own[mask] for own, mask in zip(rows, within, strict=True)]).astype(np.float64)
    different = np.unique(points, axis=0)
    count = min(count, len(different))
    centres, numbers = _kmeans(points, count, seed) if count < len(different) else (different, vq(points, different)[0])
    sizes = np.bincount(numbers, minlength=len(centres)) if len(points) else np.zeros(0, np.int64)
    # Of equal sizes, the first in the photos comes first.
    first = [int(np.argmax(numbers == number)) for number in range(len(centres))]
    order = [number for number in sorted(range(len(centres)), key=lambda n: (-sizes[n], first[n])) if sizes[number]]
    renamed = np.full(len(centres), -1)
    renamed[order] = np.arange(len(order))
    labels = [np.full(len(own), -1, np.int64) for own in rows]
    ends = np.cumsum([np.count_nonzero(mask) for mask in within])[:-1]
    for own, mask, part in zip(labels, within, np.split(renamed[numbers], ends), strict=True):
        own[mask] = part
    return Parts(tuple(labels), centres[order].astype(np.float32), tuple(int(sizes[number]) for number in order))


def _kmeans(points: NDArray[np.float64], count: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Centres `[k, D]` and the nearest one's index `[N]`, of the run with the least sum of squared distances."""
    best: tuple[float, NDArray[np.float64]] | None = None
    for start in range(STARTS):
        rng = np.random.default_rng([seed, start])
        centres, _ = kmeans2(points, count, iter=ITERATIONS, minit="++", missing="warn", rng=rng)
        loss = float(np.square(vq(points, centres)[1]).sum())
        if best is None or loss < best[0]:
            best = loss, centres
    assert best is not None
    return best[1], vq(points, best[1])[0].astype(np.intp)
