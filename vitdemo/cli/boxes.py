"""`--box` of `explain` and `compare`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitdemo.options.boxes import Edges
    from vitdemo.types import Explanation, Localization, Photo

SHOWN_HEADS = 5
"""Best heads that are printed; JSON has all of them."""


def add_box(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--box",
        action="append",
        default=[],
        metavar="X,Y,W,H",
        help="measure how far the maps of all layers and heads stay in this box: pixels of the upright photo; may be repeated",
    )


def boxes_of(options: argparse.Namespace) -> list[Edges]:
    """X, y, width and height of each.

    Raises:
        OptionError: one is not four numbers.
    """
    from vitdemo.options.boxes import parse_box

    return [parse_box(text) for text in options.box]


def measure_boxes(
    photo: Photo, boxes: Sequence[Edges], explanations: Sequence[Explanation], entries: Sequence[dict[str, Any]]
) -> list[Localization]:
    """Each explanation on the boxes, and the same as `box` in its entry; nothing without boxes.

    Raises:
        OptionError: a box without an area, or outside of the photo.
    """
    if not boxes:
        return []
    from vitdemo.attribution import localize
    from vitdemo.export.localization import localization_json
    from vitdemo.options.boxes import edges_of

    found = [localize(one, edges_of(boxes, photo.size)) for one in explanations]
    for entry, one in zip(entries, found, strict=True):
        entry["box"] = localization_json(one)
    return found


def print_box(found: Localization) -> None:
    from vitdemo.attribution import best_heads, box_words

    print(f"    {box_words(found)}")
    if found.heads is not None:
        for layer, head in best_heads(found.heads)[:SHOWN_HEADS]:
            energy, iou = found.heads.energy[layer, head], found.heads.iou[layer, head]
            away = found.heads.distance[layer, head]
            print(f"      --layer {layer} --head {head}: {energy:.0%}, IoU {iou:.2f}, {away:.1f} patches away")
