"""Photos without labels: clusters, how far two models agree on them, near duplicates, outliers. Pure functions on features."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import comb

from vitdemo.evaluation.choose.scores import BLOCK, unit_length
from vitdemo.evaluation.choose.types import Floats, Ints

RESTARTS, ROUNDS = 4, 100
"""Of k-means: the best of so many beginnings, each until nothing moves, or so many rounds."""

GUESSES = range(2, 13)
"""Numbers of clusters that are tried where none is given."""

SILHOUETTE_PHOTOS = 2000
"""Drawn for silhouettes where there are more."""

MOST_PAIRS = 500


def k_means(features: Floats, number: int, seed: int) -> tuple[Ints, Floats]:
    """Spherical k-means: cluster of each photo `[N]`, the largest is 0, and unit-length centres `[C, D]`.

    Beginnings by k-means++ (Arthur & Vassilvitskii 2007). Clusters that lose all photos begin anew at the photo that fits least.
    """
    unit = unit_length(features)
    best: tuple[float, Ints, Floats] | None = None
    for restart in range(RESTARTS):
        generator = np.random.default_rng((seed, restart))
        centres = _first(unit, number, generator)
        assigned = np.full(len(unit), -1, np.int64)
        for _ in range(ROUNDS):
            similarity = unit @ centres.T
            moved = similarity.argmax(axis=1)
            for empty in np.setdiff1d(np.arange(number), moved):
                worst = int(similarity[np.arange(len(unit)), moved].argmin())
                moved[worst] = empty
                similarity[worst] = np.inf
            if np.array_equal(moved, assigned):
                break
            assigned = moved
            sums = np.zeros_like(centres)
            np.add.at(sums, assigned, unit)
            centres = unit_length(sums)
        fit = float((unit * centres[assigned]).sum())
        if best is None or fit > best[0]:
            best = fit, assigned, centres
    assert best is not None
    order = np.argsort(-np.bincount(best[1], minlength=number), kind="stable")
    return np.argsort(order)[best[1]], best[2][order]


def _first(unit: Floats, number: int, generator: np.random.Generator) -> Floats:
    chosen = [int(generator.integers(len(unit)))]
    distance = np.full(len(unit), np.inf)
    while len(chosen) < number:
        distance = np.minimum(distance, np.maximum(1 - unit @ unit[chosen[-1]], 0))
        total = distance.sum()
        share = distance / total if total > 0 else np.full(len(unit), 1 / len(unit))
        chosen.append(int(generator.choice(len(unit), p=share / share.sum())))
    return unit[chosen].copy()


def silhouette(features: Floats, assigned: Ints, seed: int = 0) -> float:
    """Mean silhouette by cosine distance, -1 to 1 (Rousseeuw 1987); of photos drawn at random where there are many."""
    chosen = np.arange(len(features))
    if len(chosen) > SILHOUETTE_PHOTOS:
        chosen = np.sort(np.random.default_rng(seed).choice(len(features), SILHOUETTE_PHOTOS, replace=False))
    unit, own = unit_length(features[chosen]).astype(np.float64), assigned[chosen]
    names, own, counts = np.unique(own, return_inverse=True, return_counts=True)
    if not 1 < len(names) < len(own):
        return 0.0
    sums = np.zeros((len(names), unit.shape[1]))
    np.add.at(sums, own, unit)
    # The mean distance to a cluster is 1 - the cosine to its mean.
    distances = counts - unit @ sums.T
    rows = np.arange(len(own))
    # A photo's distance to itself is 0.
    inside = distances[rows, own] / np.maximum(counts[own] - 1, 1)
    others = distances / counts
    others[rows, own] = np.inf
    nearest = others.min(axis=1)
    values = (nearest - inside) / np.maximum(np.maximum(nearest, inside), 1e-12)
    return float(np.where(counts[own] > 1, values, 0.0).mean())


def best_number(features: Floats, seed: int) -> int:
    """The number of clusters, 2 to 12, whose silhouette is the largest."""
    possible = [number for number in GUESSES if number < len(features)] or [2]
    scores = [silhouette(features, k_means(features, number, seed)[0], seed) for number in possible]
    return possible[int(np.argmax(scores))]


def adjusted_rand(first: Ints, second: Ints) -> float:
    """Adjusted Rand index of two clusterings `[N]`: Hubert & Arabie 1985. 1 for equal ones, about 0 for unrelated ones.

    >>> adjusted_rand(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]))
    1.0
    """
    table = np.zeros((first.max() + 1, second.max() + 1), np.int64)
    np.add.at(table, (first, second), 1)
    together = float(comb(table, 2).sum())
    rows, columns = float(comb(table.sum(axis=1), 2).sum()), float(comb(table.sum(axis=0), 2).sum())
    expected, most = rows * columns / float(comb(len(first), 2)), (rows + columns) / 2
    return 1.0 if most == expected else (together - expected) / (most - expected)


def alike_pairs(features: Floats, threshold: float) -> list[tuple[int, int, float]]:
    """Pairs with a cosine of at least `threshold`, most alike first; at most `MOST_PAIRS`."""
    unit = unit_length(features)
    found: list[tuple[int, int, float]] = []
    for start, block in _blocks(unit):
        rows, columns = np.nonzero(block >= threshold)
        later = columns > rows + start
        found += [
            (int(row + start), int(column), float(block[row, column]))
            for row, column in zip(rows[later], columns[later], strict=True)
        ]
        if len(found) > 50 * MOST_PAIRS:
            found = _most_alike(found)
    return _most_alike(found)


def _most_alike(pairs: list[tuple[int, int, float]]) -> list[tuple[int, int, float]]:
    return sorted(pairs, key=lambda pair: (-pair[2], pair[:2]))[:MOST_PAIRS]


def kth_distance(features: Floats, k: int) -> NDArray[np.float64]:
    """Cosine distance of each photo to its k-th nearest other photo, `[N]`: Ramaswamy et al. 2000."""
    unit, found = unit_length(features), []
    k = min(k, len(unit) - 1)
    for start, block in _blocks(unit):
        block[np.arange(len(block)), start + np.arange(len(block))] = -np.inf
        found.append(1 - np.partition(block, -k, axis=1)[:, -k].astype(np.float64))
    return np.concatenate(found)


def nearest(features: Floats, k: int) -> Ints:
    """The k nearest other photos of each, nearest first, by cosine: `[N, k]`."""
    unit, found = unit_length(features), []
    k = min(k, len(unit) - 1)
    for start, block in _blocks(unit):
        block[np.arange(len(block)), start + np.arange(len(block))] = -np.inf
        few = np.argpartition(-block, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(block, few, axis=1), axis=1, kind="stable")
        found.append(np.take_along_axis(few, order, axis=1))
    return np.concatenate(found).astype(np.int64)


def _blocks(unit: Floats) -> Iterator[tuple[int, Floats]]:
    """Cosines of some photos to all, a block at a time, with the number of its first photo."""
    step = max(1, BLOCK // (4 * len(unit)))
    for start in range(0, len(unit), step):
        yield start, unit[start : start + step] @ unit.T


def linear_cka(first: Floats, second: Floats) -> float:
    """Linear centred kernel alignment of two models' features `[N, D]`, 0 to 1: Kornblith et al. 2019, arXiv:1905.00414."""
    first, second = (part - part.mean(axis=0) for part in (first.astype(np.float64), second.astype(np.float64)))
    together = float(np.square(first.T @ second).sum())
    lengths = float(np.linalg.norm(first.T @ first) * np.linalg.norm(second.T @ second))
    return together / lengths if lengths > 0 else 0.0
