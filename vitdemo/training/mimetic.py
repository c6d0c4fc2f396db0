"""Mimetic initialisation: attention weights that resemble trained ones (Trockman & Kolter 2023, arXiv:2305.09828).

In trained transformers the product of query and key weights is close to the identity, so that tokens attend to similar tokens,
and the product of value and output weights is close to the negative identity. Starting there helps most on small data sets.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vitdemo.errors import OptionError
from vitdemo.models.layers import blocks

QUERY_KEY = (0.7, 0.7)
"""Weights of noise and identity in the product of queries and keys."""
VALUE_OUTPUT = (0.4, 0.4)
"""Weights of noise and negative identity in the product of values and output."""


@torch.no_grad()
def mimetic_init(network: PreTrainedModel, generator: torch.Generator | None = None) -> None:
    """Initialise the attention of every block, and learned position embeddings with sines and cosines; the rest is unchanged.

    Raises:
        OptionError: the network has no attention.
    """
    layers = blocks(network)
    if not layers:
        raise OptionError("Mimetic initialisation is for transformers.")
    width, heads = int(network.config.hidden_size), int(network.config.num_attention_heads)
    head_width = width // heads
    identity = torch.eye(width)
    for block in layers:
        linear = {
            name.rpartition(".")[2]: module for name, module in block.named_modules() if isinstance(module, nn.Linear)
        }
        for head in range(heads):
            rows = slice(head * head_width, (head + 1) * head_width)
            product = QUERY_KEY[0] * _noise(width, head_width, generator) + QUERY_KEY[1] * identity
            left, right = _factorise(product, head_width)
            linear["q_proj"].weight[rows] = left.T
            linear["k_proj"].weight[rows] = right
        product = VALUE_OUTPUT[0] * _noise(width, width, generator) - VALUE_OUTPUT[1] * identity
        left, right = _factorise(product, width)
        linear["o_proj"].weight.copy_(left)
        linear["v_proj"].weight.copy_(right)
    for module in network.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, nn.Parameter):
            side = math.isqrt(table.shape[1])
            prefix = table.shape[1] - side**2
            table[:, prefix:] = sincos_positions(side, width)


def sincos_positions(side: int, width: int) -> Tensor:
    """Sine-cosine position embeddings of a square grid, `[side * side, width]`: half of the width for rows, half for columns."""
    rates = 1 / 10000 ** (torch.arange(width // 4) / (width // 4))
    angles = torch.arange(side)[:, None] * rates
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = line[:, None].expand(side, side, -1), line[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)


def _noise(width: int, rank: int, generator: torch.Generator | None) -> Tensor:
    return torch.randn(width, width, generator=generator) / math.sqrt(rank)


def _factorise(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors `[D, rank]` and `[rank, D]` of the best approximation of this rank."""
    left, values, right = torch.linalg.svd(matrix)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]
