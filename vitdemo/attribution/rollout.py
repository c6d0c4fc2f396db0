"""Attention rollout: Abnar & Zuidema 2020, arXiv:2005.00928. From recorded matrices, or streamed from queries and keys."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vitdemo.attribution.rows import attention_rows
from vitdemo.types import Fusion, LayerQueries

BLOCK = 64
"""Rows of a layer that are made at once."""


def rollout(
    attentions: Sequence[Tensor],
    start: Tensor,
    fusion: Fusion = "mean",
    discard: float = 0.0,
    class_token: bool = True,
) -> Tensor:
    """How much of each input token reaches the read-out.

    Args:
        attentions: one `[B, H, N, N]` tensor a layer, first layer first; rows sum to 1.
        start: `[N]`, the share of each final token in the read-out; sums to 1.
        fusion: how heads are fused.
        discard: share of the smallest values of each fused row that is set to 0; the class token's column stays.
        class_token: whether the first token is one.

    Returns:
        `[B, N]`, rows sum to 1.
    """
    row = start.to(attentions[0]).expand(attentions[0].shape[0], -1)
    for attention in reversed(attentions):
        # Half of a token stays what it was: the residual connection.
        row = 0.5 * (row + _passed(row, attention, fusion, discard, class_token))
    return row


def streamed_rollout(
    layers: Sequence[LayerQueries],
    start: Tensor,
    fusion: Fusion = "mean",
    discard: float = 0.0,
    block: int = BLOCK,
    class_token: bool = True,
) -> Tensor:
    """As `rollout`, with a block of rows at a time in memory, never `[N, N]`."""
    query = layers[0].query
    batch, _, tokens, _ = query.shape
    row = start.to(query.device, torch.float32).expand(batch, -1)
    for layer in reversed(layers):
        passed = torch.zeros(batch, tokens, device=query.device)
        for first in range(0, tokens, block):
            last = min(first + block, tokens)
            rows = attention_rows(layer.query, layer.key, layer.mask, layer.scaling, first, last)
            passed += _passed(row[:, first:last], rows, fusion, discard, class_token)
        row = 0.5 * (row + passed)
    return row


def _passed(row: Tensor, attention: Tensor, fusion: Fusion, discard: float, class_token: bool) -> Tensor:
    """`[B, n]` times the fused `[B, H, n, N]`, its rows summing to 1: `[B, N]`."""
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
