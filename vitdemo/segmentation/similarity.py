"""What looks like what: one patch against all others, and the patches of two photos against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitdemo.errors import OptionError
from vitdemo.segmentation.arrays import Floats, Mask, chosen, unit
from vitdemo.types import Box


@dataclass(frozen=True)
class Match:
    """A place that looks like the query."""

    score: float
    """Cosine, -1 to 1."""
    row: int
    column: int
    box: Box
    """`(left, top, right, bottom)` in patches, right and bottom exclusive, cut off at the border of the grid."""


@dataclass(frozen=True)
class Correspondence:
    """Patches of two photos, each of which is the other's nearest; best first."""

    first: NDArray[np.int64]
    """`[K]`: number of the patch of the first photo, row by row from 0."""
    second: NDArray[np.int64]
    """`[K]`: of the second photo."""
    scores: Floats
    """`[K]`: their cosines."""


def similarity_map(features: ArrayLike, query: int, others: ArrayLike | None = None) -> Floats:
    """Cosine of one patch's feature to those of all patches, of the same photo or of another one.

    Args:
        features: `[N, D]` of the photo that the query is in.
        query: its number, row by row from 0.
        others: `[M, D]` of the photo to search.

    Returns:
        `[M]`, or `[N]`, -1 to 1; 0 for a feature of zeros.

    Raises:
        OptionError: there is no such patch.
    """
    rows = unit(features)
    if not 0 <= query < len(rows):
        raise OptionError(f"There is no patch {query}: this picture has patches 0 to {len(rows) - 1}.")
    searched = rows if others is None else unit(others)
    result: Floats = np.clip(searched @ rows[query], -1, 1)
    return result


def best_matches(scores: ArrayLike, count: int, *, side: int = 3, skip: int | None = None) -> tuple[Match, ...]:
    """The best places of a map, best first, none of whose boxes overlap.

    Args:
        scores: `[h, w]`.
        count: at most so many.
        side: of a box, in patches.
        skip: number of a patch around which nothing is taken: the query itself, in its own photo.
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
    """Patches of two photos that are each other's nearest neighbours by cosine.

    Args:
        first, second: `[N, D]` and `[M, D]`.
        masks: two of them, `[h, w]` each or None: patches that may be matched.
        limit: keep the best so many.
    """
    rows = [unit(first), unit(second)]
    numbers = [np.flatnonzero(mask) for mask in chosen(masks, rows)]
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
    """The best `count` of them that are at least `side` patches apart in both photos.

    Args:
        columns: of the grids of the first and the second photo.
    """
    kept: list[int] = []
    places = [
        np.stack(divmod(side_, wide), 1) for side_, wide in zip((found.first, found.second), columns, strict=True)
    ]
    for index in range(len(found.scores)):
        if len(kept) == count:
            break
        if all((np.abs(place[kept] - place[index]).max(axis=1) >= side).all() for place in places):
            kept.append(index)
    return Correspondence(found.first[kept], found.second[kept], found.scores[kept])


def _clear(scores: NDArray[np.float64], row: int, column: int, side: int) -> None:
    """Take out every place whose box would overlap the one at this place."""
    reach = side - 1
    scores[max(0, row - reach) : row + side, max(0, column - reach) : column + side] = -np.inf
