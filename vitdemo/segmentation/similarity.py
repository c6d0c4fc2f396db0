"""Cosine similarity of one patch to all others, and correspondences between two photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitdemo.errors import OptionError
from vitdemo.options.explain import require_patch
from vitdemo.segmentation.arrays import Floats, Mask, flat_masks, unit
from vitdemo.types import Box


@dataclass(frozen=True)
class Match:
    """A place similar to the query."""

    score: float
    """Cosine, -1 to 1."""
    row: int
    column: int
    box: Box
    """`(left, top, right, bottom)` in patches, right and bottom exclusive, clipped to the grid."""


@dataclass(frozen=True)
class Correspondence:
    """Mutual nearest neighbours among the patches of two photos, best first."""

    first: NDArray[np.int64]
    """`[K]`: row-major index of the first photo's patch."""
    second: NDArray[np.int64]
    """`[K]`: of the second photo's."""
    scores: Floats
    """`[K]`: their cosines."""


def similarity_map(features: ArrayLike, query: int, others: ArrayLike | None = None) -> Floats:
    """Cosine similarity of one patch to all patches of the same or another photo.

    Args:
        features: `[N, D]` of the query's photo.
        query: row-major index of the patch.
        others: `[M, D]` of the photo to search; the same photo if None.

    Returns:
        `[M]` or `[N]`, -1 to 1; 0 for zero features.

    Raises:
        OptionError: no such patch.
    """
    rows = unit(features)
    require_patch(query, len(rows))
    searched = rows if others is None else unit(others)
    result: Floats = np.clip(searched @ rows[query], -1, 1)
    return result


def best_matches(scores: ArrayLike, count: int, *, side: int = 3, skip: int | None = None) -> tuple[Match, ...]:
    """The best places of a map with non-overlapping boxes, best first.

    Args:
        scores: `[h, w]`.
        count: maximum number of places.
        side: of a box, in patches.
        skip: row-major index of a patch whose surroundings are excluded: the query in its own photo.

    Raises:
        OptionError: the count or the side is below 1.
    """
    if count < 1 or side < 1:
        raise OptionError("The number of matches and the size of their boxes must be at least 1.")
    left = np.array(scores, np.float64)
    if left.ndim != 2:
        raise ValueError(f"Scores must be [h, w], not {list(left.shape)}.")
    height, width = left.shape
    if skip is not None:
        row, column = divmod(skip, width)
        _clear(left, row, column, side)
    found: list[Match] = []
    while len(found) < count and left.size and (score := left.max()) > -np.inf:
        row, column = (int(place) for place in np.unravel_index(np.argmax(left), left.shape))
        top, start = row - (side - 1) // 2, column - (side - 1) // 2
        box = (max(0, start), max(0, top), min(width, start + side), min(height, top + side))
        found.append(Match(float(score), row, column, box))
        _clear(left, row, column, side)
    return tuple(found)


def correspond(
    first: ArrayLike, second: ArrayLike, *, masks: Sequence[Mask | None] | None = None, limit: int | None = None
) -> Correspondence:
    """Mutual nearest neighbours of two photos' patches by cosine.

    Args:
        first, second: `[N, D]` and `[M, D]`.
        masks: for each photo, the patches to match, `[h, w]`, or None for all.
        limit: maximum number of pairs.
    """
    rows = [unit(first), unit(second)]
    numbers = [np.flatnonzero(mask) for mask in flat_masks(masks, rows)]
    if not len(numbers[0]) or not len(numbers[1]):
        return Correspondence(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    scores = rows[0][numbers[0]] @ rows[1][numbers[1]].T
    there, back = scores.argmax(axis=1), scores.argmax(axis=0)
    mutual = np.flatnonzero(back[there] == np.arange(len(there)))
    best = mutual[np.argsort(-scores[mutual, there[mutual]], kind="stable")][:limit]
    return Correspondence(
        numbers[0][best].astype(np.int64),
        numbers[1][there[best]].astype(np.int64),
        np.clip(scores[best, there[best]], -1, 1),
    )


def spread_out(found: Correspondence, columns: tuple[int, int], count: int, *, side: int = 3) -> Correspondence:
    """The best `count` pairs that are at least `side` patches apart in both photos.

    Args:
        columns: of the patch grids of the first and the second photo.
    """
    kept: list[int] = []
    places = [
        np.stack(divmod(patches, wide), 1) for patches, wide in zip((found.first, found.second), columns, strict=True)
    ]
    for index in range(len(found.scores)):
        if len(kept) == count:
            break
        if all((np.abs(place[kept] - place[index]).max(axis=1) >= side).all() for place in places):
            kept.append(index)
    return Correspondence(found.first[kept], found.second[kept], found.scores[kept])


def _clear(scores: NDArray[np.float64], row: int, column: int, side: int) -> None:
    """Exclude every place whose box would overlap the one at this place."""
    reach = side - 1
    scores[max(0, row - reach) : row + side, max(0, column - reach) : column + side] = -np.inf
