"""What is on people's pages: query for again, piece by piece, by their browsers.

These calls pass no queue, so they never run a model: they read what a forward left behind. A result is found by an id that
nobody can guess, so that two pages never mix; the oldest ones are forgotten when their memory is needed.
"""

from __future__ import annotations

import base64
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitdemo.attribution import (
    agreement_of,
    attention_map,
    box_coverage,
    box_scores,
    describe,
    fuse,
    localize,
    patch_attention,
    patch_map,
    share_seen,
)
from vitdemo.errors import OptionError, ResultExpiredError, VitDemoError
from vitdemo.export.localization import localization_json, scores_json
from vitdemo.export.results import comparison_json, explanation_json, npz
from vitdemo.options.boxes import Edges, edges_of
from vitdemo.options.explain import resolve_layer
from vitdemo.pipeline.cache import LRUCache
from vitdemo.types import FUSIONS, Comparison, Explanation, Photo, Readout
from vitdemo.ui.animation import animation
from vitdemo.ui.components.quantise import quantised

WHOLE_LAYER = 400
"""Patches up to which a layer is sent at once; above, a row at a time."""

BUDGET = 256_000_000
"""Bytes of results that are kept for pages."""

logger = logging.getLogger("vitdemo")

Point = Sequence[float]
"""x and y as shares of the photo's width and height."""


@dataclass(frozen=True)
class StoredResult:
    """A photo's name and `(width, height)`, and each model's explanation of it."""

    name: str
    size: tuple[int, int]
    explanations: tuple[Explanation, ...]

    def panel(self, number: Any) -> Explanation:
        return self.explanations[_index(number, len(self.explanations))]


class Results:
    """Results by id, within a budget of memory."""

    def __init__(self, budget: int = BUDGET) -> None:
        self._kept = LRUCache(budget)
        self._pinned: dict[str, StoredResult] = {}

    def keep(self, photo: Photo, explanations: Sequence[Explanation]) -> str:
        """Keep a result; its id."""
        key = secrets.token_urlsafe(12)
        stored = StoredResult(photo.name, photo.size, tuple(explanations))
        self._kept.put(key, stored, sum(_bytes(one) for one in explanations))
        return key

    def pinned(self, value: dict[str, Any] | None) -> dict[str, Any] | None:
        """The value of an explorer, whose result is never dropped from now on: every page opens with it."""
        if value is not None:
            self._pinned[value["id"]] = self._kept.get(value["id"])
        return value

    def functions(self) -> list[Callable[[dict[str, Any]], dict[str, Any]]]:
        """What a browser may call. Each takes and returns JSON; a failure is worded in `error`."""

        def patch_rows(query: dict[str, Any]) -> dict[str, Any]:
            return self._answer(self._patch_rows, query)

        def arrays(query: dict[str, Any]) -> dict[str, Any]:
            return self._answer(self._arrays, query)

        def report(query: dict[str, Any]) -> dict[str, Any]:
            return self._answer(self._report, query)

        def animation(query: dict[str, Any]) -> dict[str, Any]:
            return self._answer(_animation, query)

        def on_boxes(query: dict[str, Any]) -> dict[str, Any]:
            return self._answer(_on_boxes, query)

        return [patch_rows, arrays, report, animation, on_boxes]

    def _answer(self, work: Callable[[StoredResult, dict[str, Any]], dict[str, Any]], query: Any) -> dict[str, Any]:
        try:
            return work(self._stored(query), query)
        except VitDemoError as error:
            return {"error": str(error)}
        except (KeyError, TypeError, ValueError, IndexError):
            return {"error": "The question was not understood."}
        except Exception:
            logger.exception("A query of a page failed")
            return {"error": "Something went wrong on the server. It was logged; please try again."}

    def _stored(self, query: dict[str, Any]) -> StoredResult:
        key = str(query["id"])
        found: StoredResult | None = self._pinned.get(key) or self._kept.get(key)
        if found is None:
            raise ResultExpiredError("The server no longer remembers this result. Choose the photo again.")
        return found

    def _patch_rows(self, stored: StoredResult, query: dict[str, Any]) -> dict[str, Any]:
        explanation = stored.panel(query["panel"])
        if not explanation.queries:
            raise OptionError("This map has no attention of single patches.")
        layer = explanation.queries[resolve_layer(query["layer"], len(explanation.queries))]
        patches = explanation.patch_grid[0] * explanation.patch_grid[1]
        first, last = 0, patches
        if patches > WHOLE_LAYER or query.get("row") is not None:
            first = _index(query["row"], patches)
            last = first + 1
        rows = patch_attention(layer, explanation.patch_grid, first, last)
        return {"first": first, **quantised(rows.swapaxes(0, 1))}

    def _arrays(self, stored: StoredResult, query: dict[str, Any]) -> dict[str, Any]:
        explanation = as_displayed(stored.panel(query["panel"]), stored.size, query)
        data = npz(explanation, {"image": stored.name, **explanation_json(explanation)})
        return {"data": base64.b64encode(data).decode()}

    def _report(self, stored: StoredResult, query: dict[str, Any]) -> dict[str, Any]:
        if query["panel"] is not None:
            seen = as_displayed(stored.panel(query["panel"]), stored.size, query)
            return {"report": {"image": stored.name, **explanation_json(seen), **_measured(stored, seen, query)}}
        # One layer's number is that of the deepest model; the others stand at the same share of their depth.
        deepest = max(one.prediction.spec.num_layers for one in stored.explanations)
        depth = resolve_layer(query["layer"] if query["layer"] is not None else -1, deepest) / max(1, deepest - 1)
        compared = tuple(
            as_displayed(one, stored.size, {**query, "layer": round(depth * (one.prediction.spec.num_layers - 1))})
            for one in stored.explanations
        )
        pairs = tuple(agreement_of(*pair) for pair in combinations(compared, 2))
        report = comparison_json(Comparison(compared, pairs))
        for entry, one in zip(report["results"], compared, strict=True):
            entry |= _measured(stored, one, query)
        return {"report": {"image": stored.name, **report}}


def _on_boxes(stored: StoredResult, query: dict[str, Any]) -> dict[str, Any]:
    """Every map of a panel that the controls can choose, on the boxes: by layer, each head and then each fusion."""
    explanation = stored.panel(query["panel"])
    boxes = _boxes(stored, query)
    coverage = box_coverage(boxes, explanation.view.crop, explanation.patch_grid)
    maps = _maps(explanation, stored.size, query)
    return {
        "seen": share_seen(boxes, explanation.view.crop),
        "even": float(coverage.mean()),
        "scores": None if maps is None else scores_json(box_scores(maps, coverage)),
    }


def _maps(explanation: Explanation, size: tuple[int, int], query: dict[str, Any]) -> NDArray[np.float32] | None:
    """`[L, H + fusions, h, w]`, or `[1, 1, h, w]` of a method with one map; None without a map."""
    if explanation.map is None:
        return None
    if explanation.map.method != "attention":
        return explanation.map.values[None, None]
    if query.get("readout") == "patch":
        place, grid = _patch(explanation, size, query["patch"]), explanation.patch_grid
        heads = np.stack([patch_attention(layer, grid, place, place + 1)[:, 0] for layer in explanation.queries])
    else:
        heads = explanation.rows[_readout(explanation, query)]
    fused = [np.stack([fuse(layer, fusion) for layer in heads]) for fusion in FUSIONS]
    return np.concatenate([heads, np.stack(fused, axis=1)], axis=1)


def _measured(stored: StoredResult, explanation: Explanation, query: dict[str, Any]) -> dict[str, Any]:
    """The entry `box` of a report, where boxes are drawn."""
    if not query.get("boxes"):
        return {}
    return {"box": localization_json(localize(explanation, _boxes(stored, query)))}


def _boxes(stored: StoredResult, query: dict[str, Any]) -> tuple[Edges, ...]:
    """In pixels of the photo."""
    width, height = stored.size
    shares = [[float(number) for number in box] for box in query["boxes"]]
    return edges_of([(x * width, y * height, w * width, h * height) for x, y, w, h in shares], stored.size)


def _animation(stored: StoredResult, query: dict[str, Any]) -> dict[str, Any]:
    return {"data": base64.b64encode(animation([str(frame) for frame in query["frames"]])).decode()}


def as_displayed(explanation: Explanation, size: tuple[int, int], query: dict[str, Any]) -> Explanation:
    """An explanation with the map that the controls of the page show.

    Args:
        size: width and height of the photo.

    Raises:
        OptionError: there is no such layer or head.
    """
    if explanation.map is None or explanation.map.method != "attention":
        return explanation
    layer, head = query["layer"], str(query["head"])
    layer = -1 if layer is None else layer
    if query.get("readout") == "patch":
        place = _patch(explanation, size, query["patch"])
        attribution = patch_map(explanation.queries, explanation.patch_grid, place, layer, head)
    else:
        readout = _readout(explanation, query)
        attribution = attention_map(explanation.rows[readout], layer, head, readout)
    attribution = replace(attribution, target=explanation.map.target)
    return replace(explanation, map=attribution, description=describe(attribution, explanation.prediction.spec))


def _readout(explanation: Explanation, query: dict[str, Any]) -> Readout:
    """The one that is asked for, or the model's default."""
    offered = explanation.prediction.spec.readouts
    return next((name for name in offered if name == query.get("readout")), offered[0])


def _patch(explanation: Explanation, size: tuple[int, int], place: Point | None) -> int:
    """The number of the patch at a place of the photo, or of the nearest one that the model saw; the middle one for None."""
    left, top, right, bottom = explanation.view.crop
    rows, columns = explanation.patch_grid
    x, y = (0.5, 0.5)
    if place is not None:
        x = (float(place[0]) * size[0] - left) / (right - left)
        y = (float(place[1]) * size[1] - top) / (bottom - top)
    row, column = min(max(int(y * rows), 0), rows - 1), min(max(int(x * columns), 0), columns - 1)
    return row * columns + column


def _index(value: Any, count: int) -> int:
    number = int(value)
    if not 0 <= number < count:
        raise OptionError(f"There is no number {number}: 0 to {count - 1} can be query for.")
    return number


def _bytes(explanation: Explanation) -> int:
    rows = sum(values.nbytes for values in explanation.rows.values())
    parts = [part for layer in explanation.queries for part in (layer.query, layer.key, layer.mask)]
    return 2000 + rows + sum(part.nbytes for part in parts if part is not None)
