"""What the Segment tab is set to, read from what its page or a link says; what cannot be used is said in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vitdemo.errors import VitDemoError
from vitdemo.options.segment import OWN, RESOLUTION, SegmentRequest
from vitdemo.registry import get_spec, ready_models
from vitdemo.types import ModelSpec

TITLES = {
    "foreground": "Foreground",
    "parts": "Parts",
    "attention": "Attention",
    "pca": "Colours",
    "similarity": "Similarity",
}

LAYERED = ("attention", "foreground", "parts")
"""Methods whose masks can follow the edges of the photo."""

SHARED = ("parts", "pca", "similarity")
"""Methods that take several photos together."""

HEADS = ("mean", "max", "min", "all")

OPACITY = 0.6

RANGES: Mapping[str, tuple[str, float, float, float | None]] = {
    "resolution": ("Resolution", 0, 640, RESOLUTION),
    "threshold": ("Attention share kept", 0.05, 1, 0.6),
    "objects": ("Objects", 1, 5, 1),
    "tau": ("Similarity threshold", 0, 0.95, None),
    "parts": ("Parts", 2, 8, 4),
    "matches": ("Best matches", 1, 10, 5),
    "opacity": ("Opacity", 0, 1, OPACITY),
}
"""Titles, lowest, highest and default values; None: what suits the model and the photo."""

SWITCHES = {"refine": True, "clip": False, "within": True}


@dataclass(frozen=True)
class Settings:
    """What the controls of the tab say."""

    model: str
    beside: str
    """The other model; "" for none."""
    opacity: float
    request: SegmentRequest

    @property
    def json(self) -> dict[str, Any]:
        """By the names that links have for them, for the page."""
        point = list(self.request.point) if self.request.point else None
        values = {**vars(self.request), "head": str(self.request.head), "resolution": self.request.resolution or 0}
        return {"model": self.model, "beside": self.beside, "opacity": self.opacity, **values, "point": point}

    @property
    def link(self) -> Mapping[str, Any]:
        """What a link says: what the method reads."""
        method = self.request.method
        values = {**self.json, "point": self.request.point if method == "similarity" else None}
        names = ["model", "beside", "method", "resolution", *(["refine"] if method in LAYERED else []), "clip"]
        own = ("threshold", "head", "objects", "tau", "parts", "within", "matches", "point")
        return {name: values[name] for name in (*names, *(name for name in own if name in OWN[method]))}


def read_settings(given: Mapping[str, Any], model: str) -> tuple[Settings, list[str]]:
    """Settings, and what is wrong with what was given.

    Args:
        given: texts of a link, or values of the page; what is absent has its default.
        model: the default.
    """
    notes: list[str] = []
    spec = _model(given.get("model"), notes, f"using {model}") or get_spec(model)
    beside = _model(given.get("beside"), notes, "comparing with none")
    method = str(given.get("method") or "foreground")
    if method not in TITLES:
        notes.append(f"There is no method {_quoted(method)}; using {TITLES['foreground']}.")
        method = "foreground"
    numbers: dict[str, Any] = {}
    for name, (title, low, high, default) in RANGES.items():
        numbers[name] = default
        value = given.get(name)
        number = _number(value)
        if value in (None, ""):
            continue
        if number is None:
            notes.append(f"{title} must be a number, not {_quoted(value)}; using {_default(default)}.")
            continue
        numbers[name] = min(max(number, low), high)
        if numbers[name] != number:
            notes.append(f"{title} goes from {low:g} to {high:g}; using {numbers[name]:g} instead of {number:g}.")
    head = str(given.get("head") or "mean")
    if head not in heads_offered(spec):
        notes.append(f"{spec.name} has no head {_quoted(head)}; using the mean of heads.")
        head = "mean"
    switches = {name: _switch(given.get(name), default) for name, default in SWITCHES.items()}
    request = SegmentRequest(
        method=method,
        threshold=numbers["threshold"],
        head=int(head) if head.isdecimal() else head,
        objects=int(numbers["objects"]),
        tau=numbers["tau"],
        parts=int(numbers["parts"]),
        matches=int(numbers["matches"]),
        resolution=int(numbers["resolution"]) or None,
        point=_point(given.get("point")),
        **switches,
    )
    return Settings(spec.name, beside.name if beside else "", numbers["opacity"], request), notes


def heads_offered(spec: ModelSpec) -> list[str]:
    """Fusions, all of them, and each."""
    return [*HEADS, *(str(head) for head in range(spec.num_heads))]


def models_offered(*chosen: str) -> list[dict[str, Any]]:
    """Models with patches that can be had by now, and those that are chosen, for the page's lists."""
    specs = {spec.name: spec for spec in ready_models() if spec.readouts}
    specs |= {name: get_spec(name) for name in chosen if name and name not in specs}
    return [
        {
            "name": spec.name,
            "label": f"{spec.family} ({spec.name})",
            "heads": spec.num_heads,
        }
        for spec in specs.values()
    ]


def _model(given: Any, notes: list[str], instead: str) -> ModelSpec | None:
    """The model of this name, if there is one that has patches."""
    if not given:
        return None
    try:
        spec = get_spec(str(given))
    except VitDemoError:
        notes.append(f"There is no model {_quoted(given)}; {instead}.")
        return None
    if not spec.readouts:
        notes.append(f"{spec.name} has no attention, and so no patches to tell apart; {instead}.")
        return None
    return spec


def _default(value: float | None) -> str:
    return "the automatic one" if value is None else f"{value:g}"


def _quoted(value: Any) -> str:
    text = str(value)
    return f"“{text if len(text) <= 40 else text[:39] + '…'}”"


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) < 1e6 else None


def _switch(value: Any, default: bool) -> bool:
    return {"0": False, "1": True, False: False, True: True}.get(value, default) if _plain(value) else default


def _plain(value: Any) -> bool:
    return isinstance(value, (str, bool))


def _point(value: Any) -> tuple[float, float] | None:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)) or len(parts) != 2:
        return None
    x, y = (_number(part) for part in parts)
    return None if x is None or y is None else (x, y)
