"""Teachers of a store of views: EfficientNet-Lite2 and DINOv2, each a map of features and its summary."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vitdemo.errors import OptionError
from vitdemo.loading import load_model
from vitdemo.registry import find_spec
from vitdemo.training.augment import MEAN, STD
from vitdemo.training.efficientnet import NAME, Features
from vitdemo.training.teachers import channels_last
from vitdemo.training.views import Answer


def view_teacher(name: str, cells: int) -> Answer:
    """EfficientNet-Lite2 by its name, else a model of the registry or a folder: its patch tokens, and its class token.

    Args:
        cells: a side of the map that is told.

    Raises:
        OptionError: the model has no class token.
    """
    return _efficientnet(cells) if name == NAME else _transformer(name, cells)


def _efficientnet(cells: int) -> Answer:
    features = channels_last(Features().eval().requires_grad_(False))
    scale = (torch.tensor(STD) * 255 / 128).view(1, 3, 1, 1)
    shift = ((torch.tensor(MEAN) * 255 - 127) / 128).view(1, 3, 1, 1)

    def answer(pixels: Tensor) -> tuple[Tensor, Tensor]:
        seen = (pixels * scale + shift).contiguous(memory_format=torch.channels_last)
        found: Tensor = features(seen)
        return _at(found, cells), found.mean(dim=(2, 3))

    return answer


def _transformer(name: str, cells: int) -> Answer:
    spec = find_spec(str(Path(name)) if Path(name).is_dir() else name)
    if "class" not in spec.readouts:
        raise OptionError(f"{spec.name} has no class token that could tell a whole view.")
    network = load_model(spec, torch.device("cpu"), torch.float32).network.base_model
    scale = (torch.tensor(STD) / torch.tensor(spec.processor.std)).view(1, 3, 1, 1)
    mean = torch.tensor(spec.processor.mean)
    shift = ((torch.tensor(MEAN) - mean) / torch.tensor(spec.processor.std)).view(1, 3, 1, 1)

    def answer(pixels: Tensor) -> tuple[Tensor, Tensor]:
        tokens: Tensor = network(pixels * scale + shift).last_hidden_state
        patches = tokens[:, spec.num_prefix_tokens :].transpose(1, 2)
        grid = (pixels.shape[2] // spec.patch_size, pixels.shape[3] // spec.patch_size)
        return _at(patches.unflatten(2, grid), cells), tokens[:, 0]

    return answer


def _at(found: Tensor, cells: int) -> Tensor:
    """`[B, D, h, w]` to `[B, cells, cells, D]`."""
    if found.shape[2:] != (cells, cells):
        found = torch.nn.functional.interpolate(found.float(), (cells, cells), mode="bilinear", align_corners=False)
    return found.permute(0, 2, 3, 1)
