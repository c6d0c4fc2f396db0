"""From the values of maps to shares of a colour table. The browser computes the same, in ui/static/maps.js."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CAP = 98
"""Percentile of all values at which colours end: a few patches hold most attention; up to them all others look alike."""


@dataclass(frozen=True)
class ColourScale:
    """What the colours stand for.

    Args:
        low, high: the values of the first and the last colour.
        capped: whether there are higher values, which have the last colour, too.
        linear: shares of the table are proportional to values instead of their square roots.
    """

    low: float
    high: float
    capped: bool = False
    linear: bool = False

    def shares(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values of any shape to shares of the colour table, 0 to 1; of a flat map 0.

        >>> ColourScale(0, 4).shares(np.array([0, 1, 4, 9], np.float32)).tolist()
        [0.0, 0.5, 1.0, 1.0]
        """
        if self.high <= self.low:
            return np.zeros_like(values, np.float32)
        found = np.clip((values - self.low) / (self.high - self.low), 0, 1)
        return np.asarray(found if self.linear else np.sqrt(found), np.float32)


def colour_scale(maps: Sequence[NDArray[np.float32]], linear: bool = False) -> ColourScale:
    """One scale for these maps, of any shapes: from their lowest value up to the 98th percentile of all, in square roots.

    Args:
        linear: up to the highest value, in proportion.

    >>> colour_scale([np.arange(101, dtype=np.float32)])
    ColourScale(low=0.0, high=98.0, capped=True, linear=False)
    """
    values = np.concatenate([values.ravel() for values in maps]).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if linear:
        return ColourScale(low, high, linear=True)
    cap = float(np.percentile(values, CAP))
    # Of a map with a handful of bright patches on a flat ground nothing but these would be left.
    return ColourScale(low, cap, capped=cap < high) if cap > low else ColourScale(low, high)


def worded(value: float, shares: bool = True) -> str:
    """A value as legends write it.

    Args:
        shares: of attention, in percent; else a plain number.

    >>> worded(0.0273), worded(0.00012), worded(0.5, shares=False)
    ('2.7%', '0.012%', '0.5')
    """
    return f"{float(f'{value * 100:.2g}'):g}%" if shares else f"{float(f'{value:.2g}'):g}"
