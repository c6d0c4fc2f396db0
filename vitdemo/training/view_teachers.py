"""Teachers of a view store: EfficientNet-Lite2 and transformers, each with a feature map and a summary."""

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


def load_view_teacher(name: str, cells: int) -> ViewTeacher:
    """EfficientNet-Lite2 by its name, otherwise a registered model or a model folder: its patch tokens and its class token.

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

    def teacher(pixels: Tensor) -> tuple[Tensor, Tensor]:
        tokens: Tensor = network(pixels * scale + shift).last_hidden_state
        patches = tokens[:, spec.num_prefix_tokens :].transpose(1, 2)
        grid = (pixels.shape[2] // spec.patch_size, pixels.shape[3] // spec.patch_size)
        return _to_cells(patches.unflatten(2, grid), cells), tokens[:, 0]

    return teacher


def _to_cells(features: Tensor, cells: int) -> Tensor:
    """`[B, D, h, w]` to `[B, cells, cells, D]`."""
    if features.shape[2:] != (cells, cells):
        features = torch.nn.functional.interpolate(
            features.float(), (cells, cells), mode="bilinear", align_corners=False
        )
    return features.permute(0, 2, 3, 1)
