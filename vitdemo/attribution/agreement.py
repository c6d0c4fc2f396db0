"""How far two maps of one photo agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from vitdemo.types import AttributionMap, Box, View


def rank_correlation(
    first: AttributionMap, first_view: View, second: AttributionMap, second_view: View
) -> float | None:
    """Spearman's rank correlation on a common grid, -1 to 1.

    The common grid is the finer one of the two, laid over the part of the photo that both models saw.

    Returns:
        None where a map is flat, or the models saw no common part.
    """
    a, b = first_view.crop, second_view.crop
    common = (max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    if common[0] >= common[2] or common[1] >= common[3]:
        return None
    shape = max(first.values.shape, second.values.shape)
    ranks = [
        rankdata(_sample(attribution.values, view.crop, common, (shape[0], shape[1])))
        for attribution, view in ((first, first_view), (second, second_view))
    ]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


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
    # Ranks must not depend on the last bit, where both grids are the same.
    result: NDArray[np.float32] = np.round(upper * (1 - down) + lower * down, 9).ravel()
    return result
