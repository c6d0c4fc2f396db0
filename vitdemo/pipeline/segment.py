"""From a photo to masks: a transformer's attention and features split it into objects and parts, down to the pixel.

One forward pass per photo gives everything; whatever follows from it is computed again without the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vitdemo.errors import OptionError
from vitdemo.images.plain import LABELS_MEAN_NOTHING, is_plain
from vitdemo.options.explain import ExplainRequest, resolve_head
from vitdemo.options.segment import OWN, PatchGraph, SegmentRequest, patch_graph
from vitdemo.pipeline.pipeline import Pipeline
from vitdemo.pipeline.prepare import prepare
from vitdemo.segmentation import Match, clip_outliers, enlarge, find_outliers, refine
from vitdemo.segmentation.methods import PatchMasks, PhotoFeatures, segment_patches
from vitdemo.types import Box, Capture, Explanation, ModelSpec, Pair, Photo, Segmentation

MAX_GROUPED = 500_000_000
"""Bytes of features that are grouped at once: 400 photos of 784 patches of an embedded model. It needs eight times as much."""


def segment(
    pipeline: Pipeline,
    photos: Sequence[Photo],
    spec: ModelSpec,
    request: SegmentRequest | None = None,
    *,
    dtype: str = "auto",
) -> list[Segmentation]:
    """Masks of photos. Parts and principal components are shared: the same part has the same number in all of them.

    `similarity` looks for the patch of the first photo in all.

    Raises:
        OptionError: a parameter out of range, or a model without attention.
    """
    return list(segment_each(pipeline, photos, spec, request, dtype=dtype))


def prefetch(pipeline: Pipeline, photos: Sequence[Photo], specs: Sequence[ModelSpec], request: SegmentRequest) -> None:
    """Where each call borrows a GPU, run photos and models in one, so that segmenting any of them needs no other."""
    wanted = Capture(features=True)
    resolution = ExplainRequest(resolution=request.resolution)
    pipeline.prefetch([(photo, spec, resolution, wanted) for spec in specs if spec.readouts for photo in photos])


def segment_each(
    pipeline: Pipeline,
    photos: Sequence[Photo],
    spec: ModelSpec,
    request: SegmentRequest | None = None,
    *,
    dtype: str = "auto",
) -> Iterator[Segmentation]:
    """As `segment`, one after the other: of photos that are yet to come only features and rows of attention are held.

    Args:
        photos: gone through twice, in order, so that they may be opened anew each time.
    """
    request = request or SegmentRequest()
    if not spec.readouts:
        raise OptionError(f"{spec.name} has no attention, and so no patches to tell apart. Choose a transformer.")
    if request.method == "attention" and request.head != "all":
        resolve_head(request.head, spec.num_heads)
    graph = patch_graph(spec)
    tau = graph.tau if request.tau is None else request.tau
    map_request = ExplainRequest(resolution=request.resolution)
    query = 0
    if request.method == "similarity" and len(photos):
        # Refused before any forward pass.
        query = prepare(photos[0], spec, replace(map_request, point=request.point)).patch
    found: list[Explanation] = []
    seen: list[PhotoFeatures] = []
    outliers: list[NDArray[np.bool_]] = []
    for photo in photos:
        explanation = pipeline.explain(photo, spec, map_request, dtype=dtype, capture=Capture(features=True))
        assert explanation.features is not None
        heads = explanation.rows[spec.readouts[0]][-1]
        features, keys = explanation.features.values.numpy(), explanation.features.keys.numpy()
        huge = find_outliers(explanation.features.norms.numpy(), explanation.patch_grid)
        if request.clip and huge.any():
            features, keys = clip_outliers(features, huge), clip_outliers(keys, huge)
            heads = clip_outliers(heads.reshape(len(heads), -1).T, huge).T.reshape(heads.shape)
        # The rows of all layers are not needed any more.
        found.append(replace(explanation, rows={}, features=None))
        plain = is_plain(photo, explanation.view.crop)
        seen.append(PhotoFeatures(heads, features, keys, graph.features, tau, plain))
        outliers.append(huge)
        most = MAX_GROUPED // (features.nbytes + keys.nbytes)
        if request.method in ("parts", "pca", "similarity") and len(photos) > most:
            raise OptionError(
                f"{request.method} looks at all photos at once. At this resolution {spec.name} can take about {most}, "
                f"not {len(photos)}. Give fewer, or a lower resolution."
            )
    if not found:
        return
    for index, patches in enumerate(segment_patches(seen, request, query)):
        done = _finish(photos[index], found[index], request, patches, outliers[index], found[0])
        yield _compared(done, seen[index], graph, request)


def _compared(found: Segmentation, photo: PhotoFeatures, graph: PatchGraph, request: SegmentRequest) -> Segmentation:
    """With what its patches were compared by, and the threshold, where they were compared."""
    if "tau" not in OWN[request.method] or (request.method == "pca" and not request.within):
        return found
    if request.method == "similarity":
        # Its map is of the last hidden states with any model.
        graph, photo = PatchGraph("hidden states", None), replace(photo, graph="hidden states", tau=request.tau)
    by_model: Literal["model", "photo"] = "photo" if graph.tau is None else "model"
    return replace(
        found,
        features=graph.features,
        tau_from=by_model if request.tau is None else "request",
        parameters={**found.parameters, "tau": photo.threshold},
    )


def _finish(
    photo: Photo,
    explanation: Explanation,
    request: SegmentRequest,
    patches: PatchMasks,
    outliers: NDArray[np.bool_],
    first: Explanation,
) -> Segmentation:
    """From patches to pixels of the crop."""
    width, height = _size(explanation)
    crop = np.asarray(photo.image.crop(explanation.view.crop))
    masks, notes = (
        [],
        [*explanation.notes, *outlier_note(outliers, request.clip), *([patches.note] if patches.note else [])],
    )
    # Where its labels come from, and what they mean, does not matter here.
    notes = [note for note in notes if note not in (explanation.prediction.spec.note, LABELS_MEAN_NOTHING)]
    nothing = not patches.masks.any() or (request.method == "foreground" and bool(patches.masks.all()))
    if request.method in ("attention", "foreground") and nothing:
        # Not drawn as if it were a mask.
        patches = replace(patches, masks=patches.masks[:0], names=())
        notes.append("No foreground found.")
    for mask, name in zip(patches.masks, patches.names, strict=True):
        if request.refine and request.method != "similarity":
            refined = refine(crop, mask)
            masks.append(refined.mask)
            if refined.note:
                notes.append(f"{name}: {refined.note}")
        else:
            masks.append(enlarge(mask, width, height))
    prediction = explanation.prediction
    return Segmentation(
        spec=prediction.spec,
        method=request.method,
        masks=np.array(masks, np.bool_).reshape(len(masks), height, width),
        names=patches.names,
        patches=patches.masks,
        values=patches.values,
        colours=patches.colours,
        boxes=tuple(_box(match, explanation) for match in patches.matches),
        view=explanation.view,
        parameters=request.relevant,
        milliseconds=prediction.milliseconds,
        device=prediction.device,
        dtype=prediction.dtype,
        notes=tuple(dict.fromkeys(notes)),
        scores=tuple(match.score for match in patches.matches),
        pairs=tuple(
            Pair(_middle(one, first), _middle(other, explanation), score)
            for one, other, score in zip(
                patches.pairs.first.tolist(), patches.pairs.second.tolist(), patches.pairs.scores.tolist(), strict=True
            )
        )
        if patches.pairs
        else (),
        outliers=outliers,
    )


def outlier_note(outliers: NDArray[np.bool_], clip: bool) -> tuple[str, ...]:
    """How many patches are outliers, and what was done about them; nothing where there are none."""
    count = int(outliers.sum())
    if not count:
        return ()
    said = f"{count} patches have" if count > 1 else "1 patch has"
    said += " features far larger than the others"
    if clip:
        return (f"{said}: replaced by the mean of the neighbours.",)
    return (f"{said}; they can be suppressed.",)


def _size(explanation: Explanation) -> tuple[int, int]:
    """Width and height of the crop."""
    left, top, right, bottom = explanation.view.crop
    return right - left, bottom - top


def _box(match: Match, explanation: Explanation) -> Box:
    """In pixels of the crop."""
    (width, height), (rows, columns) = _size(explanation), explanation.patch_grid
    left, top, right, bottom = match.box
    return (
        round(left / columns * width),
        round(top / rows * height),
        round(right / columns * width),
        round(bottom / rows * height),
    )


def _middle(patch: int, explanation: Explanation) -> tuple[float, float]:
    """x and y of a patch in pixels of the upright photo."""
    (width, height), (rows, columns) = _size(explanation), explanation.patch_grid
    row, column = divmod(patch, columns)
    left, top = explanation.view.crop[:2]
    return left + (column + 0.5) / columns * width, top + (row + 0.5) / rows * height
