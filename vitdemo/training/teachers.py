"""Teachers for distillation. They see the same views as the student."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vitdemo.errors import OptionError
from vitdemo.models.loading import Classifier, load_model
from vitdemo.training.augment import MEAN, STD
from vitdemo.training.recipes.base import logits_of
from vitdemo.types import ModelSpec

M = TypeVar("M", bound=nn.Module)


class Teacher(nn.Module):
    """A frozen classifier, with a feature map if it has one.

    Args:
        network: takes `[B, 3, size, size]`, normalised with `mean` and `std`, and returns logits.
        features: takes the same and returns a feature map `[B, D, h, w]`.
    """

    def __init__(
        self,
        network: nn.Module,
        size: int,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        features: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.network, self.features, self.size = network.eval().requires_grad_(False), features, size
        if features is not None:
            features.eval().requires_grad_(False)
        scale = torch.tensor(STD) / torch.tensor(list(std))
        self.register_buffer("scale", scale.view(1, 3, 1, 1), persistent=False)
        shift = (torch.tensor(MEAN) - torch.tensor(list(mean))) / torch.tensor(list(std))
        self.register_buffer("shift", shift.view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> Teacher:
        """Always in evaluation mode, whatever the enclosing module does."""
        return super().train(False)

    def _preprocess(self, pixels: Tensor) -> Tensor:
        if pixels.shape[-1] != self.size:
            pixels = nn.functional.interpolate(
                pixels, (self.size, self.size), mode="bilinear", antialias=pixels.shape[-1] > self.size
            )
        assert isinstance(self.scale, Tensor)
        assert isinstance(self.shift, Tensor)
        return pixels * self.scale + self.shift

    @torch.no_grad()
    def logits(self, pixels: Tensor) -> Tensor:
        """`[B, K]`, from the student's normalised pixels at any resolution."""
        return logits_of(self.network, self._preprocess(pixels))

    @torch.no_grad()
    def feature_map(self, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
        """`[B, h * w, D]`: the features at the student's patches."""
        if self.features is None:
            raise OptionError("This teacher has no feature map.")
        features: Tensor = self.features(self._preprocess(pixels))
        resized = nn.functional.interpolate(features.float(), grid, mode="bilinear", align_corners=False)
        return resized.flatten(2).transpose(1, 2)


def channels_last(network: M) -> M:
    """The same network in the memory layout that is fastest for convolutions on a CPU."""
    untyped: Any = network  # PyTorch's type hints lack the argument
    untyped.to(memory_format=torch.channels_last)
    return network


class PatchFeatures(nn.Module):
    """The patch tokens of a transformer's last layer, as a map `[B, D, h, w]`."""

    def __init__(self, model: Classifier, spec: ModelSpec) -> None:
        super().__init__()
        self.model, self.prefix, self.patch = model, spec.num_prefix_tokens, spec.patch_size

    def forward(self, pixels: Tensor) -> Tensor:
        tokens: Tensor = self.model.network.base_model(pixels).last_hidden_state[:, self.prefix :]
        grid = (pixels.shape[2] // self.patch, pixels.shape[3] // self.patch)
        maps: Tensor = tokens.transpose(1, 2).unflatten(2, grid)
        return maps


def teacher_from_spec(spec: ModelSpec, classes: Sequence[str]) -> Teacher:
    """A registered model as a teacher of these classes.

    Raises:
        OptionError: it was trained on other classes.
    """
    if tuple(spec.labels) != tuple(classes):
        raise OptionError(f"The teacher {spec.name} has {len(spec.labels)} classes, which are not those of the photos.")
    network = load_model(spec, torch.device("cpu"), torch.float32)
    features = PatchFeatures(network, spec) if spec.readouts else None
    return Teacher(network, spec.image_size[0], spec.processor.mean, spec.processor.std, features)
