"""A choice as files: JSON, CSV, and labels. The report is in `report`, a probe as a model folder in `probe_folder`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitdemo.errors import InputError
from vitdemo.evaluation.choose.see import (
    cluster_agreement,
    clusters,
    confusions,
    disagreements,
    near_duplicates,
    outliers,
    similarity,
)
from vitdemo.evaluation.choose.types import Accuracy, Candidate, Choice, Localization
from vitdemo.pipeline.batch import cell
from vitdemo.settings import VERSION

COLUMNS = (
    *("model", "family", "probe_accuracy", "probe_low", "probe_high", "knn_accuracy", "knn_low", "knn_high"),
    *(
        "own_accuracy",
        "own_low",
        "own_high",
        "own_classes",
        "ece",
        "ms_alone",
        "ms_batched",
        "memory",
        "parameters",
        "bytes",
    ),
    *("dimensions", "license", "energy", "iou", "distance", "area", "best_heads", "pareto", "device", "dtype", "error"),
)
"""Of the CSV."""


def choice_json(choice: Choice) -> dict[str, Any]:
    """What `vitdemo choose --json` prints; docs/choose.md has the schema."""
    alive = list(choice.features)
    names, cka = similarity(choice) if alive else ((), None)
    return {
        "vitdemo": VERSION,
        "data": [path.name for path in choice.request.data],
        "photos": len(choice.photos),
        "classes": list(choice.classes),
        "folds": choice.request.folds,
        "k": choice.request.k,
        "strength": choice.request.strength,
        "seed": choice.request.seed,
        "machine": choice.machine,
        "batch": choice.batch,
        "seconds": _rounded(choice.seconds),
        "forward_seconds": _rounded(choice.forward_seconds),
        "verdict": {
            "sentence": choice.verdict.sentence,
            "rests_on": choice.verdict.rests_on,
            "best": choice.verdict.best,
            "recommended": choice.verdict.recommended,
        },
        "models": [_row(one, choice) for one in choice.candidates],
        "similarity": {"models": list(names), "cka": [] if cka is None else _rounded(cka.tolist())},
        "disagreements": [
            {"photo": choice.photos[one.photo].name, "score": _rounded(one.score), "answers": dict(one.answers)}
            for one in (disagreements(choice) if len(alive) > 1 else [])
        ],
        "unlabelled": None if choice.labelled or not alive else _unlabelled(choice),
        "skipped": list(choice.skipped),
        "notes": list(choice.notes),
    }


def _row(row: Candidate, choice: Choice) -> dict[str, Any]:
    return {
        "model": row.model,
        "family": row.family,
        "probe": _accuracy(row.probe),
        "fold_accuracies": _rounded(list(row.fold_accuracies)),
        "knn": _accuracy(row.knn),
        "own": None if row.own is None else {**(_accuracy(row.own) or {}), "classes": row.own_classes},
        "ece": _rounded(row.ece),
        "ms_alone": _rounded(row.ms_alone),
        "ms_batched": _rounded(row.ms_batched),
        "memory": row.memory,
        "parameters": row.parameters,
        "bytes": row.bytes,
        "dimensions": row.dimensions,
        "license": row.license,
        "localization": _localization(row.localization),
        "pareto": row.pareto,
        "device": row.device,
        "dtype": row.dtype,
        "confusions": [
            {"truth": one.truth, "answer": one.answer, "photos": [choice.photos[photo].name for photo in one.photos]}
            for one in confusions(choice, row.model)
        ],
        "error": row.error,
    }


def _accuracy(found: Accuracy | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {"accuracy": _rounded(found.value), "interval": _rounded([found.low, found.high]), "photos": found.photos}


def _localization(found: Localization | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "method": found.method,
        "photos": found.photos,
        "energy": _rounded(found.energy),
        "iou": _rounded(found.iou),
        "distance": _rounded(found.distance),
        "area": _rounded(found.area),
        "heads": {
            "energy": _rounded(found.heads_energy.tolist()),
            "iou": _rounded(found.heads_iou.tolist()),
            "distance": _rounded(found.heads_distance.tolist()),
        },
        "best_heads": [
            {"layer": layer, "head": head, "energy": _rounded(energy), "iou": _rounded(iou)}
            for layer, head, energy, iou in found.best()
        ],
    }


def _unlabelled(choice: Choice) -> dict[str, Any]:
    found: dict[str, Any] = {"clusters": {}, "near_duplicates": {}, "outliers": {}}
    names = [photo.name for photo in choice.photos]
    for model in choice.features:
        if len(choice.photos) > 2:
            made = clusters(choice, model)
            found["clusters"][model] = {
                "number": made.number,
                "silhouette": _rounded(made.silhouette),
                "assigned": {name: int(one) for name, one in zip(names, made.assigned, strict=True)},
            }
        found["near_duplicates"][model] = [
            {"photos": [names[one], names[other]], "cosine": _rounded(cosine)}
            for one, other, cosine in near_duplicates(choice, model)
        ]
        found["outliers"][model] = [
            {"photo": names[photo], "distance": _rounded(distance)} for photo, distance in outliers(choice, model)
        ]
    if len(choice.photos) > 2:
        models, index = cluster_agreement(choice)
        found["agreement"] = {"models": list(models), "adjusted_rand": _rounded(index.tolist())}
    return found


def choice_csv(choice: Choice) -> str:
    """One line per model; what was not measured is empty."""
    return _csv(COLUMNS, [_line(row) for row in choice.candidates])


def _line(row: Candidate) -> list[Any]:
    def three(found: Accuracy | None) -> list[Any]:
        return [None] * 3 if found is None else [found.value, found.low, found.high]

    place = row.localization
    heads = "" if place is None else " ".join(f"{layer}.{head}" for layer, head, _, _ in place.best())
    return [
        *(row.model, row.family, *three(row.probe), *three(row.knn), *three(row.own), row.own_classes or None, row.ece),
        *(row.ms_alone, row.ms_batched, row.memory, row.parameters, row.bytes, row.dimensions, row.license),
        *((None,) * 4 if place is None else (place.energy, place.iou, place.distance, place.area)),
        *(heads, str(row.pareto).lower(), row.device, row.dtype, row.error),
    ]


def photos_csv(choice: Choice) -> str:
    """One line per photo: name, label, and each model's answer, or, without labels, its cluster."""
    models = list(choice.answers) if choice.labelled else list(choice.features) if len(choice.photos) > 2 else []
    lines: list[list[Any]] = []
    found = {} if choice.labelled else {model: clusters(choice, model).assigned for model in models}
    for number, photo in enumerate(choice.photos):
        label = choice.classes[choice.labels[number]] if choice.labelled and choice.labels[number] >= 0 else ""
        if choice.labelled:
            answers: list[Any] = [_named(choice, int(choice.answers[model].probe[number])) for model in models]
        else:
            answers = [int(found[model][number]) for model in models]
        lines.append([photo.name, label, *answers])
    return _csv(("file", "label", *models), lines)


def _named(choice: Choice, answer: int) -> str:
    return choice.classes[answer] if answer >= 0 else ""


def labels_csv(labels: Mapping[str, str]) -> str:
    """`file,label` lines, with a head."""
    return _csv(("file", "label"), [list(item) for item in labels.items()])


def labels_json(labels: Mapping[str, str]) -> str:
    """One object: file name to label."""
    return json.dumps(dict(labels), indent=1, ensure_ascii=False) + "\n"


def read_labels(path: Path) -> dict[str, str]:
    """Labels as `labels_csv` or `labels_json` writes them.

    Raises:
        InputError: the file is neither.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if text.lstrip().startswith("{"):
            content = json.loads(text)
            found = {str(name): str(label) for name, label in content.items() if isinstance(label, str)}
        else:
            rows = csv.DictReader(io.StringIO(text))
            found = {_plain(row["file"]): _plain(row["label"]) for row in rows if row.get("label")}
    except OSError as error:
        raise InputError(f"{path.name} cannot be read: {error.strerror}.") from None
    except (KeyError, ValueError, RecursionError, csv.Error):
        found = {}
    if not found:
        raise InputError(
            f"{path.name} holds no labels: give a CSV with the columns file and label, or a JSON object of them."
        )
    return found


def _plain(text: str) -> str:
    """Without the mark that keeps a spreadsheet from computing it."""
    return text[1:] if text.startswith("'") and cell(text[1:]) == text else text


def _csv(columns: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow([cell(column) for column in columns])
    writer.writerows([[value if isinstance(value, int) else cell(value) for value in line] for line in lines])
    return buffer.getvalue()


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    if not isinstance(value, float):
        return value
    return round(value, 4) if value == value else None
