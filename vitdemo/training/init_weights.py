"""Initial weights from another checkpoint: whatever fits, across families, grid sizes and transformers versions."""

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

POOLER = "pooler.dense.weight"
"""What is left of a pre-training head."""

MIN_MATCHING = 0.1
"""Share of a network's weights that must be found: a head alone is not enough."""


def initialise(network: nn.Module, folder: Path) -> None:
    """Copy the weights of a checkpoint folder that match by name and shape; the others stay random.

    A pre-training head is replaced by a linear layer that starts at 0, as in section 3.2 of Dosovitskiy et al. 2021.

    Raises:
        TrainingError: there is no checkpoint, or too few of its weights match.
    """
    try:
        found = load_file(folder / "model.safetensors")
    except Exception as error:
        raise TrainingError(f"{folder.name} holds no weights to initialise from.") from error
    prefix = getattr(network, "base_model_prefix", "vit")
    own = as_transformers(network) if isinstance(network, VisionTransformer) else network.state_dict()
    copied = set()
    if POOLER in found and isinstance(
        head := getattr(network, "classifier", getattr(network, "head", None)), nn.Linear
    ):
        for value in (head.weight, head.bias):
            nn.init.zeros_(value)
    for name, value in found.items():
        # The layers of ViT, DeiT and BEiT share their names: only the family's own prefix differs.
        for candidate in (name, f"{prefix}.{re.sub(r'^(vit|deit|beit)[.]', '', name)}"):
            candidate = _current_name(candidate)
            if candidate not in own or candidate in copied:
                continue
            if "position_embeddings" in candidate and own[candidate].shape != value.shape:
                value = _resize_positions(value, own[candidate])
            if "relative_position_bias_table" in candidate and own[candidate].shape != value.shape:
                value = _resize_relative_bias(value, own[candidate])
            if own[candidate].shape == value.shape:
                own[candidate].copy_(value)
                copied.add(candidate)
    share = sum(own[name].numel() for name in copied) / max(1, sum(value.numel() for value in own.values()))
    if share < MIN_MATCHING:
        raise TrainingError(f"Only {share:.0%} of this network's weights are in {folder.name}: it does not fit.")


def _resize_positions(value: Tensor, like: Tensor) -> Tensor:
    """Position embeddings `[1, P + n * n, D]` for another square grid; unchanged if either grid is not square."""
    for prefix in (1, 2):
        old, new = (math.isqrt(tensor.shape[1] - prefix) for tensor in (value, like))
        if (old**2, new**2) == (value.shape[1] - prefix, like.shape[1] - prefix):
            grid = value[:, prefix:].float().unflatten(1, (old, old)).permute(0, 3, 1, 2)
            resized = nn.functional.interpolate(grid, (new, new), mode="bicubic", align_corners=False)
            return torch.cat([value[:, :prefix].float(), resized.flatten(2).transpose(1, 2)], dim=1)
    return value


def _resize_relative_bias(value: Tensor, like: Tensor) -> Tensor:
    """BEiT's table `[(2n - 1)^2 + 3, H]` for another square grid; unchanged if either grid is not square."""
    old, new = (math.isqrt(tensor.shape[0] - 3) for tensor in (value, like))
    if (old**2, new**2) != (value.shape[0] - 3, like.shape[0] - 3):
        return value
    return resize_bias(value.float(), ((old + 1) // 2,) * 2, ((new + 1) // 2,) * 2)


def _current_name(name: str) -> str:
    """Saved checkpoints use the names of transformers 4; in memory transformers 5 has shorter ones."""
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
