"""Which parts of a link are understood. The rest is named to the visitor, and the link is followed without it."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from vitdemo.errors import OptionError
from vitdemo.options.boxes import MOST
from vitdemo.options.explain import readouts_of
from vitdemo.options.methods import METHODS
from vitdemo.options.targets import parse_target
from vitdemo.registry import ready_models
from vitdemo.types import FUSIONS, ModelSpec
from vitdemo.ui.choices import DISCARDS, RESOLUTIONS, variants_of
from vitdemo.ui.links import LinkState, example_called
from vitdemo.ui.state import COMPARE, EXPLAIN, TABS

SHOWN = 60
"""Characters of an ignored part that a message repeats."""


def understood(
    link: LinkState, query: Mapping[str, str], compared: Sequence[str], explained: str, absent: Sequence[str] = ()
) -> tuple[LinkState, list[str]]:
    """The link without what is not understood, and those parts as `name=value`.

    Args:
        link: as it was read from `query`.
        compared, explained: the models of a link that names none.
        absent: tabs that this server does not have.
    """
    ignored: list[str] = []

    def drop(name: str, value: str = "") -> None:
        ignored.append(f"{name}={shortened(value or query[name])}")

    if link.tab and (link.tab not in TABS or link.tab in absent):
        drop("tab")
        link = replace(link, tab="")
    if link.image and not is_url(link.image) and example_called(link.image) is None:
        drop("image")
        link = replace(link, image="")
    tab = link.tab or COMPARE
    if tab not in (COMPARE, EXPLAIN):
        return link, ignored  # the other tabs read their own parameters
    known = {spec.name: spec for spec in ready_models()}
    if tab == EXPLAIN:
        if link.model and link.model not in known:
            drop("model")
            link = replace(link, model="")
        specs = [known[link.model or explained]]
    else:
        for name in link.models:
            if name not in known:
                drop("models", name)
        link = replace(link, models=tuple(dict.fromkeys(name for name in link.models if name in known)))
        specs = [known[name] for name in link.models or compared]
    offered = specs[0].methods if tab == EXPLAIN else [name for name in METHODS if name != "similarity"]
    if link.method and link.method not in offered:
        drop("method")
        link = replace(link, method="")
    for name, (fits, empty) in _CHECKS.items():
        if query.get(name, "").strip() and not fits(link, specs):
            drop(name)
            link = replace(link, **{"boxes" if name == "box" else name: empty})
    return link, ignored


def is_url(text: str) -> bool:
    """Whether it is meant as one."""
    return text.lower().startswith(("http://", "https://"))


def warning(ignored: Sequence[str]) -> str:
    """One message for all that was left out, as HTML.

    >>> warning(["tab=<b>", "layer=99"])
    'Some of this link was not understood and is ignored: tab=&lt;b&gt;; layer=99'
    """
    return html.escape(f"Some of this link was not understood and is ignored: {'; '.join(ignored)}", quote=False)


def shortened(text: str) -> str:
    """As much of it as a message repeats."""
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _layer(link: LinkState, specs: Sequence[ModelSpec]) -> bool:
    layers = max((spec.num_layers for spec in specs if spec.readouts), default=0)
    return link.layer is not None and -layers <= link.layer < layers


def _head(link: LinkState, specs: Sequence[ModelSpec]) -> bool:
    heads = max(spec.num_heads for spec in specs)
    return link.head in FUSIONS or link.head in map(str, range(heads))


def _readout(link: LinkState, specs: Sequence[ModelSpec]) -> bool:
    return any(link.readout in readouts_of(spec) for spec in specs)


def _boxes(boxes: Sequence[Sequence[float]]) -> bool:
    """Whether each is four shares with an area within the photo; what is rounded may stand out by a thousandth."""
    return 0 < len(boxes) <= MOST and all(
        len(box) == 4 and min(box[:2]) >= 0 and min(box[2:]) > 0 and max(box[0] + box[2], box[1] + box[3]) <= 1.001
        for box in boxes
    )


def _target(link: LinkState, specs: Sequence[ModelSpec]) -> bool:
    for spec in specs:
        try:
            parse_target(link.target, spec)
            return True
        except OptionError:
            continue
    return False


_CHECKS: Mapping[str, tuple[Callable[[LinkState, Sequence[ModelSpec]], bool], Any]] = {
    "target": (_target, ""),
    "resolution": (lambda link, specs: 0 <= link.resolution <= RESOLUTIONS[-1], 0),
    "fusion": (lambda link, specs: link.fusion in FUSIONS, "mean"),
    "discard": (lambda link, specs: link.discard in (0, *DISCARDS), 0.0),
    "variant": (lambda link, specs: link.variant in variants_of(link.method), ""),
    "layer": (_layer, None),
    "head": (_head, ""),
    "readout": (_readout, ""),
    "box": (lambda link, specs: _boxes(link.boxes), ()),
    "patch": (lambda link, specs: link.patch is not None and all(0 <= share <= 1 for share in link.patch), None),
}
"""Whether each parameter that several models may or may not have is one that they have, and what stands for its absence."""
