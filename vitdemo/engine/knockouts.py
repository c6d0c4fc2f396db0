"""Knock-outs of a request: checked against a model, and cut into batches with their images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from vitdemo.engine.backend import Request
from vitdemo.options.knockout import resolve_knockout
from vitdemo.types import Attribution, Capture, Knockout, ModelSpec


def resolved(request: Request, spec: ModelSpec, pixel_values: Tensor) -> Request:
    """The request with what its knock-outs stand for on this model, for pixels `[B, 3, H, W]`.

    Raises:
        OptionError: a knock-out that the model cannot have.
    """
    if not isinstance(request, Capture | Attribution) or not request.knockouts:
        return request
    grid = spec.grid_of(pixel_values.shape[2], pixel_values.shape[3])
    return replace(request, knockouts=tuple(resolve_knockout(one, spec, grid) for one in request.knockouts))


def batches(pixel_values: Tensor, capture: Capture, size: int) -> Iterator[tuple[Tensor, tuple[Knockout, ...]]]:
    """Images `[B, 3, H, W]` with a knock-out each, or a single image with several, at most `size` at a time.

    Raises:
        ValueError: there are neither as many knock-outs as images, nor is there one of either.
    """
    own = capture.knockouts or (Knockout(),)
    own = own * len(pixel_values) if len(own) == 1 else own
    if len(pixel_values) not in (1, len(own)):
        raise ValueError(f"{len(own)} knock-outs for {len(pixel_values)} images")
    for start in range(0, len(own), size):
        some = slice(start, start + size)
        yield pixel_values[some] if len(pixel_values) > 1 else pixel_values, own[some]
