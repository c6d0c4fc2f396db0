"""What the Inside tab is set to, read from what its page or a link says; what cannot be used is said in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vitdemo.errors import OptionError, VitDemoError
from vitdemo.options.knockout import parse_fill, parse_heads, parse_numbers
from vitdemo.options.perturbations import PERTURBATIONS
from vitdemo.registry import get_spec, ready_models
from vitdemo.types import Knockout, ModelSpec

STEPS = {
    "patches": "Patches",
    "positions": "Positions",
    "attention": "Attention",
    "distance": "Distance",
    "layers": "Layers",
    "cost": "Size and cost",
    "apart": "Take it apart",
    "cnn": "ViT and CNN",
    "training": "How they learn",
}
"""By the names that links have for them, in the order of the walk."""

HIGHEST = 2**31 - 1


@dataclass(frozen=True)
class InsideSettings:
    """What the controls of the tab say."""

    step: str
    model: str
    beside: str
    """The other model; "" for none."""
    layer: int
    """-1 is the last."""
    head: int
    point: tuple[float, float] | None
    """Shares of the photo's width and height."""
    seed: int
    kind: str
    """The perturbation."""
    knockout: Knockout

    @property
    def json(self) -> dict[str, Any]:
        """By the names that links have for them, for the page; what is off as lists of numbers."""
        off = self.knockout
        return {
            **{name: getattr(self, name) for name in ("step", "model", "beside", "layer", "head", "seed", "kind")},
            "point": list(self.point) if self.point else None,
            "heads": [list(one) for one in off.heads],
            "attention": list(off.attention),
            "mlp": list(off.mlp),
            "patches": list(off.patches),
            "fill": off.fill,
        }


def read_settings(given: Mapping[str, Any], model: str) -> tuple[InsideSettings, list[str]]:
    """Settings, and what is wrong with what was given.

    Args:
        given: texts of a link, or values of the page; what is absent has its default.
        model: the default.
    """
    notes: list[str] = []
    step = str(given.get("step") or "patches")
    if step not in STEPS:
        notes.append(f"There is no step {_quoted(step)}; showing {STEPS['patches']}.")
        step = "patches"
    kind = str(given.get("kind") or "shuffle")
    if kind not in PERTURBATIONS:
        notes.append(f"There is no perturbation {_quoted(kind)}; using {PERTURBATIONS['shuffle'].title}.")
        kind = "shuffle"
    spec = _model(given.get("model"), notes, f"using {model}") or get_spec(model)
    beside = _model(given.get("beside"), notes, "comparing with none")
    settings = InsideSettings(
        step=step,
        model=spec.name,
        beside=beside.name if beside else "",
        layer=_whole(given, "layer", notes, -1, -1),
        head=_whole(given, "head", notes, 0),
        point=_point(given.get("point")),
        seed=_whole(given, "seed", notes, 0),
        kind=kind,
        knockout=_knockout(given, spec.num_layers, notes),
    )
    return settings, notes


def models_offered(*chosen: str) -> list[dict[str, Any]]:
    """Models that can be had by now, and those that are chosen, for the page's lists."""
    specs = {spec.name: spec for spec in ready_models()}
    specs |= {name: get_spec(name) for name in chosen if name and name not in specs}
    return [
        {
            "name": spec.name,
            "label": f"{spec.family} ({spec.name})",
            "layers": spec.num_layers,
            "heads": spec.num_heads,
            "classes": len(spec.labels),
        }
        for spec in specs.values()
    ]


def _model(given: Any, notes: list[str], instead: str) -> ModelSpec | None:
    if not given:
        return None
    try:
        return get_spec(str(given))
    except VitDemoError:
        notes.append(f"There is no model {_quoted(given)}; {instead}.")
        return None


def _knockout(given: Mapping[str, Any], layers: int, notes: list[str]) -> Knockout:
    """From texts as the command line has them, or lists of numbers; layers from the end as numbers from 0."""
    try:
        fill = parse_fill(_text(given.get("fill")))
    except OptionError as error:
        notes.append(f"{error} Using grey.")
        fill = "grey"

    def counted(layer: int) -> int:
        return layer + layers if -layers <= layer < 0 else layer

    try:
        return Knockout(
            tuple(sorted({(counted(layer), head) for layer, head in parse_heads(_text(given.get("heads"), ":"))})),
            tuple(sorted({counted(layer) for layer in parse_numbers(_text(given.get("attention")), "layer")})),
            tuple(sorted({counted(layer) for layer in parse_numbers(_text(given.get("mlp")), "layer")})),
            tuple(sorted(set(parse_numbers(_text(given.get("patches")), "patch")))),
            fill,
        )
    except OptionError as error:
        notes.append(f"{error} Nothing is off.")
        return Knockout(fill=fill)


def _text(given: Any, joint: str = "") -> str:
    if isinstance(given, list):
        return ",".join(joint.join(map(str, one)) if isinstance(one, list) else str(one) for one in given)
    return str(given or "")


def _whole(given: Mapping[str, Any], name: str, notes: list[str], default: int, lowest: int = 0) -> int:
    value = given.get(name)
    if value in (None, ""):
        return default
    number = _number(value)
    if lowest <= number <= HIGHEST and number == int(number):
        return int(number)
    notes.append(f"{name} must be a whole number from {lowest}, not {_quoted(value)}; using {default}.")
    return default


def _point(given: Any) -> tuple[float, float] | None:
    parts = given if isinstance(given, list) else str(given or "").split(",")
    numbers = [_number(part) for part in parts[:3]]
    if len(numbers) != 2 or not all(map(math.isfinite, numbers)):
        return None
    x, y = (min(max(number, 0.0), 1.0) for number in numbers)
    return x, y


def _number(value: Any) -> float:
    """NaN where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _quoted(value: Any) -> str:
    text = str(value)
    return f"“{text if len(text) <= 40 else text[:39] + '…'}”"
