"""A segmentation as files or a zip archive: images, masks, COCO annotations, JSON and arrays."""

from __future__ import annotations

import io
import json
import re
import unicodedata
import zipfile
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitdemo.export.results import box_of, segmentation_json
from vitdemo.rendering.masks import (
    COLOURS,
    colours_of,
    components_image,
    label_map,
    pairs_image,
    segmentation_overlay,
)
from vitdemo.types import Photo, Segmentation

__all__ = [
    "COLOURS",
    "archive",
    "coco",
    "files",
    "folder_names",
    "is_own_file",
    "pairs_image",
    "rle",
    "segmentation_overlay",
]

_OWN = re.compile(
    r"mask-\d+\.png|(cutout|labels|components|overlay|pairs)\.png|(coco|segmentation)\.json|similarity\.npy"
)
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Reserved device names of Windows."""

_LONGEST = 60
"""Characters of a folder name: file systems allow 255 bytes, and a character may take four."""


def files(
    photo: Photo, segmentation: Segmentation, *, first: tuple[Photo, Segmentation] | None = None
) -> dict[str, bytes]:
    """File names and contents.

    Always `overlay.png` and `segmentation.json`; for `similarity` also `similarity.npy`, float32 `[h, w]`; for other methods:

    - `mask-01.png` and so on: 255 inside, 0 outside. Parts keep their numbers across photos.
    - `labels.png`, 8 bits per pixel: 0, or the number of the first mask there.
    - `cutout.png`: the crop, transparent outside the masks; absent if nothing was found.
    - `coco.json`: COCO annotations in pixels of the whole upright photo.
    - `components.png`: for `pca`, its colours.
    - `pairs.png`: for `similarity`, correspondences of the first photo and this one.

    Images have the size of the crop.

    Args:
        first: the first of several photos, if this is another one.
    """
    made = {
        "overlay.png": _png(segmentation_overlay(photo, segmentation)),
        "segmentation.json": _json(segmentation_json(segmentation)),
    }
    if segmentation.method == "similarity":
        if segmentation.values is not None:
            made["similarity.npy"] = _npy(segmentation.values)
        if first is not None and segmentation.pairs:
            made["pairs.png"] = _png(pairs_image(first, (photo, segmentation)))
        return made
    if segmentation.colours is not None:
        made["components.png"] = _png(components_image(segmentation))
    union = np.logical_or.reduce(segmentation.masks)
    if union.any():
        cutout = photo.image.crop(segmentation.view.crop).convert("RGB")
        cutout.putalpha(_binary(union))
        made["cutout.png"] = _png(cutout)
    for number, mask in zip(segmentation.numbers, segmentation.masks, strict=True):
        made[f"mask-{number:02}.png"] = _png(_binary(mask))
    labels = Image.fromarray(label_map(segmentation.masks, segmentation.numbers))
    labels.putpalette([0, 0, 0, *colours_of(range(1, 256)).ravel().tolist()])
    made["labels.png"] = _png(labels)
    made["coco.json"] = _json(coco(photo, segmentation))
    return made


def archive(
    photos: Sequence[Photo], segmentations: Sequence[Segmentation], *, second: Segmentation | None = None
) -> bytes:
    """A zip of the files of each photo, in one folder per photo if there are several. Deterministic.

    Args:
        second: another model's segmentation of the first photo, for a folder that is called after that model.
    """
    folders = [""] if len(photos) == 1 else [f"{name}/" for name in folder_names(photo.name for photo in photos)]
    buffer, first = io.BytesIO(), None
    with zipfile.ZipFile(buffer, "w") as zipped:

        def add(folder: str, made: dict[str, bytes]) -> None:
            for name, data in made.items():
                # PNG is already compressed.
                compression = zipfile.ZIP_STORED if name.endswith(".png") else zipfile.ZIP_DEFLATED
                zipped.writestr(zipfile.ZipInfo(folder + name), data, compression)

        for folder, photo, segmentation in zip(folders, photos, segmentations, strict=True):
            add(folder, files(photo, segmentation, first=first))
            first = first or (photo, segmentation)
        if second is not None:
            *_, folder = folder_names([*(photo.name for photo in photos), f"{second.spec.name}.model"])
            add(f"{folder}/", files(photos[0], second))
    return buffer.getvalue()


def coco(photo: Photo, segmentation: Segmentation) -> dict[str, Any]:
    """Masks as COCO annotations, in pixels of the whole upright photo; an empty mask has only a category."""
    (width, height), crop = photo.size, segmentation.view.crop
    annotations: list[dict[str, Any]] = []
    for number, mask in zip(segmentation.numbers, segmentation.masks, strict=True):
        box = box_of(mask, crop)
        if box is None:
            continue
        left, top, right, bottom = box
        canvas = np.zeros((height, width), np.bool_)
        canvas[crop[1] : crop[3], crop[0] : crop[2]] = mask
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": 1,
                "category_id": number,
                "segmentation": {"counts": rle(canvas), "size": [height, width]},
                "bbox": [left, top, right - left, bottom - top],
                "area": int(np.count_nonzero(canvas)),
                "iscrowd": 1,
            }
        )
    return {
        "images": [{"id": 1, "file_name": photo.name, "width": width, "height": height}],
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name} for number, name in zip(segmentation.numbers, segmentation.names, strict=True)
        ],
    }


def rle(mask: NDArray[np.bool_]) -> list[int]:
    """Uncompressed COCO run-length encoding of a mask `[H, W]`: column-major, zeros first.

    >>> rle(np.array([[False, True], [True, True]]))
    [1, 3]
    >>> rle(np.array([[True, False], [True, False]]))
    [0, 2, 2]
    """
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts: list[int] = np.diff(ends, prepend=0, append=flat.size).tolist()
    return [0, *counts] if flat.size and flat[0] else counts


def folder_names(names: Iterable[str]) -> list[str]:
    """A unique folder name per photo, from its file name or URL, that is valid on every file system.

    >>> folder_names(["a/cat.jpg", "b/cat.png", "../../etc/passwd", "https://example.com/x.png?y=1", ""])
    ['cat', 'cat-2', 'passwd', 'x', 'photo']
    """
    found: list[str] = []
    taken: set[str] = set()
    for name in names:
        plain = _safe_name(name)
        chosen, number = plain, 1
        # Some file systems are case-insensitive.
        while chosen.casefold() in taken:
            number += 1
            chosen = f"{plain}-{number}"
        taken.add(chosen.casefold())
        found.append(chosen)
    return found


def is_own_file(name: str) -> bool:
    """Whether `files` uses this file name."""
    return _OWN.fullmatch(name) is not None


def _safe_name(name: str) -> str:
    if re.match(r"https?://", name, re.IGNORECASE):
        name = urlsplit(name).path
    last = [part for part in re.split(r"[\\/]", unicodedata.normalize("NFC", name)) if part][-1:]
    stem = re.sub(r"(?<=.)\.[^.]*$", "", last[0]) if last else ""
    plain = "".join(letter if _is_safe(letter) else "_" for letter in stem[:_LONGEST]).strip(". ") or "photo"
    return f"_{plain}" if _RESERVED.fullmatch(plain) else plain


def _is_safe(letter: str) -> bool:
    # Combining marks: vowels of many scripts.
    return letter.isalnum() or letter in "_. -" or unicodedata.category(letter).startswith("M")


def _binary(mask: NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * 255)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    # A third of the time of Pillow's default level, for 5% larger files.
    image.save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def _npy(values: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values.astype(np.float32))
    return buffer.getvalue()


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
