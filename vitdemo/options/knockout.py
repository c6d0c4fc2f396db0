"""What of a network may be switched off, and which patches hidden: texts to a `Knockout`, checked against a model."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, get_args

from vitdemo.errors import OptionError
from vitdemo.types import Fill, Grid, Knockout, ModelSpec

RankBy = Literal["heads", "blocks"]
"""What is ranked by its effect: every head, or every attention and MLP block."""

FILLS: tuple[Fill, ...] = get_args(Fill)
RANKINGS: tuple[RankBy, ...] = get_args(RankBy)


def parse_heads(text: str | None) -> tuple[tuple[int, int], ...]:
    """Heads from "LAYER:HEAD,LAYER:HEAD,...".

    Raises:
        OptionError: they are not written so.

    >>> parse_heads("3:0, 3:1")
    ((3, 0), (3, 1))
    """
    found = []
    for part in _parts(text):
        match = re.fullmatch(r"(-?\d{1,9})\s*:\s*(\d{1,9})", part)
        if match is None:
            raise OptionError(f"The head {_told(part)} is not LAYER:HEAD, such as 3:0. Separate several by commas.")
        found.append((int(match[1]), int(match[2])))
    return tuple(found)


def parse_numbers(text: str | None, what: str) -> tuple[int, ...]:
    """Whole numbers and ranges, separated by commas.

    Args:
        what: for errors: "layer" or "patch".

    Raises:
        OptionError: they are not written so.

    >>> parse_numbers("0, 14-16", "patch")
    (0, 14, 15, 16)
    """
    found: list[int] = []
    for part in _parts(text):
        match = re.fullmatch(r"(-?\d{1,9})(?:\s*-\s*(\d{1,9}))?", part)
        if match is None:
            raise OptionError(f"{_told(part)} is not a {what}: use whole numbers and ranges, such as 0,14-16.")
        first, last = int(match[1]), int(match[2] or match[1])
        # Far more than any picture has: the check against the model says how many there are.
        found += range(first, min(last, first + 100_000) + 1)
        if len(found) > 200_000:
            raise OptionError(f"These are more than 200,000 numbers: name each {what} once.")
    return tuple(found)


def parse_fill(text: str | None) -> Fill:
    """What stands in for hidden patches; grey from nothing.

    Raises:
        OptionError: there is no such fill.
    """
    for known in FILLS:
        if (text or "grey") == known:
            return known
    raise OptionError(f"Hidden patches cannot be filled with {_told(text)}. Choose from: {', '.join(FILLS)}.")


def resolve_knockout(knockout: Knockout, spec: ModelSpec, grid: Grid) -> Knockout:
    """A knock-out as one model takes it: checked, layers counted from 0, in order, nothing twice.

    Args:
        grid: rows and columns of patches of the picture.

    Raises:
        OptionError: a part, patch or fill that the model does not have; or nothing would be left of its attention or picture.
    """
    parse_fill(knockout.fill)
    blocks = knockout.heads or knockout.attention or knockout.mlp
    if blocks and not spec.readouts:
        raise OptionError(
            f"{spec.name} is a convolutional network: it has no heads, attention or MLP blocks to switch off. "
            "Hide patches, or choose a Vision Transformer."
        )
    if knockout.patches and knockout.fill == "mean" and not spec.readouts:
        raise OptionError(
            f"{spec.name} is a convolutional network: it has no patch tokens, so none has a mean. Fill with grey or mae."
        )
    heads = {(_layer(layer, spec), _head(head, spec)) for layer, head in knockout.heads}
    attention = {_layer(layer, spec) for layer in knockout.attention}
    silent = {layer for layer in range(spec.num_layers) if sum(own == layer for own, _ in heads) == spec.num_heads}
    if (heads or attention) and len(silent | attention) == spec.num_layers:
        raise OptionError(
            f"All attention of {spec.name} is off: no token would read another, and every photo would look the same to its "
            "class token. Leave at least one head on."
        )
    patches, count = set(knockout.patches), grid[0] * grid[1]
    if wrong := [patch for patch in patches if not 0 <= patch < count]:
        raise OptionError(f"There is no patch {wrong[0]}: this picture has patches 0 to {count - 1}.")
    if len(patches) == count:
        raise OptionError(f"All {count} patches are hidden: nothing is left to see. Leave at least one.")
    return Knockout(
        tuple(sorted(heads)),
        tuple(sorted(attention)),
        tuple(sorted({_layer(layer, spec) for layer in knockout.mlp})),
        tuple(sorted(patches)),
        knockout.fill if patches else "grey",
    )


def heads_off(knockout: Knockout, layer: int, count: int) -> tuple[int, ...]:
    """Heads of a layer that are off, by themselves or with the whole block; `count` is how many it has."""
    if layer in knockout.attention:
        return tuple(range(count))
    return tuple(head for own, head in knockout.heads if own == layer)


def resolve_ranking(by: str | None) -> RankBy | None:
    """What is to be ranked; None for nothing.

    Raises:
        OptionError: there is no such ranking.
    """
    for known in RANKINGS:
        if by == known:
            return known
    if by:
        raise OptionError(f"There is no ranking of {by!r}. Choose from: {', '.join(RANKINGS)}.")
    return None


def _parts(text: str | None) -> Iterable[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _told(text: str | None) -> str:
    return repr(text if text is None or len(text) <= 40 else f"{text[:39]}…")


def _layer(layer: int, spec: ModelSpec) -> int:
    count = spec.num_layers
    if not -count <= layer < count:
        raise OptionError(f"There is no layer {layer}: {spec.name} has layers 0 to {count - 1}, or -{count} to -1.")
    return layer % count


def _head(head: int, spec: ModelSpec) -> int:
    if not 0 <= head < spec.num_heads:
        raise OptionError(f"There is no head {head}: {spec.name} has heads 0 to {spec.num_heads - 1}.")
    return head
