"""What the lists of Compare and Explain offer, and what is asked for with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vitdemo.errors import OptionError
from vitdemo.options.explain import ExplainRequest
from vitdemo.options.methods import METHODS
from vitdemo.pipeline.prepare import prepare
from vitdemo.registry import get_spec
from vitdemo.settings import Settings
from vitdemo.types import ModelSpec, Photo

PREDICTED = ""
"""The target that means the class that a model predicts."""

ORDINALS = {2: "2nd", 3: "3rd", 4: "4th", 5: "5th"}

OFFERED = 2000
"""How many classes a list offers; any other can be typed."""

RESOLUTIONS = (224, 320, 448, 640, 896, 1024)
"""Long sides that the list offers, in pixels; any other up to the last can be typed."""

DISCARDS = (0.5, 0.8, 0.9, 0.95)
"""Shares of the lowest attention that rollout can leave out of each row."""

Share = tuple[float, float]
"""x and y as shares of the photo's width and height."""


def specs_of(names: Sequence[str], settings: Settings) -> list[ModelSpec]:
    """The models of these names, each once.

    Raises:
        OptionError: more of them than one call may name.
        UnknownModelError: there is none of that name.
    """
    different = list(dict.fromkeys(names))
    if len(different) > settings.max_models:
        raise OptionError(
            f"{len(different)} models were named; the limit is {settings.max_models}. Name fewer, or ask several times."
        )
    return [get_spec(name) for name in different]


def request_of(
    photo: Photo, spec: ModelSpec, method: str, target: str, resolution: int, point: Share | None
) -> ExplainRequest:
    """What the controls ask for; the method may still be that of the model before."""
    method = fitting(method, spec)
    chosen = target or None if METHODS[method].class_specific else None
    request = ExplainRequest(method, target=chosen, resolution=resolution or None)
    if method != "similarity" or point is None:
        return request
    width, height = photo.size
    left, top, right, bottom = prepare(photo, spec, request).view.crop
    x, y = point[0] * width, point[1] * height
    return replace(request, point=(min(max(x, left), right - 0.01), min(max(y, top), bottom - 0.01)))


def pixels_of(text: str | None) -> int:
    """What was typed as a long side, such as "448 px"; 0 for the model's default.

    Raises:
        OptionError: it is no number.
    """
    digits = str(text or "0").removesuffix("px").strip()
    if not digits.isdecimal():
        raise OptionError(f"{text!r} is not a resolution. Type the long side in pixels, such as 448.")
    return int(digits)


def cost_of(method: str) -> str:
    """How slow it is, before it runs; "" where it takes no more time."""
    cost = METHODS[method].cost
    return "" if cost == "no extra time" else cost[:1].upper() + cost[1:]


def fitting(method: str, spec: ModelSpec) -> str:
    """The method, or, of a model to which it does not apply, the first one that does."""
    return method if method in spec.methods else next(iter(spec.methods), "attention")


def method_choices(spec: ModelSpec, value: str) -> dict[str, Any]:
    """What the list of methods offers; slow ones say how slow."""
    return {
        "choices": [(METHODS[name].title, name) for name in spec.methods],
        "value": value,
        "info": cost_of(value),
    }


def variants_of(method: str) -> tuple[str, ...]:
    """The names of a method's variants, the default first."""
    return METHODS[method].variant_names if method in METHODS else ()


def variant_choices(method: str, value: str = "") -> dict[str, Any]:
    """What the list of variants offers, and whether there is one; the default's value is empty, as in links."""
    variants = METHODS[method].variants
    names = [(title, "" if index == 0 else name) for index, (name, title) in enumerate(variants)]
    known = value in [name for _, name in names]
    return {"choices": names or [("the only one", "")], "value": value if known else "", "visible": bool(variants)}


def target_choices(spec: ModelSpec) -> dict[str, Any]:
    """The predicted class, the next best ones, then all by name."""
    ranks = [(f"{ORDINALS[rank]} choice", f"top:{rank}") for rank in range(2, min(5, len(spec.labels)) + 1)]
    named = [(label, str(index)) for index, label in enumerate(spec.labels[:OFFERED])]
    return {"choices": [("predicted class", PREDICTED), *ranks, *named], "value": PREDICTED}
