"""Networks of every family with random weights, in the papers' sizes and in ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTMAEConfig,
    ViTMAEForPreTraining,
)

from vitdemo.errors import OptionError
from vitdemo.models.nn.hybrid import ViTHybridConfig, ViTHybridForImageClassification
from vitdemo.models.nn.vit import PretrainingHead, VisionTransformer
from vitdemo.training.config import ARCHITECTURES, SIZES


def build(
    arch: str, size: str, classes: Sequence[str], resolution: int, patch: int = 16, pretrain: bool = False
) -> nn.Module:
    """A network with random weights.

    Args:
        classes: their names, in the order of the outputs.
        resolution: side of the input in pixels, a multiple of `patch`.
        pretrain: a pre-training head, for vit and scratch.

    Raises:
        OptionError: unknown architecture or size, or a resolution that is not a multiple of the patch size.
    """
    if arch not in ARCHITECTURES:
        raise OptionError(f"Unknown architecture {arch!r}. Choose from: {', '.join(ARCHITECTURES)}.")
    if size not in SIZES:
        raise OptionError(f"Unknown size {size!r}. Choose from: {', '.join(SIZES)}.")
    if resolution % patch:
        raise OptionError(f"The resolution must be a multiple of the patch size: {patch} pixels.")
    chosen = SIZES[size]
    names: dict[str, Any] = {
        "id2label": dict(enumerate(classes)),
        "label2id": {name: index for index, name in enumerate(classes)},
    }
    shape: dict[str, Any] = {
        "hidden_size": chosen.width,
        "num_hidden_layers": chosen.depth,
        "num_attention_heads": chosen.heads,
        "intermediate_size": 4 * chosen.width,
        "image_size": resolution,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    if arch == "scratch":
        shape_of_ours = (chosen.width, chosen.depth, chosen.heads, 4 * chosen.width, 0.0)
        return VisionTransformer(resolution, patch, len(classes), *shape_of_ours, pretrain=pretrain)
    builders: dict[str, Any] = {
        "vit": lambda: ViTForImageClassification(ViTConfig(**shape, **names, patch_size=patch)),
        "deit": lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(**shape, **names, patch_size=patch)),
        "beit": lambda: BeitForImageClassification(
            BeitConfig(
                **shape,
                **names,
                patch_size=patch,
                use_relative_position_bias=True,
                use_absolute_position_embeddings=False,
                use_mask_token=True,
                use_mean_pooling=True,
                layer_scale_init_value=0.1,
                drop_path_rate=0.0,
            )
        ),
        "mae": lambda: ViTMAEForPreTraining(
            ViTMAEConfig(
                **shape,
                **names,
                patch_size=patch,
                decoder_hidden_size=max(96, chosen.width // 2),
                decoder_num_hidden_layers=3,
                decoder_num_attention_heads=chosen.heads,
                decoder_intermediate_size=4 * max(96, chosen.width // 2),
                # The reconstruction is shown as an image: it must not depend on a masked patch's own mean and deviation.
                norm_pix_loss=False,
            )
        ),
        "hybrid": lambda: ViTHybridForImageClassification(
            ViTHybridConfig(**shape, **names, patch_size=1, backbone_config=_backbone(chosen.width))
        ),
        "cnn": lambda: ResNetForImageClassification(
            ResNetConfig(
                embedding_size=chosen.width // 6,
                hidden_sizes=[chosen.width // 6, chosen.width // 3, chosen.width * 2 // 3, chosen.width * 11 // 12],
                depths=[2, 2, 2, 2],
                layer_type="basic",
                **names,
            )
        ),
    }
    network: PreTrainedModel = builders[arch]()
    if isinstance(network, ViTMAEForPreTraining):
        _set_positions(network)
    if pretrain and isinstance(network, ViTForImageClassification):
        head = PretrainingHead(chosen.width, len(classes))
        network.classifier = head.apply(_initialise_linear)  # type: ignore[assignment]
    if arch == "cnn":
        # bf16 convolutions are twice as fast in channels-last layout.
        module: nn.Module = network
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _initialise_linear(module: nn.Module) -> None:
    """As transformers' other linear layers."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def _set_positions(network: ViTMAEForPreTraining) -> None:
    """Fixed sine-cosine position embeddings of encoder and decoder.

    transformers 5.23 leaves them at zero in a new network: the decoder could not tell patches apart, and would reconstruct every
    masked patch alike.
    """
    embeddings = network.vit.embeddings
    # transformers takes an initialised projection as a sign that all weights are loaded.
    vars(embeddings.patch_embeddings.projection)["_is_hf_initialized"] = False
    embeddings.initialize_weights()
    network.decoder.initialize_weights(embeddings.patch_embeddings.num_patches)


def _backbone(width: int) -> dict[str, Any]:
    """Three stages with a total stride of 16: a cell of the feature map covers what a 16-pixel patch covers."""
    return {
        "embedding_size": 32,
        "hidden_sizes": [width // 3, width * 2 // 3, width],
        "depths": [2, 2, 2],
        "layer_type": "bottleneck",
        "global_padding": "SAME",
        "num_groups": 8,
        "out_features": ["stage3"],
    }
