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


def _through_layer(row: Tensor, attention: Tensor, fusion: Fusion, discard: float, class_token: bool) -> Tensor:
    """`row` `[B, n]` times the fused attention `[B, H, n, N]`, whose rows sum to 1: `[B, N]`."""
    fused: Tensor = getattr(attention, {"mean": "mean", "max": "amax", "min": "amin"}[fusion])(dim=1)
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
