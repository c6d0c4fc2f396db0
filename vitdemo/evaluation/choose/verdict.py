"""The answer in a sentence, from paired comparisons, and what it rests on."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from vitdemo.evaluation.choose.scores import paired_difference, pareto
from vitdemo.evaluation.choose.types import Candidate, ChooseRequest, Verdict

FEW = 100
"""Photos below which it is said that they are few."""

CLOSE = 0.01
"""A difference in accuracy that people call small."""


def with_pareto(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Mark the models that no other beats: by the probe's accuracy and by milliseconds in a batch."""
    whole = [one for one in candidates if one.probe is not None and one.ms_batched is not None]
    marks = pareto([(one.probe.value, one.ms_batched) for one in whole if one.probe and one.ms_batched is not None])
    front = {one.model for one, mark in zip(whole, marks, strict=True) if mark}
    return tuple(replace(one, pareto=one.model in front) for one in candidates)


def verdict_of(
    candidates: Sequence[Candidate],
    right: Mapping[str, NDArray[np.bool_]],
    request: ChooseRequest,
    machine: str,
) -> Verdict:
    """The sentence.

    Args:
        right: by model, whether its probe answers each photo with a label right: `[n]`, the same photos for all.
    """
    whole = [one for one in candidates if one.probe is not None and one.ms_batched is not None]
    failed = [one.model for one in candidates if one.error]
    if not whole:
        return Verdict(_without(candidates, failed), _rests(candidates, request, machine))
    best = max(whole, key=lambda one: (one.probe.value if one.probe else 0, -(one.ms_batched or 0)))
    rests = _rests(candidates, request, machine)
    photos = best.probe.photos if best.probe else 0
    if len(whole) == 1:
        sentence = f"{best.model} answers {_percent(best)} right; there is no other model to compare it with."
        return Verdict(_honest(sentence, photos, failed), rests, best.model, best.model)
    # The fastest one that is not clearly worse, or, if it is, loses less than people call small.
    near = [one for one in whole if _near(right[best.model], right[one.model])]
    chosen = min(near, key=lambda one: (one.ms_batched or 0, one.model))
    difference, low, high = paired_difference(right[best.model], right[chosen.model])
    if chosen.model == best.model:
        second = max(
            (one for one in whole if one.model != best.model), key=lambda one: one.probe.value if one.probe else 0
        )
        lead, low, high = paired_difference(right[best.model], right[second.model])
        faster = "and is the fastest" if (best.ms_batched or 0) <= min(one.ms_batched or 0 for one in whole) else ""
        faster = faster or _pace(best, second)
        sure = "" if low > 0 else f"; the lead is within what chance allows ({_points(low)} to {_points(high)})"
        sentence = (
            f"{best.model} is the most accurate ({_percent(best)}), {_points(lead)} ahead of {second.model}, "
            f"{faster}{sure}."
            if lead > 0
            else f"{best.model} is as accurate as {second.model} ({_percent(best)}) {faster}."
        )
    else:
        chance = (
            f"no difference that {photos:,} photos can show ({_points(low)} to {_points(high)})"
            if low <= 0
            else f"a small but real difference ({_points(low)} to {_points(high)})"
        )
        sentence = (
            f"{chosen.model} is within {_points(max(difference, 0), up=True)} of {best.model} "
            f"({_percent(chosen)} and {_percent(best)}) {_pace(chosen, best)}: {chance}."
        )
    return Verdict(_honest(sentence, photos, failed), rests, best.model, chosen.model)


def _near(best: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    difference, low, _ = paired_difference(best, other)
    # Few photos could hide any difference: what is not shown must also be small, or five photos would make all models equal.
    return difference <= CLOSE or (low <= 0 and difference <= 2 * CLOSE)


def _honest(sentence: str, photos: int, failed: Sequence[str]) -> str:
    if photos < FEW:
        sentence += f" These are {photos} photos only: more of them may turn it around."
    if failed:
        sentence += f" Without {', '.join(failed)}, which failed."
    return sentence


def _without(candidates: Sequence[Candidate], failed: Sequence[str]) -> str:
    if len(failed) == len(candidates):
        return "No model could be run on these photos; each row says why."
    fastest = min(
        (one for one in candidates if one.ms_batched is not None), key=lambda one: one.ms_batched or 0, default=None
    )
    speed = f" {fastest.model} is the fastest." if fastest else ""
    return f"Without labels there is no accuracy to choose by: name the clusters, and choose again.{speed}"


def _rests(candidates: Sequence[Candidate], request: ChooseRequest, machine: str) -> str:
    probes = [one.probe for one in candidates if one.probe is not None]
    if not probes:
        return f"Times: median forward passes on {machine}."
    return (
        f"{probes[0].photos:,} photos, each answered by a linear probe (L2, C = {request.strength:g}, standardised features) "
        f"that was fitted on the other {request.folds - 1} of {request.folds} stratified folds; 95% Wilson intervals of single "
        f"accuracies, 95% Wald intervals of paired differences; times: median forward passes per photo in a batch, on {machine}."
    )


def machine_of(where: str) -> str:
    """What models run on, for people."""
    threads = torch.get_num_threads()
    return f"{where} ({platform.machine()}, {threads} thread{'' if threads == 1 else 's'}, PyTorch {torch.__version__})"


def _percent(candidate: Candidate) -> str:
    found = candidate.probe
    return "?" if found is None else f"{found.value:.1%} [{found.low:.1%}, {found.high:.1%}]"


def _points(value: float, up: bool = False) -> str:
    """Percentage points; rounded up for "within".

    >>> _points(0.0123), _points(0.0123, up=True), _points(0.0, up=True)
    ('1.2 points', '1.3 points', '0.1 points')
    """
    return f"{max(np.ceil(value * 1000 - 1e-9) / 10, 0.1) if up else value * 100:.1f} points"


def _pace(first: Candidate, second: Candidate) -> str:
    """The first one's time beside the second one's."""
    ratio = (first.ms_batched or 0) / max(second.ms_batched or 0, 1e-9)
    for value, words in ((1 / 4, "a quarter"), (1 / 3, "a third"), (1 / 2, "half"), (2 / 3, "two thirds")):
        if abs(ratio - value) <= 0.06 * value:
            return f"at {words} of the time"
    if abs(ratio - 1) <= 0.1:
        return "in about the same time"
    return f"at {ratio:.0%} of the time" if ratio < 1 else f"at {ratio:.1f} times the time"
