"""Accuracy of a model on labelled photos, and how well its scores tell how sure it may be.

Whatever is about scores is measured on one half of the photos, told by their digests; what is fitted is fitted on the other.
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

WORST = 10
"""Pairs of classes that are listed as confused."""

KEPT = 75
"""Percent of the labelled photos that pass the threshold at least: who is doubted most of the time stops listening."""

BINS = 15
"""Of equal width, in which scores are compared with accuracy: as in Guo et al. 2017."""


@dataclass(frozen=True)
class Evaluation:
    """Figures of one model on one labelled set."""

    model: str
    photos: int
    top1: float
    top5: float
    mean_per_class: float
    """Mean over the classes of each class's share of right photos: rare classes count as much as common ones."""
    ece: float
    """Expected calibration error, 0 to 1, of the best score of the labelled photos of the measured half."""
    temperature: float
    threshold: float
    kept: float
    """Share of the labelled photos of the measured half whose best score reaches the threshold."""
    refused: float
    """Share of its background photos whose best score does not; NaN without such photos."""
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
    truth, hits5, guesses, scores, measured = [], [], [], [], []
    for chunk in _chunks(photos, batch):
        predictions = pipeline.classify([photo for _, photo in chunk], spec, top_k=5)
        for (label, photo), prediction in zip(chunk, predictions, strict=True):
            truth.append(label)
            measured.append(not _fitted_on(photo))
            guesses.append(prediction.labels[0].label)
            hits5.append(label in [guess.label for guess in prediction.labels])
            scores.append(prediction.labels[0].score)
    labels, best, held = np.array(truth), np.array(scores), np.array(measured)
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
        ece=calibration_error(best[known & held], right[known & held]),
        temperature=spec.temperature,
        threshold=spec.threshold,
        kept=_share(best[known & held] >= spec.threshold),
        refused=_share(best[background & held] < spec.threshold),
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


def calibration_error(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Mean distance of accuracy from score over bins of equal width, weighted by what is in them; NaN of nothing.

    Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian Binning".

    Args:
        scores: `[N]`, the best score of each photo.
        right: `[N]`, whether the class of that score is the photo's.

    >>> float(calibration_error(np.array([0.9, 0.9, 0.3, 0.3]), np.array([True, True, False, True])))
    0.15
    """
    if not len(scores):
        return float("nan")
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    gaps = [
        abs(right[bins == one].mean() - scores[bins == one].mean()) * (bins == one).sum() for one in np.unique(bins)
    ]
    return round(float(sum(gaps) / len(scores)), 12)


def calibrate(pipeline: Pipeline, spec: ModelSpec, photos: Iterator[tuple[str, Photo]]) -> ModelSpec:
    """Fit temperature and threshold on the half of the photos that `evaluate` does not measure them on, and write them into
    the model's `config.json`.

    The temperature is that of the smallest negative log-likelihood (Guo et al. 2017, arXiv:1706.04599). The threshold parts the
    best scores of labelled photos from those of background ones (Hendrycks & Gimpel 2017, arXiv:1610.02136) with the fewest
    errors in both, as shares, but lets at least three of four labelled ones pass; without background photos nothing is doubted.

    Raises:
        InputError: no photo of that half has one of the model's labels.
    """
    shares, truth, strange = [], [], []
    for chunk in _chunks(((label, photo) for label, photo in photos if _fitted_on(photo)), 32):
        predictions = pipeline.classify([photo for _, photo in chunk], spec, top_k=len(spec.labels))
        for (label, _), prediction in zip(chunk, predictions, strict=True):
            scores = np.zeros(len(spec.labels))
            scores[[found.index for found in prediction.labels]] = [found.score for found in prediction.labels]
            if label in spec.labels:
                shares.append(scores)
                truth.append(spec.labels.index(label))
            elif label == BACKGROUND:
                strange.append(scores)
    if not shares:
        raise InputError(f"No photo has one of the {len(spec.labels)} labels of {spec.name}.")
    # Logits but for a constant, which no softmax sees.
    logits = spec.temperature * np.log(np.maximum(np.array([*shares, *strange]), 1e-30))
    known = np.arange(len(logits)) < len(shares)

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(logits[known] / np.exp(log_temperature), axis=1)[np.arange(len(truth)), truth].mean())

    temperature = round(float(np.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded").x)), 4)
    best = np.exp(log_softmax(logits / temperature, axis=1)).max(axis=1)
    threshold = 0.0
    if strange:
        candidates = np.unique(best)
        errors = [(best[known] < one).mean() + (best[~known] >= one).mean() for one in candidates]
        parting = candidates[int(np.argmin(errors))]
        threshold = round(float(min(parting, np.percentile(best[known], 100 - KEPT))), 4)
    path = Path(spec.checkpoint) / "config.json"
    config = read_json(path)
    config.setdefault("vitdemo", {}).update(temperature=temperature, threshold=threshold)
    write_json(path, config)
    return replace(spec, temperature=temperature, threshold=threshold)


def _fitted_on(photo: Photo) -> bool:
    return int(photo.digest[-1], 16) % 2 == 0


def _share(values: NDArray[np.bool_]) -> float:
    return float(values.mean()) if len(values) else float("nan")
