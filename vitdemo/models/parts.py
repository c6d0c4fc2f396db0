"""Weights of a network that can be looked at: position embeddings, position biases, filters, convolutions, sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.beit.modeling_beit import BeitRelativePositionBias

from vitdemo.errors import OptionError
from vitdemo.inspection import Sizes
from vitdemo.models.layers import blocks
from vitdemo.models.loading import Classifier
from vitdemo.types import Grid


def position_table(model: Classifier) -> tuple[Tensor, Grid]:
    """Position embeddings of the patches, `[h * w, D]`, at the model's own input size, and their grid.

    Raises:
        OptionError: the model has none.
    """
    spec = model.spec
    found = [
        part for part in model.network.modules() if isinstance(getattr(part, "position_embeddings", None), nn.Parameter)
    ]
    if not found:
        raise OptionError(f"{spec.name} has no position embeddings that are added to its patches. {_instead(model)}")
    embeddings: Any = found[0]
    table: Tensor = embeddings.interpolate_pos_encoding(embeddings.position_embeddings, *spec.image_size)
    return table[0, -spec.patch_grid[0] * spec.patch_grid[1] :].detach().float().cpu(), spec.patch_grid


def _instead(model: Classifier) -> str:
    if not model.spec.readouts:
        return "It is a convolutional network, which knows places by its padding only."
    if any(isinstance(part, BeitRelativePositionBias) for part in model.network.modules()):
        return "It has a relative position bias in its attention instead."
    if hasattr(model.network, "rope_embeddings"):
        return "It rotates queries and keys by their place instead (RoPE)."
    return "Choose a ViT, DeiT or DINO."


def bias_tables(model: Classifier) -> tuple[list[Tensor], Grid]:
    """BEiT's tables, `[(2h - 1)(2w - 1) + 3, H]` for each layer, or one that all share, and the grid that they are of.

    Raises:
        OptionError: the model has none.
    """
    found = [part for part in model.network.modules() if isinstance(part, BeitRelativePositionBias)]
    if not found:
        raise OptionError(f"{model.spec.name} has no relative position bias. A BEiT has, such as beit-mini.")
    window = found[0].window_size
    tables = [part.relative_position_bias_table.detach().float().cpu() for part in found]
    return tables, (int(window[0]), int(window[1]))


def first_filters(model: Classifier) -> Tensor:
    """`[D, 3, h, w]`: the patch embedding, or the first convolution of a hybrid or CNN."""
    weight: Tensor = next(
        part.weight for part in model.network.modules() if isinstance(part, nn.Conv2d) and part.in_channels == 3
    )
    return weight.detach().float().cpu()


def convolutions(model: Classifier) -> list[tuple[int, int, int]]:
    """`(kernel, stride, dilation)` of each convolution and pooling of a CNN, in order; shortcuts, which are shorter, left out.

    Raises:
        OptionError: the model is no CNN.
    """
    if model.spec.readouts:
        raise OptionError(
            f"{model.spec.name} is no convolutional network: each of its tokens can depend on the whole photo."
        )
    found = []
    for name, part in model.network.base_model.named_modules():
        if isinstance(part, nn.Conv2d | nn.MaxPool2d) and "shortcut" not in name:
            found.append((_side(part.kernel_size), _side(part.stride), _side(part.dilation)))
    return found


def sizes_of(model: Classifier) -> Sizes:
    """The sizes that a ViT's cost follows from.

    Raises:
        OptionError: the model is no plain ViT: it has convolutions before its patches, or no tokens.
    """
    spec, layers = model.spec, blocks(model.network)
    if not spec.readouts or spec.family == "hybrid":
        raise OptionError(
            f"{spec.name} has convolutions that this reckoning of a ViT does not know. Choose a ViT or DeiT."
        )
    first: Any = layers[0]
    query, hidden = first.attention.q_proj, next(part for part in first.mlp.children() if isinstance(part, nn.Linear))
    return Sizes(
        query.in_features,
        len(layers),
        spec.num_heads,
        hidden.out_features,
        len(spec.labels),
        spec.num_prefix_tokens,
        first.attention.k_proj.bias is not None,
    )


def _side(size: Any) -> int:
    return int(size) if isinstance(size, int) else int(size[0])


def feature_maps(model: Classifier, pixels: Tensor) -> list[tuple[str, Tensor]]:
    """Of `[1, 3, H, W]`, what the first layer makes and, of a CNN or hybrid, each stage after it.

    Names and `[D, h, w]`, on the CPU.
    """
    network: Any = model.network
    weight = next(network.parameters())
    pixels = pixels.to(weight.device, weight.dtype)
    with torch.no_grad():
        first = next(part for part in network.modules() if isinstance(part, nn.Conv2d) and part.in_channels == 3)
        found = [("first layer", first(pixels))]
        if model.spec.family == "hybrid":
            backbone = network.base_model.embeddings.patch_embeddings.backbone
            found += _stages(backbone(pixels, output_hidden_states=True).hidden_states)
        elif not model.spec.readouts:
            found += _stages(network.base_model(pixels, output_hidden_states=True).hidden_states)
    return [(name, maps[0].float().cpu()) for name, maps in found]


def _stages(states: Sequence[Tensor]) -> list[tuple[str, Tensor]]:
    """After the stem, whose last map is the first one."""
    return [(f"stage {number}", maps) for number, maps in enumerate(states[1:], 1)]


def token_answers(model: Classifier, pixels: Tensor) -> dict[str, Tensor]:
    """Logits `[K]` of each classifier of a DeiT with a distillation token, for `[1, 3, H, W]`: what is averaged otherwise.

    Raises:
        OptionError: the model has no distillation token with a classifier.
    """
    weight = next(model.parameters())
    network: Any = model.network
    if not hasattr(network, "distillation_classifier"):
        raise OptionError(f"{model.spec.name} has no distillation token. A distilled DeiT has, such as deit-mini.")
    with torch.no_grad():
        found = network(pixels.to(weight.device, weight.dtype), interpolate_pos_encoding=True)
    return {
        "class": found.cls_logits[0].float().cpu(),
        "distillation": found.distillation_logits[0].float().cpu(),
    }


def image_features(model: Classifier, pixels: Tensor) -> Tensor:
    """`[B, D]` float32 on the CPU, of `[B, 3, H, W]`: one vector per image, as a linear probe reads it."""
    weight = next(model.parameters())
    with torch.no_grad():
        return model.features(pixels.to(weight.device, weight.dtype)).float().cpu()
