"""What a user may ask of a map, checked."""

from __future__ import annotations

from typing import Any

from vitdemo.attribution import FUSIONS
from vitdemo.errors import OptionError
from vitdemo.models.preprocess import input_size, view_of
from vitdemo.options.methods import METHODS, Method, obstacle
from vitdemo.options.targets import parse_target
from vitdemo.types import Fusion, ModelSpec, Photo, Processor, Readout


def method_for(name: str, spec: ModelSpec) -> Method | None:
    """The method, or None where a network without attention is asked for its attention: it still has a prediction.

    Raises:
        OptionError: there is no such method, or it does not apply; the message says why.
    """
    if name not in METHODS:
        raise OptionError(f"Unknown method {name!r}. Choose from: {', '.join(METHODS)}.")
    method = METHODS[name]
    reason = reason_against(name, spec)
    if not reason:
        return method
    if name == "attention":
        return None
    choices = ", ".join(spec.methods) or "none"
    raise OptionError(f"{method.title} does not apply to {spec.name}: {reason}. Methods that do: {choices}.")


def reason_against(name: str, spec: ModelSpec) -> str:
    """Why a method does not apply to a model; empty if it does, or if there is no such method."""
    return obstacle(METHODS[name], bool(spec.readouts), bool(spec.labels)) if name in METHODS else ""


def missing_target(spec: ModelSpec, method: str, target: Any) -> str:
    """Why a method cannot explain this class of this model; "" where it can, or has no class to explain."""
    known = METHODS.get(method)
    if known is None or reason_against(method, spec) or not known.class_specific:
        return ""
    try:
        parse_target(target, spec)
    except OptionError as error:
        return str(error)
    return ""


def readouts_of(spec: ModelSpec) -> tuple[Readout, ...]:
    """Whose attention may be shown: that of the model's own tokens, and that of any patch."""
    return (*spec.readouts, "patch") if spec.readouts else ()


def fusion_of(head: int | str) -> Fusion:
    """How rollout fuses heads.

    Raises:
        OptionError: it cannot follow a single head through the layers.
    """
    for fusion in FUSIONS:
        if head == fusion:
            return fusion
    raise OptionError(f"Rollout fuses the heads of each layer: head must be one of {', '.join(FUSIONS)}, not {head!r}.")


def share_of(discard: float) -> float:
    """The share of attention that rollout leaves out.

    Raises:
        OptionError: it is below 0, or would leave nothing.
    """
    if not 0 <= discard < 1:
        raise OptionError(f"The share of attention to discard must be at least 0 and below 1, not {discard}.")
    return float(discard)


def parse_point(text: str | None) -> tuple[float, float] | None:
    """A place of the photo, from "X,Y"; None from nothing.

    Raises:
        OptionError: that is not two numbers.
    """
    if not text or not text.strip():
        return None
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise OptionError(f"The point {text!r} is not X,Y.") from None
    return x, y


def patch_at(point: tuple[float, float] | None, photo: Photo, spec: ModelSpec, processor: Processor) -> int:
    """The number of the patch at a place of the photo, row by row from 0.

    Raises:
        OptionError: the model does not see that place.
    """
    left, top, right, bottom = view_of(photo.size, processor).crop
    x, y = point if point is not None else ((left + right) / 2, (top + bottom) / 2)
    if not (left <= x < right and top <= y < bottom):
        raise OptionError(
            f"The point {x:g},{y:g} is not on what {spec.name} sees: x from {left} to {right - 1}, y from {top} to {bottom - 1}."
        )
    height, width = input_size(spec, processor)
    rows, columns = spec.grid_of(height, width)
    return int((y - top) / (bottom - top) * rows) * columns + int((x - left) / (right - left) * columns)
