"""Results as JSON and NPZ: one format for the command line, the HTTP API and downloads."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitdemo.types import (
    Agreement,
    Box,
    Comparison,
    Explanation,
    Faithfulness,
    ModelSpec,
    Prediction,
    Reconstruction,
    Segmentation,
)


def model_json(spec: ModelSpec) -> dict[str, Any]:
    """One entry of `models`."""
    return {
        "name": spec.name,
        "family": spec.family,
        "source": spec.source,
        "parameters": spec.parameters,
        "image_size": list(spec.image_size),
        "patch_size": spec.patch_size,
        "classes": spec.num_classes,
        "bytes": spec.bytes,
        "offline": spec.ready,
        "prefix_tokens": spec.num_prefix_tokens,
        "methods": list(spec.methods),
        "license": spec.license,
        "revision": spec.revision,
        "link": spec.link,
        "gated": bool(spec.gated),
    }


def prediction_json(prediction: Prediction) -> dict[str, Any]:
    """One entry of `results` of `classify`."""
    result: dict[str, Any] = {
        "model": prediction.spec.name,
        "family": prediction.spec.family,
        "labels": [{"label": label.label, "score": label.score} for label in prediction.labels],
        "ms": prediction.milliseconds,
        "device": prediction.device,
        "dtype": prediction.dtype,
    }
    notes = [note for note in (prediction.spec.note, *prediction.notes) if note]
    if not prediction.labels:
        notes.append("no classifier: self-supervised")
    if prediction.uncovered:
        notes.append(f"probably not one of this model's {len(prediction.spec.labels)} classes")
    if notes:
        result["note"] = "; ".join(notes)
    return result


def explanation_json(explanation: Explanation) -> dict[str, Any]:
    """Output of `explain`."""
    prediction, attribution = explanation.prediction, explanation.map
    spec = prediction.spec
    result: dict[str, Any] = {
        "model": spec.name,
        "method": attribution.method if attribution else None,
        "layer": attribution.layer if attribution else None,
        "head": attribution.head if attribution else None,
        "readout": attribution.readout if attribution else None,
        "target": None,
        "grid": list(explanation.patch_grid),
        "crop": list(explanation.view.crop),
        "min": attribution.low if attribution else None,
        "max": attribution.high if attribution else None,
        "description": explanation.description,
        "results": [prediction_json(prediction)],
        "ms": prediction.milliseconds,
        "device": prediction.device,
        "dtype": prediction.dtype,
        "revision": spec.revision,
    }
    if attribution is not None and attribution.target is not None:
        result["target"] = {"index": attribution.target, "label": spec.labels[attribution.target]}
    if attribution is not None and attribution.variant:
        result["variant"] = attribution.variant
    if attribution is not None and attribution.query is not None:
        result["patch"] = list(attribution.query)
    if explanation.notes:
        result["note"] = " ".join(explanation.notes)
    return result


def faithfulness_json(found: Faithfulness) -> dict[str, Any]:
    """Curves and areas under them: deletion, insertion and the random baseline."""
    return {
        "method": found.method,
        "target": found.target,
        "shares": list(found.shares),
        "deletion": list(found.deletion),
        "insertion": list(found.insertion),
        "random": list(found.random),
        "deletion_auc": found.deletion_auc,
        "insertion_auc": found.insertion_auc,
        "random_auc": found.random_auc,
    }


def reconstruction_json(found: Reconstruction, ratio: float, seed: int) -> dict[str, Any]:
    """Output of `reconstruct`."""
    result: dict[str, Any] = {
        "model": found.spec.name,
        "grid": list(found.hidden.shape),
        "crop": list(found.view.crop),
        "ratio": ratio,
        "seed": seed,
        "patches": int(found.hidden.size),
        "hidden": int(found.hidden.sum()),
        "ms": found.milliseconds,
        "device": found.device,
        "dtype": found.dtype,
        "revision": found.spec.revision,
    }
    return {**result, "note": " ".join(found.notes)} if found.notes else result


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Output of `compare`."""
    return {
        "results": [explanation_json(explanation) for explanation in comparison.explanations],
        "agreement": [_agreement_json(pair, comparison) for pair in comparison.agreement],
    }


def _agreement_json(pair: Agreement, comparison: Comparison) -> dict[str, Any]:
    if pair.same_label is not None:
        prediction = "same label" if pair.same_label else "different labels"
    else:
        named = {item.prediction.spec.name: item.prediction for item in comparison.explanations}
        labelled = all(named[name].labels for name in pair.models)
        prediction = "different vocabularies" if labelled else "no classifier"
    return {
        "models": list(pair.models),
        "prediction": prediction,
        "rank_correlation": pair.rank_correlation,
        "iou": pair.overlap,
    }


def segmentation_json(found: Segmentation) -> dict[str, Any]:
    """Output of `segment`. Areas are shares of the crop; boxes and points are in pixels of the upright photo."""
    crop = found.view.crop
    result: dict[str, Any] = {
        "model": found.spec.name,
        "method": found.method,
        "parameters": dict(found.parameters),
        "grid": list(found.patches.shape[1:]),
        "crop": list(crop),
        "masks": [
            {"name": name, "area": area, "box": list(box) if (box := box_of(mask, crop)) else None}
            for name, area, mask in zip(found.names, found.areas, found.masks, strict=True)
        ],
        "ms": found.milliseconds,
        "device": found.device,
        "dtype": found.dtype,
        "revision": found.spec.revision,
    }
    if found.parameters.get("point") is not None:
        result["parameters"]["point"] = list(found.parameters["point"])
    if found.method == "similarity":
        result["matches"] = [
            {"box": list(_moved(box, crop)), "cosine": score}
            for box, score in zip(found.boxes, found.scores, strict=True)
        ]
        result["pairs"] = [
            {"first": list(pair.first), "here": list(pair.second), "cosine": pair.score} for pair in found.pairs
        ]
    if found.features:
        result |= {"features": found.features, "tau_from": found.tau_from}
    if found.outliers is not None and found.outliers.any():
        result["outliers"] = np.argwhere(found.outliers).tolist()
    if found.notes:
        result["note"] = " ".join(found.notes)
    return result


def box_of(mask: NDArray[np.bool_], crop: Box) -> Box | None:
    """Bounding box of a mask of the crop, in pixels of the photo; None for an empty mask.

    >>> box_of(np.array([[False, True], [False, True]]), crop=(10, 20, 12, 22))
    (11, 20, 12, 22)
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return _moved((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1), crop)


def _moved(box: Box, crop: Box) -> Box:
    left, top = crop[:2]
    return box[0] + left, box[1] + top, box[2] + left, box[3] + top


def npz(explanation: Explanation, meta: dict[str, Any]) -> bytes:
    """NPZ file with `map` `[h, w]`, `rows` `[L, H, h, w]` of the class token, `crop` in pixels, and `meta` as a JSON string."""
    arrays: dict[str, Any] = {"crop": np.asarray(explanation.view.crop), "meta": np.asarray(json.dumps(meta))}
    if explanation.map is not None:
        arrays["map"] = explanation.map.values.astype(np.float32)
    if "class" in explanation.rows:
        arrays["rows"] = explanation.rows["class"].astype(np.float32)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def save_npz(path: Path, explanation: Explanation, meta: dict[str, Any]) -> None:
    """Write `npz` to a file."""
    path.write_bytes(npz(explanation, meta))
