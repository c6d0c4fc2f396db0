"""How the Segment tab shows a segmentation, and the cache of the newest ones."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from vitdemo.errors import VitDemoError
from vitdemo.export.segmentation import COLOURS, archive, base_image, pairs_image, segmentation_overlay
from vitdemo.options.segment import SegmentRequest
from vitdemo.pipeline import Pipeline
from vitdemo.pipeline.cache import LRUCache
from vitdemo.pipeline.segment import segment
from vitdemo.registry import get_spec
from vitdemo.segmentation import enlarge
from vitdemo.types import Photo, Segmentation

KEPT = 100_000_000
"""Bytes of masks that are cached: their display changes often, they themselves seldom."""


@dataclass(frozen=True)
class Found:
    """The photo of the page first, then others, as far as they could be opened."""

    photos: list[Photo]
    results: list[Segmentation]
    second: Segmentation | None
    """Of the page's photo, by the other model."""
    failed: tuple[str, ...]

    @property
    def first(self) -> Segmentation:
        return self.results[0]


class Segmenter:
    """Segments, and caches the newest results."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._kept = LRUCache(KEPT)

    def find(
        self, photo: Photo, others: Sequence[tuple[str, str]], model: str, beside: str, request: SegmentRequest
    ) -> Found:
        """
        Args:
            others: names and paths of more photos.
            beside: the other model; "" for none.
        """
        photos, failed, most = [photo], [], self.pipeline.settings.max_photos
        for name, path in others[:most]:
            try:
                photos.append(replace(self.pipeline.open(Path(path)), name=name))
            except VitDemoError as error:
                failed.append(f"{name}: {error}")
        if len(others) > most:
            failed.append(f"The first {most} of {len(others)} photos are looked at.")
        second = None
        if beside:
            # With its own threshold: patches that are similar for one model are not for another.
            (second,) = self.segment([photo], beside, replace(request, tau=None))
        return Found(photos, self.segment(photos, model, request), second, tuple(failed))

    def segment(self, photos: list[Photo], model: str, request: SegmentRequest) -> list[Segmentation]:
        spec = get_spec(model)
        key = (tuple(one.digest for one in photos), spec.checkpoint, spec.revision, request)
        found: list[Segmentation] | None = self._kept.get(key)
        if found is None:
            found = segment(self.pipeline, photos, spec, request)
            self._kept.put(key, found, sum(one.masks.nbytes for one in found))
        return found


def empty_view(name: str, visible: bool) -> tuple[gr.AnnotatedImage, gr.Image]:
    """Masks, or, for methods without masks, a picture in their place."""
    return (
        gr.AnnotatedImage(label="Masks", height=520, elem_id=f"{name}-masks", buttons=["fullscreen"], visible=visible),
        gr.Image(
            label="Picture", height=520, interactive=False, visible=False, format="png", elem_id=f"{name}-picture"
        ),
    )


def views_of(found: Found, opacity: float, layered: bool) -> tuple[Any, ...]:
    """Updates of masks and picture, of both models."""
    photo = found.photos[0]
    return (*_view(photo, found.first, opacity, layered), *_view(photo, found.second, opacity, layered))


def _view(photo: Photo, found: Segmentation | None, opacity: float, layered: bool) -> tuple[Any, Any]:
    if found is None:
        return gr.update(visible=False), gr.update(visible=False)
    name = found.spec.name
    if not layered:
        return gr.update(visible=False), gr.update(
            value=segmentation_overlay(photo, found, opacity), visible=True, label=name
        )
    colours = {
        name: COLOURS[(number - 1) % len(COLOURS)] for name, number in zip(found.names, found.numbers, strict=True)
    }
    layers = [(mask * opacity, name) for mask, name in zip(found.masks, found.names, strict=True)]
    masks = gr.update(value=(base_image(photo, found), layers), color_map=colours, visible=True, label=name)
    return masks, gr.update(visible=False)


def slider_of(found: Found, opacity: float) -> tuple[Image.Image, Image.Image]:
    """Before and after the refinement."""
    photo, first = found.photos[0], found.first
    height, width = first.masks.shape[1:]
    rough = np.stack([enlarge(mask, width, height) for mask in first.patches])
    return (
        segmentation_overlay(photo, replace(first, masks=rough), opacity),
        segmentation_overlay(photo, first, opacity),
    )


def heads_of(
    segmenter: Segmenter, found: Found, request: SegmentRequest, opacity: float
) -> list[tuple[Image.Image, str]]:
    """One small picture per head."""
    (each,) = segmenter.segment(found.photos[:1], found.first.spec.name, replace(request, head="all", refine=False))
    pictures = []
    for index, name in enumerate(each.names):
        part = replace(each, masks=each.masks[index : index + 1], names=(name,))
        picture = segmentation_overlay(found.photos[0], part, opacity)
        picture.thumbnail((360, 360))
        pictures.append((picture, name))
    return pictures


def pictures_of(found: Found, opacity: float) -> list[tuple[Image.Image, str]]:
    """The other photos; for `similarity` each with its correspondences to the first."""
    pictures = []
    for photo, result in zip(found.photos[1:], found.results[1:], strict=True):
        pictures.append((segmentation_overlay(photo, result, opacity), photo.name))
        if result.pairs:
            pair = pairs_image((found.photos[0], found.first), (photo, result))
            pictures.append((pair, f"{photo.name}: {len(result.pairs)} patches that are each other's nearest"))
    return pictures


def files_of(found: Found, cache: str) -> str:
    """Path of the zip."""
    folder = Path(tempfile.mkdtemp(dir=Path(cache)))
    path = folder / f"{Path(found.photos[0].name).stem or 'photo'}-{found.first.method}.zip"
    path.write_bytes(archive(found.photos, found.results))
    return str(path)
