"""See why: maps, neighbours, confusions and disagreements of a choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TypeVar

import numpy as np

from vitdemo.errors import OptionError
from vitdemo.evaluation.choose import clusters as of_features
from vitdemo.evaluation.choose.scores import unit_length
from vitdemo.evaluation.choose.types import Choice, Clustering, Confusion, Disagreement, Floats, Neighbour, Projection
from vitdemo.images.class_folders import read_file
from vitdemo.images.open import open_image
from vitdemo.types import Photo

Made = TypeVar("Made")

CENTRAL = 9
"""Photos that stand for a cluster."""

SHARED = 10
"""Nearest photos whose overlap tells how far two models differ, where there are no labels."""

DUPLICATE = 0.98
"""Cosine from which two photos count as near duplicates."""


def coordinates(choice: Choice, model: str, projection: Projection = "pca") -> Floats:
    """Places of the photos by a model's features: `[N, 2]`, each axis centred, the larger one within -1..1. Kept in the choice.

    PCA is of the features divided by their lengths. t-SNE (van der Maaten & Hinton 2008) is scikit-learn's, by cosine, of their
    first 50 principal components.

    Raises:
        OptionError: the model has no features; or t-SNE needs scikit-learn, which is not installed (`pip install
            vitdemo[choose]`).
    """
    if projection not in ("pca", "t-sne"):
        raise OptionError(f"There is no map {projection!r}. Choose pca or t-sne.")
    features = features_of(choice, model)
    return _kept(choice, ("map", model, projection), lambda: _places(features, projection, choice.request.seed))


def _places(features: Floats, projection: Projection, seed: int) -> Floats:
    unit = unit_length(features)
    centred = unit - unit.mean(axis=0)
    # The directions that matter are few: those of the covariance, which is small however many photos there are.
    directions = np.linalg.eigh(centred.T.astype(np.float64) @ centred)[1][:, ::-1].astype(np.float32)
    # The sign of a direction is arbitrary: its largest part points upwards.
    directions *= np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(directions.shape[1])])
    places = centred @ directions[:, :2]
    if places.shape[1] < 2:
        places = np.pad(places, ((0, 0), (0, 1)))
    if projection == "t-sne" and len(features) > 3:
        try:
            from sklearn.manifold import TSNE
        except ImportError:
            raise OptionError(
                "A t-SNE map needs one more package: pip install scikit-learn, or vitdemo[choose]. The PCA map needs none."
            ) from None
        perplexity = min(30.0, (len(features) - 1) / 3)
        places = TSNE(perplexity=perplexity, init="pca", random_state=seed, metric="cosine").fit_transform(
            centred @ directions[:, :50]
        )
    places = places - (places.max(axis=0) + places.min(axis=0)) / 2
    return np.asarray(places / max(float(np.abs(places).max()), 1e-12), np.float32)


def neighbours(choice: Choice, model: str, photo: int, number: int = 8) -> list[Neighbour]:
    """The photos nearest to one by cosine, nearest first, without itself.

    Raises:
        OptionError: no such photo, or the model has no features.
    """
    unit = _unit(choice, model)
    if not 0 <= photo < len(unit):
        raise OptionError(f"There is no photo {photo}: they are numbered from 0 to {len(unit) - 1}.")
    similarity = unit @ unit[photo]
    similarity[photo] = -np.inf
    order = np.argsort(-similarity, kind="stable")[: min(number, len(unit) - 1)]
    return [Neighbour(int(one), float(similarity[one])) for one in order]


def confusions(choice: Choice, model: str, number: int = 10) -> list[Confusion]:
    """The most frequent errors of a model's probe, most frequent first; empty without labels."""
    if model not in choice.answers:
        return []
    answers, found = choice.answers[model].probe, dict[tuple[int, int], list[int]]()
    for photo in np.flatnonzero((answers >= 0) & (answers != choice.labels)):
        found.setdefault((int(choice.labels[photo]), int(answers[photo])), []).append(int(photo))
    order = sorted(found, key=lambda pair: (-len(found[pair]), pair))[:number]
    return [Confusion(choice.classes[one], choice.classes[other], tuple(found[one, other])) for one, other in order]


def disagreements(choice: Choice, models: Sequence[str] | None = None, number: int = 24) -> list[Disagreement]:
    """The photos on which models differ most; all models if none are named, or two of them.

    Raises:
        OptionError: fewer than two of them have features.
    """
    names = list(models or choice.features)
    for name in names:
        features_of(choice, name)
    if len(names) < 2:
        raise OptionError("Two models at least are needed to differ.")
    score = _kept(choice, ("differing", *names), lambda: _differing(choice, names))
    order = np.argsort(-score, kind="stable")[:number]
    return [
        Disagreement(
            int(photo),
            float(score[photo]),
            {name: choice.classes[int(choice.answers[name].probe[photo])] for name in names}
            if choice.labelled and choice.labels[photo] >= 0
            else {},
        )
        for photo in order
        if score[photo] > 0
    ]


def _differing(choice: Choice, names: Sequence[str]) -> Floats:
    total = np.zeros(len(choice.photos), np.float32)
    if choice.labelled:
        probabilities = [choice.answers[name].probabilities for name in names]
        for one, other in combinations(probabilities, 2):
            total += np.abs(one - other).sum(axis=1) / 2
    else:
        near = [
            _kept(choice, ("nearest", name), lambda name=name: of_features.nearest(choice.features[name], SHARED))  # type: ignore[misc]
            for name in names
        ]
        for first, second in combinations(near, 2):
            shared = (first[:, :, None] == second[:, None, :]).any(axis=2).mean(axis=1)
            total += (1 - shared).astype(np.float32)
    return total / (len(names) * (len(names) - 1) / 2)


def similarity(choice: Choice) -> tuple[tuple[str, ...], Floats]:
    """Models, and `[M, M]`: linear centred kernel alignment (CKA) of their features, 0 to 1."""
    names = tuple(choice.features)
    return names, _kept(
        choice, "cka", lambda: _pairs([choice.features[name] for name in names], of_features.linear_cka)
    )


def clusters(choice: Choice, model: str, number: int | None = None) -> Clustering:
    """k-means on unit-length features; the number of the request if none is given. Kept in the choice.

    Raises:
        OptionError: as many clusters as photos, or fewer than two.
    """
    features = features_of(choice, model)
    number = number or _number(choice)
    if not 2 <= number < len(features):
        raise OptionError(f"{number} clusters of {len(features)} photos: choose from 2 to {len(features) - 1}.")

    def make() -> Clustering:
        assigned, centres = of_features.k_means(features, number, choice.request.seed)
        fit = (_unit(choice, model) * centres[assigned]).sum(axis=1)
        central = []
        for cluster in range(number):
            members = np.flatnonzero(assigned == cluster)
            central.append(tuple(int(one) for one in members[np.argsort(-fit[members], kind="stable")][:CENTRAL]))
        return Clustering(model, assigned, of_features.silhouette(features, assigned), tuple(central))

    return _kept(choice, ("clusters", model, number), make)


def _number(choice: Choice) -> int:
    """The same for all models, so that their clusters can be compared."""
    if choice.request.clusters:
        return choice.request.clusters
    if choice.labelled:
        return len(choice.classes)
    first = next(iter(choice.features))
    return _kept(choice, "number", lambda: of_features.best_number(choice.features[first], choice.request.seed))


def cluster_agreement(choice: Choice, number: int | None = None) -> tuple[tuple[str, ...], Floats]:
    """Models, and `[M, M]`: adjusted Rand index between their clusters, 1 for equal ones, about 0 for unrelated ones."""
    names = tuple(choice.features)
    found = [clusters(choice, name, number).assigned for name in names]
    return names, _pairs(found, of_features.adjusted_rand)


def near_duplicates(choice: Choice, model: str, threshold: float = DUPLICATE) -> list[tuple[int, int, float]]:
    """Pairs of photos with a cosine of at least `threshold`, most alike first; at most 500."""
    if not -1 <= threshold <= 1:
        raise OptionError(f"A cosine lies between -1 and 1, not at {threshold:g}.")
    features = features_of(choice, model)
    return _kept(choice, ("alike", model, threshold), lambda: of_features.alike_pairs(features, threshold))


def outliers(choice: Choice, model: str, number: int = 12) -> list[tuple[int, float]]:
    """Photos farthest from their 5th nearest neighbour: number and cosine distance, farthest first."""
    features = features_of(choice, model)
    distances = _kept(choice, ("outliers", model), lambda: of_features.kth_distance(features, 5))
    return [(int(one), float(distances[one])) for one in np.argsort(-distances, kind="stable")[:number]]


def labels_of(choice: Choice, clustering: Clustering, names: Sequence[str]) -> dict[str, str]:
    """File name to label, by naming clusters: one name per cluster; clusters with an empty name give no label.

    It can be exported (`labels_csv`, `labels_json`), and given as `ChooseRequest.labels`. Two clusters may have the same name.

    Raises:
        OptionError: not one name per cluster.
    """
    if len(names) != clustering.number:
        raise OptionError(f"There are {clustering.number} clusters, and {len(names)} names.")
    stripped = [" ".join(name.split()) for name in names]
    return {
        photo.name: stripped[cluster]
        for photo, cluster in zip(choice.photos, clustering.assigned, strict=True)
        if stripped[cluster]
    }


def opened(choice: Choice, photo: int) -> Photo:
    """The photo itself, decoded once more, such as for Compare; its name is the file's.

    Raises:
        InputError: it is no longer there.
    """
    entry = choice.photos[photo]
    return replace(open_image(read_file(entry.source, entry.name)), name=entry.name.rpartition("/")[2])


def features_of(choice: Choice, model: str) -> Floats:
    """`[N, D]`.

    Raises:
        OptionError: the model failed, or is none of them.
    """
    if model not in choice.features:
        reasons = {one.model: one.error for one in choice.candidates}
        known = ", ".join(choice.features)
        raise OptionError(reasons.get(model) or f"{model!r} is not among these models. Choose from: {known}.")
    return choice.features[model]


def _unit(choice: Choice, model: str) -> Floats:
    features = features_of(choice, model)
    return _kept(choice, ("unit", model), lambda: unit_length(features))


def _pairs(parts: Sequence[Made], compare: Callable[[Made, Made], float]) -> Floats:
    found = np.ones((len(parts), len(parts)), np.float32)
    for one, other in combinations(range(len(parts)), 2):
        found[one, other] = found[other, one] = compare(parts[one], parts[other])
    return found


def _kept(choice: Choice, key: object, make: Callable[[], Made]) -> Made:
    # Two threads may make the same: the later one's is kept, and equal.
    if key not in choice.kept:
        choice.kept[key] = make()
    found: Made = choice.kept[key]
    return found
