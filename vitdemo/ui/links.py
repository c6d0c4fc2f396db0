"""The page's settings in a query string, and back. Nothing is stored: a link survives a restart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import urlencode

from vitdemo.images.open import open_image
from vitdemo.settings import ROOT
from vitdemo.types import Photo
from vitdemo.ui.examples import Example, examples

Other = TypeVar("Other")


@dataclass(frozen=True)
class LinkState:
    """What a link asks for; None or "" where it leaves that open."""

    tab: str = ""
    image: str = ""
    models: tuple[str, ...] = ()
    model: str = ""
    method: str = ""
    target: str = ""
    resolution: int = 0
    """-1 where it is no whole number."""
    layer: int | None = None
    head: str = ""
    readout: str = ""
    patch: tuple[float, float] | None = None
    segment: Mapping[str, Any] = field(default_factory=dict)
    """Controls of the Segment tab, by their names."""

    @property
    def start(self) -> dict[str, Any]:
        """What the explorer starts with."""
        return {"layer": self.layer, "head": self.head, "readout": self.readout, "patch": self.patch}


def parse_link(query: Mapping[str, str]) -> LinkState:
    """From a query string; what cannot be read is left out. `vitdemo.ui.link_check` says what of it makes sense.

    >>> found = parse_link({"tab": "explain", "layer": "3", "patch": "0.5,0.25", "resolution": "large"})
    >>> found.tab, found.layer, found.patch, found.resolution
    ('explain', 3, (0.5, 0.25), -1)
    """
    patch = _numbers(query.get("patch", ""))
    return LinkState(
        tab=query.get("tab", ""),
        image=query.get("image", "").strip(),
        models=tuple(name.strip() for name in query.get("models", "").split(",") if name.strip()),
        model=query.get("model", "").strip(),
        method=query.get("method", "").strip(),
        target=query.get("target", "").strip(),
        resolution=_whole(query.get("resolution", "") or "0", -1),
        layer=_whole(query.get("layer", ""), None),
        head=query.get("head", "").strip(),
        readout=query.get("readout", "").strip(),
        patch=(patch[0], patch[1]) if len(patch) == 2 else None,
        segment=_segment(query) if query.get("tab") == "segment" else {},
    )


_SEGMENT: Mapping[str, tuple[float, float]] = {
    "resolution": (0, 640),
    "opacity": (0, 1),
    "threshold": (0.05, 1),
    "objects": (1, 5),
    "tau": (0, 0.8),
    "parts": (2, 8),
    "matches": (1, 10),
}
"""Ranges of the sliders of the Segment tab."""


def _segment(query: Mapping[str, str]) -> dict[str, Any]:
    """What can be read of its controls; whatever is out of a slider's range is moved into it."""
    found: dict[str, Any] = {name: query[name] for name in ("model", "beside", "method", "head") if query.get(name)}
    for name, (low, high) in _SEGMENT.items():
        if numbers := _numbers(query.get(name, "")):
            found[name] = min(max(numbers[0], low), high)
    for name in ("refine", "clip", "within"):
        if query.get(name) in ("0", "1"):
            found[name] = query[name] == "1"
    point = _numbers(query.get("point", ""))
    if len(point) == 2:
        found["point"] = point
    return found


def segment_link(image: str, values: Mapping[str, Any]) -> str:
    """The query string of the Segment tab.

    >>> segment_link("cup", {"method": "similarity", "refine": True, "point": (3.0, 4.5), "beside": ""})
    'tab=segment&image=cup&method=similarity&refine=1&point=3.0,4.5'
    """
    query = {"tab": "segment", "image": image}
    for name, value in values.items():
        if isinstance(value, bool):
            query[name] = str(int(value))
        elif isinstance(value, tuple):
            query[name] = ",".join(str(part) for part in value)
        else:
            query[name] = "" if value is None else str(value)
    return urlencode({name: value for name, value in query.items() if value}, safe=",:/")


def _whole(text: str, other: Other) -> int | Other:
    numbers = _numbers(text)
    return int(numbers[0]) if len(numbers) == 1 and numbers[0] == int(numbers[0]) else other


def _numbers(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        return ()
    return found if all(abs(number) < 1e6 for number in found) else ()


def image_of(photo: Photo, urls: Mapping[str, str]) -> str:
    """What a link calls a photo: an example's id or a URL; "" for an uploaded one."""
    example = _by_digest().get(photo.digest)
    return example.path.stem if example else urls.get(photo.digest, "")


def typed(photo: Photo, urls: Mapping[str, str]) -> str:
    """What names a photo in a command: a path, a URL, or the name of an uploaded file."""
    example = _by_digest().get(photo.digest)
    if example is None:
        return urls.get(photo.digest, "") or photo.name
    return str(example.path if ROOT is None else example.path.relative_to(ROOT))


def example_called(name: str) -> Example | None:
    """The example of that id."""
    return next((example for example in examples() if example.path.stem == name), None)


@lru_cache(maxsize=1)
def _by_digest() -> dict[str, Example]:
    return {open_image(example.path).digest: example for example in examples()}
