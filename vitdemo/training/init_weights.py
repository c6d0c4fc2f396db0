"""Weights to begin with: what fits of another checkpoint, whatever its size of grid and its age."""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vitdemo.errors import TrainingError
from vitdemo.models.nn.vit import VisionTransformer, as_transformers
from vitdemo.models.position_embeddings import resize_bias

LEAST_SHARE = 0.1
"""Of a network's numbers that must be found: a head alone is no beginning."""


def initialise(network: nn.Module, folder: Path) -> None:
    """Take over the weights of a folder that fit by name and shape, across families too; the others stay random.

    Raises:
        TrainingError: too few fit to call it a beginning.
    """
    try:
        found = load_file(folder / "model.safetensors")
    except Exception as error:
        raise TrainingError(f"There are no weights to begin with in {folder.name}.") from error
    prefix = getattr(network, "base_model_prefix", "vit")
    own = as_transformers(network) if isinstance(network, VisionTransformer) else network.state_dict()
    taken = set()
    for name, value in found.items():
        # A ViT's layers are a DeiT's and a BEiT's too: only the family's own prefix differs.
        for candidate in (name, f"{prefix}.{re.sub(r'^(vit|deit|beit)[.]', '', name)}"):
            candidate = _modern(candidate)
            if candidate not in own or candidate in taken:
                continue
            if "position_embeddings" in candidate and own[candidate].shape != value.shape:
                value = _other_grid(value, own[candidate])
            if "relative_position_bias_table" in candidate and own[candidate].shape != value.shape:
                value = _other_bias(value, own[candidate])
            if own[candidate].shape == value.shape:
                own[candidate].copy_(value)
                taken.add(candidate)
    share = sum(own[name].numel() for name in taken) / max(1, sum(value.numel() for value in own.values()))
    if share < LEAST_SHARE:
        raise TrainingError(f"Only {share:.0%} of this network's weights are found in {folder.name}: they do not fit.")


def _other_grid(value: Tensor, like: Tensor) -> Tensor:
    """Position embeddings `[1, P + n * n, D]` for another square grid; the same if the numbers are no squares."""
    for prefix in (1, 2):
        old, new = (math.isqrt(tensor.shape[1] - prefix) for tensor in (value, like))
        if (old**2, new**2) == (value.shape[1] - prefix, like.shape[1] - prefix):
            grid = value[:, prefix:].float().unflatten(1, (old, old)).permute(0, 3, 1, 2)
            resized = nn.functional.interpolate(grid, (new, new), mode="bicubic", align_corners=False)
            return torch.cat([value[:, :prefix].float(), resized.flatten(2).transpose(1, 2)], dim=1)
    return value


def _other_bias(value: Tensor, like: Tensor) -> Tensor:
    """BEiT's table `[(2n - 1)^2 + 3, H]` for another square grid; the same if the numbers are no squares."""
    old, new = (math.isqrt(tensor.shape[0] - 3) for tensor in (value, like))
    if (old**2, new**2) != (value.shape[0] - 3, like.shape[0] - 3):
        return value
    return resize_bias(value.float(), ((old + 1) // 2,) * 2, ((new + 1) // 2,) * 2)


def _modern(name: str) -> str:
    """Names of saved checkpoints are those of transformers 4; in memory they are shorter."""
    for old, new in (
        ("encoder.layer.", "layers."),
        ("attention.attention.relative_position_bias", "relative_position_bias"),
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
    ):
        name = name.replace(old, new)
    return name
