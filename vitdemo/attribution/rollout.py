"""Attention rollout: Abnar & Zuidema 2020, arXiv:2005.00928, from queries and keys."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vitdemo.attribution.rows import attention_rows
from vitdemo.types import Fusion, LayerQueries


def rollout(
    layers: Sequence[LayerQueries],
    start: Tensor,
    fusion: Fusion = "mean",
    discard: float = 0.0,
    block: int = 64,
    class_token: bool = True,
) -> Tensor:
    """How much of each input token reaches the read-out, computed without an `[N, N]` matrix.

    Args:
        layers: first layer first.
        start: `[N]`, the weight of each final token in the read-out; sums to 1.
        fusion: how heads are fused.
        discard: share of the smallest values of each fused row to set to 0; the class token's column is kept.
        block: attention rows computed at a time.
        class_token: whether the first token is a class token.

    Returns:
        `[B, N]`, float32, rows sum to 1.
    """
    query = layers[0].query
    batch, _, tokens, _ = query.shape
    row = start.to(query.device, torch.float32).expand(batch, -1)
    for layer in reversed(layers):
        passed = torch.zeros(batch, tokens, device=query.device)
        for first in range(0, tokens, block):
            last = min(first + block, tokens)
            rows = attention_rows(layer.query, layer.key, layer.mask, layer.scaling, first, last)
            passed += _through_layer(row[:, first:last], rows, fusion, discard, class_token)
        # The residual connection: half of each token passes unchanged.
        row = 0.5 * (row + passed)
    return row


def rollout_vit_explain(
    layers: Sequence[LayerQueries], start: Tensor, fusion: Fusion = "mean", discard: float = 0.0, block: int = 64
) -> Tensor:
    """As `rollout`, with the discarding and the order of normalisation of https://github.com/jacobgil/vit-explain.

    - The smallest values of the whole matrix are discarded, not those of each row. Only the first token's attention to itself
      is always kept, as in its code; its comment promises the class token.
    - The identity is added before the rows are normalised, so that fusion by maximum weakens the residual connection, and
      fusion by minimum or discarding strengthens it.
    - Its sums are of rows, but divide columns: rows sum to 1 only where nothing is discarded and fusion is by mean, and there
      both functions agree.

    Args:
        layers, start, fusion, discard, block: as for `rollout`.

    Returns:
        `[B, N]`, float32; not normalised.
    """
    query = layers[0].query
    batch, _, tokens, _ = query.shape
    row = start.to(query.device, torch.float32).expand(batch, -1)
    for layer in reversed(layers):
        fused = torch.cat(
            [
                _fused(attention_rows(layer.query, layer.key, layer.mask, layer.scaling, first, first + block), fusion)
                for first in range(0, tokens, block)
            ],
            dim=1,
        )
        flat = fused.flatten(1)
        smallest = flat.topk(int(flat.shape[1] * discard), dim=-1, largest=False).indices
        own = flat[:, 0].clone()
        flat.scatter_(-1, smallest, 0.0)
        flat[:, 0] = own
        sums = (fused.sum(dim=-1) + 1) / 2
        row = 0.5 * (row + torch.einsum("bi,bij->bj", row, fused)) / sums
    return row


def _fused(attention: Tensor, fusion: Fusion) -> Tensor:
    """`[B, H, n, N]` to `[B, n, N]`."""
    fused: Tensor = getattr(attention, {"mean": "mean", "max": "amax", "min": "amin"}[fusion])(dim=1)
    return fused


def _through_layer(row: Tensor, attention: Tensor, fusion: Fusion, discard: float, class_token: bool) -> Tensor:
    """`row` `[B, n]` times the fused attention `[B, H, n, N]`, whose rows sum to 1: `[B, N]`."""
    fused = _fused(attention, fusion)
    if discard > 0:
        count = min(int(fused.shape[-1] * discard), fused.shape[-1] - 1)
        smallest = fused.topk(count, dim=-1, largest=False).indices
        kept = torch.ones_like(fused).scatter_(-1, smallest, 0.0)
        if class_token:
            kept[..., 0] = 1.0
        fused = fused * kept
    if fusion != "mean" or discard > 0:
        fused = fused / fused.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(fused.dtype).tiny)
    return torch.einsum("bi,bij->bj", row, fused)
