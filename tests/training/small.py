"""Small photos, networks and runs that the training tests share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
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
    ViTModel,
)

from vitdemo.training.config import LOG, TrainConfig
from vitdemo.training.data import PhotoSet
from vitdemo.training.loop import Trainer
from vitdemo.training.recipes.base import Recipe
from vitdemo.training.teachers import Teacher

CLASSES = ("red", "green", "blue")
SIZE = 32
SHAPE = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "image_size": SIZE,
    "patch_size": 8,
    "num_labels": 3,
}


def coloured_photos(count: int = 48, seed: int = 0) -> PhotoSet:
    """Noise with a colour cast: three classes that a network learns in a few steps."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = generator.integers(0, 60, (count, 40, 52, 3))
    for index, label in enumerate(labels):
        images[index, :, :, label] += 120
    return PhotoSet(tuple(images.astype(np.uint8)), labels.astype(np.int64), CLASSES)


def vit(**changes: Any) -> ViTForImageClassification:
    return ViTForImageClassification(ViTConfig(**SHAPE, **changes))


def encoder() -> ViTModel:
    return ViTModel(ViTConfig(**SHAPE), add_pooling_layer=False)


def deit() -> DeiTForImageClassificationWithTeacher:
    return DeiTForImageClassificationWithTeacher(DeiTConfig(**SHAPE))


def beit() -> BeitForImageClassification:
    return BeitForImageClassification(BeitConfig(**SHAPE, use_relative_position_bias=True, use_mask_token=True))


def mae() -> ViTMAEForPreTraining:
    decoder = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    return ViTMAEForPreTraining(ViTMAEConfig(**SHAPE, **decoder, decoder_intermediate_size=64, norm_pix_loss=True))


def cnn() -> PreTrainedModel:
    return ResNetForImageClassification(
        ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", num_labels=3)
    )


class ColourClassifier(nn.Module):
    """Always right: the brightest channel."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(8.0))

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.mean(dim=(2, 3)) * self.scale


def colour_teacher(features: nn.Module | None = None) -> Teacher:
    """Its features are the photo itself, small."""
    return Teacher(ColourClassifier(), 16, features=features or nn.AvgPool2d(4))


def trainer(folder: Path, recipe: Recipe, photos: PhotoSet | None = None, **changes: Any) -> Trainer:
    config = TrainConfig(
        **{"steps": 6, "batch": 12, "resolution": SIZE, "learning_rate": 2e-3, "save_every": 1, **changes}
    )
    return Trainer(recipe, config, photos or coloured_photos(), coloured_photos(30, 1), folder, cpu=True)


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def weights(run: Trainer) -> dict[str, Tensor]:
    return {**run.recipe.state_dict(), **{f"result.{k}": v for k, v in run.network.state_dict().items()}}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
