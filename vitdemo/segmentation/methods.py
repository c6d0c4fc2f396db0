"""The segmentation methods on the patch grid: features and attention in; masks, maps and matches out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vitdemo.attribution import fuse
from vitdemo.options.explain import resolve_head
from vitdemo.options.segment import GraphFeatures, SegmentRequest
from vitdemo.segmentation import (
    ALL_ALIKE,
    MAX_EIGENVALUE,
    Correspondence,
    Foreground,
    Match,
    best_matches,
    component_colours,
    correspond,
    find_parts,
    foreground,
    keep_mass,
    none_found,
    similarity_map,
    spread_out,
    threshold_of,
    unit,
)

KEYS = 0.8
"""Weight of the keys' cosine where both features are used, tuned on composites and, by eye, on the examples."""

NO_FOREGROUND = "No foreground found"
ONE_COLOUR = "The photo is of one colour: nothing stands out."


@dataclass(frozen=True)
class PhotoFeatures:
    """Features and attention of one photo's patches."""

    heads: NDArray[np.float32]
    """`[H, h, w]`: attention of the last layer."""
    features: NDArray[np.float32]
    """`[N, D]`: last hidden states, in row-major order."""
    keys: NDArray[np.float32]
    """`[N, E]`: keys of the last layer."""
    graph: GraphFeatures = "keys and hidden states"
    """What patches are compared by."""
    tau: float | None = None
    """Cosine from which two patches count as similar; None: found in these features."""
    plain: bool = False
    """Whether the photo is of one colour: whatever parts its patches is not in it."""

    @property
    def grid(self) -> tuple[int, int]:
        return self.heads.shape[1], self.heads.shape[2]

    @cached_property
    def compared(self) -> NDArray[np.float32]:
        """`[N, K]`: what patches are compared by. Of both features, cosines are weighted means of those of each.

        Keys, as in TokenCut, separate colours and textures; last hidden states separate objects.
        """
        if self.graph == "keys":
            return self.keys
        if self.graph == "hidden states":
            return self.features
        return np.concatenate([KEYS**0.5 * unit(self.keys), (1 - KEYS) ** 0.5 * unit(self.features)], axis=1)

    @cached_property
    def threshold(self) -> float | None:
        """`tau`, or the one of these features; None if they are all alike."""
        return threshold_of(self.compared) if self.tau is None else self.tau

    def cut(self, objects: int = 1) -> Foreground:
        """The foreground objects."""
        if self.plain:
            return none_found(self.grid, ONE_COLOUR)
        if self.threshold is None:
            return none_found(self.grid, ALL_ALIKE)
        return foreground(
            self.compared,
            self.grid,
            objects=objects,
            tau=self.threshold,
            side="attention",
            attention=self.heads.mean(axis=0),
            max_eigenvalue=MAX_EIGENVALUE,
        )


@dataclass(frozen=True)
class PatchMasks:
    """Segmentation of one photo on the patch grid."""

    masks: NDArray[np.bool_]
    """`[n, h, w]`."""
    names: tuple[str, ...]
    """One per mask."""
    values: NDArray[np.float32] | None = None
    """`[h, w]`: the map that the masks were derived from; for `similarity`, cosines."""
    colours: NDArray[np.float32] | None = None
    """`[h, w, 3]` in 0..1."""
    matches: tuple[Match, ...] = ()
    pairs: Correspondence | None = None
    """Correspondences of the first photo and this one."""
    note: str = ""


Method = Callable[[Sequence[PhotoFeatures], SegmentRequest, int], list[PatchMasks]]


def segment_patches(photos: Sequence[PhotoFeatures], request: SegmentRequest, query: int = 0) -> list[PatchMasks]:
    """Segment each photo; parts and components are computed over all of them.

    Args:
        query: row-major index of the first photo's patch that `similarity` searches for.
    """
    return _METHODS[request.method](photos, request, query)


def _attention(photos: Sequence[PhotoFeatures], request: SegmentRequest, query: int) -> list[PatchMasks]:
    found = []
    for photo in photos:
        if request.head == "all":
            names = tuple(f"head {number + 1}" for number in range(len(photo.heads)))
            found.append(PatchMasks(keep_mass(photo.heads, request.threshold), names, photo.heads.mean(axis=0)))
            continue
        chosen = resolve_head(request.head, len(photo.heads))
        values = photo.heads[chosen] if isinstance(chosen, int) else fuse(photo.heads, chosen)
        name = f"head {chosen + 1}" if isinstance(chosen, int) else f"{chosen} of heads"
        found.append(PatchMasks(keep_mass(values, request.threshold)[None], (name,), values))
    return found


def _foreground(photos: Sequence[PhotoFeatures], request: SegmentRequest, query: int) -> list[PatchMasks]:
    found = []
    for photo in photos:
        cut = photo.cut(request.objects)
        names = tuple(f"object {number + 1}" for number in range(len(cut.masks)))
        found.append(PatchMasks(cut.masks, names, cut.eigenvectors[0] if cut.found else None, note=cut.reason))
    return found


def _parts(photos: Sequence[PhotoFeatures], request: SegmentRequest, query: int) -> list[PatchMasks]:
    inside = [_foreground_mask(photo) if request.within else None for photo in photos]
    parts = find_parts([photo.compared for photo in photos], request.parts, masks=inside)
    found = []
    for labels, photo, mask in zip(parts.labels, photos, inside, strict=True):
        numbered = labels.reshape(photo.grid)
        there = [number for number in range(len(parts.sizes)) if (numbered == number).any()]
        masks = np.stack([numbered == number for number in there]) if there else np.zeros((0, *photo.grid), np.bool_)
        note = "" if mask is not None or not request.within else f"{NO_FOREGROUND}: all patches are grouped."
        found.append(PatchMasks(masks, tuple(f"part {number + 1}" for number in there), note=note))
    return found


def _foreground_mask(photo: PhotoFeatures) -> NDArray[np.bool_] | None:
    cut = photo.cut()
    return None if not cut.found or bool(cut.masks[0].all()) else cut.masks[0]


def _pca(photos: Sequence[PhotoFeatures], request: SegmentRequest, query: int) -> list[PatchMasks]:
    grids = [photo.grid for photo in photos]
    inside = [_foreground_mask(photo) if request.within else None for photo in photos]
    found = component_colours([photo.features for photo in photos], grids, inside)
    shares = ", ".join(f"{share:.0%}" for share in found.explained)
    note = f"The three components explain {shares} of the variance."
    return [
        PatchMasks(
            np.zeros((0, *grid), np.bool_) if mask is None else mask[None],
            () if mask is None else ("foreground",),
            colours=colours,
            note=note
            if mask is not None or not request.within
            else f"{note} {NO_FOREGROUND}: all patches have colours.",
        )
        for colours, grid, mask in zip(found.colours, grids, inside, strict=True)
    ]


def _similarity(photos: Sequence[PhotoFeatures], request: SegmentRequest, query: int) -> list[PatchMasks]:
    first, *others = photos
    values = similarity_map(first.features, query).reshape(first.grid)
    mask = np.zeros((1, *first.grid), np.bool_)
    mask[0].flat[query] = True
    found = [PatchMasks(mask, ("query",), values, matches=best_matches(values, request.matches, skip=query))]
    own = _foreground_mask(first) if others else None
    for photo in others:
        values = similarity_map(first.features, query, photo.features).reshape(photo.grid)
        # Only within the foreground: backgrounds match everywhere.
        pairs = correspond(first.features, photo.features, masks=[own, _foreground_mask(photo)])
        pairs = spread_out(pairs, (first.grid[1], photo.grid[1]), request.matches)
        found.append(
            PatchMasks(
                np.zeros((0, *photo.grid), np.bool_),
                (),
                values,
                matches=best_matches(values, request.matches),
                pairs=pairs,
            )
        )
    return found


_METHODS: Mapping[str, Method] = {
    "attention": _attention,
    "foreground": _foreground,
    "parts": _parts,
    "pca": _pca,
    "similarity": _similarity,
}
