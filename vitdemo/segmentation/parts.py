"""Parts of objects: patches grouped by their features, the same part having the same number in all photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.vq import kmeans2, vq

from vitdemo.errors import OptionError
from vitdemo.segmentation.arrays import Floats, Mask, chosen, patch_features, unit

STARTS = 4
ITERATIONS = 30


@dataclass(frozen=True)
class Parts:
    """Groups of patches over several photos, the largest first."""

    labels: tuple[NDArray[np.int64], ...]
    """`[N_i]` a photo, row by row: the number of the part, -1 outside of the photo's mask."""
    centres: Floats
    """`[k, D]`: the mean of each part's unit features."""
    sizes: tuple[int, ...]
    """Patches of each part, over all photos."""


def find_parts(
    features: Sequence[ArrayLike], count: int, *, masks: Sequence[Mask | None] | None = None, seed: int = 0
) -> Parts:
    """Group the patches of all photos together by k-means of their unit features, of which the best of a few starts is taken.

    Args:
        features: `[N_i, D]` a photo.
        count: groups; fewer are made where there are fewer different patches.
        masks: patches to be grouped, `[h, w]` or `[N_i]` a photo; all where there is None.

    Returns:
        No parts, and -1 everywhere, where the masks are empty.

    Raises:
        OptionError: less than one group.
    """
    if count < 1:
        raise OptionError(f"The number of parts must be at least 1, not {count}.")
    rows = [unit(patch_features(own)) for own in features]
    within = chosen(masks, rows)
    points = np.concatenate([own[mask] for own, mask in zip(rows, within, strict=True)]).astype(np.float64)
    different = np.unique(points, axis=0)
    count = min(count, len(different))
    centres, numbers = _kmeans(points, count, seed) if count < len(different) else (different, vq(points, different)[0])
    sizes = np.bincount(numbers, minlength=len(centres)) if len(points) else np.zeros(0, np.int64)
    # Of equal sizes the one that is met first.
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
    """Centres `[k, D]` and the number of the nearest one `[N]`, with the least sum of squared distances of all starts."""
    best: tuple[float, NDArray[np.float64]] | None = None
    for start in range(STARTS):
        rng = np.random.default_rng([seed, start])
        centres, _ = kmeans2(points, count, iter=ITERATIONS, minit="++", missing="warn", rng=rng)
        loss = float(np.square(vq(points, centres)[1]).sum())
        if best is None or loss < best[0]:
            best = loss, centres
    assert best is not None
    return best[1], vq(points, best[1])[0].astype(np.intp)
