"""Segmentation benchmark on composites with known masks.

Objects are cut out of photos with a plain background, and each is pasted, at a random size and place, onto a photo of a scene.
`assets/composites.json` lists the photos, which are part of the data set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vitdemo.attribution import iou
from vitdemo.errors import InputError, OptionError
from vitdemo.images.class_folders import read_files
from vitdemo.images.open import open_image
from vitdemo.options.segment import SegmentRequest
from vitdemo.pipeline import Pipeline
from vitdemo.pipeline.segment import segment
from vitdemo.settings import ASSETS
from vitdemo.types import ModelSpec, Photo

Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]
Pair = tuple[Photo, Mask]
"""A photo, and the mask of its object, `[H, W]`, of the photo's size."""

LIST = ASSETS / "composites.json"
"""Names of the object and scene photos, chosen by eye: clean cut-outs, and scenes without a salient object."""

TOLERANCE = 24
"""Largest difference, of 255, of a background channel from the border's median."""

AREAS = (0.05, 0.6)
"""Range of the share of its photo that a cut-out covers."""

SHARES = (0.3, 0.6)
"""Range of a pasted object's size: square root of its box's area over the scene's."""

MAX_SPAN = 0.9
"""Largest share of either side that it spans: long objects are shrunk."""

FEATHER = 2
"""Width of a pasted object's soft edge in pixels."""

PASTES = 3
"""Composites per object in a report."""

RESAMPLES = 2000
"""Bootstrap resamples."""


@dataclass(frozen=True)
class Overlap:
    """Intersection over union (IoU) with the known masks, one value per composite."""

    name: str
    values: tuple[float, ...]
    names: tuple[str, ...] = ()
    """The pasted object of each composite: if given, the bootstrap resamples objects instead of composites."""

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def interval(self) -> tuple[float, float]:
        """95% bootstrap interval of the mean."""
        return self._interval(np.array(self.values))

    @property
    def hits(self) -> float:
        """Share of the composites with an IoU above one half."""
        return float(np.mean(np.array(self.values) > 0.5))

    def _interval(self, values: NDArray[np.float64]) -> tuple[float, float]:
        """Composites of one object are not independent: they are resampled together."""
        _, group = np.unique(self.names or range(len(values)), return_inverse=True)
        totals, counts = np.bincount(group, values), np.bincount(group)
        chosen = np.random.default_rng(0).integers(0, len(counts), (RESAMPLES, len(counts)))
        low, high = np.percentile(totals[chosen].sum(axis=1) / counts[chosen].sum(axis=1), (2.5, 97.5))
        return float(low), float(high)


def listed() -> tuple[str, ...]:
    """Names of the object photos, in alphabetical order."""
    return tuple(_listing()["objects"])


def halves(ids: Iterable[str]) -> tuple[list[str], list[str]]:
    """Names for choosing settings, and names for reporting, split by the parity of their SHA-256.

    >>> [len(half) for half in halves(f"test/lamp/{number}.jpg" for number in range(100))]
    [47, 53]
    """
    found: tuple[list[str], list[str]] = ([], [])
    for name in ids:
        found[hashlib.sha256(name.encode()).digest()[0] % 2].append(name)
    return found


def composites(tar: Path, ids: Sequence[str], seed: int = 0) -> list[Pair]:
    """Paste the object of each photo onto a scene.

    Scene, size and place depend only on the seed and the name: a subset of the list gives the same composites.

    Args:
        tar: folder, zip or tar that holds the photos of `ids` and all listed scenes.
        ids: names of photos with a plain background.

    Raises:
        InputError: a photo is missing, or its object cannot be cut out.
    """
    scenes: list[str] = _listing()["scenes"]
    wanted = {*ids, *scenes}
    found = {name: data for name, data in read_files(tar) if name in wanted}
    missing = sorted(wanted - set(found))
    if missing:
        raise InputError(
            f"{tar.name} lacks {len(missing)} of the {len(wanted)} listed photos, such as {missing[0]}. "
            "Give the archive of Caltech-101 test photos that the list was made from."
        )
    pictures = {name: np.asarray(open_image(data).image) for name, data in found.items()}
    pairs = []
    for name in ids:
        mask = cut_out(pictures[name])
        if mask is None:
            raise InputError(f"{name} has no plain background to cut its object out of.")
        rng = np.random.default_rng([seed, *hashlib.sha256(name.encode()).digest()])
        scene = pictures[scenes[rng.integers(len(scenes))]]
        picture, alpha = paste(pictures[name], mask, scene, rng)
        pairs.append((replace(open_image(picture), name=name), alpha >= 0.5))
    return pairs


def composites_to_report(tar: Path) -> list[Pair]:
    """Composites for reporting, `PASTES` per object, from the half that no setting was chosen on.

    Raises:
        InputError: as `composites`.
    """
    _, names = halves(listed())
    return [pair for seed in range(PASTES) for pair in composites(tar, names, seed)]


def cut_out(picture: Pixels, tolerance: int = TOLERANCE) -> Mask | None:
    """The object on a plain background: the largest region that a flood fill from the border does not reach, holes filled.

    Args:
        picture: `[H, W, 3]` RGB.

    Returns:
        `[H, W]`; None where it covers too little or too much of the photo.
    """
    edge = np.concatenate([picture[:2].reshape(-1, 3), picture[-2:].reshape(-1, 3)])
    edge = np.concatenate([edge, picture[:, :2].reshape(-1, 3), picture[:, -2:].reshape(-1, 3)])
    colour = np.median(edge, axis=0)
    # Framed in the background colour, so that the flood starts from all sides.
    framed = cv2.copyMakeBorder(picture, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=colour.tolist())
    flood = np.zeros((framed.shape[0] + 2, framed.shape[1] + 2), np.uint8)
    flags = 4 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | 255 << 8
    cv2.floodFill(framed, flood, (0, 0), 0, (tolerance,) * 3, (tolerance,) * 3, flags)
    solid = ndimage.binary_fill_holes(flood[2:-2, 2:-2] == 0)
    pieces, count = ndimage.label(ndimage.binary_opening(solid, np.ones((3, 3), np.bool_)))
    if not count:
        return None
    mask: Mask = pieces == np.argmax(np.bincount(pieces.ravel())[1:]) + 1
    return mask if AREAS[0] <= mask.mean() <= AREAS[1] else None


def paste(picture: Pixels, mask: Mask, scene: Pixels, rng: np.random.Generator) -> tuple[Pixels, NDArray[np.float32]]:
    """Paste an object fully inside a scene.

    Args:
        picture, mask: `[H, W, 3]` and `[H, W]` of the object's photo.
        scene: `[h, w, 3]`.
        rng: draws size and place.

    Returns:
        The composite `[h, w, 3]`, and its alpha mask `[h, w]` in 0..1.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    place = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = scene.shape[:2]
    tall, wide = mask[place].shape
    scale = min(
        rng.uniform(*SHARES) * (height * width / (tall * wide)) ** 0.5,
        MAX_SPAN * height / tall,
        MAX_SPAN * width / wide,
    )
    size = tuple(max(1, round(scale * side)) for side in mask[place].shape[::-1])
    object_, solid = (
        cv2.resize(np.ascontiguousarray(part), size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        for part in (picture[place], mask[place].astype(np.float32))
    )
    top, left = (int(rng.integers(room - side + 1)) for room, side in ((height, size[1]), (width, size[0])))
    there = np.s_[top : top + size[1], left : left + size[0]]
    alpha: NDArray[np.float32] = np.zeros((height, width), np.float32)
    layer = np.zeros(scene.shape, np.float32)
    alpha[there], layer[there] = solid >= 0.5, object_
    # The outermost pixels still show the old background.
    inner = cv2.erode(alpha, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    alpha = np.asarray(cv2.blur(inner, (FEATHER + 1,) * 2) * (alpha > 0), np.float32)
    mixed = alpha[..., None] * layer + (1 - alpha[..., None]) * scene
    return np.rint(mixed).astype(np.uint8), alpha


def mean_iou(
    pipeline: Pipeline, spec: ModelSpec, pairs: Sequence[Pair], request: SegmentRequest | None = None
) -> Overlap:
    """Segment each composite, and compare the union of its masks with the known one. Nothing found counts as 0.

    Raises:
        OptionError: there are no pairs, or as `segment`.
    """
    _require(pairs)
    values = []
    for photo, truth in pairs:
        (found,) = segment(pipeline, [photo], spec, request)
        left, top, right, bottom = found.view.crop
        whole = np.zeros(truth.shape, np.bool_)
        whole[top:bottom, left:right] = found.masks.any(axis=0)
        values.append(iou(whole, truth))
    return _overlaps(spec.name, pairs, values)


def centre_box(pairs: Sequence[Pair]) -> Overlap:
    """Baseline that knows the size but sees nothing: a centred box of the photo's shape with the known masks' mean area.

    Raises:
        OptionError: there are no pairs.
    """
    _require(pairs)
    area = float(np.mean([truth.mean() for _, truth in pairs]))
    return _overlaps("centre box", pairs, [iou(_box(truth.shape, area), truth) for _, truth in pairs])


def whole_photo(pairs: Sequence[Pair]) -> Overlap:
    """Trivial baseline: the whole photo as the mask."""
    _require(pairs)
    return _overlaps("whole photo", pairs, [float(truth.mean()) for _, truth in pairs])


def _box(shape: tuple[int, ...], area: float) -> Mask:
    box = np.zeros(shape, np.bool_)
    (top, bottom), (left, right) = (
        (round(side * (1 - area**0.5) / 2), round(side * (1 + area**0.5) / 2)) for side in shape
    )
    box[top:bottom, left:right] = True
    return box


def _overlaps(name: str, pairs: Sequence[Pair], values: Sequence[float]) -> Overlap:
    names = tuple(photo.name for photo, _ in pairs)
    return Overlap(name, tuple(values), names if all(names) else ())


def _require(pairs: Sequence[Pair]) -> None:
    if not pairs:
        raise OptionError("There are no composites to measure on.")


def _listing() -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(LIST.read_text(encoding="utf-8"))
    return found
