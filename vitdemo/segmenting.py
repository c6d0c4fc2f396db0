"""From a photo to masks: what a transformer's attention and features part it into, down to the pixel.

One forward a photo gives everything; whatever follows from its features is computed again without the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vitdemo.attribution import fuse, resolve_head
from vitdemo.errors import OptionError
from vitdemo.options import patch_at
from vitdemo.parameters import METHODS, RESOLUTION, Parameters
from vitdemo.pipeline import MAX_TOKENS, Pipeline
from vitdemo.preprocess import at_resolution
from vitdemo.segmentation import (
    best_matches,
    clip_outliers,
    component_colours,
    component_foreground,
    enlarge,
    find_outliers,
    find_parts,
    foreground,
    keep_mass,
    refine,
    similarity_map,
)
from vitdemo.types import Explanation, ModelSpec, Photo, Segmentation

__all__ = ["METHODS", "RESOLUTION", "Parameters", "each", "features_of", "segment"]

GROUPED = 500_000_000
"""Bytes of features that are grouped at once, 800 photos of 784 patches of the embedded models: it takes eight times as much."""


def segment(
    pipeline: Pipeline,
    photos: Sequence[Photo],
    spec: ModelSpec,
    parameters: Parameters | None = None,
    *,
    dtype: str = "auto",
) -> list[Segmentation]:
    """Masks of photos. Parts and principal components are shared: the same part has the same number in all of them.

    `similarity` looks for the patch of the first photo in all.

    Raises:
        OptionError: a parameter out of range, or a model without attention.
    """
    return list(each(pipeline, photos, spec, parameters, dtype=dtype))


def each(
    pipeline: Pipeline,
    photos: Sequence[Photo],
    spec: ModelSpec,
    parameters: Parameters | None = None,
    *,
    dtype: str = "auto",
) -> Iterator[Segmentation]:
    """As `segment`, one after the other: of photos that are yet to come only features and rows of attention are held.

    Args:
        photos: gone through twice, in order, so that they may be opened anew each time.
    """
    asked = parameters or Parameters()
    if not spec.readouts:
        raise OptionError(f"{spec.name} has no attention, and so no patches to tell apart. Choose a transformer.")
    if asked.method == "attention" and asked.head != "all":
        resolve_head(asked.head, spec.num_heads)
    found, features, notes = [], [], []
    for photo in photos:
        explanation = pipeline.explain(photo, spec, resolution=asked.resolution, dtype=dtype, keep=True)
        own, said = _features(explanation, asked.clip)
        # Queries and keys of all layers are a hundred times the size of the features.
        found.append(replace(explanation, queries=()))
        features.append(own)
        notes.append(said)
        most = GROUPED // own.nbytes
        if asked.method in ("parts", "pca") and len(photos) > most:
            raise OptionError(
                f"{asked.method} looks at all photos at once. At this resolution {spec.name} can take about {most}, "
                f"not {len(photos)}. Give fewer, or a lower resolution."
            )
    if not found:
        return
    work = {
        "attention": _attention,
        "foreground": _foreground,
        "parts": _parts,
        "pca": _pca,
        "similarity": _similarity,
    }[asked.method]
    drafts = work(_Context(pipeline, photos, spec, asked, found, features))
    for photo, explanation, draft, said in zip(photos, found, drafts, notes, strict=True):
        yield _finish(photo, explanation, asked, draft, said)


@dataclass(frozen=True)
class _Context:
    pipeline: Pipeline
    photos: Sequence[Photo]
    spec: ModelSpec
    asked: Parameters
    found: list[Explanation]
    features: list[NDArray[np.float32]]

    @property
    def grids(self) -> list[tuple[int, int]]:
        return [one.patch_grid for one in self.found]


@dataclass(frozen=True)
class _Draft:
    """On the patch grid."""

    masks: NDArray[np.bool_]
    names: tuple[str, ...]
    values: NDArray[np.float32] | None = None
    colours: NDArray[np.float32] | None = None
    boxes: tuple[tuple[int, int, int, int], ...] = ()
    note: str = ""


def features_of(explanation: Explanation) -> NDArray[np.float32]:
    """The keys of the last layer, `[N, D]`, all heads side by side, as TokenCut and DINO's authors use them."""
    key = explanation.queries[-1].key[0].float()
    patches = explanation.patch_grid[0] * explanation.patch_grid[1]
    result: NDArray[np.float32] = key[:, -patches:].permute(1, 0, 2).reshape(patches, -1).numpy()
    return result


def _features(explanation: Explanation, clip: bool) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    features = features_of(explanation)
    outliers = find_outliers(features, explanation.patch_grid)
    count = int(outliers.mask.sum())
    if not count:
        return features, ()
    said = f"{count} patches have features far larger than the others"
    if not clip:
        return features, (f"{said}; they can be clipped.",)
    return clip_outliers(features, outliers.mask), (f"{said}: they were replaced by the mean of their neighbours.",)


def _attention(context: _Context) -> list[_Draft]:
    spec, asked = context.spec, context.asked
    drafts = []
    for explanation in context.found:
        heads = explanation.rows[spec.readouts[0]][-1]
        if asked.head == "all":
            names = tuple(f"head {number}" for number in range(len(heads)))
            drafts.append(_Draft(keep_mass(heads, asked.threshold), names, heads.mean(axis=0)))
            continue
        chosen = resolve_head(asked.head, len(heads))
        values = heads[chosen] if isinstance(chosen, int) else fuse(heads, chosen)
        name = f"head {chosen}" if isinstance(chosen, int) else f"{chosen} of heads"
        drafts.append(_Draft(keep_mass(values, asked.threshold)[None], (name,), values))
    return drafts


def _foreground(context: _Context) -> list[_Draft]:
    drafts = []
    for features, grid in zip(context.features, context.grids, strict=True):
        found = foreground(features, grid, objects=context.asked.objects, tau=context.asked.tau)
        names = tuple(f"object {number + 1}" for number in range(len(found.masks)))
        values = found.eigenvectors[0] if found.found else None
        drafts.append(_Draft(found.masks, names, values, note=found.reason))
    return drafts


def _inside(context: _Context) -> list[NDArray[np.bool_] | None]:
    """Where parts and colours are looked for: the foreground, or everywhere where there is none."""
    if not context.asked.within:
        return [None for _ in context.found]
    masks = []
    for features, grid in zip(context.features, context.grids, strict=True):
        found = foreground(features, grid, tau=context.asked.tau)
        whole = not found.found or bool(found.masks[0].all())
        masks.append(None if whole else found.masks[0])
    return masks


def _parts(context: _Context) -> list[_Draft]:
    inside = _inside(context)
    parts = find_parts(context.features, context.asked.parts, masks=inside)
    drafts = []
    for labels, grid, mask in zip(parts.labels, context.grids, inside, strict=True):
        numbered = labels.reshape(grid)
        there = [number for number in range(len(parts.sizes)) if (numbered == number).any()]
        masks = np.stack([numbered == number for number in there]) if there else np.zeros((0, *grid), np.bool_)
        note = "" if mask is not None or not context.asked.within else "No foreground found: all patches are grouped."
        drafts.append(_Draft(masks, tuple(f"part {number + 1}" for number in there), note=note))
    return drafts


def _pca(context: _Context) -> list[_Draft]:
    inside: list[NDArray[np.bool_] | None] = [None for _ in context.found]
    if context.asked.within:
        inside = list(component_foreground(context.features, context.grids))
    found = component_colours(context.features, context.grids, inside)
    told = ", ".join(f"{share:.0%}" for share in found.explained)
    return [
        _Draft(
            np.zeros((0, *grid), np.bool_) if mask is None else mask[None],
            () if mask is None else ("foreground",),
            colours=colours,
            note=f"Red, green and blue hold {told} of the variance.",
        )
        for colours, grid, mask in zip(found.colours, context.grids, inside, strict=True)
    ]


def _similarity(context: _Context) -> list[_Draft]:
    asked, photo = context.asked, context.photos[0]
    processor, _ = at_resolution(context.spec, photo.size, asked.resolution, MAX_TOKENS)
    query = patch_at(asked.point, photo, context.spec, processor)
    drafts = []
    for index, (features, grid) in enumerate(zip(context.features, context.grids, strict=True)):
        values = similarity_map(context.features[0], query, features).reshape(grid)
        matches = best_matches(values, asked.matches, skip=query if index == 0 else None)
        masks = np.zeros((1, *grid), np.bool_)
        if index == 0:
            masks[0].flat[query] = True
        drafts.append(
            _Draft(
                masks if index == 0 else masks[:0],
                ("query",) if index == 0 else (),
                values,
                boxes=tuple(match.box for match in matches),
            )
        )
    return drafts


def _finish(
    photo: Photo, explanation: Explanation, asked: Parameters, draft: _Draft, notes: tuple[str, ...]
) -> Segmentation:
    """From patches to pixels of the crop."""
    left, top, right, bottom = explanation.view.crop
    width, height = right - left, bottom - top
    rows, columns = explanation.patch_grid
    crop = np.asarray(photo.image.crop(explanation.view.crop))
    masks, said = [], [*explanation.notes, *notes, *([draft.note] if draft.note else [])]
    # How its labels come about is of no matter here.
    said = [note for note in said if note != explanation.prediction.spec.note]
    if asked.method in ("attention", "foreground") and (not draft.masks.any() or draft.masks.all()):
        # Not drawn as if it were one.
        draft = replace(draft, masks=draft.masks[:0], names=())
        said.append("No foreground found.")
    for mask, name in zip(draft.masks, draft.names, strict=True):
        if asked.refine and asked.method != "similarity":
            refined = refine(crop, mask)
            masks.append(refined.mask)
            if refined.note:
                said.append(f"{name}: {refined.note}")
        else:
            masks.append(enlarge(mask, width, height))
    prediction = explanation.prediction
    return Segmentation(
        spec=prediction.spec,
        method=asked.method,
        masks=np.array(masks, np.bool_).reshape(len(masks), height, width),
        names=draft.names,
        patches=draft.masks,
        values=draft.values,
        colours=draft.colours,
        boxes=tuple(
            (
                round(box[0] / columns * width),
                round(box[1] / rows * height),
                round(box[2] / columns * width),
                round(box[3] / rows * height),
            )
            for box in draft.boxes
        ),
        view=explanation.view,
        parameters=asked.relevant,
        milliseconds=prediction.milliseconds,
        device=prediction.device,
        dtype=prediction.dtype,
        notes=tuple(dict.fromkeys(said)),
    )
