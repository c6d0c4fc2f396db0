"""Segmentations for the Segment tab, and the cache of the newest ones."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vitdemo.errors import OptionError, VitDemoError
from vitdemo.export.segmentation import archive
from vitdemo.options.explain import ExplainRequest
from vitdemo.options.segment import SegmentRequest
from vitdemo.pipeline import Pipeline
from vitdemo.pipeline.cache import LRUCache
from vitdemo.pipeline.prepare import prepare
from vitdemo.pipeline.segment import prefetch, segment
from vitdemo.registry import get_spec
from vitdemo.rendering.masks import label_map
from vitdemo.segmentation.speckles import absorb_speckles, largest_share, without_holes, without_speckles
from vitdemo.types import Photo, Segmentation
from vitdemo.ui.segment_settings import SHARED, Settings, heads_offered

KEPT = 100_000_000
"""Bytes of masks that are cached: their display changes often, they themselves seldom."""

SPECKLE = 1.25
"""Patches up to which a region is a speckle; a single patch, enlarged, has less than one."""

SCATTERED = 0.5
"""Share of a mask's area that its largest region must have, or the answer is unsure."""


@dataclass(frozen=True)
class Found:
    """The photo of the page first, then others, as far as they could be opened."""

    settings: Settings
    """As they were asked for, without a point that the model does not see."""
    photos: list[Photo]
    results: list[Segmentation]
    second: Segmentation | None
    """Of the page's photo, by the other model."""
    heads: Segmentation | None
    """For `attention`, of the page's photo: the mask of each head, on patches."""
    notes: list[str]

    @property
    def first(self) -> Segmentation:
        return self.results[0]


class Segmenter:
    """Segments, and caches the newest results."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._kept = LRUCache(KEPT)

    def find(self, photo: Photo, others: Sequence[tuple[str, str]], settings: Settings) -> Found:
        """Everything that these settings ask for.

        Args:
            others: names and paths of more photos, for methods that take several.
        """
        request, notes = settings.request, []
        if request.method == "similarity" and not self._sees(photo, settings.model, request):
            notes.append(f"{settings.model} does not see that point of the photo; using the middle.")
            request = replace(request, point=None)
        photos, most = [photo], self.pipeline.settings.max_photos
        chosen = others if request.method in SHARED else []
        for name, path in chosen[:most]:
            try:
                photos.append(replace(self.pipeline.open(Path(path)), name=name))
            except VitDemoError as error:
                notes.append(f"{name}: {error}")
        if len(chosen) > most:
            notes.append(f"Only the first {most} of {len(chosen)} photos are used.")
        prefetch(self.pipeline, photos, [get_spec(name) for name in (settings.model, settings.beside) if name], request)
        results = self.segment(photos, settings.model, request)
        second = self._second(photo, settings.beside, request, notes) if settings.beside else None
        heads = None
        if request.method == "attention":
            (heads,) = self.segment([photo], settings.model, replace(request, head="all", refine=False))
        return Found(replace(settings, request=request), photos, results, second, heads, notes)

    def segment(self, photos: list[Photo], model: str, request: SegmentRequest) -> list[Segmentation]:
        """As `vitdemo.pipeline.segment`, tidied and cached."""
        spec = get_spec(model)
        key = (tuple(one.digest for one in photos), spec.checkpoint, spec.revision, request)
        found: list[Segmentation] | None = self._kept.get(key)
        if found is None:
            found = [tidied(one) for one in segment(self.pipeline, photos, spec, request)]
            self._kept.put(key, found, sum(one.masks.nbytes for one in found))
        return found

    def _sees(self, photo: Photo, model: str, request: SegmentRequest) -> bool:
        if request.point is None:
            return True
        try:
            # The number of the patch there.
            return (
                prepare(
                    photo, get_spec(model), ExplainRequest(resolution=request.resolution, point=request.point)
                ).patch
                >= 0
            )
        except OptionError:
            return False

    def _second(self, photo: Photo, model: str, request: SegmentRequest, notes: list[str]) -> Segmentation | None:
        """With its own threshold: patches that are similar for one model are not for another."""
        if request.method == "similarity" and not self._sees(photo, model, request):
            notes.append(f"{model} does not see that point of the photo.")
            return None
        head = request.head if str(request.head) in heads_offered(get_spec(model)) else "mean"
        (found,) = self.segment([photo], model, replace(request, tau=None, head=head))
        return found


def tidied(found: Segmentation) -> Segmentation:
    """Without speckles; and with a word of doubt where no region has half of a mask."""
    if not len(found.masks) or found.method == "similarity":
        return found
    patch = found.masks[0].size / found.patches[0].size
    if found.method == "parts":
        labels = absorb_speckles(label_map(found.masks, found.numbers), SPECKLE * patch)
        rough = absorb_speckles(label_map(found.patches, found.numbers), SPECKLE)
        kept = [number in labels for number in found.numbers]
        numbers = [number for number, is_kept in zip(found.numbers, kept, strict=True) if is_kept]
        return replace(
            found,
            masks=np.array([labels == number for number in numbers]),
            patches=np.array([rough == number for number in numbers]),
            names=tuple(name for name, is_kept in zip(found.names, kept, strict=True) if is_kept),
        )
    masks = np.array([without_speckles(mask, SPECKLE * patch) for mask in found.masks])
    patches = np.array([without_speckles(mask, SPECKLE) for mask in found.patches])
    if found.method == "pca" or not found.parameters.get("refine"):
        # What follows the edges may have small gaps for a reason.
        masks = np.array([without_holes(mask, SPECKLE * patch) for mask in masks])
        patches = np.array([without_holes(mask, SPECKLE) for mask in patches])
    notes = [
        f"Unsure: {name} is scattered over the picture"
        for name, mask in zip(found.names, found.patches, strict=True)
        if largest_share(mask) < SCATTERED
    ]
    if len(notes) > 1:
        notes = [f"Unsure: {len(notes)} of {len(found.masks)} masks are scattered over the picture"]
    return replace(found, masks=masks, patches=patches, notes=(*found.notes, *notes))


def zip_file(found: Found, cache: str) -> str:
    """Path of a new archive of all files."""
    folder = Path(tempfile.mkdtemp(dir=Path(cache)))
    path = folder / f"{Path(found.photos[0].name).stem or 'photo'}-{found.first.method}.zip"
    path.write_bytes(archive(found.photos, found.results, second=found.second))
    return str(path)
