"""What the Choose tab shows of a result, as JSON for the browser: photos as numbers, pictures only of those that are seen."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitdemo.errors import OptionError
from vitdemo.evaluation.choose import (
    Accuracy,
    Candidate,
    Choice,
    cluster_agreement,
    clusters,
    confusions,
    coordinates,
    disagreements,
    labels_of,
    near_duplicates,
    neighbours,
    outliers,
    similarity,
)
from vitdemo.ui.choose_settings import projections

View = dict[str, Any]

THUMBNAILS = 64
"""Photos whose pictures one question may ask for."""

SHOWN = 200
"""Files that could not be read, by name; the rest is counted."""

CONFUSED = 12
"""Photos of a confusion that are shown."""

PAIRS = 60
"""Near duplicates that are shown."""


def result_view(choice: Choice, number: int) -> View:
    """All that is drawn before anything is looked into.

    Args:
        number: of the comparison, by which the browser knows it.
    """
    return {
        "number": number,
        "labelled": choice.labelled,
        "count": len(choice.photos),
        "classes": list(choice.classes),
        "labels": _packed(choice.labels, "<i2"),
        "unlabelled": int((choice.labels < 0).sum()),
        "verdict": asdict(choice.verdict),
        "candidates": [candidate_view(one) for one in choice.candidates],
        "featured": [one.model for one in choice.candidates if one.model in choice.features],
        "skipped": list(choice.skipped[:SHOWN]),
        "skipped_count": len(choice.skipped),
        "notes": list(choice.notes),
        "machine": choice.machine,
        "batch": choice.batch,
        "seconds": choice.seconds,
        "folds": choice.request.folds,
        "k": choice.request.k,
        "projections": projections(),
    }


def candidate_view(one: Candidate) -> View:
    """One row of the table."""
    found = one.localization
    return {
        "model": one.model,
        "family": one.family,
        "parameters": one.parameters,
        "bytes": one.bytes,
        "license": one.license,
        "dimensions": one.dimensions,
        "knn": _accuracy(one.knn),
        "probe": _accuracy(one.probe),
        "own": _accuracy(one.own),
        "own_classes": one.own_classes,
        "ece": _finite(one.ece),
        "alone": _finite(one.ms_alone),
        "batched": _finite(one.ms_batched),
        "memory": one.memory,
        "pareto": one.pareto,
        "device": one.device,
        "dtype": one.dtype,
        "error": one.error,
        "inside": None
        if found is None
        else {
            "photos": found.photos,
            "energy": _finite(found.energy),
            "iou": _finite(found.iou),
            "distance": _finite(found.distance),
            "area": _finite(found.area),
            "best": [[layer, head, _finite(energy), _finite(iou)] for layer, head, energy, iou in found.best()],
        },
    }


def view_of(choice: Choice, query: Mapping[str, Any]) -> View:
    """What a question of the page is answered with.

    Raises:
        OptionError: something of it is not in the result.
        KeyError, TypeError, ValueError: it is no question.
    """
    return _VIEWS[str(query["action"])](choice, query)


def _map(choice: Choice, query: Mapping[str, Any]) -> View:
    model, projection = _model(choice, query), str(query.get("projection") or "pca")
    if projection not in projections():
        raise OptionError("t-SNE needs scikit-learn on the server: pip install 'vitdemo[choose]'.")
    places = coordinates(choice, model, "t-sne" if projection == "t-sne" else "pca")
    found: View = {"places": _packed(np.clip(places, -1, 1) * 32767, "<i2")}
    if model in choice.answers:
        found["answers"] = _packed(choice.answers[model].probe, "<i2")
    return found


def _agreement(choice: Choice, query: Mapping[str, Any]) -> View:
    """How much models differ on every photo, as shares in bytes."""
    scores = np.zeros(len(choice.photos))
    for one in disagreements(choice, _pair(choice, query), len(choice.photos)):
        scores[one.photo] = one.score
    return {"scores": _packed(scores * 255, "u1")}


def _photos(choice: Choice, query: Mapping[str, Any]) -> View:
    numbers = [_photo(choice, number) for number in query["photos"][:THUMBNAILS]]
    return {"photos": {str(number): _card(choice, number) for number in numbers}}


def _neighbours(choice: Choice, query: Mapping[str, Any]) -> View:
    photo = _photo(choice, query["photo"])
    return {
        "models": {
            model: [[one.photo, _finite(one.cosine)] for one in neighbours(choice, model, photo)]
            for model in _pair(choice, query)
        },
        "answers": {
            model: choice.classes[answer]
            for model, answers in choice.answers.items()
            if (answer := int(answers.probe[photo])) >= 0
        },
    }


def _confusions(choice: Choice, query: Mapping[str, Any]) -> View:
    return {
        "models": {
            model: [
                {
                    "truth": one.truth,
                    "answer": one.answer,
                    "count": len(one.photos),
                    "photos": list(one.photos[:CONFUSED]),
                }
                for one in confusions(choice, model)
            ]
            for model in _pair(choice, query)
        }
    }


def _differences(choice: Choice, query: Mapping[str, Any]) -> View:
    found = disagreements(choice, _pair(choice, query) if query.get("models") else None)
    return {
        "photos": [
            {"photo": one.photo, "score": _finite(one.score), "answers": dict(one.answers)}
            for one in found
            if one.score > 0
        ]
    }


def _clusters(choice: Choice, query: Mapping[str, Any]) -> View:
    model, asked = _model(choice, query), _clusters_asked(query)
    found = clusters(choice, model, asked)
    names, agreement = cluster_agreement(choice, asked)
    return {
        "model": model,
        "assigned": _packed(found.assigned, "<i2"),
        "sizes": np.bincount(found.assigned, minlength=found.number).tolist(),
        "silhouette": _finite(found.silhouette),
        "central": [list(photos) for photos in found.central],
        "proposed": _proposed(choice, found.assigned, found.number),
        "names": list(names),
        "agreement": agreement.round(4).tolist(),
    }


def _proposed(choice: Choice, assigned: NDArray[np.int64], number: int) -> list[str]:
    """The class that most photos of a cluster have, where they have any."""
    found = []
    for cluster in range(number):
        labels = choice.labels[(assigned == cluster) & (choice.labels >= 0)]
        found.append(choice.classes[int(np.bincount(labels).argmax())] if len(labels) else "")
    return found


def _unusual(choice: Choice, query: Mapping[str, Any]) -> View:
    model = _model(choice, query)
    pairs = near_duplicates(choice, model)
    names, alike = similarity(choice)
    return {
        "pairs": [[first, second, _finite(cosine)] for first, second, cosine in pairs[:PAIRS]],
        "pairs_count": len(pairs),
        "outliers": [[photo, _finite(distance)] for photo, distance in outliers(choice, model)],
        "names": list(names),
        "similarity": alike.round(4).tolist(),
    }


_VIEWS = {
    "map": _map,
    "agreement": _agreement,
    "photos": _photos,
    "neighbours": _neighbours,
    "confusions": _confusions,
    "differences": _differences,
    "clusters": _clusters,
    "unusual": _unusual,
}
VIEWS = tuple(_VIEWS)
"""What a page may ask of its result."""


def named(choice: Choice, query: Mapping[str, Any]) -> dict[str, str]:
    """File name to label, from the names of clusters.

    Raises:
        OptionError: no cluster has a name.
    """
    names = [" ".join(str(name).split())[:100] for name in query["names"]]
    found = clusters(choice, _model(choice, query), _clusters_asked(query))
    labels = labels_of(choice, found, names)
    if not labels:
        raise OptionError("Name at least one cluster.")
    return labels


def _clusters_asked(query: Mapping[str, Any]) -> int | None:
    """How many clusters; None leaves it to the features."""
    number = query.get("clusters")
    if number is None or number == "":
        return None
    if not 2 <= int(number) <= 100:
        raise OptionError("The number of clusters must be from 2 to 100, or left open.")
    return int(number)


def _card(choice: Choice, number: int) -> View:
    picture, label = choice.thumbnails(number), int(choice.labels[number])
    return {
        "src": f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}" if picture else "",
        "name": PurePosixPath(choice.photos[number].name).name,
        "label": choice.classes[label] if label >= 0 else "",
    }


def _model(choice: Choice, query: Mapping[str, Any]) -> str:
    name = str(query["model"])
    if name not in choice.features:
        raise OptionError("This model has no features in the result. Choose another one.")
    return name


def _pair(choice: Choice, query: Mapping[str, Any]) -> list[str]:
    return [_model(choice, {"model": name}) for name in dict.fromkeys(query["models"])][:16]


def _photo(choice: Choice, number: Any) -> int:
    if not isinstance(number, int) or not 0 <= number < len(choice.photos):
        raise OptionError("There is no such photo in the result.")
    return number


def _accuracy(one: Accuracy | None) -> View | None:
    return None if one is None else {"value": one.value, "low": one.low, "high": one.high, "photos": one.photos}


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _packed(values: NDArray[Any], kind: str) -> str:
    """Numbers as base64: of 10,000 photos they are a fifth of their text."""
    return base64.b64encode(np.asarray(values).round().astype(kind).tobytes()).decode()
