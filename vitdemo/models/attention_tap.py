"""One attention tap for every family.

Transformers routes the attention of its ViT-like models through a table of functions. The function that is added here
computes the output with SDPA, as always, and beside it records what the open request names, in this thread alone. No hook is
set on any module, and outside a request nothing is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from vitdemo.attribution import attention_rows, mean_row
from vitdemo.types import Capture, LayerQueries

TAP = "vitdemo_tap"
"""The name to give to `set_attn_implementation`."""

LARGE = 600
"""Tokens above which a position bias is used at once."""

TOKEN_NAMES = ("class", "distillation")
"""Read-outs by the position of their token."""


@dataclass
class AttentionRecord:
    """What one request recorded, a tensor a layer, first layer first."""

    request: Capture
    rows: dict[str, list[Tensor]] = field(default_factory=dict)
    """By read-out: `[B, H, N]` a layer, float32; each row sums to 1."""
    queries: list[LayerQueries] = field(default_factory=list)
    """What attention follows from, a layer, where that was asked for."""
    attentions: list[Tensor] = field(default_factory=list)
    """`[B, H, N, N]` a layer, float32, part of the graph, where gradients were asked for."""
    key: Tensor | None = None
    """`[B, H, N, D]` of the last layer, where features were asked for."""
    _deferred: list[Callable[[], Tensor]] = field(default_factory=list)

    def observe(self, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> None:
        """Record one layer. `query` and `key` are `[B, H, N, D]`, `mask` is additive and broadcasts to `[B, H, N, N]`."""
        if self.request.features:
            self.key = key
        if self.request.queries:
            self.queries.append(LayerQueries(query, key, mask, scaling))
        if self.request.tokens:
            count = max(self.request.tokens) + 1
            rows = attention_rows(query, key, mask, scaling, 0, count)
            for token in self.request.tokens:
                self.rows.setdefault(TOKEN_NAMES[token], []).append(rows[:, :, token])
        if self.request.mean and mask is not None and mask.shape[-2] > LARGE:
            # A bias of all pairs is too large to be kept for later, one of each layer.
            self.rows.setdefault("mean", []).append(mean_row(query, key, mask, scaling))
        elif self.request.mean:
            # q and k are kept, the N x N product is made after the timed forward, a block of rows at a time.
            self._deferred.append(lambda: mean_row(query, key, mask, scaling))

    def finish(self) -> None:
        """Compute what was put off, and let go of what it needed."""
        deferred, self._deferred = self._deferred, []
        if deferred:
            self.rows["mean"] = [compute() for compute in deferred]


_ACTIVE: ContextVar[AttentionRecord | None] = ContextVar("vitdemo_attention_record", default=None)


@contextmanager
def record_attention(request: Capture) -> Iterator[AttentionRecord]:
    """Record what `request` names during the forward passes of this block, in this thread.

    The record is complete after the block.
    """
    record = AttentionRecord(request)
    token = _ACTIVE.set(record)
    try:
        yield record
    finally:
        _ACTIVE.reset(token)
    record.finish()


def _tapped_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    record = _ACTIVE.get()
    if record is not None:
        scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
        record.observe(query, key, attention_mask, scaling)
        if record.request.gradients:
            # The matrix itself, since SDPA has none that a gradient could be taken of.
            attention = attention_rows(query, key, attention_mask, scaling, 0, query.shape[2])
            record.attentions.append(attention)
            return torch.matmul(attention.to(value.dtype), value).transpose(1, 2).contiguous(), None
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return output, None


AttentionInterface.register(TAP, _tapped_attention)
# Without its own entry, transformers would warn and leave out padding masks.
AttentionMaskInterface.register(TAP, sdpa_mask)
