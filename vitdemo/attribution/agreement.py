"""Agreement of two maps of one photo."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vitdemo.types import Agreement, AttributionMap, Box, Explanation, View

TOP_MASS = 0.2
"""Share of a map's mass that its top patches hold."""


def agreement_of(first: Explanation, second: Explanation) -> Agreement:
    """Agreement of two models on the same photo."""
    a, b = first.prediction, second.prediction
    same_label = None
    if a.labels and b.labels and a.spec.labels == b.spec.labels:
        same_label = a.labels[0].index == b.labels[0].index
    correlation = shared = None
    if first.map is not None and second.map is not None:
        correlation = rank_correlation(first.map, first.view, second.map, second.view)
        shared = overlap(first.map, first.view, second.map, second.view)
    return Agreement((a.spec.name, b.spec.name), same_label, correlation, shared)


def rank_correlation(
    first: AttributionMap, first_view: View, second: AttributionMap, second_view: View
) -> float | None:
    """Spearman's rank correlation on a common grid, -1 to 1.

    The common grid is the finer of the two, over the intersection of the views.

    Returns:
        None if a map is flat or the views do not intersect.
    """
    samples = _on_common_grid(first, first_view, second, second_view)
    if samples is None:
        return None
    ranks = [_ranks(values) for values in samples]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Ranks from 1 of all values, as a vector; equal values share the mean of theirs. To import `scipy.stats` takes a second.

    >>> _ranks(np.array([3, 1, 3, 2], np.float32)).tolist()
    [3.5, 1.0, 3.5, 2.0]
    """
    _, which, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[which], np.float64)


def overlap(first: AttributionMap, first_view: View, second: AttributionMap, second_view: View) -> float | None:
    """Intersection over union of the patches that hold the top 20% of each map's mass, 0 to 1, on a common grid.

    Rank correlation weights all patches equally, including the many low ones; this compares the highest ones only.

    Returns:
        None if a map is flat or nowhere above 0, or the views do not intersect.
    """
    samples = _on_common_grid(first, first_view, second, second_view)
    if samples is None:
        return None
    one, other = (_top_patches(values) for values in samples)
    return iou(one, other) if one.any() and other.any() else None


def iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks of the same shape; 0 if both are empty.

    >>> iou(np.array([True, True, False]), np.array([False, True, True]))
    0.3333333333333333
    """
    union = np.count_nonzero(first | second)
    return float(np.count_nonzero(first & second) / union) if union else 0.0


def _top_patches(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The fewest patches, highest first, whose sum reaches `TOP_MASS` of the total; negative values count as 0."""
    mass = np.maximum(values.astype(np.float64), 0.0)
    order = np.argsort(-mass, kind="stable")
    # The tolerance is for rounding in the sum.
    count = int(np.searchsorted(mass[order].cumsum(), TOP_MASS * mass.sum() * (1 - 1e-9))) + 1
    chosen = np.zeros(len(mass), np.bool_)
    chosen[order[:count]] = mass.any()
    return chosen


def _on_common_grid(
    first: AttributionMap, first_view: View, second: AttributionMap, second_view: View
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Both maps on the finer of the two grids, over the intersection of the views, flattened."""
    a, b = first_view.crop, second_view.crop
    common = (max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    if common[0] >= common[2] or common[1] >= common[3]:
        return None
    shape = max(first.values.shape, second.values.shape)
    one, other = (
        _sample(attribution.values, crop, common, (shape[0], shape[1]))
        for attribution, crop in ((first, a), (second, b))
    )
    return None if np.ptp(one) == 0 or np.ptp(other) == 0 else (one, other)


def _sample(values: NDArray[np.float32], crop: Box, common: Box, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Bilinear samples of a map that covers `crop`, at the centres of a `shape` grid over `common`, flattened."""
    positions = []
    for axis, count in ((1, shape[0]), (0, shape[1])):
        pixels = common[axis] + (np.arange(count) + 0.5) * (common[axis + 2] - common[axis]) / count
        size = values.shape[0 if axis == 1 else 1]
        positions.append(np.clip((pixels - crop[axis]) / (crop[axis + 2] - crop[axis]) * size - 0.5, 0, size - 1))
    rows, columns = positions
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    bottom, right = np.minimum(top + 1, values.shape[0] - 1), np.minimum(left + 1, values.shape[1] - 1)
    down, along = (rows - top)[:, None], (columns - left)[None, :]
    upper = values[np.ix_(top, left)] * (1 - along) + values[np.ix_(top, right)] * along
    lower = values[np.ix_(bottom, left)] * (1 - along) + values[np.ix_(bottom, right)] * along
    # Rounded so that ranks do not depend on the last bit.
    result: NDArray[np.float32] = np.round(upper * (1 - down) + lower * down, 9).ravel()
    return result
