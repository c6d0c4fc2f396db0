"""Accuracy of a model on labelled photos, and how well a low score tells that a photo is of none of its classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vitdemo.datasets import BACKGROUND, label_of, read_files
from vitdemo.errors import ImageError, InputError
from vitdemo.images import open_image
from vitdemo.pipeline import Pipeline
from vitdemo.registry import read_json, write_json
from vitdemo.types import ModelSpec, Photo

WORST = 10
"""Pairs of classes that are listed as confused."""

KEPT = 85
"""Percent of the labelled photos that are to pass the threshold."""


@dataclass(frozen=True)
class Evaluation:
    """Figures of one model on one labelled set."""

    model: str
    photos: int
    top1: float
    top5: float
    mean_per_class: float
    """Mean over the classes of each class's share of right photos: rare classes count as much as common ones."""
    threshold: float
    kept: float
    """Share of the labelled photos whose best score reaches the threshold."""
    refused: float
    """Share of the background photos whose best score does not; NaN without such photos."""
    confusions: tuple[tuple[str, str, int], ...] = ()
    """The worst pairs: the right class, the one that was named, and how often."""


def read_labelled(path: Path) -> Iterator[tuple[str, Photo]]:
    """Label and photo of each readable file of a folder of class folders, a zip or a tar.

    Raises:
        InputError: the path is neither, or holds no photo.
    """
    found = False
    for name, data in read_files(path):
        try:
            photo = open_image(data)
        except ImageError:
            continue
        found = True
        yield label_of(name), photo
    if not found:
        raise InputError(f"{path.name} holds no photo in a class folder.")


def evaluate(pipeline: Pipeline, spec: ModelSpec, photos: Iterator[tuple[str, Photo]], batch: int = 32) -> Evaluation:
    """Classify every photo and count.

    Raises:
        InputError: the model has no classifier, or no photo has one of its labels.
    """
    if not spec.labels:
        raise InputError(f"{spec.name} has no classifier to evaluate.")
    truth, hits5, guesses, scores = [], [], [], []
    for chunk in _chunks(photos, batch):
        predictions = pipeline.classify([photo for _, photo in chunk], spec, top_k=5)
        for (label, _), prediction in zip(chunk, predictions, strict=True):
            truth.append(label)
            guesses.append(prediction.labels[0].label)
            hits5.append(label in [guess.label for guess in prediction.labels])
            scores.append(prediction.labels[0].score)
    labels, best = np.array(truth), np.array(scores)
    known = np.isin(labels, spec.labels)
    if not known.any():
        raise InputError(f"No photo has one of the {len(spec.labels)} labels of {spec.name}.")
    right = labels == np.array(guesses)
    background = labels == BACKGROUND
    per_class = [right[labels == label].mean() for label in np.unique(labels[known])]
    return Evaluation(
        model=spec.name,
        photos=int(known.sum()),
        top1=float(right[known].mean()),
        top5=float(np.array(hits5)[known].mean()),
        mean_per_class=float(np.mean(per_class)),
        threshold=spec.threshold,
        kept=float((best[known] >= spec.threshold).mean()),
        refused=float((best[background] < spec.threshold).mean()) if background.any() else float("nan"),
        confusions=tuple(
            (right_one, named, count)
            for (right_one, named), count in Counter(
                (one, other) for one, other, fine in zip(truth, guesses, right | ~known, strict=True) if not fine
            ).most_common(WORST)
        ),
    )


def _chunks(photos: Iterator[tuple[str, Photo]], size: int) -> Iterator[list[tuple[str, Photo]]]:
    chunk: list[tuple[str, Photo]] = []
    for item in photos:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def fit_threshold(pipeline: Pipeline, spec: ModelSpec, photos: Iterator[tuple[str, Photo]]) -> ModelSpec:
    """The score that 85% of the labelled photos reach, written into the model's `config.json`.

    The best softmax score is the usual first means to tell photos of unknown classes (Hendrycks & Gimpel 2017,
    arXiv:1610.02136). The share is a choice: fewer doubts about photos that are of a class, or more about those that are not.
    The photos must not be the ones that the figures in the card are measured on.
    """
    scores = []
    for chunk in _chunks(photos, 32):
        known = [photo for label, photo in chunk if label in spec.labels]
        if known:
            scores += [prediction.labels[0].score for prediction in pipeline.classify(known, spec)]
    if not scores:
        raise InputError(f"No photo has one of the {len(spec.labels)} labels of {spec.name}.")
    threshold = round(float(np.percentile(scores, 100 - KEPT)), 4)
    path = Path(spec.checkpoint) / "config.json"
    config = read_json(path)
    config.setdefault("vitdemo", {})["threshold"] = threshold
    write_json(path, config)
    return replace(spec, threshold=threshold)
