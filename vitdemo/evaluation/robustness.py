"""How models answer while their input is perturbed more and more, on one photo or on labelled ones.

What a ViT lacks of a CNN's inductive biases, and what it has instead, shows in where its curve falls: Naseer et al. 2021,
arXiv:2105.10497; Park & Kim 2022, arXiv:2202.06709; `vitdemo.options.perturbations` has all sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vitdemo.errors import OptionError
from vitdemo.evaluation.labelled_inputs import Geometry, LabelledInput, geometry_of, input_of
from vitdemo.evaluation.perturb import Pixels, perturb
from vitdemo.models.preprocess import normalise
from vitdemo.options.perturbations import Plan, plan_of
from vitdemo.options.targets import parse_target
from vitdemo.pipeline import Pipeline
from vitdemo.types import Capture, ModelOutput, ModelSpec, Photo, RobustnessCurve, RobustnessPoint
from vitdemo.types.labels import class_called


@dataclass(frozen=True)
class _Answers:
    """One model, photo and perturbation."""

    scores: NDArray[np.float64]
    """`[S, K]`: softmax probabilities at each strength, as calibrated as in the list of labels."""
    moves: NDArray[np.float64] | None
    """`[S, 2]`: how much the feature map follows and stays; only of a shift."""


def measure(
    pipeline: Pipeline,
    spec: ModelSpec,
    photos: Sequence[LabelledInput],
    plan: Plan | None = None,
    *,
    seed: int = 0,
    dtype: str = "auto",
    report: Callable[[int, int], None] | None = None,
) -> list[RobustnessCurve]:
    """One curve per perturbation, over the photos whose class the model knows.

    If it knows the class of none, it is measured on all of them, whether it still says what it says of the unperturbed photo.

    Args:
        photos: see `vitdemo.evaluation.labelled_inputs.draw`.
        plan: see `vitdemo.options.perturbations.plan_of`; all perturbations if not given.
        report: called with the number of photos that are done, and of all.

    Raises:
        OptionError: the model has no classifier, or there are no photos.
    """
    require_classifier(spec)
    plan, wanted = plan_of() if plan is None else plan, _seeds(seed)
    index = {label: number for number, label in enumerate(spec.labels)}
    named = [(one, index.get(class_called(one.label, index))) for one in photos]
    known = [(one, truth) for one, truth in named if truth is not None]
    if not named:
        raise OptionError("There are no photos to measure on.")
    note = "" if known else f"None of these photos is of one of the {len(index)} classes of {spec.name}: no accuracy."
    found: dict[str, list[_Answers]] = {kind: [] for kind in plan}
    for number, (one, _) in enumerate(known or named):
        pixels = one.pixels[geometry_of(spec.processor)]
        pictures = _perturbed(pixels, plan, wanted(one.digest))
        for kind, answers in _answered(pipeline, spec, pictures, plan, dtype).items():
            found[kind].append(answers)
        if report is not None:
            report(number + 1, len(known or named))
    truths = [truth for _, truth in known] or None
    return [_curve(spec, kind, plan[kind], answers, truths, truths, note) for kind, answers in found.items()]


def photo_curves(
    pipeline: Pipeline,
    photo: Photo,
    specs: Sequence[ModelSpec],
    plan: Plan | None = None,
    *,
    target: int | str | None = None,
    seed: int = 0,
    dtype: str = "auto",
) -> list[RobustnessCurve]:
    """The curves of one photo, with the model's input at each point: all perturbations of the first model, then of the next.

    Args:
        plan: as for `measure`.
        target: the class whose score is followed, as for an explanation. A named class counts as the true one; else it is the
            top class of the unperturbed photo, and there is no accuracy.

    Raises:
        OptionError: there is no model, one has no classifier or no such class, or the photo's input has too few pixels for a
            strength.
    """
    if not specs:
        raise OptionError("Choose at least one model.")
    wanted = [(require_classifier(spec), parse_target(target, spec)) for spec in specs]
    plan, seeds = plan_of() if plan is None else plan, _seeds(seed)
    inputs: dict[Geometry, dict[tuple[str, float], Pixels]] = {}
    curves = []
    for spec, (index, rank) in wanted:
        key = geometry_of(spec.processor)
        if key not in inputs:
            inputs[key] = _perturbed(input_of(photo, spec.processor), plan, seeds(photo.digest))
        for kind, answers in _answered(pipeline, spec, inputs[key], plan, dtype).items():
            followed = index if index is not None else int(np.argsort(-answers.scores[0], kind="stable")[rank - 1])
            truths = None if index is None else [index]
            curve = _curve(spec, kind, plan[kind], [answers], truths, [followed])
            pictures = tuple(Image.fromarray(inputs[key][kind, strength]) for strength in plan[kind])
            labels = [spec.labels[int(row.argmax())] for row in answers.scores]
            points = tuple(replace(point, label=label) for point, label in zip(curve.points, labels, strict=True))
            curves.append(replace(curve, points=points, target=spec.labels[followed], pictures=pictures))
    return curves


def require_classifier(spec: ModelSpec) -> ModelSpec:
    """The model.

    Raises:
        OptionError: it has no classifier.
    """
    if not spec.labels:
        raise OptionError(
            f"{spec.name} has no classifier, so there is no answer to measure. Choose a model with classes."
        )
    return spec


def following(before: NDArray[np.float32], after: NDArray[np.float32], distance: float) -> tuple[float, float]:
    """How much a feature map moves along with a shift to the right, and how much it stays.

    The mean cosine of the features after the shift and those before it, moved by `distance` (linear between cells) or not moved;
    of both maps the mean feature before the shift is subtracted. Cells that have moved in from outside are left out. Equal maps
    give 1. A map that moves along exactly, in whole cells, follows with 1, whatever it shows.

    Args:
        before, after: `[h, w, D]`.
        distance: in cells.

    Returns:
        follows, stays: each -1 to 1; NaN for a map that is the same everywhere, or where no cell is left.
    """
    width = before.shape[1]
    first = int(np.ceil(distance))
    source = np.arange(first, width) - distance
    left = np.floor(source).astype(int)
    part = (source - left)[None, :, None]
    centre = before.mean(axis=(0, 1), keepdims=True)
    moved = (1 - part) * before[:, left] + part * before[:, np.minimum(left + 1, width - 1)] - centre
    seen = after[:, first:] - centre
    return _cosine(moved, seen), _cosine(before[:, first:] - centre, seen)


def _cosine(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Mean over the cells where both have a direction; NaN without any."""
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    has = norms > 0
    return float(((one * other).sum(axis=-1)[has] / norms[has]).mean()) if has.any() else float("nan")


def _seeds(seed: int) -> Callable[[str], tuple[int, ...]]:
    if seed < 0:
        raise OptionError(f"The seed must be a whole number from 0, not {seed}.")
    return lambda digest: (seed, int(digest[:8], 16))


def _perturbed(pixels: Pixels, plan: Plan, seed: tuple[int, ...]) -> dict[tuple[str, float], Pixels]:
    return {
        (kind, strength): perturb(pixels, kind, strength, seed)
        for kind, strengths in plan.items()
        for strength in strengths
    }


def _answered(
    pipeline: Pipeline, spec: ModelSpec, pictures: Mapping[tuple[str, float], Pixels], plan: Plan, dtype: str
) -> dict[str, _Answers]:
    """By perturbation. The unperturbed picture, with which all begin, runs once."""
    original = (next(iter(plan)), plan[next(iter(plan))][0])
    keys = [original, *((kind, strength) for kind, strengths in plan.items() for strength in strengths[1:])]
    # Features are recorded only where they are asked for: of a shift, and of what it is compared with.
    featured = [key for key in keys if "shift" in plan and (key[0] == "shift" or key == original)]
    outputs: dict[tuple[str, float], ModelOutput] = {}
    for part, capture in (
        (featured, Capture(features=True)),
        ([key for key in keys if key not in featured], Capture()),
    ):
        if part:
            batch = torch.from_numpy(np.stack([normalise(pictures[key], spec.processor) for key in part]))
            outputs.update(zip(part, pipeline.backend.run(spec, batch, capture, dtype), strict=True))
    found = {}
    for kind, strengths in plan.items():
        own = [outputs[original], *(outputs[kind, strength] for strength in strengths[1:])]
        scores = np.stack([_scores(spec, output) for output in own])
        moves = None
        if kind == "shift":
            maps = [_map(output) for output in own]
            moves = np.array(
                [
                    following(maps[0], one, strength / spec.patch_size)
                    for one, strength in zip(maps, strengths, strict=True)
                ]
            )
        found[kind] = _Answers(scores, moves)
    return found


def _scores(spec: ModelSpec, output: ModelOutput) -> NDArray[np.float64]:
    assert output.logits is not None
    scores: NDArray[np.float64] = (output.logits / spec.temperature).double().softmax(dim=-1).numpy()
    return scores


def _map(output: ModelOutput) -> NDArray[np.float32]:
    assert output.features is not None
    found: NDArray[np.float32] = output.features.values.numpy()
    return found.reshape(*output.patch_grid, -1)


def _curve(
    spec: ModelSpec,
    kind: str,
    strengths: Sequence[float],
    answers: Sequence[_Answers],
    truths: Sequence[int] | None,
    followed: Sequence[int] | None,
    note: str = "",
) -> RobustnessCurve:
    """Means over the photos.

    Args:
        answers: one per photo.
        truths: the true class of each, if known.
        followed: the class of each whose score is followed; the top one of the unperturbed photo if not given.
    """
    # Half a second, which a page that starts does not need.
    from scipy.stats import binomtest

    scores = np.stack([one.scores for one in answers])
    top = scores.argmax(axis=2)
    same = top == top[:, :1]
    right = None if truths is None else top == np.array(truths)[:, None]
    classes = top[:, 0] if followed is None else np.array(followed)
    own = np.take_along_axis(scores, classes[:, None, None], axis=2)[..., 0]
    moves = [one.moves for one in answers if one.moves is not None]
    points = []
    for index, strength in enumerate(strengths):
        counted = int((same if right is None else right)[:, index].sum())
        interval = binomtest(counted, len(answers)).proportion_ci(method="wilson")
        follows, stays = _means(np.stack(moves)[:, index]) if moves else (None, None)
        points.append(
            RobustnessPoint(
                strength=strength,
                photos=len(answers),
                accuracy=None if right is None else float(right[:, index].mean()),
                agreement=float(same[:, index].mean()),
                score=float(own[:, index].mean()),
                interval=(float(interval.low), float(interval.high)),
                follows=follows,
                stays=stays,
            )
        )
    return RobustnessCurve(spec.name, kind, tuple(points), note=note)


def _means(values: NDArray[np.float64]) -> tuple[float | None, ...]:
    """Of each column of `[N, 2]`, over the photos that have it."""
    known = values[~np.isnan(values).any(axis=1)]
    return (None, None) if not len(known) else tuple(float(mean) for mean in known.mean(axis=0))
