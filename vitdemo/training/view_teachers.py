"""Teachers of a view store: EfficientNet-Lite2 and transformers, each with a feature map and a summary.

Of a transformer the last layers are read together, class token and mean patch token as in the linear evaluation of DINOv2 (Oquab
et al. 2024, arXiv:2304.07193): fine-tuning changes the last layer most, and layers before it keep features that are more general.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vitdemo.errors import OptionError
from vitdemo.models.loading import load_model
from vitdemo.registry import find_spec
from vitdemo.training.augment import MEAN, STD
from vitdemo.training.efficientnet import NAME, FeatureExtractor
from vitdemo.training.teachers import channels_last
from vitdemo.training.views import ViewTeacher

LAYERS = 3
"""Last layers of a transformer that are read."""


def load_view_teacher(name: str, cells: int) -> ViewTeacher:
    """EfficientNet-Lite2 by its name, otherwise a registered model or a model folder: its patch tokens and a summary.

    Args:
        cells: side of the feature map.

    Raises:
        OptionError: the model has no class token.
    """
    return _efficientnet(cells) if name == NAME else _transformer(name, cells)


def _efficientnet(cells: int) -> ViewTeacher:
    extractor = channels_last(FeatureExtractor().eval().requires_grad_(False))
    scale = (torch.tensor(STD) * 255 / 128).view(1, 3, 1, 1)
    shift = ((torch.tensor(MEAN) * 255 - 127) / 128).view(1, 3, 1, 1)

    def teacher(pixels: Tensor) -> tuple[Tensor, Tensor]:
        inputs = (pixels * scale + shift).contiguous(memory_format=torch.channels_last)
        features: Tensor = extractor(inputs)
        return _to_cells(features, cells), features.mean(dim=(2, 3))

    return teacher


def _transformer(name: str, cells: int) -> ViewTeacher:
    spec = find_spec(str(Path(name)) if Path(name).is_dir() else name)
    if "class" not in spec.readouts:
        raise OptionError(f"{spec.name} has no class token to summarise a view.")
    network = load_model(spec, torch.device("cpu"), torch.float32).network.base_model
    std, mean = torch.tensor(spec.processor.std), torch.tensor(spec.processor.mean)
    scale = (torch.tensor(STD) / std).view(1, 3, 1, 1)
    shift = ((torch.tensor(MEAN) - mean) / std).view(1, 3, 1, 1)

    norm = next(
        (getattr(network, name) for name in ("layernorm", "norm") if hasattr(network, name)), torch.nn.Identity()
    )

    def teacher(pixels: Tensor) -> tuple[Tensor, Tensor]:
        hidden = network(pixels * scale + shift, output_hidden_states=True).hidden_states[-LAYERS:]
        layers = torch.stack([norm(tokens) for tokens in hidden], dim=2)  # [B, T, layers, D]
        patches = layers[:, spec.num_prefix_tokens :].flatten(2)
        grid = (pixels.shape[2] // spec.patch_size, pixels.shape[3] // spec.patch_size)
        summary = torch.cat([layers[:, 0].flatten(1), patches.mean(dim=1)], dim=1)
        return _to_cells(patches.transpose(1, 2).unflatten(2, grid), cells), summary

    return teacher


def _to_cells(features: Tensor, cells: int) -> Tensor:
    """`[B, D, h, w]` to `[B, cells, cells, D]`."""
    if features.shape[2:] != (cells, cells):
        features = torch.nn.functional.interpolate(
            features.float(), (cells, cells), mode="bilinear", align_corners=False
        )
    return features.permute(0, 2, 3, 1)
