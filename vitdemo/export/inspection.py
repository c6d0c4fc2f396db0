"""Knock-outs and layers' answers as JSON and NPZ: one format for the command line and the HTTP API."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

from vitdemo.export.results import explanation_json, prediction_json
from vitdemo.types import Ablation, Effect, Knockout, LayerAnswers, ModelSpec


def ablation_json(found: Ablation, top: int | None = None) -> dict[str, Any]:
    """Output of `ablate`; `top` is how many parts of the ranking it has, all of them if not given."""
    spec = found.before.prediction.spec
    result: dict[str, Any] = {
        "model": spec.name,
        "knockout": knockout_json(found.knockout),
        "target": _class(found.target, spec),
        "score": None,
        "before": explanation_json(found.before),
        "after": explanation_json(found.after),
        "same_label": found.agreement.same_label,
        "rank_correlation": found.agreement.rank_correlation,
        "iou": found.agreement.overlap,
    }
    if found.scores is not None:
        before, after = found.scores
        result["score"] = {"before": before, "after": after, "change": after - before}
    if found.ranking:
        result["ranking"] = [_effect(effect) for effect in found.ranking[:top]]
    return result


def knockout_json(knockout: Knockout) -> dict[str, Any]:
    """What is off, and how patches are filled if some are hidden."""
    return {
        "heads": [list(head) for head in knockout.heads],
        "attention": list(knockout.attention),
        "mlp": list(knockout.mlp),
        "patches": list(knockout.patches),
        "fill": knockout.fill if knockout.patches else None,
    }


def ablation_npz(found: Ablation, meta: dict[str, Any]) -> bytes:
    """NPZ file with `before` and `after`, maps `[h, w]`, absent where there is none; `crop` in pixels; `meta`, a JSON string."""
    arrays: dict[str, Any] = {"crop": np.asarray(found.before.view.crop), "meta": np.asarray(json.dumps(meta))}
    for name, explanation in (("before", found.before), ("after", found.after)):
        if explanation.map is not None:
            arrays[name] = explanation.map.values.astype(np.float32)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def lens_json(found: LayerAnswers) -> dict[str, Any]:
    """Output of `lens`. Of each layer: its best labels, the score of the target, and what its patches alone say."""
    prediction = found.prediction
    spec = prediction.spec
    layers = []
    for layer, (labels, score) in enumerate(zip(found.labels, found.scores, strict=True)):
        values, best = found.patches[layer], found.best[layer]
        strongest = np.unravel_index(int(values.argmax()), values.shape)
        layers.append(
            {
                "layer": layer,
                "labels": [{"label": label.label, "score": label.score} for label in labels],
                "score": score,
                "patches": {
                    "share": float((best == found.target).mean()),
                    "mean": float(values.mean()),
                    "max": float(values.max()),
                    "strongest": [int(place) for place in strongest],
                },
            }
        )
    result: dict[str, Any] = {
        "model": spec.name,
        "target": _class(found.target, spec),
        "decided": found.decided,
        "layers": layers,
        "grid": list(found.patches.shape[1:]),
        "crop": list(found.view.crop),
        "results": [prediction_json(prediction)],
        "revision": spec.revision,
    }
    return {**result, "note": " ".join(found.notes)} if found.notes else result


def lens_npz(found: LayerAnswers, meta: dict[str, Any]) -> bytes:
    """NPZ file with `scores` `[L]`, `patches` and `best` `[L, h, w]`, `crop` in pixels, and `meta` as a JSON string."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        scores=np.asarray(found.scores, dtype=np.float32),
        patches=found.patches,
        best=found.best,
        crop=np.asarray(found.view.crop),
        meta=np.asarray(json.dumps(meta)),
    )
    return buffer.getvalue()


def _class(index: int | None, spec: ModelSpec) -> dict[str, Any] | None:
    return None if index is None else {"index": index, "label": spec.labels[index]}


def _effect(effect: Effect) -> dict[str, Any]:
    result: dict[str, Any] = {"part": effect.part, "layer": effect.layer}
    if effect.head is not None:
        result["head"] = effect.head
    return {**result, "score": effect.score, "change": effect.change, "label": effect.label}
