"""Masked image modelling: the student sees some of the patches and predicts the others.

BEiT (Bao et al. 2022, arXiv:2106.08254) replaces masked patches by a mask token, and predicts a teacher's features, or the pixels
as in SimMIM (Xie et al. 2022, arXiv:2111.09886). MAE (He et al. 2022, arXiv:2111.06377) leaves masked patches out of the encoder,
and a small decoder predicts their pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, ViTMAEForPreTraining

from vitdemo.errors import OptionError
from vitdemo.training.augment import Augmentation
from vitdemo.training.data import PhotoSet
from vitdemo.training.features import knn_score
from vitdemo.training.recipes.base import Recipe, StepContext
from vitdemo.training.teachers import Teacher


class MaskedModelling(Recipe):
    """Loss on masked patches only. Labels serve the score alone: k-NN accuracy on mean patch features."""

    needs_labels = False
    classifies = False
    pooling = "mean"
    score_name = "k-NN accuracy"

    def __init__(
        self, student: nn.Module, size: int, teacher: Teacher | None = None, mask_ratio: float | None = None
    ) -> None:
        super().__init__()
        self.student, self.size = student, size
        self.encoder = _Encoder(student)
        self.mask_ratio = mask_ratio if mask_ratio is not None else (0.75 if self.encoder.is_mae else 0.5)
        self.teacher = teacher
        if self.encoder.is_mae:
            if teacher is not None:
                raise OptionError("MAE predicts pixels: it takes no teacher.")
            assert isinstance(student, ViTMAEForPreTraining)
            student.config.mask_ratio = self.mask_ratio
        else:
            width = self.encoder.width
            target = 3 * self.encoder.patch**2 if teacher is None else _feature_width(teacher, size)
            self.head = nn.Linear(width, target)

    def augmentations(self, size: int) -> Sequence[Augmentation]:
        return (Augmentation(size, colour=0.0 if self.teacher is None else 0.3),)

    def forward(
        self, views: Sequence[Tensor], labels: Tensor, context: StepContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        pixels = views[0]
        if self.encoder.is_mae:
            loss: Tensor = self.student(pixels).loss
            return loss, {}
        grid = (pixels.shape[2] // self.encoder.patch, pixels.shape[3] // self.encoder.patch)
        masked = block_mask(len(pixels), grid, self.mask_ratio, context).to(pixels.device)
        predicted = self.head(self.encoder.patches(pixels, masked)[masked])
        if self.teacher is None:
            loss = nn.functional.smooth_l1_loss(predicted.float(), patch_pixels(pixels, self.encoder.patch)[masked])
        else:
            target = self.teacher.feature_map(pixels, grid)[masked]
            loss = 1 - nn.functional.cosine_similarity(predicted.float(), target, dim=-1).mean()
        return loss, {"hidden": masked.float().mean()}

    def result(self) -> nn.Module:
        """The encoder without its untrained classifier; MAE keeps its decoder, which shows the reconstruction."""
        return self.student if self.encoder.is_mae else self.encoder.base

    def score(self, network: nn.Module, train: PhotoSet, test: PhotoSet) -> float:
        encoder = _Encoder(network)
        return knn_score(network, lambda pixels: encoder.patches(pixels, None).mean(dim=1), train, test, self.size)


class _Encoder:
    """The part of a student that turns pixels into patch features, for every family."""

    def __init__(self, student: nn.Module) -> None:
        kind = getattr(getattr(student, "config", None), "model_type", "")
        if kind not in ("vit", "deit", "beit", "vit_mae"):
            raise OptionError("Masked modelling takes the architectures vit, deit, beit and mae.")
        assert isinstance(student, PreTrainedModel)
        self.base: Any = student.base_model
        self.is_mae = kind == "vit_mae"
        self.prefix = 2 if kind == "deit" else 1
        self.width, self.patch = student.config.hidden_size, student.config.patch_size
        embeddings: Any = self.base.embeddings
        if not self.is_mae and embeddings.mask_token is None:
            embeddings.mask_token = nn.Parameter(torch.zeros(1, 1, self.width))

    def patches(self, pixels: Tensor, masked: Tensor | None) -> Tensor:
        """`[B, h * w, D]`, without seeing the patches that `masked`, `[B, h * w]`, marks."""
        if self.is_mae:
            # Evaluated on all patches: a mask ratio of 0 keeps them, ascending noise keeps their order.
            count = (pixels.shape[2] // self.patch) * (pixels.shape[3] // self.patch)
            noise = torch.arange(count, device=pixels.device, dtype=torch.float32).expand(len(pixels), -1)
            mask_ratio, self.base.config.mask_ratio = self.base.config.mask_ratio, 0.0
            try:
                output: Tensor = self.base(pixels, noise=noise).last_hidden_state
            finally:
                self.base.config.mask_ratio = mask_ratio
        else:
            output = self.base(pixels, bool_masked_pos=masked).last_hidden_state
        return output[:, self.prefix :]


def patch_pixels(pixels: Tensor, patch: int) -> Tensor:
    """`[B, 3, H, W]` to `[B, h * w, 3 * patch * patch]`, each patch with mean 0 and standard deviation 1."""
    patches = nn.functional.unfold(pixels, patch, stride=patch).transpose(1, 2)
    return (patches - patches.mean(dim=-1, keepdim=True)) / (patches.std(dim=-1, keepdim=True) + 1e-6)


def block_mask(count: int, grid: tuple[int, int], ratio: float, context: StepContext) -> Tensor:
    """`[B, h * w]`: rectangles that mask `ratio` of the grid, as in BEiT. Every row masks the same number of patches."""
    rng, rows, columns = context.rng(), *grid
    target = max(1, round(ratio * rows * columns))
    masks = torch.zeros(count, rows, columns, dtype=torch.bool)
    for mask in masks:
        while int(mask.sum()) < target:
            height = int(rng.integers(1, max(2, rows // 2 + 1)))
            width = int(rng.integers(1, max(2, columns // 2 + 1)))
            top, left = int(rng.integers(rows - height + 1)), int(rng.integers(columns - width + 1))
            mask[top : top + height, left : left + width] = True
        surplus = int(mask.sum()) - target
        if surplus:
            unmasked = rng.permutation(torch.nonzero(mask.flatten()).flatten().numpy())[:surplus]
            mask.view(-1)[torch.from_numpy(unmasked)] = False
    return masks.flatten(1)


def _feature_width(teacher: Teacher, size: int) -> int:
    return int(teacher.feature_map(torch.zeros(1, 3, size, size), (1, 1)).shape[-1])
