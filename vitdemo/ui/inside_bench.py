"""The steps of the walk that change a photo or a network and ask again: knock-outs, rankings, perturbations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vitdemo.errors import OptionError, VitDemoError
from vitdemo.evaluation.robustness import photo_curves
from vitdemo.options.explain import ExplainRequest
from vitdemo.options.knockout import resolve_knockout, resolve_ranking
from vitdemo.options.perturbations import PERTURBATIONS, plan_of
from vitdemo.pipeline import Pipeline
from vitdemo.pipeline.ablate import ablate, rank_some
from vitdemo.pipeline.prepare import prepare
from vitdemo.types import Explanation, Knockout, ModelSpec, Photo
from vitdemo.ui.components.quantise import data_url, photo_url
from vitdemo.ui.inside_settings import InsideSettings
from vitdemo.ui.inside_views import View, bytes_json, labels_json

CHUNK = 16
"""Parts that are ranked for one request of the page, which can stop after each."""

INPUT = 224
"""Long side, in pixels, of pictures that models were shown."""


def apart_view(pipeline: Pipeline, photo: Photo, spec: ModelSpec, settings: InsideSettings) -> View:
    """Before and after a knock-out: labels, the score of the class predicted before, and both maps of the last layer.

    Raises:
        OptionError: the model cannot have this knock-out.
    """
    off = _possible(settings.knockout, spec, photo)
    if not off:
        now = pipeline.explain(photo, spec)
        labels = labels_json(now.prediction.labels)
        target = now.prediction.labels[0].index if labels else None
        return {"before": labels, "map": _map(now), "target": target}
    found = ablate(pipeline, photo, spec, off)
    return {
        "before": labels_json(found.before.prediction.labels),
        "after": labels_json(found.after.prediction.labels),
        "target": found.target,
        "class": "" if found.target is None else spec.labels[found.target],
        "scores": found.scores,
        "map": _map(found.before),
        "changed": _map(found.after),
        "agreement": found.agreement.rank_correlation if found.agreement else None,
        "seen": data_url(found.seen, "PNG") if found.seen else "",
        "notes": list(found.after.notes),
    }


def effects_json(
    pipeline: Pipeline, photo: Photo, spec: ModelSpec, settings: InsideSettings, given: dict[str, Any]
) -> dict[str, Any]:
    """Some of a ranking: see `vitdemo.pipeline.ablate.rank_some`.

    Args:
        given: `by`, `start` and `target`, as the page says.
    """
    by = resolve_ranking(str(given.get("by") or "heads")) or "heads"
    start, target = (_count(given.get(name), name) for name in ("start", "target"))
    target = min(target, len(spec.labels) - 1)
    # Where each call borrows a GPU, all are one.
    size = None if pipeline.backend.borrowed else start + CHUNK
    off = _possible(settings.knockout, spec, photo)
    effects, count = rank_some(pipeline, photo, spec, off, target, by, slice(start, size))
    found = [
        {
            "part": one.part,
            "layer": one.layer,
            "head": one.head,
            "score": one.score,
            "change": one.change,
            "label": one.label,
        }
        for one in effects
    ]
    return {"by": by, "start": start, "count": count, "effects": found}


def perturbed_views(pipeline: Pipeline, photo: Photo, specs: list[ModelSpec], settings: InsideSettings) -> list[View]:
    """A curve for each model."""
    kind, plan = PERTURBATIONS[settings.kind], plan_of([settings.kind])
    views: list[View] = []
    for spec in specs:
        view: View = {"model": spec.name, "family": spec.family, "unit": kind.unit, "source": kind.source}
        try:
            (curve,) = photo_curves(pipeline, photo, [spec], plan, seed=settings.seed)
        except VitDemoError as error:
            views.append({**view, "refused": str(error)})
            continue
        points = [
            {"strength": one.strength, "score": one.score, "label": one.label, "follows": one.follows}
            for one in curve.points
        ]
        pictures = [photo_url(picture, INPUT) for picture in curve.pictures]
        views.append({**view, "points": points, "target": curve.target, "pictures": pictures})
    return views


def _possible(off: Knockout, spec: ModelSpec, photo: Photo) -> Knockout:
    """Of parts that another model may have, those that this one has: the same switch is for both.

    Raises:
        OptionError: it has none of them, or all that attend would be off.
    """
    layers, heads = range(spec.num_layers), range(spec.num_heads)
    grid = prepare(photo, spec, ExplainRequest()).grid
    kept = replace(
        off,
        heads=tuple((layer, head) for layer, head in off.heads if layer in layers and head in heads),
        attention=tuple(layer for layer in off.attention if layer in layers),
        mlp=tuple(layer for layer in off.mlp if layer in layers),
        patches=tuple(patch for patch in off.patches if patch < grid[0] * grid[1]),
    )
    # Nothing is left where nothing fits: the words are those for what was asked.
    return resolve_knockout(kept or off, spec, grid)


def _count(given: Any, name: str) -> int:
    if not isinstance(given, int) or given < 0:
        raise OptionError(f"A ranking needs a whole number from 0 as its {name}.")
    return given


def _map(explanation: Explanation) -> dict[str, Any] | None:
    return None if explanation.map is None else bytes_json(explanation.map.values, 0)
