"""How far maps stay on boxes, as JSON: for the command line, downloads and the page."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vitdemo.attribution.boxes import best_heads
from vitdemo.types import BoxScores, Localization


def localization_json(found: Localization) -> dict[str, Any]:
    """The entry `box` of an explanation. Null where there is nothing to measure; heads best first, by energy inside."""
    rows, cols = found.coverage.shape
    result: dict[str, Any] = {
        "boxes": [[left, top, right - left, bottom - top] for left, top, right, bottom in found.boxes],
        "seen": found.seen,
        "patches": float(found.coverage.sum()),
        "even": float(found.coverage.mean()),
        "diagonal": math.hypot(rows, cols),
        **_scores(found.shown, ()),
        "heads": [],
    }
    if found.heads is not None:
        result["heads"] = [
            {"layer": layer, "head": head, **_scores(found.heads, (layer, head))}
            for layer, head in best_heads(found.heads)
        ]
    return result


def scores_json(scores: BoxScores) -> dict[str, Any]:
    """Of many maps, as nested lists."""
    return {"energy": _lists(scores.energy), "iou": _lists(scores.iou), "emd": _lists(scores.distance)}


def _scores(scores: BoxScores | None, place: tuple[int, ...]) -> dict[str, float | None]:
    if scores is None:
        return {"energy": None, "iou": None, "emd": None}
    return {
        name: _number(values[place])
        for name, values in (("energy", scores.energy), ("iou", scores.iou), ("emd", scores.distance))
    }


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _lists(values: Any) -> list[Any]:
    return [_lists(part) if np.ndim(part) else _number(part) for part in values]
