"""An explanation measured on boxes of its photo: its map, and every layer and head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitdemo.attribution.localization import (
    box_coverage,
    earth_movers_distance,
    energy_inside,
    share_seen,
    top_patches_iou,
)
from vitdemo.options.boxes import Edges
from vitdemo.types import BoxScores, Explanation, Localization


def localize(explanation: Explanation, boxes: Sequence[Edges]) -> Localization:
    """How far an explanation's map stays on boxes, and those of all layers and heads.

    Args:
        boxes: left, top, right, bottom in pixels of the upright photo; what several of them cover counts once.
    """
    coverage = box_coverage(boxes, explanation.view.crop, explanation.patch_grid)
    attribution, shown, heads = explanation.map, None, None
    if attribution is not None:
        shown = box_scores(attribution.values, coverage)
        rows = explanation.rows.get(attribution.readout or "")
        heads = box_scores(rows, coverage) if attribution.layer is not None and rows is not None else None
    return Localization(tuple(boxes), coverage, share_seen(boxes, explanation.view.crop), shown, heads)


def box_scores(maps: NDArray[Any], coverage: NDArray[np.float64]) -> BoxScores:
    """Of maps `[..., h, w]`, with the share of each patch that the boxes cover, `[h, w]`."""
    if coverage.sum() <= 0:
        nothing = np.full(maps.shape[:-2], np.nan)
        return BoxScores(nothing, nothing, nothing)
    return BoxScores(
        energy_inside(maps, coverage), top_patches_iou(maps, coverage), earth_movers_distance(maps, coverage)
    )


def best_heads(scores: BoxScores) -> list[tuple[int, int]]:
    """Layer and head of every map that has mass, the one with the most energy inside first; of equal ones the first.

    >>> best_heads(BoxScores(np.array([[0.1, np.nan], [0.3, 0.2]]), np.zeros((2, 2)), np.zeros((2, 2))))
    [(1, 0), (1, 1), (0, 0)]
    """
    energy = scores.energy
    order = np.argsort(-energy, axis=None, kind="stable")[: np.count_nonzero(np.isfinite(energy))]
    return [(int(layer), int(head)) for layer, head in zip(*np.unravel_index(order, energy.shape), strict=True)]


def box_words(found: Localization) -> str:
    """As under the pictures of the page: "62% inside the box, IoU 0.41, 1.3 patches away"."""
    several = len(found.boxes) > 1
    it = "boxes" if several else "box"
    if found.seen <= 0:
        return f"The {it} {'lie' if several else 'lies'} outside of what this model sees."
    if found.shown is None:
        return "There is no map to measure."
    if np.isnan(found.shown.energy):
        return f"The map is nowhere above 0: nothing is inside the {it}."
    scores = found.shown
    cut = f"; the model sees {found.seen:.0%} of the {it}" if found.seen < 0.995 else ""
    return f"{scores.energy:.0%} inside the {it}, IoU {scores.iou:.2f}, {scores.distance:.1f} patches away{cut}"
