"""Exponential moving average (EMA) of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class EMA:
    """Polyak & Juditsky 1992, as Tarvainen & Valpola 2017 use it.

    The decay is smaller during the first steps, so that the random initialisation is soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay

    def to(self, device: torch.device) -> None:
        self.network.to(device)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for average, new in zip(self.network.state_dict().values(), network.state_dict().values(), strict=True):
            if average.dtype.is_floating_point:
                average.lerp_(new.to(average.dtype), 1 - decay)
            else:
                average.copy_(new)
