"""Accuracy of a model on labelled photos, and the calibration of its scores.

Calibration is measured on one half of the photos, chosen by their digests; temperature and threshold are fitted on the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from vitdemo.errors import ImageError, InputError
from vitdemo.images.class_folders import BACKGROUND, label_of, read_files
from vitdemo.images.open import open_image
from vitdemo.pipeline import Pipeline
from vitdemo.registry import read_json, write_json
from vitdemo.types import ModelSpec, Photo
from vitdemo.types.labels import class_called

WORST = 10
"""Number of confused pairs of classes that are listed."""

MIN_KEPT = 75
"""Percentage of the labelled photos that must pass the threshold: a warning on most photos would be ignored."""

BINS = 15
"""Equal-width bins of the calibration error, as in Guo et al. 2017."""


@dataclass(frozen=True)
class Evaluation:
    """Figures of one model on one labelled set."""

    model: str
    photos: int
    top1: float
    top5: float
    mean_per_class: float
    """Mean of the per-class accuracies: rare classes count as much as common ones."""
    ece: float
    """Expected calibration error, 0 to 1, of the top score of the labelled photos of the measured half."""
    temperature: float
    threshold: float
    kept: float
    """Share of the labelled photos of the measured half whose top score reaches the threshold."""
    refused: float
    """Share of its background photos whose top score does not; NaN without such photos."""
    auroc: float
    """Probability that a labelled photo of that half has a higher top score than a background photo; NaN without such photos."""
    confusions: tuple[tuple[str, str, int], ...] = ()
    """The most frequent errors: true class, predicted class, count."""


def read_labelled(path: Path) -> Iterator[tuple[str, Photo]]:
    """Label and photo of each readable file of a folder, zip or tar with one folder per class.

    Raises:
        InputError: the path is none of these, or holds no photo.
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
    """Classify every photo and compute the figures.

    Raises:
        InputError: the model has no classifier, or no photo has one of its labels.
    """
    if not spec.labels:
        raise InputError(f"{spec.name} has no classifier to evaluate.")
    truth, top5, predicted, scores, measured = [], [], [], [], []
    for chunk in _chunks(photos, batch):
        predictions = pipeline.classify([photo for _, photo in chunk], spec, top_k=5)
        for (label, photo), prediction in zip(chunk, predictions, strict=True):
            truth.append(class_called(label, spec.labels))
            measured.append(not _fitted_on(photo))
            predicted.append(prediction.labels[0].label)
            top5.append(truth[-1] in [found.label for found in prediction.labels])
            scores.append(prediction.labels[0].score)
    labels, top, held_out = np.array(truth), np.array(scores), np.array(measured)
    known = np.isin(labels, spec.labels)
    if not known.any():
        raise InputError(f"No photo has one of the {len(spec.labels)} labels of {spec.name}.")
    correct = labels == np.array(predicted)
    background = labels == BACKGROUND
    per_class = [correct[labels == label].mean() for label in np.unique(labels[known])]
    return Evaluation(
        model=spec.name,
        photos=int(known.sum()),
        top1=float(correct[known].mean()),
        top5=float(np.array(top5)[known].mean()),
        mean_per_class=float(np.mean(per_class)),
        ece=calibration_error(top[known & held_out], correct[known & held_out]),
        temperature=spec.temperature,
        threshold=spec.threshold,
        kept=_share(top[known & held_out] >= spec.threshold),
        refused=_share(top[background & held_out] < spec.threshold),
        auroc=auroc(top[known & held_out], top[background & held_out]),
        confusions=tuple(
            (label, prediction, count)
            for (label, prediction), count in Counter(
                pair
                for pair, fine in zip(zip(truth, predicted, strict=True), correct | ~known, strict=True)
                if not fine
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


def calibration_error(scores: NDArray[np.float64], correct: NDArray[np.bool_]) -> float:
    """Expected calibration error: mean gap between accuracy and score over equal-width bins, weighted by count; NaN if empty.

    Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning".

    Args:
        scores: `[N]`, the top score of each photo.
        correct: `[N]`, whether its class is the photo's label.

    >>> float(calibration_error(np.array([0.9, 0.9, 0.3, 0.3]), np.array([True, True, False, True])))
    0.15
    """
    if not len(scores):
        return float("nan")
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    gaps = [
        abs(correct[bins == one].mean() - scores[bins == one].mean()) * (bins == one).sum() for one in np.unique(bins)
    ]
    return round(float(sum(gaps) / len(scores)), 12)


def auroc(scores: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Area under the ROC curve: the probability that one of `scores` exceeds one of `others`, ties counting half. NaN if empty.

    >>> float(auroc(np.array([0.9, 0.5]), np.array([0.5, 0.1])))
    0.875
    """
    if not len(scores) or not len(others):
        return float("nan")
    ordered = np.sort(others)
    below = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
    return float(below.mean() / (2 * len(others)))


def calibrate(pipeline: Pipeline, spec: ModelSpec, photos: Iterator[tuple[str, Photo]]) -> ModelSpec:
    """Fit temperature and threshold on the half of the photos that `evaluate` leaves out, and write them to `config.json`.

    The temperature minimises the negative log-likelihood (Guo et al. 2017, arXiv:1706.04599). The threshold separates the top
    scores of labelled photos from those of background photos (Hendrycks & Gimpel 2017, arXiv:1610.02136) with the smallest sum of
    both error rates, but at least three in four labelled photos pass; without background photos it is 0.

    Raises:
        InputError: no photo of that half has one of the model's labels.
    """
    known_scores, truth, background_scores = [], [], []
    for chunk in _chunks(((label, photo) for label, photo in photos if _fitted_on(photo)), 32):
        predictions = pipeline.classify([photo for _, photo in chunk], spec, top_k=len(spec.labels))
        for (label, _), prediction in zip(chunk, predictions, strict=True):
            scores = np.zeros(len(spec.labels))
            scores[[found.index for found in prediction.labels]] = [found.score for found in prediction.labels]
            if label in spec.labels:
                known_scores.append(scores)
                truth.append(spec.labels.index(label))
            elif label == BACKGROUND:
                background_scores.append(scores)
    if not known_scores:
        raise InputError(f"No photo has one of the {len(spec.labels)} labels of {spec.name}.")
    # Logits up to a constant, which softmax ignores.
    logits = spec.temperature * np.log(np.maximum(np.array([*known_scores, *background_scores]), 1e-30))
    known = np.arange(len(logits)) < len(known_scores)

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(logits[known] / np.exp(log_temperature), axis=1)[np.arange(len(truth)), truth].mean())

    temperature = round(float(np.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded").x)), 4)
    top = np.exp(log_softmax(logits / temperature, axis=1)).max(axis=1)
    threshold = 0.0
    if background_scores:
        candidates = np.unique(top)
        errors = [(top[known] < one).mean() + (top[~known] >= one).mean() for one in candidates]
        separating = candidates[int(np.argmin(errors))]
        threshold = round(float(min(separating, np.percentile(top[known], 100 - MIN_KEPT))), 4)
    path = Path(spec.checkpoint) / "config.json"
    config = read_json(path)
    config.setdefault("vitdemo", {}).update(temperature=temperature, threshold=threshold)
    write_json(path, config)
    return replace(spec, temperature=temperature, threshold=threshold)


def _fitted_on(photo: Photo) -> bool:
    return int(photo.digest[-1], 16) % 2 == 0


def _share(values: NDArray[np.bool_]) -> float:
    return float(values.mean()) if len(values) else float("nan")
