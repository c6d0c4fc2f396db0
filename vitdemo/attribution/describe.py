"""A map described in one line, for screen readers and JSON; the same text as in `ui/static/explorer/maps.js`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from vitdemo.options.methods import METHODS
from vitdemo.types import AttributionMap, ModelSpec

READOUT_WORDS = {"class": "class token", "distillation": "distillation token", "mean": "mean of all tokens"}
SINGLE, FAR = 0.007, 15
"""Largest share of the patches, and least ratio to the median: rollout with a DINOv2 of 22 M parameters has at most 0.006 and at
least 19 at 224 and 518 pixels, with the embedded models never both."""

_ROWS = ("top", "centre", "bottom")
_COLUMNS = ("left", "centre", "right")


def describe(attribution: AttributionMap, spec: ModelSpec, label: str = "") -> str:
    """Such as "layer 12 of 12, mean of heads, class token: 41% of attention on 12% of the picture, centre right".

    For a method over all layers, such as "Relevance for sunflower: 41% of it on 12% of the picture, centre right".

    Layers, heads, rows and columns are counted from 1. The percentages are of the patches with at least half of the
    maximum; the position is their centre of mass, in thirds.
    """
    values = np.maximum(attribution.values, 0)
    place = "evenly spread"
    share = area = 1.0
    if values.max() > 0 and attribution.high > attribution.low:
        bright = values >= values.max() / 2
        mass = np.where(bright, values, 0)
        share, area = mass.sum() / values.sum(), bright.mean()
        height, width = values.shape
        rows, columns = np.mgrid[0:height, 0:width] + 0.5
        row = int((mass * rows).sum() / mass.sum() / height * 3)
        column = int((mass * columns).sum() / mass.sum() / width * 3)
        place = "centre" if row == column == 1 else f"{_ROWS[row]} {_COLUMNS[column]}"
    if attribution.layer is None:
        title = METHODS[attribution.method].title + (f" for {label}" if label else "")
        if attribution.high <= attribution.low:
            return f"{title}: nothing stands out"
        if attribution.method == "similarity":
            # Cosines are no shares of anything.
            return f"{title}: cosine of {values.max() / 2:.2f} or more on {_area(area)} of the picture, {place}"
        return f"{title}: {share:.0%} of it on {_area(area)} of the picture, {place}"
    head = f"{attribution.head} of heads"
    if isinstance(attribution.head, int):
        head = f"head {attribution.head + 1} of {spec.num_heads}"
    query = READOUT_WORDS.get(attribution.readout or "", "")
    if attribution.query is not None:
        query = f"patch in row {attribution.query[0] + 1}, column {attribution.query[1] + 1}"
    return (
        f"layer {attribution.layer + 1} of {spec.num_layers}, {head}, {query}: "
        f"{share:.0%} of attention on {_area(area)} of the picture, {place}"
    )


_NOTHING = {
    "grad-cam": "the features of the last block, weighted by their gradient, are nowhere above 0",
    "legrad": "no attention of the layers that count would raise its score by growing",
}
_NO_ATTENTION = "no attention raises its score"
"""Of relevance and gradient rollout."""


def why_flat(attribution: AttributionMap, label: str, methods: Sequence[str]) -> str:
    """Why a map that explains a class shows nothing, and what to try; empty where it shows something.

    Args:
        label: of the class.
        methods: that apply to the model.
    """
    method = METHODS[attribution.method]
    if not method.class_specific or attribution.high > 0:
        return ""
    others = [METHODS[name].title for name in methods if METHODS[name].class_specific and name != method.name]
    instead = " or ".join((", ".join(["another class", *others[:-1]]), *others[-1:]))
    reason = _NOTHING.get(method.name, _NO_ATTENTION)
    return (
        f"Nothing counts for {label}: {reason}, and {method.title} shows only what speaks for a class. Try {instead}."
    )


def _area(share: float) -> str:
    """A share of a picture, which is not nothing.

    >>> _area(0.12), _area(0.001)
    ('12%', 'under 1%')
    """
    return f"{share:.0%}" if share >= 0.005 else "under 1%"


def of_single_patches(attribution: AttributionMap) -> bool:
    """Whether a map's highest values are very few patches, each by itself.

    Large networks without registers store global information in such patches of the background (Darcet et al. 2024,
    arXiv:2309.16588), and methods that go through all layers show them instead of objects.
    """
    values = attribution.values
    if attribution.high <= 0:
        return False
    bright = values >= attribution.high / 2
    _, count = ndimage.label(bright, np.ones((3, 3)))
    return bool(bright.mean() < SINGLE and count == bright.sum() and attribution.high > FAR * np.median(values))
