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

from vitdemo.types import Capture

TAP = "vitdemo_tap"
"""The name to give to `set_attn_implementation`."""

TOKEN_NAMES = ("class", "distillation")
"""Read-outs by the position of their token."""


@dataclass
class AttentionRecord:
    """What one request recorded, a tensor a layer, first layer first."""

    request: Capture
    rows: dict[str, list[Tensor]] = field(default_factory=dict)
    """By read-out: `[B, H, N]` a layer, float32; each row sums to 1."""
    _deferred: list[Callable[[], Tensor]] = field(default_factory=list)

    def observe(self, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> None:
        """Record one layer. `query` and `key` are `[B, H, N, D]`, `mask` is additive and broadcasts to `[B, H, N, N]`."""
        if self.request.tokens:
            count = max(self.request.tokens) + 1
            rows = attention_rows(query, key, mask, scaling, 0, count)
            for token in self.request.tokens:
                self.rows.setdefault(TOKEN_NAMES[token], []).append(rows[:, :, token])
        if self.request.mean:
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


def attention_rows(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float, start: int, stop: int) -> Tensor:
    """Attention of the query tokens `start` to `stop`: `[B, H, stop - start, N]`, float32, rows sum to 1."""
    scores = torch.matmul(query[:, :, start:stop], key.transpose(-1, -2)) * scaling
    if mask is not None:
        # A mask may be one row for all queries.
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


def _tapped_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    record = _ACTIVE.get()
    if record is not None:
        scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
        record.observe(query, key, attention_mask, scaling)
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return output, None


AttentionInterface.register(TAP, _tapped_attention)
# Without its own entry, transformers would warn and leave out padding masks.
AttentionMaskInterface.register(TAP, sdpa_mask)
