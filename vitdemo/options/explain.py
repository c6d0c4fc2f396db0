"""What may be asked of a map: one request for every model, and what becomes of it for one of them."""

from __future__ import annotations

from dataclasses import dataclass

from vitdemo.errors import OptionError
from vitdemo.options.methods import METHODS, Method, obstacle
from vitdemo.options.targets import parse_target
from vitdemo.types import FUSIONS, Fusion, ModelSpec, Readout

Point = tuple[float, float]
"""`(x, y)` in pixels of the upright photo."""


@dataclass(frozen=True)
class ExplainRequest:
    """Which map is wanted of a photo, for any model. `resolve` checks it against one."""

    method: str = "attention"
    """A name in `vitdemo.options.methods.METHODS`."""
    layer: int | str = -1
    """For `attention`: from 0, or from -1 backwards."""
    head: int | str = "mean"
    """For `attention`: a number from 0, or a fusion; for `rollout`: a fusion."""
    readout: str | None = None
    """For `attention`: whose attention; None for the model's default, "patch" for the patch at `point`."""
    target: int | str | None = None
    """For class-specific methods: a label, its index, or "top:K"; None for the predicted class."""
    resolution: int | None = None
    """Long side in pixels to which the photo is enlarged, keeping its shape; None for the model's own input."""
    discard: float = 0.0
    """For `rollout`: share of the smallest attention in each row that is left out, from 0, below 1."""
    point: Point | None = None
    """For `similarity` and the readout "patch"; None for the middle of what the model sees."""
    variant: str | None = None
    """For methods with `variants` in `METHODS`; None for the first of them."""


@dataclass(frozen=True)
class ResolvedRequest:
    """A request as one model takes it."""

    request: ExplainRequest
    method: Method | None
    """None where a network without attention is asked for attention: it still has a prediction."""
    readout: Readout | None
    """Whose attention `attention` shows."""
    target: int | None
    """Index of the class; None for the class of this rank."""
    rank: int
    fusion: Fusion
    """For `rollout`."""
    variant: str = ""
    """Empty for methods without variants."""


def resolve(request: ExplainRequest, spec: ModelSpec) -> ResolvedRequest:
    """Check a request against a model.

    Raises:
        OptionError: a method, layer, head, readout, target, share or variant that the model does not have.
    """
    method = _method(request.method, spec)
    readout = next((name for name in readouts_of(spec) if name == request.readout), None)
    if request.readout is not None and readout is None:
        choices = ", ".join(readouts_of(spec)) or "none, it has no attention"
        raise OptionError(f"{spec.name} has no read-out {request.readout!r}. Choose from: {choices}.")
    target, rank = parse_target(request.target, spec)
    fusion: Fusion = "mean"
    if method is not None and method.name == "attention":
        readout = readout or spec.readouts[0]
        resolve_layer(request.layer, spec.num_layers)
        resolve_head(request.head, spec.num_heads)
    elif method is not None and method.name == "rollout":
        fusion = _fusion(request.head)
    if method is not None and method.needs != "rows" and not 0 <= request.discard < 1:
        raise OptionError(f"The share of attention to discard must be at least 0 and below 1, not {request.discard}.")
    return ResolvedRequest(request, method, readout, target, rank, fusion, _variant(request.variant, method))


def reason_against(name: str, spec: ModelSpec) -> str:
    """Why a method does not apply to a model; empty if it does, or if there is no such method."""
    return obstacle(METHODS[name], bool(spec.readouts), bool(spec.labels)) if name in METHODS else ""


def missing_target(request: ExplainRequest, spec: ModelSpec) -> str:
    """Why a model has no map of the requested class; empty if it has, or if the method explains no class."""
    method = METHODS.get(request.method)
    if method is None or reason_against(request.method, spec) or not method.class_specific:
        return ""
    try:
        parse_target(request.target, spec)
    except OptionError as error:
        return str(error)
    return ""


def readouts_of(spec: ModelSpec) -> tuple[Readout, ...]:
    """Whose attention may be shown: that of the model's own tokens, and that of any patch."""
    return (*spec.readouts, "patch") if spec.readouts else ()


def parse_point(text: str | None) -> Point | None:
    """A place in the photo, from "X,Y"; None from nothing.

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


def resolve_layer(layer: int | str, count: int) -> int:
    """A layer's number from 0.

    Raises:
        OptionError: not a whole number, or out of range.

    >>> resolve_layer(-1, count=12), resolve_layer("3", count=12)
    (11, 3)
    """
    try:
        number = int(str(layer))
    except ValueError:
        number = count
    if not -count <= number < count:
        raise OptionError(f"There is no layer {layer}: this model has layers 0 to {count - 1}, or -{count} to -1.")
    return number % count


def resolve_head(head: int | str, count: int) -> int | Fusion:
    """A head's number from 0, or the name of a fusion.

    Raises:
        OptionError: neither, or out of range.

    >>> resolve_head("max", count=6), resolve_head("5", count=6)
    ('max', 5)
    """
    for fusion in FUSIONS:
        if head == fusion:
            return fusion
    try:
        number = int(str(head))
    except ValueError:
        number = count
    if not 0 <= number < count:
        raise OptionError(f"There is no head {head}: use {', '.join(FUSIONS)}, or 0 to {count - 1}.")
    return number


def require_patch(patch: int, count: int) -> None:
    """Raises OptionError if there is no such patch.

    Args:
        patch: row-major index.
        count: of the picture's patches.
    """
    if not 0 <= patch < count:
        raise OptionError(f"There is no patch {patch}: this picture has patches 0 to {count - 1}.")


def _method(name: str, spec: ModelSpec) -> Method | None:
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


def _variant(variant: str | None, method: Method | None) -> str:
    names = method.variant_names if method else ()
    if not variant or variant in names:
        return variant or next(iter(names), "")
    title = method.title if method else "This method"
    raise OptionError(
        f"{title} has no variant {variant!r}. Choose from: {', '.join(names) or 'none, it has one form'}."
    )


def _fusion(head: int | str) -> Fusion:
    for fusion in FUSIONS:
        if head == fusion:
            return fusion
    raise OptionError(f"Rollout fuses the heads of each layer: head must be one of {', '.join(FUSIONS)}, not {head!r}.")
