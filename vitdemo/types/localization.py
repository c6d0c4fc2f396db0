"""How far the maps of one model stay on boxes of the photo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class BoxScores:
    """Of one or many maps; NaN for a map that is nowhere above 0, or where the model sees nothing of the boxes."""

    energy: NDArray[np.float64]
    """Share of the map inside, 0 to 1: `vitdemo.attribution.energy_inside`."""
    iou: NDArray[np.float64]
    """Of the highest patches, 0 to 1: `vitdemo.attribution.top_patches_iou`."""
    distance: NDArray[np.float64]
    """In patches, from 0: `vitdemo.attribution.earth_movers_distance`."""


@dataclass(frozen=True)
class Localization:
    """One explanation, measured on boxes."""

    boxes: tuple[tuple[float, float, float, float], ...]
    """Left, top, right, bottom, in pixels of the upright photo."""
    coverage: NDArray[np.float64]
    """`[h, w]`, the share of each patch that the boxes cover, 0 to 1. Its mean is the energy of an even map."""
    seen: float
    """The share of the boxes that lies in the model's crop, 0 to 1."""
    shown: BoxScores | None
    """Of the explanation's map, scalars; None without one."""
    heads: BoxScores | None
    """Of every layer and head, `[L, H]`, with the read-out of the map; None for maps that are not of one layer's attention."""
