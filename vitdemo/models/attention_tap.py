"""One attention tap for all families.

transformers dispatches the attention of its ViT-like models through a registry of functions. The one registered here computes
the output with SDPA, as usual, records what the active request of this thread names, and leaves out heads that it switches off.
There are no hooks on modules, and without a request nothing is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from vitdemo.attribution import attention_rows, mean_row
from vitdemo.types import Capture, LayerQueries

TAP = "vitdemo_tap"
"""The registered name, for `set_attn_implementation`."""

MAX_DEFERRED_TOKENS = 600
"""Tokens above which a position bias is not kept for a deferred computation."""

TOKEN_NAMES = ("class", "distillation")
"""Read-outs in the order of their tokens."""


@dataclass
class AttentionRecord:
    """What one request recorded: lists with one entry per layer, first layer first."""

    request: Capture
    rows: dict[str, list[Tensor]] = field(default_factory=dict)
    """By read-out: `[B, H, N]` per layer, float32; each row sums to 1."""
    queries: list[LayerQueries] = field(default_factory=list)
    """If requested."""
    attentions: list[Tensor] = field(default_factory=list)
    """If gradients are requested: `[B, H, N, N]` per layer, float32, part of the autograd graph."""
    key: Tensor | None = None
    """If features are requested: `[B, H, N, D]` of the last layer."""
    _deferred: list[Callable[[], Tensor]] = field(default_factory=list)

    def observe(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> None:
        """Record one layer: `query`, `key` and `value` are `[B, H, N, D]`; `mask` is additive, broadcasts to `[B, H, N, N]`."""
        if self.request.features:
            self.key = key
        if self.request.queries:
            self.queries.append(LayerQueries(query, key, mask, scaling, value if self.request.values else None))
        if self.request.tokens:
            count = max(self.request.tokens) + 1
            rows = attention_rows(query, key, mask, scaling, 0, count)
            for token in self.request.tokens:
                self.rows.setdefault(TOKEN_NAMES[token], []).append(rows[:, :, token])
        if self.request.mean and mask is not None and mask.shape[-2] > MAX_DEFERRED_TOKENS:
            # Position biases of all layers would take too much memory.
            self.rows.setdefault("mean", []).append(mean_row(query, key, mask, scaling))
        elif self.request.mean:
            # The N x N product is computed from q and k after the timed forward pass.
            self._deferred.append(lambda: mean_row(query, key, mask, scaling))

    def finish(self) -> None:
        """Run deferred computations and release their tensors."""
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


_SILENT: ContextVar[Mapping[nn.Module, Tensor]] = ContextVar("vitdemo_silent_heads", default=MappingProxyType({}))


@contextmanager
def silencing(heads: Mapping[nn.Module, Tensor]) -> Iterator[None]:
    """Heads whose output is 0 during the forward passes of this block, in this thread. Their attention is recorded as ever.

    Args:
        heads: for each attention module, `[B, H]` or `[1, H]` bool on its device: True where off.
    """
    token = _SILENT.set(heads)
    try:
        yield
    finally:
        _SILENT.reset(token)


def _tapped_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    record = _ACTIVE.get()
    if record is not None:
        scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
        record.observe(query, key, value, attention_mask, scaling)
        if record.request.gradients:
            # SDPA never materialises the matrix, which gradients are taken with respect to.
            attention = attention_rows(query, key, attention_mask, scaling, 0, query.shape[2])
            record.attentions.append(attention)
            output = torch.matmul(attention.to(value.dtype), value).transpose(1, 2).contiguous()
            return _audible(module, output), None
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return _audible(module, output), None


def _audible(module: nn.Module, output: Tensor) -> Tensor:
    """Output of the heads, `[B, N, H, D]`, without those that are off."""
    off = _SILENT.get().get(module)
    return output if off is None else output.masked_fill(off[:, None, :, None], 0.0)


AttentionInterface.register(TAP, _tapped_attention)
# Without an entry, transformers would warn and drop padding masks.
AttentionMaskInterface.register(TAP, sdpa_mask)
