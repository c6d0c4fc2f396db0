"""Attention rows from queries and keys, a block at a time."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitdemo.types import LayerQueries


def attention_rows(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float, start: int, stop: int) -> Tensor:
    """Attention of the query tokens `start` to `stop`: `[B, H, stop - start, N]`, float32, rows sum to 1.

    Args:
        query, key: `[B, H, N, D]`.
        mask: additive or boolean; broadcasts to `[B, H, N, N]`, possibly from one row for all queries.
    """
    scores = torch.matmul(query[:, :, start:stop], key.transpose(-1, -2)) * scaling
    if mask is not None:
        part = mask if mask.shape[-2] == 1 else mask[..., start:stop, :]
        scores = scores.masked_fill(~part, float("-inf")) if part.dtype == torch.bool else scores + part
    return scores.softmax(dim=-1, dtype=torch.float32)


def mean_row(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float, block: int = 256) -> Tensor:
    """Attention averaged over all query tokens: `[B, H, N]`, float32, a block of rows at a time."""
    tokens = query.shape[2]
    total = torch.zeros(*query.shape[:2], key.shape[2], dtype=torch.float32, device=query.device)
    for start in range(0, tokens, block):
        total += attention_rows(query, key, mask, scaling, start, min(start + block, tokens)).sum(dim=2)
    return total / tokens


def patch_attention(
    layer: LayerQueries, grid: tuple[int, int], start: int = 0, stop: int | None = None
) -> NDArray[np.float32]:
    """Attention of patches to all patches of one image: `[H, stop - start, h, w]`, not renormalised.

    Args:
        layer: of a batch of one.
        grid: rows and columns of patches; the tokens before them are prefix tokens.
        start, stop: range of query patches, by row-major index.
    """
    patches = grid[0] * grid[1]
    prefix = layer.query.shape[2] - patches
    last = prefix + (patches if stop is None else stop)
    rows = attention_rows(layer.query, layer.key, layer.mask, layer.scaling, prefix + start, last)[0, :, :, prefix:]
    result: NDArray[np.float32] = rows.reshape(*rows.shape[:2], *grid).numpy()
    return result
