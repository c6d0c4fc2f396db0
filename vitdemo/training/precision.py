"""Which precision is quick on a device."""

from __future__ import annotations

import functools

import torch


@functools.cache
def quick_bf16(device: str = "cpu") -> bool:
    """Whether the device computes in bf16 itself: emulated on a CPU, it takes more than ten times as long as fp32.

    Args:
        device: type of a torch device.
    """
    if device == "cuda":
        return torch.cuda.is_available() and bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device == "cpu":
        # Builds of torch without oneDNN lack the operator.
        return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return False
