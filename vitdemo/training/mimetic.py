"""Attention that begins as trained attention looks: Trockman & Kolter 2023, arXiv:2305.09828 (mimetic initialisation).

In trained transformers, what queries and keys compare is close to the identity, so that tokens look at those like themselves, and
values and outputs together are close to its negative. To begin there spares a small set of photos the long way to it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vitdemo.nn.heads import blocks

ALIKE = (0.7, 0.7)
"""Noise and identity in the product of queries and keys."""
TAKEN = (0.4, 0.4)
"""Noise and negative identity in the product of values and output."""


@torch.no_grad()
def mimic(network: PreTrainedModel, random: torch.Generator | None = None) -> None:
    """Give the attention of every block such weights, and learned positions sines and cosines; the rest stays as it is."""
    config: Any = network.config
    width, heads = int(config.hidden_size), int(config.num_attention_heads)
    own = width // heads
    one = torch.eye(width)
    for block in blocks(network):
        parts = {
            name.rpartition(".")[2]: module for name, module in block.named_modules() if isinstance(module, nn.Linear)
        }
        for head in range(heads):
            rows = slice(head * own, (head + 1) * own)
            wanted = ALIKE[0] * _noise(width, own, random) + ALIKE[1] * one
            left, right = _factors(wanted, own)
            parts["q_proj"].weight[rows] = left.T
            parts["k_proj"].weight[rows] = right
        left, right = _factors(TAKEN[0] * _noise(width, width, random) - TAKEN[1] * one, width)
        parts["o_proj"].weight.copy_(left)
        parts["v_proj"].weight.copy_(right)
    for module in network.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, nn.Parameter):
            side = math.isqrt(table.shape[1])
            prefix = table.shape[1] - side**2
            table[:, prefix:] = waves(side, width)


def waves(side: int, width: int) -> Tensor:
    """`[side * side, width]` sines and cosines of row and column, a half of the width each, row by row of the grid."""
    rates = 1 / 10000 ** (torch.arange(width // 4) / (width // 4))
    along = torch.arange(side)[:, None] * rates
    line = torch.cat([along.sin(), along.cos()], dim=1)
    rows, columns = line[:, None].expand(side, side, -1), line[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)


def _noise(width: int, inner: int, random: torch.Generator | None) -> Tensor:
    return torch.randn(width, width, generator=random) / math.sqrt(inner)


def _factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """`[D, rank]` and `[rank, D]`, whose product is the nearest to the matrix of that rank."""
    left, values, right = torch.linalg.svd(matrix)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]
