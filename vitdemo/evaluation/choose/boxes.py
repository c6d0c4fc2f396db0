"""Boxes or masks of objects in COCO's format, and how well each model's attention stays on them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from vitdemo.attribution.localization import (
    box_coverage,
    earth_movers_distance,
    energy_inside,
    mask_coverage,
    top_patches_iou,
)
from vitdemo.errors import ChoiceStoppedError, ClientLeftError, InputError, VitDemoError
from vitdemo.evaluation.choose.types import Localization, PhotoEntry
from vitdemo.images.class_folders import read_file
from vitdemo.options.explain import ExplainRequest
from vitdemo.pipeline import Pipeline
from vitdemo.types import Explanation, ModelSpec, Photo

logger = logging.getLogger("vitdemo")


@dataclass(frozen=True)
class Objects:
    """What COCO says of one photo."""

    size: tuple[int, int]
    """`(width, height)` in which its numbers are; `(0, 0)` if it does not say."""
    boxes: tuple[tuple[float, float, float, float], ...]
    """Left, top, right, bottom."""
    outlines: tuple[Any, ...] = ()
    """COCO's `segmentation` of each object that has one; its box then counts for nothing."""


def read_coco(path: Path) -> dict[str, Objects]:
    """Objects by file name, of images that have any.

    Raises:
        InputError: the file is missing or is no COCO JSON.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        images = {image["id"]: image for image in content["images"]}
        found: dict[str, tuple[dict[str, Any], list[Any], list[Any]]] = {}
        for one in content["annotations"]:
            image = images[one["image_id"]]
            _, boxes, outlines = found.setdefault(str(image["file_name"]), (image, [], []))
            if one.get("segmentation"):
                outlines.append(one["segmentation"])
            else:
                left, top, width, height = (float(value) for value in one["bbox"])
                boxes.append((left, top, left + width, top + height))
        return {
            name: Objects((int(image.get("width", 0)), int(image.get("height", 0))), tuple(boxes), tuple(outlines))
            for name, (image, boxes, outlines) in found.items()
        }
    except OSError as error:
        raise InputError(f"{path.name} cannot be read: {error.strerror}.") from None
    except (AttributeError, KeyError, LookupError, RecursionError, TypeError, ValueError):
        raise InputError(
            f"{path.name} is not COCO JSON: it needs `images` with id and file_name, and `annotations` with image_id and bbox "
            "(left, top, width, height) or segmentation."
        ) from None


def matched(objects: Mapping[str, Objects], photos: Sequence[PhotoEntry]) -> dict[int, Objects]:
    """Objects by the number of the photo: of the same name, or, where that is not ambiguous, of the same file name.

    Raises:
        InputError: none of them is of one of these photos.
    """
    whole = {photo.name: number for number, photo in enumerate(photos)}
    short: dict[str, list[int]] = {}
    for number, photo in enumerate(photos):
        short.setdefault(PurePosixPath(photo.name).name, []).append(number)
    found = {}
    for name, one in objects.items():
        alike = short.get(PurePosixPath(name).name, [])
        place = whole.get(name, alike[0] if len(alike) == 1 else None)
        if place is not None:
            found[place] = one
    if not found:
        example = next(iter(objects), "")
        raise InputError(
            f"None of the {len(objects)} annotated images is among these photos"
            + (f": there is no {example}, whereas there is {photos[0].name}." if example else ".")
        )
    return found


def coverage(
    objects: Objects, size: tuple[int, int], crop: Sequence[int], grid: tuple[int, int]
) -> NDArray[np.float64]:
    """The share of each patch `[rows, cols]` that the objects cover, 0 to 1.

    Args:
        size: `(width, height)` of the photo, to which other numbers are scaled.
        crop: of the photo, what the model sees.

    Raises:
        InputError: an outline is damaged.
    """
    x, y = (own / given if given else 1.0 for own, given in zip(size, objects.size, strict=True))
    boxes = [(left * x, top * y, right * x, bottom * y) for left, top, right, bottom in objects.boxes]
    area: tuple[int, int, int, int] = (crop[0], crop[1], crop[2], crop[3])
    if not objects.outlines:
        return box_coverage(boxes, area, grid)
    canvas = Image.new("L", size)
    draw = ImageDraw.Draw(canvas)
    try:
        for outline in objects.outlines:
            if isinstance(outline, Mapping):
                mask = Image.fromarray(decoded_rle(outline).astype(np.uint8) * 255).resize(
                    size, Image.Resampling.NEAREST
                )
                canvas.paste(255, mask=mask)
                continue
            for polygon in outline:
                points = [(polygon[i] * x, polygon[i + 1] * y) for i in range(0, len(polygon) - 1, 2)]
                draw.polygon(points, fill=255)
    except (IndexError, KeyError, TypeError, ValueError):
        raise InputError("An outline of the COCO file is damaged: neither polygons nor run lengths.") from None
    for box in boxes:
        draw.rectangle((box[0], box[1], max(box[0], box[2] - 1), max(box[1], box[3] - 1)), fill=255)
    return mask_coverage(np.asarray(canvas) > 127, area, grid)


def decoded_rle(outline: Mapping[str, Any]) -> NDArray[np.bool_]:
    """COCO's run lengths, as numbers or as compressed text, to a mask `[height, width]`.

    >>> decoded_rle({"size": [2, 2], "counts": [1, 3]}).tolist()
    [[False, True], [True, True]]
    """
    height, width = (int(value) for value in outline["size"])
    if not 0 < height * width <= 1e9:
        raise ValueError("no size")
    counts = outline["counts"]
    runs = list(_uncompressed(counts)) if isinstance(counts, str) else [int(run) for run in counts]
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError("not the size's length")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _uncompressed(text: str) -> Iterator[int]:
    """COCO's text: five bits a letter, low ones first; from the third on, differences to the run before the last."""
    runs: list[int] = []
    letters = iter(text.encode("ascii"))
    for letter in letters:
        value, shift = 0, 0
        while True:
            bits = letter - 48
            value |= (bits & 31) << shift
            shift += 5
            if not bits & 32:
                value -= (bits & 16) and (1 << shift)
                break
            letter = next(letters)
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    yield from runs


def localize(
    pipeline: Pipeline,
    specs: Sequence[ModelSpec],
    photos: Sequence[PhotoEntry],
    objects: Mapping[int, Objects],
    dtype: str,
    report: Callable[[str, int, int], None],
    stopped: Callable[[], bool],
) -> tuple[dict[str, Localization], dict[str, str]]:
    """Means over the photos: each model's attention in the last layer, and every head; of a CNN, Grad-CAM of what it predicts.

    Args:
        objects: by the photo's number.
        report: told the model, photos that are done, and all.

    Returns:
        By model, and by model why there is nothing.

    Raises:
        ChoiceStoppedError: `stopped` became true.
    """
    sums = {spec.name: _Sums() for spec in specs if spec.readouts or spec.labels}
    failed = {spec.name: f"{spec.name} has neither attention nor a classifier: no map." for spec in specs}
    failed = {name: reason for name, reason in failed.items() if name not in sums}
    for done, (number, one) in enumerate(sorted(objects.items()), 1):
        entry = photos[number]
        photo = pipeline.open(read_file(entry.source, entry.name))
        for spec in specs:
            if spec.name in failed:
                continue
            if stopped():
                raise ChoiceStoppedError(f"Stopped after the boxes of {done - 1} photos. The features are kept.")
            try:
                sums[spec.name].add(_explained(pipeline, photo, spec, dtype), one, photo.size)
            except (ChoiceStoppedError, ClientLeftError):
                raise
            except VitDemoError as error:
                failed[spec.name] = str(error)
            except Exception:
                logger.exception("A model's map failed")
                failed[spec.name] = f"The maps of {spec.name} failed. The reason was logged."
            report(spec.name, done, len(objects))
    return {name: one.means() for name, one in sums.items() if name not in failed and one.number}, failed


def _explained(pipeline: Pipeline, photo: Photo, spec: ModelSpec, dtype: str) -> Explanation:
    method = "attention" if spec.readouts else "grad-cam"
    return pipeline.explain(photo, spec, ExplainRequest(method), dtype=dtype, remember=False)


class _Sums:
    """Means that are not of NaN: a map that is nowhere above 0 lies nowhere."""

    def __init__(self) -> None:
        self.number = 0
        self.rows: list[tuple[float, ...]] = []
        self.heads: list[tuple[NDArray[np.float64], ...]] = []
        self.method = "attention"

    def add(self, explanation: Explanation, objects: Objects, size: tuple[int, int]) -> None:
        found = explanation.map
        assert found is not None
        covered = coverage(objects, size, explanation.view.crop, explanation.patch_grid)
        if not covered.any():
            return  # it lies outside of what the model sees
        self.number += 1
        self.method = found.method
        self.rows.append((*(float(one) for one in _measured(found.values, covered)), float(covered.mean())))
        if explanation.rows:
            heads = explanation.rows[next(iter(explanation.rows))]
            self.heads.append(_measured(heads, covered))

    def means(self) -> Localization:
        energy, iou, distance, area = (float(value) for value in np.nanmean(np.array(self.rows), axis=0))
        none = [np.zeros((0, 0), np.float32)] * 3
        heads = [
            np.nanmean(np.stack(part), axis=0).astype(np.float32) for part in zip(*self.heads, strict=True)
        ] or none
        return Localization(self.number, energy, iou, heads[0], heads[1], distance, heads[2], area, self.method)


def _measured(maps: NDArray[np.float32], covered: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Energy inside, IoU and distance of `[..., rows, columns]`."""
    diagonal = float(np.hypot(*covered.shape))
    return (
        energy_inside(maps, covered),
        top_patches_iou(maps, covered),
        earth_movers_distance(maps, covered) / diagonal,
    )
