"""Attention from queries and keys, a part at a time."""

from __future__ import annotations

import torch
from torch import Tensor


def attention_rows(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float, start: int, stop: int) -> Tensor:
    """Attention of the query tokens `start` to `stop`: `[B, H, stop - start, N]`, float32, rows sum to 1.

    Args:
        query, key: `[B, H, N, D]`.
        mask: additive or boolean, and broadcasts to `[B, H, N, N]`; may be one row for all queries.
    """
    scores = torch.matmul(query[:, :, start:stop], key.transpose(-1, -2)) * scaling
    if mask is not None:
        part = mask if mask.shape[-2] == 1 else mask[..., start:stop, :]
        scores = scores.masked_fill(~part, float("-inf")) if part.dtype == torch.bool else scores + part
    return scores.softmax(dim=-1, dtype=torch.float32)


def mean_row(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float, block: int = 256) -> Tensor:
    """The mean over all query tokens of their attention: `[B, H, N]`, float32, never all of `[N, N]` at once."""
    tokens = query.shape[2]
    total = torch.zeros(*query.shape[:2], key.shape[2], dtype=torch.float32, device=query.device)
    for start in range(0, tokens, block):
        total += attention_rows(query, key, mask, scaling, start, min(start + block, tokens)).sum(dim=2)
    return total / tokens
