"""From features and labels to accuracies and a verdict: no forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from vitdemo.errors import ChoiceStoppedError
from vitdemo.evaluation.choose.features import FEATURES_SHARE
from vitdemo.evaluation.choose.photos import usable
from vitdemo.evaluation.choose.scores import (
    accuracy_of,
    calibration_of,
    knn_answers,
    probe_answers,
    stratified_folds,
)
from vitdemo.evaluation.choose.types import (
    Answers,
    Candidate,
    Choice,
    ChooseRequest,
    Floats,
    Ints,
    Progress,
    Report,
)
from vitdemo.evaluation.choose.verdict import verdict_of, with_pareto
from vitdemo.types import ModelSpec
from vitdemo.types.labels import class_called


def go_on(stopped: Callable[[], bool]) -> None:
    """Raises:
    ChoiceStoppedError: it was stopped.
    """
    if stopped():
        raise ChoiceStoppedError(
            "Stopped after all photos were seen. Their features are kept: the same call goes on from there."
        )


def judged(
    choice: Choice, names: Sequence[str | None], tell: Report, stopped: Callable[[], bool] = lambda: False
) -> Choice:
    """With labels: the cross-validated accuracies of every model that has features, and the verdict."""
    classes, notes = usable(names)
    index = {name: number for number, name in enumerate(classes)}
    labels = np.array([index.get(name, -1) if name is not None else -1 for name in names], np.int64)
    unlabelled = sum(name is None for name in names)
    if classes and unlabelled:
        notes.append(f"{unlabelled:,} photos have no label and count for no accuracy.")
    request = choice.request
    folds = stratified_folds(labels, request.folds, request.seed)
    answers: dict[str, Answers] = {}
    rows: list[Candidate] = []
    right = {}
    for number, row in enumerate(choice.candidates):
        go_on(stopped)
        row = replace(row, knn=None, probe=None, fold_accuracies=(), own=None, own_classes=0, ece=None)
        if classes and row.model in choice.features:
            share = FEATURES_SHARE + 0.07 + 0.03 * number / len(choice.candidates)
            tell(Progress("probes", row.model, number, len(choice.candidates), share, None))
            own = _own(choice.specs[number], choice.own[row.model], index)
            row, answers[row.model] = _scored(row, choice.features[row.model], labels, folds, classes, request, own)
            right[row.model] = (answers[row.model].probe == labels)[labels >= 0]
        rows.append(row)
    candidates = with_pareto(rows)
    return replace(
        choice,
        classes=classes,
        labels=labels,
        candidates=candidates,
        answers=answers,
        verdict=verdict_of(candidates, right, request, choice.machine),
        notes=(*choice.notes, *notes),
    )


def _own(spec: ModelSpec, found: Ints, index: Mapping[str, int]) -> tuple[Ints, Ints] | None:
    """The own classifier's answers as classes of the photos, -1 for others, and which classes it knows; None if none."""
    if not spec.labels:
        return None
    # A folder `car_side` means the model's "car".
    meant = {class_called(name, spec.labels): number for name, number in index.items()}
    table = np.array([*(meant.get(label, -1) for label in spec.labels), -1], np.int64)
    known = np.array([number for name, number in meant.items() if name in spec.labels], np.int64)
    return (table[found], known) if len(known) else None


def _scored(
    row: Candidate,
    features: Floats,
    labels: Ints,
    folds: Ints,
    classes: Sequence[str],
    request: ChooseRequest,
    own: tuple[Ints, Ints] | None,
) -> tuple[Candidate, Answers]:
    probe, probabilities = probe_answers(features, labels, len(classes), folds, request.strength)
    knn = knn_answers(features, labels, len(classes), folds, request.k)
    known = labels >= 0
    right = probe == labels
    row = replace(
        row,
        knn=accuracy_of((knn == labels)[known]),
        probe=accuracy_of(right[known]),
        fold_accuracies=tuple(
            float(right[folds == fold].mean()) for fold in range(request.folds) if (folds == fold).any()
        ),
        ece=calibration_of(probabilities, probe, labels),
    )
    if own is not None:
        answered = np.isin(labels, own[1])
        row = replace(row, own=accuracy_of((own[0] == labels)[answered]), own_classes=len(own[1]))
    return row, Answers(probe, probabilities, knn, None if own is None else own[0])
