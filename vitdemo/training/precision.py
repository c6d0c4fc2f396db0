"""Which precision is quick here."""

from __future__ import annotations

import functools

import torch


@functools.cache
def quick_bf16(cpu: bool = True) -> bool:
    """Whether bf16 is computed by the processor itself: one that lacks it takes ten times as long as in fp32.

    Args:
        cpu: of the CPU, else of the first GPU.
    """
    if not cpu:
        return bool(torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
