"""Floating-point operations of a forward pass, and what share of a GPU's peak they reach (MFU)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from vitdemo.evaluation.bench import implementation
from vitdemo.models.loading import Classifier


@dataclass(frozen=True)
class Peak:
    """What a GPU's data sheet promises."""

    device: str
    """Pattern that its whole name must match: a part of a GPU (MIG) is slower than all of it."""
    tflops: float
    """10^12 dense bf16 operations per second, of the tensor cores."""
    source: str


_H100 = "https://www.nvidia.com/en-us/data-center/h100/"
_H200 = "https://www.nvidia.com/en-us/data-center/h200/"

PEAKS = (
    # NVIDIA gives those of Hopper and Ada with sparsity, which is twice the dense rate.
    Peak(r"NVIDIA H200", 1979 / 2, _H200),
    Peak(r"NVIDIA H200 NVL", 1671 / 2, _H200),
    Peak(r"NVIDIA H100 80GB HBM3", 1979 / 2, _H100),
    Peak(
        r"NVIDIA H100 PCIe",
        1513 / 2,
        "https://www.nvidia.com/content/dam/en-zz/Solutions/gtcs22/data-center/h100/PB-11133-001_v01.pdf",
    ),
    Peak(r"(NVIDIA )?A100[- ].*(40|80)GB.*", 312, "https://www.nvidia.com/en-us/data-center/a100/"),
    Peak(r"NVIDIA L40S", 733 / 2, "https://www.nvidia.com/en-us/data-center/l40s/"),
    Peak(r"NVIDIA L4", 242 / 2, "https://www.nvidia.com/en-us/data-center/l4/"),
)


def peak_of(device: str) -> Peak | None:
    """The peak of a GPU by its name, as torch gives it; None for one that is not in the table.

    >>> peak_of("NVIDIA H200").tflops
    989.5
    >>> peak_of("NVIDIA H200 MIG 1g.18gb") is None
    True
    """
    if "MIG" in device:
        return None
    return next((peak for peak in PEAKS if re.fullmatch(peak.device, device)), None)


def counted(model: Classifier, pixels: torch.Tensor) -> int:
    """Operations of one forward pass, as torch counts them: two per multiplication and addition, of matrix products and
    convolutions. In eager attention, so that the count depends on no kernel."""
    with torch.no_grad(), implementation(model, "eager"), FlopCounterMode(display=False) as counter:
        model(pixels)
    return int(counter.get_total_flops())


def by_hand(config: Any, side: int) -> int:
    """The same for a ViT with a classifier, from its shapes."""
    width, hidden, patch = config.hidden_size, config.intermediate_size, config.patch_size
    patches = (side // patch) ** 2
    tokens = patches + 1
    embedding = 2 * patches * width * 3 * patch * patch
    projections = 4 * 2 * tokens * width * width
    attention = 2 * 2 * tokens * tokens * width
    mlp = 2 * 2 * tokens * width * hidden
    head = 2 * width * config.num_labels
    return embedding + config.num_hidden_layers * (projections + attention + mlp) + head


def mfu(operations: float, images_per_second: float, peak_tflops: float) -> float:
    """Model FLOPs utilisation, 0 to 1: the operations of the model alone over what the device can do.

    Chowdhery et al. 2022, arXiv:2204.02311, appendix B.

    >>> mfu(operations=2e9, images_per_second=1000, peak_tflops=4)
    0.5
    """
    return operations * images_per_second / (peak_tflops * 1e12)
