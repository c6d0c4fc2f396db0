"""Blocks, LayerNorms and classifier of a network of any family, and hooks that collect their tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vitdemo.models.loading import Classifier

Head = Callable[[Tensor], Tensor]


def blocks(network: PreTrainedModel) -> list[nn.Module]:
    """The transformer blocks of the encoder, in order."""
    return [module for module in network.base_model.modules() if _norm(module) is not None]


def norms(network: PreTrainedModel) -> list[nn.Module]:
    """The first LayerNorm of each block, in order."""
    return [norm for module in blocks(network) if (norm := _norm(module)) is not None]


def _norm(module: Any) -> nn.Module | None:
    # BiT's convolutional blocks also have a `norm1`, but no attention.
    found = getattr(module, "layernorm_before", None)
    if found is None and hasattr(module, "attention"):
        found = getattr(module, "norm1", None)
    return found


def final_norm(network: Any) -> nn.Module:
    """The LayerNorm after the last block."""
    # DINOv3's base model is only its stack of blocks: the LayerNorm belongs to the network.
    found = [getattr(part, name, None) for part in (network.base_model, network) for name in ("norm", "layernorm")]
    return next(module for module in found if isinstance(module, nn.Module))


def head_of(network: Any, probe: nn.Module | None, prefix: int, mean: bool) -> Head:
    """The network's own classifier, from a block's output tokens `[B, N, D]`, before the final LayerNorm, to logits `[B, K]`.

    Args:
        probe: replaces a missing classifier.
        prefix: number of prefix tokens.
        mean: whether the probe reads the mean patch token.
    """
    norm = final_norm(network)
    name = type(network).__name__

    def read(tokens: Tensor) -> Tensor:
        tokens = norm(tokens)
        logits: Tensor
        if probe is not None:
            logits = probe(tokens[:, prefix:].mean(dim=1) if mean else tokens[:, 0])
        elif name == "DeiTForImageClassificationWithTeacher":
            logits = (network.cls_classifier(tokens[:, 0]) + network.distillation_classifier(tokens[:, 1])) / 2
        elif name == "BeitForImageClassification":
            logits = network.classifier(network.beit.pooler(tokens))
        elif name.startswith("Dinov2"):
            logits = network.classifier(torch.cat([tokens[:, 0], tokens[:, prefix:].mean(dim=1)], dim=1))
        elif name.startswith("IJepa"):
            logits = network.classifier(tokens.mean(dim=1))
        else:
            logits = network.classifier(tokens[:, 0])
        return logits

    return read


def read_out(model: Classifier, patches: int) -> Tensor:
    """`[N]`: the share of each final token in what the model classifies from; sums to 1."""
    prefix = model.spec.num_prefix_tokens
    head = type(model.network).__name__ if model.probe is None else ""
    start = torch.zeros(prefix + patches)
    if model.spec.readouts[0] == "mean" or model.spec.pooling == "mean":
        start[prefix:] = 1 / patches
    elif head == "DeiTForImageClassificationWithTeacher":
        start[:2] = 0.5
    elif head.startswith("Dinov2") and head.endswith("ForImageClassification"):
        # It reads the class token and, beside it, the mean of the patches.
        start[0] = 0.5
        start[prefix:] = 0.5 / patches
    else:
        start[0] = 1
    return start


@contextmanager
def watching(modules: Sequence[nn.Module], inputs: bool = True) -> Iterator[list[Tensor]]:
    """Collect the inputs or outputs of these modules during the block, in order of execution; the hooks are removed after it."""
    tensors: list[Tensor] = []

    def before(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        tensors.append(arguments[0])

    def after(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        tensors.append(output if isinstance(output, Tensor) else output[0])

    handles = [
        module.register_forward_pre_hook(before) if inputs else module.register_forward_hook(after)
        for module in modules
    ]
    try:
        yield tensors
    finally:
        for handle in handles:
            handle.remove()
