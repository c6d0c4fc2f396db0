"""What features are worth: cross-validated accuracies of neighbours and of a linear probe."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest

from vitdemo.evaluation.accuracy import calibration_error
from vitdemo.evaluation.choose.types import Accuracy, Floats, Ints
from vitdemo.training.features import linear_probe, nearest_neighbours

WORKERS = 4
"""Folds that are fitted at once, on as many cores."""

BLOCK = 32_000_000
"""Bytes of similarities at once."""


def stratified_folds(labels: Ints, folds: int, seed: int) -> Ints:
    """The fold of each photo, `[N]`; -1 where it has no label.

    Each class is spread over the folds as evenly as it goes, so that a class with at least two photos is never held out whole.

    >>> stratified_folds(np.array([0, 0, 0, 1, 1, -1]), 3, seed=0)[-1]
    np.int64(-1)
    """
    generator = np.random.default_rng(seed)
    found, start = np.full(len(labels), -1, np.int64), 0
    for label in np.unique(labels[labels >= 0]):
        members = generator.permutation(np.flatnonzero(labels == label))
        found[members] = (start + np.arange(len(members))) % folds
        # Where the last class ended: folds of equal size.
        start += len(members)
    return found


def probe_answers(
    features: Floats, labels: Ints, classes: int, folds: Ints, strength: float = 1.0
) -> tuple[Ints, Floats]:
    """Of each photo by the linear probe that was fitted on the other folds: class `[N]` and probabilities `[N, K]`.

    The probe equals scikit-learn's `make_pipeline(StandardScaler(), LogisticRegression(C=strength))`.

    Args:
        features: `[N, D]`.
        folds: `[N]`, as of `stratified_folds`; photos with -1 are neither learnt from nor answered.
    """
    answers = np.full(len(labels), -1, np.int64)
    probabilities = np.zeros((len(labels), classes), np.float32)

    def held_out_scores(fold: int) -> tuple[NDArray[np.bool_], torch.Tensor]:
        held_out = folds == fold
        head = fit_probe(features, labels, classes, (folds >= 0) & ~held_out, strength)
        with torch.no_grad():
            return held_out, torch.softmax(head(torch.from_numpy(features[held_out]).double()), dim=-1)

    # A fit is many small operations, which one core does as fast as all of them.
    with ThreadPoolExecutor(min(WORKERS, os.cpu_count() or 1), "vitdemo-probe") as workers:
        for held_out, scores in workers.map(held_out_scores, np.unique(folds[folds >= 0])):
            answers[held_out] = scores.argmax(dim=-1).numpy()
            probabilities[held_out] = scores.float().numpy()
    return answers, probabilities


def fit_probe(
    features: Floats, labels: Ints, classes: int, chosen: NDArray[np.bool_], strength: float
) -> torch.nn.Linear:
    """A linear probe of the chosen photos, in float64; it takes raw features."""
    train = torch.from_numpy(features[chosen]).double()
    # With two classes, scikit-learn has one vector of weights instead of two opposite ones, each half as long.
    penalty = (2 if classes == 2 else 1) / (2 * strength * len(train))
    return linear_probe(train, torch.from_numpy(labels[chosen]), classes, penalty)


def knn_answers(features: Floats, labels: Ints, classes: int, folds: Ints, k: int) -> Ints:
    """The class of each photo by its k nearest neighbours of the other folds, by cosine: `[N]`, -1 without a label.

    Of equal votes the first class wins.
    """
    answers = np.full(len(labels), -1, np.int64)
    for fold in np.unique(folds[folds >= 0]):
        held_out, others = np.flatnonzero(folds == fold), (folds >= 0) & (folds != fold)
        train, truth = torch.from_numpy(features[others]), torch.from_numpy(labels[others])
        step = max(1, BLOCK // (4 * len(train)))
        for start in range(0, len(held_out), step):
            rows = held_out[start : start + step]
            votes = nearest_neighbours(train, truth, torch.from_numpy(features[rows]), classes, k)
            answers[rows] = votes.argmax(dim=-1).numpy()
    return answers


def unit_length(features: Floats) -> Floats:
    """Each row divided by its length."""
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12), np.float32)


def accuracy_of(right: NDArray[np.bool_]) -> Accuracy | None:
    """The share that is right, with its 95% Wilson interval; None of nothing."""
    if not len(right):
        return None
    interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return Accuracy(float(right.mean()), float(interval.low), float(interval.high), len(right))


def calibration_of(probabilities: Floats, answers: Ints, labels: Ints) -> float:
    """Expected calibration error of the top probabilities of photos with a label, 15 bins."""
    known = labels >= 0
    return calibration_error(probabilities[known].max(axis=1).astype(np.float64), answers[known] == labels[known])


def paired_difference(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Accuracy of the first minus that of the second on the same photos, and its 95% interval (Wald, of paired proportions).

    >>> [round(value, 3) for value in paired_difference(np.array([True] * 90 + [False] * 10), np.array([True] * 100))]
    [-0.1, -0.159, -0.041]
    """
    number = len(first)
    difference = float(first.mean() - second.mean())
    differing = float((first != second).mean())
    spread = 1.96 * np.sqrt(max(0.0, differing - difference**2) / number)
    return difference, difference - float(spread), difference + float(spread)


def pareto(points: list[tuple[float, float]]) -> list[bool]:
    """Of accuracy and milliseconds: whether no other point is at least as good in both, and better in one.

    >>> pareto([(0.9, 10.0), (0.8, 5.0), (0.8, 7.0)])
    [True, True, False]
    """
    return [
        not any(a >= accuracy and t <= time and (a > accuracy or t < time) for a, t in points)
        for accuracy, time in points
    ]
