"""The CNN that guides a transformer: its feature maps are targets of early and middle blocks.

Locality guidance: Li et al. 2022, arXiv:2207.10026.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import ResNetForImageClassification

from vitdemo.training.recipes.base import cosine_distance
from vitdemo.training.teachers import channels_last

GUIDE_STAGES = (1, 2, 3)
"""Stages of the CNN, counted from 0, that guide the blocks at one, two and three quarters of the depth."""


class Guide(nn.Module):
    """A trained, frozen CNN."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        network = ResNetForImageClassification.from_pretrained(folder, dtype=torch.float32)
        self.network = channels_last(network).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Guide:
        """Always in evaluation mode, whatever the enclosing module does."""
        return super().train(False)

    @property
    def widths(self) -> list[int]:
        """Channels of the feature maps."""
        return [int(self.network.config.hidden_sizes[stage]) for stage in GUIDE_STAGES]

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits `[B, K]` and feature maps `[B, C, h, w]`."""
        output = self.network(pixels, output_hidden_states=True)
        return output.logits.float(), [output.hidden_states[1 + stage].float() for stage in GUIDE_STAGES]


def guide_loss(heads: Iterable[nn.Module], guided: Sequence[Tensor], maps: Sequence[Tensor]) -> Tensor:
    """Mean cosine distance between what the heads predict from the guided blocks and the guide's feature maps."""
    distances = [
        cosine_distance(head(tokens), resize_map(_standardise(features), tokens.shape[1:3]))
        for head, tokens, features in zip(heads, guided, maps, strict=True)
    ]
    return torch.stack(distances).mean()


def resize_map(features: Tensor, grid: Sequence[int]) -> Tensor:
    """`[B, D, n, m]` to `[B, h, w, D]`: averaged to fewer cells, interpolated to more."""
    size = (int(grid[0]), int(grid[1]))
    if features.shape[2] > size[0]:
        features = nn.functional.adaptive_avg_pool2d(features, size)
    elif tuple(features.shape[2:]) != size:
        features = nn.functional.interpolate(features, size, mode="bilinear", align_corners=False)
    return features.permute(0, 2, 3, 1)


def _standardise(features: Tensor) -> Tensor:
    """Each channel of `[B, C, h, w]` with mean 0 and standard deviation 1 over the batch: no channel dominates."""
    mean = features.mean(dim=(0, 2, 3), keepdim=True)
    return (features - mean) / (features.std(dim=(0, 2, 3), keepdim=True) + 1e-5)
