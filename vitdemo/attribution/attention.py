"""Raw attention of one layer, as in Caron et al. 2021, arXiv:2104.14294 (DINO)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vitdemo.attribution.rows import patch_attention
from vitdemo.options.explain import resolve_head, resolve_layer
from vitdemo.types import AttributionMap, Fusion, LayerQueries, Readout


def attention_map(
    rows: NDArray[np.float32],
    layer: int | str = -1,
    head: int | str = "mean",
    readout: Readout = "class",
    off: Collection[int] = (),
) -> AttributionMap:
    """One layer's attention to the patches, of one head or fused over the heads.

    Args:
        rows: `[L, H, h, w]`, attention of one read-out over the patch grid.
        layer: from 0, or from -1 backwards.
        head: a number from 0, or the fusion "mean", "max" or "min".
        readout: the query token of these rows; recorded with the map.
        off: heads that a fusion leaves out, but not all.

    Raises:
        OptionError: no such layer or head; the message has the valid range.
    """
    layers, heads = rows.shape[:2]
    layer, chosen = resolve_layer(layer, layers), resolve_head(head, heads)
    kept = [number for number in range(heads) if number not in off]
    values = rows[layer, chosen] if isinstance(chosen, int) else fuse(rows[layer][kept] if off else rows[layer], chosen)
    return AttributionMap(values=values, method="attention", layer=layer, head=chosen, readout=readout)


def patch_map(
    queries: Sequence[LayerQueries],
    grid: tuple[int, int],
    patch: int,
    layer: int | str = -1,
    head: int | str = "mean",
    off: Collection[int] = (),
) -> AttributionMap:
    """As `attention_map`, with one patch, by its row-major index, as the query."""
    number = resolve_layer(layer, len(queries))
    heads = patch_attention(queries[number], grid, patch, patch + 1)
    attribution = attention_map(heads.swapaxes(0, 1), 0, head, "patch", off)
    return replace(attribution, layer=number, query=divmod(patch, grid[1]))


def fuse(heads: NDArray[np.float32], fusion: Fusion) -> NDArray[np.float32]:
    """`[H, h, w]` to `[h, w]`: mean, maximum or minimum over the heads."""
    result: NDArray[np.float32] = getattr(heads, fusion)(axis=0)
    return result
