"""What a network answers with parts of it off or patches hidden, and which parts matter most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vitdemo.attribution import agreement_of
from vitdemo.errors import OptionError
from vitdemo.models.preprocess import preprocess
from vitdemo.options.explain import ExplainRequest
from vitdemo.options.knockout import RankBy, resolve_knockout
from vitdemo.options.methods import METHODS
from vitdemo.options.targets import parse_target
from vitdemo.pipeline.fill import filled_in, seen
from vitdemo.pipeline.pipeline import Pipeline
from vitdemo.pipeline.prepare import Prepared, prepare
from vitdemo.types import Ablation, Capture, Effect, Explanation, Knockout, ModelSpec, Photo

if TYPE_CHECKING:
    import PIL.Image

Progress = Callable[[int, int], None]
"""Called with how many parts are done, and of how many. What it raises ends the ranking."""


def ablate(
    pipeline: Pipeline,
    photo: Photo,
    spec: ModelSpec,
    knockout: Knockout,
    request: ExplainRequest | None = None,
    *,
    rank: RankBy | None = None,
    top_k: int = 5,
    dtype: str = "auto",
    progress: Progress | None = None,
) -> Ablation:
    """One photo through a model as it is, and with parts of it off or patches hidden.

    Args:
        request: the map that is made before and after, and the class whose score is told: before is its predicted class.
        rank: also rank all heads, or all attention and MLP blocks, by what each one more does to that score.
        progress: of the ranking.

    Raises:
        OptionError: the request or the knock-out asks for what this model or photo does not have, or there is neither anything
            off nor a ranking.
        ClientLeftError: nobody waits for the result any more: see `vitdemo.engine.left`.
    """
    request = request or ExplainRequest()
    prepared = prepare(photo, spec, request, knockout)
    if not prepared.knockout and rank is None:
        raise OptionError("Nothing is off: name heads, attention or MLP blocks or patches, or ask for a ranking.")
    if rank is not None:
        _require_ranking(spec)
    # All labels, to find that of the target among them.
    count = max(top_k, len(spec.labels))
    before = pipeline.explain(photo, spec, request, top_k=count, dtype=dtype)
    target = _target(request, before)
    method = METHODS.get(request.method)
    if method is not None and method.class_specific:
        # The same class, whichever is predicted afterwards.
        request = replace(request, target=target)
    after = before
    if prepared.knockout:
        after = pipeline.explain(photo, spec, request, top_k=count, dtype=dtype, knockout=prepared.knockout)
    found = Ablation(
        prepared.knockout,
        _cut(before, top_k),
        _cut(after, top_k),
        target,
        None if target is None else (_score(before, target), _score(after, target)),
        agreement_of(before, after),
        _shown(pipeline, prepared, dtype),
    )
    if rank is None or target is None:
        return found
    return replace(found, ranking=_ranked(pipeline, prepared, target, _score(after, target), rank, dtype, progress))


def _require_ranking(spec: ModelSpec) -> None:
    if not spec.readouts:
        raise OptionError(
            f"{spec.name} is a convolutional network: it has no heads or blocks to rank. Choose a transformer."
        )
    if not spec.labels:
        raise OptionError(
            f"{spec.name} has no classifier, so no part of it has an effect on a score. Choose one with classes."
        )


def _target(request: ExplainRequest, before: Explanation) -> int | None:
    if not before.prediction.labels:
        return None
    index, rank = parse_target(request.target, before.prediction.spec)
    return before.prediction.labels[rank - 1].index if index is None else index


def _score(explanation: Explanation, target: int) -> float:
    return next(label.score for label in explanation.prediction.labels if label.index == target)


def _cut(explanation: Explanation, top_k: int) -> Explanation:
    labels = explanation.prediction.labels[:top_k]
    return replace(explanation, prediction=replace(explanation.prediction, labels=labels))


def _shown(pipeline: Pipeline, prepared: Prepared, dtype: str) -> PIL.Image.Image | None:
    if not prepared.knockout.patches:
        return None
    pixels = preprocess([prepared.photo], prepared.processor).pixel_values
    return seen(prepared, filled_in(pipeline.backend, prepared, pixels, dtype)[0])


def rank_some(
    pipeline: Pipeline,
    photo: Photo,
    spec: ModelSpec,
    knockout: Knockout,
    target: int,
    by: RankBy,
    places: slice,
    dtype: str = "auto",
) -> tuple[tuple[Effect, ...], int]:
    """Effects of some of the parts that `ablate` ranks, in the order of layers, and how many there are in all.

    Raises:
        OptionError: as `ablate`.
    """
    _require_ranking(spec)
    prepared = prepare(photo, spec, ExplainRequest(), knockout)
    now = pipeline.explain(photo, spec, top_k=len(spec.labels), dtype=dtype, knockout=prepared.knockout)
    parts = _remaining(prepared, by)
    return tuple(_effects(pipeline, prepared, target, _score(now, target), parts[places], dtype)), len(parts)


def _ranked(
    pipeline: Pipeline,
    prepared: Prepared,
    target: int,
    score: float,
    by: RankBy,
    dtype: str,
    progress: Progress | None,
) -> tuple[Effect, ...]:
    parts = _remaining(prepared, by)
    effects: list[Effect] = []
    # The backend cuts it into batches; where each call borrows a GPU, all are one call.
    size = len(parts) if pipeline.backend.borrowed else pipeline.settings.max_batch
    for start in range(0, len(parts), size or 1):
        if progress is not None:
            progress(start, len(parts))
        effects += _effects(pipeline, prepared, target, score, parts[start : start + size], dtype)
    if progress is not None:
        progress(len(parts), len(parts))
    return tuple(sorted(effects, key=lambda effect: -abs(effect.change)))


def _effects(
    pipeline: Pipeline, prepared: Prepared, target: int, score: float, parts: Sequence[Knockout], dtype: str
) -> list[Effect]:
    """Each part off in a row of a batch of its own.

    Args:
        score: of the target with the knock-out alone.
    """
    if not parts:
        return []
    spec, effects = prepared.spec, []
    pixels = preprocess([prepared.photo], prepared.processor).pixel_values
    pixels, base = filled_in(pipeline.backend, prepared, pixels, dtype)
    capture = Capture(knockouts=tuple(base | part for part in parts))
    for part, output in zip(parts, pipeline.backend.run(spec, pixels, capture, dtype), strict=True):
        assert output.logits is not None
        scores = (output.logits / spec.temperature).softmax(dim=-1)
        without = float(scores[target])
        effects.append(Effect(*_named(part), without, without - score, spec.labels[int(scores.argmax())]))
    return effects


def _remaining(prepared: Prepared, by: RankBy) -> Sequence[Knockout]:
    """Parts that are not off already."""
    return [part for part in _parts(prepared.spec, by) if _possible(prepared.knockout, part, prepared)]


def _parts(spec: ModelSpec, by: RankBy) -> Sequence[Knockout]:
    layers = range(spec.num_layers)
    if by == "heads":
        return [Knockout(heads=((layer, head),)) for layer in layers for head in range(spec.num_heads)]
    return [part for layer in layers for part in (Knockout(attention=(layer,)), Knockout(mlp=(layer,)))]


def _possible(base: Knockout, part: Knockout, prepared: Prepared) -> bool:
    """Whether a part is still on, and not the last that attends."""
    if base | part == base or any(layer in base.attention for layer, _ in part.heads):
        return False
    try:
        resolve_knockout(base | part, prepared.spec, prepared.grid)
    except OptionError:
        return False
    return True


def _named(part: Knockout) -> tuple[Any, int, int | None]:
    if part.heads:
        ((layer, head),) = part.heads
        return "head", layer, head
    return ("attention", part.attention[0], None) if part.attention else ("mlp", part.mlp[0], None)
