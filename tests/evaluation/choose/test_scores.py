"""Accuracies, clusters and maps equal scikit-learn's, or what is counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vitdemo.evaluation.choose.clusters import (
    adjusted_rand,
    alike_pairs,
    best_number,
    k_means,
    kth_distance,
    linear_cka,
    nearest,
    silhouette,
)
from vitdemo.evaluation.choose.scores import (
    accuracy_of,
    calibration_of,
    knn_answers,
    pareto,
    probe_answers,
    stratified_folds,
)

Data = tuple[NDArray[np.float32], NDArray[np.int64]]


def clouds(photos: int, classes: int, width: int = 12, apart: float = 1.0, seed: int = 0) -> Data:
    """Features of overlapping classes, of unequal sizes and scales; the last one is constant, and tells nothing."""
    generator = np.random.default_rng(seed)
    labels = np.sort(generator.integers(0, classes, photos))
    labels[:classes], labels[-classes:] = np.arange(classes), np.arange(classes)
    centres = apart * generator.normal(size=(classes, width))
    features = (centres[labels] + generator.normal(size=(photos, width))) * np.geomspace(0.01, 100, width) + 3
    features[:, -1] = 7
    return features.astype(np.float32), labels


def by_sklearn(data: Data, folds: NDArray[np.int64], strength: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    features, labels = data[0].astype(np.float64), data[1]
    answers, scores = np.full(len(labels), -1), np.zeros((len(labels), labels.max() + 1))
    for fold in range(folds.max() + 1):
        train, test = (folds >= 0) & (folds != fold), folds == fold
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, tol=1e-8, max_iter=10_000))
        probe.fit(features[train], labels[train])
        answers[test] = probe.predict(features[test])
        scores[np.ix_(test, probe.classes_)] = probe.predict_proba(features[test])
    return answers, scores


@pytest.mark.thorough
@pytest.mark.parametrize(("photos", "classes", "strength"), [(90, 4, 1.0), (80, 2, 1.0), (60, 3, 0.01)])
def test_the_linear_probe_answers_what_scikit_learns_logistic_regression_answers_on_the_same_folds(
    photos: int, classes: int, strength: float
) -> None:
    features, labels = clouds(photos, classes, apart=0.5)
    folds = stratified_folds(labels, 5, seed=1)
    answers, scores = probe_answers(features, labels, classes, folds, strength)
    expected, probabilities = by_sklearn((features, labels), folds, strength)
    np.testing.assert_array_equal(answers, expected)
    np.testing.assert_allclose(scores, probabilities, atol=2e-3)
    assert 0.4 < (answers == labels).mean() < 1, "no test where all are right"


@pytest.mark.thorough
def test_many_classes_and_wide_features_equal_scikit_learn_too() -> None:
    features, labels = clouds(600, 40, width=96, apart=0.4)
    folds = stratified_folds(labels, 5, seed=0)
    answers, _ = probe_answers(features, labels, 40, folds)
    expected, _ = by_sklearn((features, labels), folds, 1.0)
    np.testing.assert_array_equal(answers, expected)


def test_neighbours_answer_as_a_brute_force_over_the_other_folds() -> None:
    features, labels = clouds(120, 5)
    labels[7] = -1
    folds = stratified_folds(labels, 4, seed=0)
    found = knn_answers(features, labels, 5, folds, k=6)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for photo in range(len(features)):
        if labels[photo] < 0:
            assert found[photo] == -1
            continue
        others = [one for one in range(len(features)) if folds[one] >= 0 and folds[one] != folds[photo]]
        others.sort(key=lambda one: -float(unit[photo] @ unit[one]))
        votes = np.zeros(5)
        for one in others[:6]:
            votes[labels[one]] += np.exp(float(unit[photo] @ unit[one]) / 0.07)
        assert found[photo] == votes.argmax()


def test_more_neighbours_than_photos_are_all_photos_of_the_other_folds() -> None:
    features, labels = clouds(20, 2)
    folds = stratified_folds(labels, 2, seed=0)
    every = int(max((folds == 0).sum(), (folds == 1).sum()))
    np.testing.assert_array_equal(
        knn_answers(features, labels, 2, folds, 1000), knn_answers(features, labels, 2, folds, every)
    )


def test_folds_are_even_and_never_hold_a_class_whole() -> None:
    labels = np.repeat(np.arange(6), [2, 3, 4, 11, 40, 5])
    folds = stratified_folds(labels, 5, seed=3)
    sizes = np.bincount(folds, minlength=5)
    assert sizes.max() - sizes.min() <= 1
    for label in range(6):
        counts = np.bincount(folds[labels == label], minlength=5)
        assert counts.max() - counts.min() <= 1
        assert (counts > 0).sum() > 1
    assert not np.array_equal(folds, stratified_folds(labels, 5, seed=4))


def test_an_interval_is_wilsons() -> None:
    found = accuracy_of(np.array([True] * 8 + [False] * 2))
    assert found is not None
    # Newcombe 1998, doi:10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E, method 3, for 8 of 10.
    centre, spread = (8 + 1.96**2 / 2) / (10 + 1.96**2), 1.96 * np.sqrt(8 * 2 / 10 + 1.96**2 / 4) / (10 + 1.96**2)
    assert (found.low, found.high) == pytest.approx((centre - spread, centre + spread), abs=1e-3)
    assert accuracy_of(np.zeros(0, bool)) is None


def test_calibration_counts_photos_with_a_label_only() -> None:
    scores = np.array([[0.9, 0.1], [0.9, 0.1], [0.0, 0.0]], np.float32)
    assert calibration_of(scores, np.array([0, 0, -1]), np.array([0, 1, -1])) == pytest.approx(0.4, abs=1e-6)


def test_the_front_keeps_what_is_best_in_anything() -> None:
    assert pareto([(0.5, 1.0), (0.6, 1.0), (0.7, 9.0), (0.7, 8.0), (0.7, 8.0)]) == [False, True, False, True, True]


# Without labels


def test_the_adjusted_rand_index_is_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    for _ in range(5):
        first, second = generator.integers(0, 4, 50), generator.integers(0, 6, 50)
        second[:20] = first[:20]
        assert adjusted_rand(first, second) == pytest.approx(adjusted_rand_score(first, second))
    assert adjusted_rand(np.zeros(5, np.int64), np.zeros(5, np.int64)) == 1


def test_the_silhouette_is_scikit_learns_by_cosine() -> None:
    features, labels = clouds(80, 3)
    labels[0] = 9  # a cluster of one
    assert silhouette(features, labels) == pytest.approx(silhouette_score(features, labels, metric="cosine"), abs=1e-5)


def test_clusters_are_as_tight_as_scikit_learns() -> None:
    features, _ = clouds(150, 5, apart=2)
    features = features[:, :6]
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    assigned, centres = k_means(features, 5, seed=0)
    other = KMeans(5, n_init=10, random_state=0).fit(unit)
    own_centres = np.stack([unit[assigned == one].mean(axis=0) for one in range(5)])
    spread = float(np.square(unit - own_centres[assigned]).sum())
    assert spread <= 1.02 * float(other.inertia_)
    sizes = np.bincount(assigned)
    assert list(sizes) == sorted(sizes, reverse=True)
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, rtol=1e-5)


def test_well_separated_clusters_are_found_and_counted() -> None:
    generator = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), 20)
    features = (8 * np.eye(4, 10)[truth] + generator.normal(size=(80, 10))).astype(np.float32)
    assert best_number(features, seed=0) == 4
    assert adjusted_rand(k_means(features, 4, seed=0)[0], truth) == 1


def test_more_clusters_than_different_photos_do_not_fail() -> None:
    assigned, _ = k_means(np.ones((6, 3), np.float32), 4, seed=0)
    assert set(assigned) == {0, 1, 2, 3}


def test_near_duplicates_neighbours_and_outliers_are_those_of_a_brute_force() -> None:
    features, _ = clouds(70, 4)
    features[30], features[31] = features[3] * 2, features[3] + 1e-4
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = unit @ unit.T
    expected = {(i, j) for i in range(70) for j in range(i + 1, 70) if cosines[i, j] >= 0.999}
    found = alike_pairs(features, 0.999)
    assert {(i, j) for i, j, _ in found} == expected
    assert {(3, 30), (3, 31), (30, 31)} <= expected
    assert [cosine for _, _, cosine in found] == sorted((cosine for _, _, cosine in found), reverse=True)
    index = NearestNeighbors(n_neighbors=6, metric="cosine").fit(features)
    distances, _ = index.kneighbors(features)
    np.testing.assert_allclose(kth_distance(features, 5), distances[:, 5], atol=1e-5)
    order = np.sort(np.where(np.eye(70, dtype=bool), -np.inf, cosines), axis=1)[:, ::-1][:, :5]
    np.testing.assert_allclose(np.take_along_axis(cosines, nearest(features, 5), axis=1), order, atol=1e-5)


def test_cka_is_blind_to_rotation_and_scale_and_sees_other_features() -> None:
    features, _ = clouds(60, 3, width=8)
    features = features / features.std(axis=0).clip(1e-3)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0].astype(np.float32)
    assert linear_cka(features, 3 * features @ rotation) == pytest.approx(1, abs=1e-4)
    noise = np.random.default_rng(1).normal(size=(60, 8)).astype(np.float32)
    assert linear_cka(features, noise) < 0.4
