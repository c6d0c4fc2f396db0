"""The page's settings in a query string, and back. Nothing is stored: a link survives a restart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlencode

from vitdemo.options.explain import ExplainRequest
from vitdemo.settings import ROOT
from vitdemo.types import Photo
from vitdemo.ui.examples import Example, example_of, examples

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
    fusion: str = "mean"
    """For rollout: how heads are joined."""
    discard: float = 0.0
    """For rollout: one of the shares that the page offers."""
    variant: str = ""
    """Of the method; empty for the default."""
    layer: int | None = None
    head: str = ""
    readout: str = ""
    patch: tuple[float, float] | None = None
    boxes: tuple[tuple[float, ...], ...] = ()
    """Left, top, width and height of each, in shares of the photo's width and height; unchecked."""
    segment: Mapping[str, str] = field(default_factory=dict)
    """What it says of the Segment tab, unchecked, by the names of its settings."""
    inside: Mapping[str, str] = field(default_factory=dict)
    """The same of the Inside tab."""

    @property
    def start(self) -> dict[str, Any]:
        """What the explorer starts with."""
        return {
            "layer": self.layer,
            "head": self.head,
            "readout": self.readout,
            "patch": self.patch,
            "boxes": self.boxes,
        }


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
        fusion=query.get("fusion", "").strip() or "mean",
        discard=next(iter(_numbers(query.get("discard", "0"))), -1.0),
        variant=query.get("variant", "").strip(),
        layer=_whole(query.get("layer", ""), None),
        head=query.get("head", "").strip(),
        readout=query.get("readout", "").strip(),
        patch=(patch[0], patch[1]) if len(patch) == 2 else None,
        boxes=tuple(_numbers(box) for box in query.get("box", "").split(";") if box.strip()),
        segment=_of_tab(query, "segment", SEGMENT_NAMES),
        inside=_of_tab(query, "inside", INSIDE_NAMES),
    )


def explain_link(model: str, request: ExplainRequest, point: tuple[float, float] | None, image: str) -> dict[str, str]:
    """The query of the Explain tab, without what the browser's own controls add; empty where it is the default.

    Args:
        point: that of the request, as shares of the photo's width and height.

    >>> link = explain_link("vit-mini", ExplainRequest("rollout", head="max", discard=0.9), None, "cup")
    >>> {name: value for name, value in link.items() if value}
    {'tab': 'explain', 'model': 'vit-mini', 'method': 'rollout', 'fusion': 'max', 'discard': '0.9', 'image': 'cup'}
    """
    return {
        "tab": "explain",
        "model": model,
        "method": "" if request.method == "attention" else request.method,
        "target": str(request.target or ""),
        "resolution": str(request.resolution or ""),
        "fusion": str(request.head) if request.method == "rollout" and request.head != "mean" else "",
        "discard": str(request.discard or ""),
        "variant": request.variant or "",
        "patch": ",".join(f"{share:.3f}" for share in point or ()) if request.point else "",
        "image": image,
    }


SEGMENT_NAMES = (
    *("model", "beside", "method", "resolution", "refine", "clip", "opacity"),
    *("threshold", "head", "objects", "tau", "parts", "within", "matches", "point"),
)
"""What links call the settings of the Segment tab."""


INSIDE_NAMES = (
    *("step", "model", "beside", "layer", "head", "point", "seed", "kind"),
    *("heads", "attention", "mlp", "patches", "fill"),
)
"""The same of the Inside tab."""


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


def _of_tab(query: Mapping[str, str], tab: str, names: Sequence[str]) -> Mapping[str, str]:
    """What a link to that tab says of its settings."""
    return {name: query[name] for name in names if query.get(name)} if query.get("tab") == tab else {}


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
    example = example_of(photo)
    return example.path.stem if example else urls.get(photo.digest, "")


def typed(photo: Photo, urls: Mapping[str, str]) -> str:
    """What names a photo in a command: a path, a URL, or the name of an uploaded file."""
    example = example_of(photo)
    if example is None:
        return urls.get(photo.digest, "") or photo.name
    return str(example.path if ROOT is None else example.path.relative_to(ROOT))


def example_called(name: str) -> Example | None:
    """The example of that id."""
    return next((example for example in examples() if example.path.stem == name), None)
