"""What a photo is parted into, on the patch grid: features and attention in; masks, maps and matches out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitdemo.attribution import fuse
from vitdemo.options.explain import resolve_head
from vitdemo.options.segment import SegmentRequest
from vitdemo.segmentation import (
    LOOSE,
    TAU,
    Correspondence,
    Foreground,
    Match,
    best_matches,
    component_colours,
    component_foreground,
    correspond,
    find_parts,
    foreground,
    keep_mass,
    similarity_map,
    spread_out,
    unit,
)

KEYS = 0.8
"""Weight of the keys' cosine in what the cut and parts are made of, chosen on composites and, by eye, on the examples."""


@dataclass(frozen=True)
class PhotoFeatures:
    """What a transformer gave of one photo."""

    heads: NDArray[np.float32]
    """`[H, h, w]`: attention of the last layer."""
    features: NDArray[np.float32]
    """`[N, D]`: last hidden states, patches row by row."""
    keys: NDArray[np.float32]
    """`[N, E]`: keys of the last layer."""

    @property
    def grid(self) -> tuple[int, int]:
        return self.heads.shape[1], self.heads.shape[2]

    @property
    def mixed(self) -> NDArray[np.float32]:
        """`[N, E + D]`: their cosines are weighted means of those of keys and of features.

        Keys, which the published cut uses, tell apart what has another colour or texture; last hidden states tell things apart.
        """
        return np.concatenate([KEYS**0.5 * unit(self.keys), (1 - KEYS) ** 0.5 * unit(self.features)], axis=1)

    def cut(self, tau: float | None, objects: int = 1) -> Foreground:
        """What stands out."""
        attention = self.heads.mean(axis=0)
        return foreground(
            self.mixed,
            self.grid,
            objects=objects,
            tau=TAU if tau is None else tau,
            side="attention",
            attention=attention,
            loosest=LOOSE,
        )


@dataclass(frozen=True)
class PatchMasks:
    """What became of one photo."""

    masks: NDArray[np.bool_]
    """`[n, h, w]`."""
    names: tuple[str, ...]
    values: NDArray[np.float32] | None = None
    """`[h, w]`."""
    colours: NDArray[np.float32] | None = None
    """`[h, w, 3]` in 0..1."""
    matches: tuple[Match, ...] = ()
    pairs: Correspondence | None = None
    """Patches of the first photo and of this one."""
    note: str = ""


Method = Callable[[Sequence[PhotoFeatures], SegmentRequest, int], list[PatchMasks]]


def segment_patches(seen: Sequence[PhotoFeatures], asked: SegmentRequest, query: int = 0) -> list[PatchMasks]:
    """One a photo. Parts and components are shared by all of them.

    Args:
        query: number of the first photo's patch that `similarity` looks for, row by row from 0.
    """
    return _METHODS[asked.method](seen, asked, query)


def _attention(seen: Sequence[PhotoFeatures], asked: SegmentRequest, query: int) -> list[PatchMasks]:
    found = []
    for one in seen:
        if asked.head == "all":
            names = tuple(f"head {number}" for number in range(len(one.heads)))
            found.append(PatchMasks(keep_mass(one.heads, asked.threshold), names, one.heads.mean(axis=0)))
            continue
        chosen = resolve_head(asked.head, len(one.heads))
        values = one.heads[chosen] if isinstance(chosen, int) else fuse(one.heads, chosen)
        name = f"head {chosen}" if isinstance(chosen, int) else f"{chosen} of heads"
        found.append(PatchMasks(keep_mass(values, asked.threshold)[None], (name,), values))
    return found


def _foreground(seen: Sequence[PhotoFeatures], asked: SegmentRequest, query: int) -> list[PatchMasks]:
    found = []
    for one in seen:
        cut = one.cut(asked.tau, asked.objects)
        names = tuple(f"object {number + 1}" for number in range(len(cut.masks)))
        found.append(PatchMasks(cut.masks, names, cut.eigenvectors[0] if cut.found else None, note=cut.reason))
    return found


def _parts(seen: Sequence[PhotoFeatures], asked: SegmentRequest, query: int) -> list[PatchMasks]:
    inside = [_stands_out(one, asked.tau) if asked.within else None for one in seen]
    parts = find_parts([one.mixed for one in seen], asked.parts, masks=inside)
    found = []
    for labels, one, mask in zip(parts.labels, seen, inside, strict=True):
        numbered = labels.reshape(one.grid)
        there = [number for number in range(len(parts.sizes)) if (numbered == number).any()]
        masks = np.stack([numbered == number for number in there]) if there else np.zeros((0, *one.grid), np.bool_)
        note = "" if mask is not None or not asked.within else "No foreground found: all patches are grouped."
        found.append(PatchMasks(masks, tuple(f"part {number + 1}" for number in there), note=note))
    return found


def _stands_out(one: PhotoFeatures, tau: float | None) -> NDArray[np.bool_] | None:
    cut = one.cut(tau)
    return None if not cut.found or bool(cut.masks[0].all()) else cut.masks[0]


def _pca(seen: Sequence[PhotoFeatures], asked: SegmentRequest, query: int) -> list[PatchMasks]:
    features, grids = [one.features for one in seen], [one.grid for one in seen]
    inside: list[NDArray[np.bool_] | None] = [None for _ in seen]
    if asked.within:
        inside = list(component_foreground(features, grids))
    found = component_colours(features, grids, inside)
    told = ", ".join(f"{share:.0%}" for share in found.explained)
    return [
        PatchMasks(
            np.zeros((0, *grid), np.bool_) if mask is None else mask[None],
            () if mask is None else ("foreground",),
            colours=colours,
            note=f"Red, green and blue hold {told} of the variance.",
        )
        for colours, grid, mask in zip(found.colours, grids, inside, strict=True)
    ]


def _similarity(seen: Sequence[PhotoFeatures], asked: SegmentRequest, query: int) -> list[PatchMasks]:
    first, *others = seen
    values = similarity_map(first.features, query).reshape(first.grid)
    mask = np.zeros((1, *first.grid), np.bool_)
    mask[0].flat[query] = True
    found = [PatchMasks(mask, ("query",), values, matches=best_matches(values, asked.matches, skip=query))]
    own = _stands_out(first, asked.tau) if others else None
    for one in others:
        values = similarity_map(first.features, query, one.features).reshape(one.grid)
        # Grounds are alike everywhere: pairs are of what stands out.
        pairs = correspond(first.features, one.features, masks=[own, _stands_out(one, asked.tau)])
        pairs = spread_out(pairs, (first.grid[1], one.grid[1]), asked.matches)
        found.append(
            PatchMasks(
                np.zeros((0, *one.grid), np.bool_), (), values, matches=best_matches(values, asked.matches), pairs=pairs
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
