"""Boxes on a photo, as users give them: x, y, width and height."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vitdemo.errors import OptionError

Edges = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels of the upright photo."""

MOST = 20
"""Boxes on one photo."""


def parse_box(text: str) -> Edges:
    """Four numbers from "X,Y,W,H": x and y of the left upper corner, width and height.

    Raises:
        OptionError: they are not four numbers.

    >>> parse_box("10, 20, 30.5, 40")
    (10.0, 20.0, 30.5, 40.0)
    """
    try:
        x, y, width, height = (float(part) for part in text.split(","))
    except ValueError:
        raise OptionError(f"The box {text!r} is not X,Y,W,H: four numbers.") from None
    return x, y, width, height


def edges_of(boxes: Sequence[Sequence[float]], size: tuple[int, int]) -> tuple[Edges, ...]:
    """Left, top, right and bottom of boxes, without what hangs over the photo's edge.

    Args:
        boxes: x, y, width and height of each, in pixels of the upright photo.
        size: width and height of the photo.

    Raises:
        OptionError: too many, or one without an area or outside of the photo.

    >>> edges_of([(10, 20, 30, 400)], (100, 80))
    ((10, 20, 40, 80),)
    """
    if len(boxes) > MOST:
        raise OptionError(f"{len(boxes)} boxes are too many: at most {MOST} can be measured at once.")
    found = []
    for x, y, width, height in boxes:
        named = ",".join(f"{value:g}" for value in (x, y, width, height))
        if not all(map(math.isfinite, (x, y, width, height))):
            raise OptionError(f"The box {named} is not four finite numbers.")
        if width <= 0 or height <= 0:
            raise OptionError(f"The box {named} has no area: width and height must be above 0.")
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + width, size[0]), min(y + height, size[1])
        if left >= right or top >= bottom:
            raise OptionError(f"The box {named} lies outside of the photo, which is {size[0]} x {size[1]} pixels.")
        found.append((left, top, right, bottom))
    return tuple(found)
