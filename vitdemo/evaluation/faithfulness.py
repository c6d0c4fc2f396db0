"""Whether a map names the patches that matter: deletion and insertion, Petsiuk et al. 2018, arXiv:1806.07421.

The patches are replaced by the picture's mean colour, those with the largest values first (deletion), or brought back into a
picture of that colour (insertion). The area under the score of the class says how soon it falls, or rises. Random orders are
the baseline.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitdemo.engine import ModelRun
from vitdemo.errors import OptionError
from vitdemo.models.preprocess import preprocess
from vitdemo.options.explain import ExplainRequest
from vitdemo.options.methods import METHODS
from vitdemo.pipeline import Pipeline
from vitdemo.pipeline.prepare import prepare
from vitdemo.types import Capture, Faithfulness, Grid, ModelSpec, Photo

STEPS = 20
RANDOM = 2
"""Random orders whose mean is the baseline."""


def faithfulness(
    pipeline: Pipeline,
    photo: Photo,
    spec: ModelSpec,
    request: ExplainRequest,
    *,
    steps: int = STEPS,
    seed: int = 0,
    baseline: Sequence[float] | None = None,
    dtype: str = "auto",
) -> Faithfulness:
    """Measure one map.

    Args:
        steps: how many times patches are replaced, from none to all.
        seed: of the random orders.
        baseline: their scores, if they are known from another method on the same photo, class and grid.

    Raises:
        OptionError: the model has no classifier or no such map, or there are no steps.
    """
    _require_scores(spec)
    if not 1 <= steps <= 1000:
        raise OptionError(f"Steps must be from 1 to 1000, not {steps}.")
    explanation = pipeline.explain(photo, spec, request, dtype=dtype)
    if explanation.map is None:
        raise OptionError(f"{spec.name} has no map of {request.method}.")
    target = explanation.map.target
    if target is None:
        target = explanation.prediction.labels[0].index
    pixels = pixels_of(photo, spec, request)
    rng = np.random.default_rng(seed)
    orders = _best_first(explanation.map.values)
    orders += [rng.permutation(explanation.map.values.size) for _ in range(0 if baseline else RANDOM)]
    deletion, insertion, *others = _curves(pipeline, spec, pixels, explanation.patch_grid, orders, target, steps, dtype)
    return Faithfulness(
        method=request.method,
        target=target,
        shares=tuple(step / steps for step in range(steps + 1)),
        deletion=tuple(deletion),
        insertion=tuple(insertion[::-1]),
        random=tuple(baseline or np.mean(others, axis=0).tolist()),
    )


def deletion_and_insertion(
    pipeline: Pipeline,
    spec: ModelSpec,
    pixels: Tensor,
    values: NDArray[np.float32],
    target: int,
    steps: int = STEPS,
    *,
    dtype: str = "auto",
) -> tuple[list[float], list[float]]:
    """The score of a class while patches go, and while they come back: each `[steps + 1]`.

    Args:
        pixels: `[3, H, W]`, as the model takes them.
        values: `[h, w]`; the patches with the largest come first.
    """
    grid = (values.shape[0], values.shape[1])
    deletion, insertion = _curves(pipeline, spec, pixels, grid, _best_first(values), target, steps, dtype)
    return deletion, insertion[::-1]


def _best_first(values: NDArray[np.float32]) -> list[NDArray[np.intp]]:
    """The order of deletion; and that of insertion, since bringing the best patches back first is deleting the worst ones first,
    backwards."""
    order = np.argsort(-values.ravel(), kind="stable")
    return [order, order[::-1]]


def _curves(
    pipeline: Pipeline,
    spec: ModelSpec,
    pixels: Tensor,
    grid: Grid,
    orders: Sequence[NDArray[np.intp]],
    target: int,
    steps: int,
    dtype: str,
) -> list[list[float]]:
    """The scores while patches go in each of these orders."""
    gone = [_more_and_more(order, steps).view(-1, *grid) for order in orders]
    return scores_without_each(pipeline, spec, pixels, gone, target, dtype=dtype)


def _require_scores(spec: ModelSpec) -> None:
    if not spec.labels:
        raise OptionError(f"{spec.name} has no classifier, so there is no score to watch.")


def pixels_of(photo: Photo, spec: ModelSpec, request: ExplainRequest) -> Tensor:
    """`[3, H, W]`: the pixels that a map is made of, whatever limit its resolution met."""
    return preprocess([photo], prepare(photo, spec, request).processor).pixel_values[0]


def scores_without(
    pipeline: Pipeline, spec: ModelSpec, pixels: Tensor, gone: Tensor, target: int, *, dtype: str = "auto"
) -> list[float]:
    """The score of a class without some of the patches, calibrated as in the list of labels.

    Args:
        pixels: `[3, H, W]`, as the model takes them.
        gone: `[M, h, w]` bool; in each of M pictures, these patches have the mean colour of all pixels.
    """
    (found,) = scores_without_each(pipeline, spec, pixels, [gone], target, dtype=dtype)
    return found


def scores_without_each(
    pipeline: Pipeline, spec: ModelSpec, pixels: Tensor, gone: Sequence[Tensor], target: int, *, dtype: str = "auto"
) -> list[list[float]]:
    """As `scores_without` for each of several `gone`, in one call of the backend."""
    runs = [ModelRun(spec, _without(spec, pixels, one), Capture(), dtype) for one in gone]
    answers = pipeline.backend.run_many(runs)
    logits = [[output.logits / spec.temperature for output in one if output.logits is not None] for one in answers]
    return [[float(values.softmax(dim=-1)[target]) for values in one] for one in logits]


def _without(spec: ModelSpec, pixels: Tensor, gone: Tensor) -> Tensor:
    """`[M, 3, H, W]`: the picture without the patches that are gone in each of M copies."""
    # A CNN's last cells may be of fewer pixels; what a transformer leaves out at the edge goes with the last patches.
    rows, columns = (
        (torch.arange(size) // spec.patch_size).clamp(max=count - 1)
        for size, count in zip(pixels.shape[1:], gone.shape[1:], strict=True)
    )
    mask = gone[:, None, rows][..., columns]
    return torch.where(mask, pixels.mean(dim=(1, 2), keepdim=True), pixels)


def _more_and_more(order: NDArray[np.intp], steps: int) -> Tensor:
    """`[steps + 1, P]` bool: none of the patches, then more and more in this order, then all."""
    gone = torch.zeros(steps + 1, order.size, dtype=torch.bool)
    for step, count in enumerate(np.rint(np.linspace(0, order.size, steps + 1)).astype(int)):
        gone[step, order[:count].copy()] = True
    return gone


@dataclass(frozen=True)
class FaithfulnessFigures:
    """Means over photos of one model and method."""

    model: str
    method: str
    photos: int
    deletion: float
    insertion: float
    random: float
    deletion_interval: tuple[float, float]
    """95% bootstrap interval of the mean difference to the random baseline; below 0 is better than random."""
    insertion_interval: tuple[float, float]
    """Likewise; above 0 is better than random."""


def measure(
    pipeline: Pipeline,
    spec: ModelSpec,
    photos: Iterable[Photo],
    methods: Sequence[str],
    steps: int = STEPS,
    variant: str | None = None,
) -> list[FaithfulnessFigures]:
    """Faithfulness of several methods on the same photos, each towards the class that the model predicts.

    Args:
        variant: of the methods that have it; the others are measured as usual.

    Raises:
        OptionError: there are no photos, or as `faithfulness`.
    """
    _require_scores(spec)
    found: dict[str, list[tuple[float, float, float]]] = {method: [] for method in methods}
    for number, photo in enumerate(photos):
        baseline: Sequence[float] | None = None
        for method in methods:
            request = ExplainRequest(method, variant=variant if variant in METHODS[method].variant_names else None)
            one = faithfulness(pipeline, photo, spec, request, steps=steps, seed=number, baseline=baseline)
            baseline = one.random
            found[method].append((one.deletion_auc, one.insertion_auc, one.random_auc))
    if not all(found.values()):
        raise OptionError("There are no photos to measure on.")
    return [_figures(spec.name, method, np.array(values)) for method, values in found.items()]


def _figures(model: str, method: str, values: NDArray[np.float64]) -> FaithfulnessFigures:
    deletion, insertion, random = values.mean(axis=0)
    chosen = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))

    def interval(differences: NDArray[np.float64]) -> tuple[float, float]:
        low, high = np.percentile(differences[chosen].mean(axis=1), (2.5, 97.5))
        return float(low), float(high)

    return FaithfulnessFigures(
        model=model,
        method=method,
        photos=len(values),
        deletion=float(deletion),
        insertion=float(insertion),
        random=float(random),
        deletion_interval=interval(values[:, 0] - values[:, 2]),
        insertion_interval=interval(values[:, 1] - values[:, 2]),
    )
