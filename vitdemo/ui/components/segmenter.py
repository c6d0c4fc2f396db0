"""The Segment tab as one component: all controls and pictures are drawn in the browser, which asks the server for masks alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import gradio as gr
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitdemo.pipeline.segment import outlier_note
from vitdemo.rendering.masks import COLOURS, extended_colours, innermost_point, pairs_image
from vitdemo.rendering.overlay import DEFAULT_COLOUR_MAP, colour_table
from vitdemo.segmentation.edges import NO_EDGE
from vitdemo.types import Photo, Segmentation
from vitdemo.ui import STATIC
from vitdemo.ui.components.quantise import base64_of, data_url, photo_url

PHOTO_SIDE, OTHER_SIDE, MASK_SIDE = 800, 480, 640
"""Long sides, in pixels, of what is sent to the browser."""

SOFT = 1.0
"""Standard deviation, in pixels of what is sent, by which masks are smoothed, so that their contours have no steps."""

FOLDER = STATIC / "segment"
NAMES = ("head", "contour", "draw", "views", "point", "page")
SCRIPTS = (STATIC / "common.js", STATIC / "maps.js", STATIC / "asking.js", *(FOLDER / f"{name}.js" for name in NAMES))
"""In the order in which they are joined: what starts the page comes last."""


def segmenter(settings: dict[str, Any], models: list[dict[str, Any]], elem_id: str) -> gr.HTML:
    """The component, with what its controls start with.

    It tells of `select` with all `settings`, a `number` that counts its requests, the id of the photo that it has `shown`, the
    `others` that were uploaded, and whether a `zip` is wanted; and takes an answer of the same number.
    """
    return gr.HTML(
        {"start": settings, "models": models, "notes": []},
        html_template=(FOLDER / "segmenter.html").read_text(encoding="utf-8"),
        css_template=(FOLDER / "segmenter.css").read_text(encoding="utf-8"),
        js_on_load="\n".join(path.read_text(encoding="utf-8") for path in SCRIPTS),
        apply_default_css=False,
        elem_id=elem_id,
    )


def photo_value(photo: Photo, side: int = PHOTO_SIDE, known: str = "") -> dict[str, Any]:
    """A photo, without its pixels where the browser has them.

    Args:
        known: the id of the one that it has.
    """
    width, height = photo.size
    key = photo.digest[:16]
    src = "" if key == known else photo_url(photo.image, side)
    return {"id": key, "name": photo.name, "src": src, "width": width, "height": height}


def view_value(photo: Photo, found: Segmentation) -> dict[str, Any]:
    """One model's segmentation of a photo, in shares of the photo and of the model's crop."""
    width, height = photo.size
    left, top, right, bottom = found.view.crop
    wide, high = right - left, bottom - top
    rows, columns = found.patches.shape[1:] if found.values is None else found.values.shape
    aside = outlier_note(found.outliers, bool(found.parameters.get("clip"))) if found.outliers is not None else ()
    revision = found.spec.revision
    return {
        "model": found.spec.name,
        "family": found.spec.family,
        "method": found.method,
        "crop": [left / width, top / height, right / width, bottom / height],
        "grid": [rows, columns],
        "masks": [
            {
                "name": name,
                "number": number,
                "colour": COLOURS[(number - 1) % len(COLOURS)],
                "area": area,
                "src": _mask(mask),
                "rough": base64_of(patches.astype(np.uint8)),
                "label": _label(mask),
            }
            for name, number, area, mask, patches in zip(
                found.names, found.numbers, found.areas, found.masks, found.patches, strict=True
            )
            if found.method != "similarity"
        ],
        "tau": found.parameters.get("tau"),
        "values": _cosines(found.values) if found.method == "similarity" and found.values is not None else None,
        "colours": _bytes(extended_colours(found)) if found.colours is not None else None,
        "boxes": [[x / wide, y / high, z / wide, w / high] for x, y, z, w in found.boxes],
        "scores": [round(score, 4) for score in found.scores],
        "outliers": np.flatnonzero(found.outliers).tolist() if found.outliers is not None else [],
        "notes": _notes([note for note in found.notes if note not in aside]),
        "details": [
            f"{rows} \N{MULTIPLICATION SIGN} {columns} patches",
            f"{found.milliseconds:.0f} ms forward pass, {found.device}, {found.dtype}",
            *_compared(found),
            f"revision {revision[:12] if len(revision) == 40 else revision}",
            *aside,
        ],
    }


def _compared(found: Segmentation) -> list[str]:
    """What patches were compared by, and from which cosine on they counted as similar."""
    tau, source = found.parameters.get("tau"), found.tau_from
    if not found.features:
        return []
    if tau is None:
        return [f"patches compared by their {found.features}, which are all alike"]
    ways = {"model": ", this model's", "photo": ", found for this photo", "request": ""}
    return [f"patches compared by their {found.features}", f"similarity threshold {tau:.2f}{ways[source]}"]


def head_values(found: Segmentation) -> list[dict[str, Any]]:
    """The patches of each head."""
    return [
        {"name": name, "rough": base64_of(patches.astype(np.uint8))}
        for name, patches in zip(found.names, found.patches, strict=True)
    ]


def other_values(photos: Sequence[Photo], results: Sequence[Segmentation]) -> list[dict[str, Any]]:
    """The photos after the first; for `similarity` each with its correspondences to the first."""
    found = []
    for photo, result in zip(photos[1:], results[1:], strict=True):
        pairs = pairs_image((photos[0], results[0]), (photo, result)) if result.pairs else None
        count = len(result.pairs)
        found.append(
            {
                "photo": photo_value(photo, OTHER_SIDE),
                "view": view_value(photo, result),
                "pairs": photo_url(pairs, PHOTO_SIDE) if pairs else "",
                "said": f"{count} mutual match{'' if count == 1 else 'es'}" if result.method == "similarity" else "",
            }
        )
    return found


def table() -> str:
    """The colours of a similarity map, lowest first."""
    return base64_of(colour_table(DEFAULT_COLOUR_MAP))


def _notes(notes: Sequence[str]) -> list[str]:
    """What is said of several masks, once.

    >>> _notes(["head 1: No clear edge; patch outline kept", "head 4: No clear edge; patch outline kept", "Unsure"])
    ['head 1, head 4: No clear edge; patch outline kept', 'Unsure']
    """
    end = f": {NO_EDGE}"
    names = [note.removesuffix(end) for note in notes if note.endswith(end)]
    return [*([", ".join(names) + end] if names else []), *(note for note in notes if not note.endswith(end))]


def _cosines(values: NDArray[np.float32]) -> dict[str, Any]:
    low, high = float(values.min()), float(values.max())
    shares = (values - low) / max(high - low, 1e-9)
    return {"data": base64_of(np.rint(shares * 255).astype(np.uint8)), "low": low, "high": high}


def _bytes(colours: NDArray[np.float32]) -> str:
    return base64_of(np.rint(np.clip(colours, 0, 1) * 255).astype(np.uint8))


def _mask(mask: NDArray[np.bool_]) -> str:
    """A mask with soft edges, as 8-bit PNG."""
    grey = mask.astype(np.uint8) * 255
    scale = min(1.0, MASK_SIDE / max(grey.shape))
    if scale < 1:
        size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
        grey = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)
    soft = cv2.GaussianBlur(grey, (0, 0), SOFT, borderType=cv2.BORDER_REPLICATE)
    return data_url(Image.fromarray(np.asarray(soft, np.uint8)), "PNG")


def _label(mask: NDArray[np.bool_]) -> list[float]:
    """Where its number stands, as shares of the crop."""
    small = mask[:: max(1, mask.shape[0] // 200), :: max(1, mask.shape[1] // 200)]
    x, y = innermost_point(small)
    return [(x + 0.5) / small.shape[1], (y + 0.5) / small.shape[0]]
