"""Self-distillation without labels: Caron et al. 2021, arXiv:2104.14294 (DINO).

The student sees small and large crops of a photo; the teacher, an EMA of the student, only the large ones. For every crop, the
student predicts the teacher's output for another crop. Centring keeps one output from dominating, sharpening keeps the outputs
from becoming uniform.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vitdemo.errors import OptionError
from vitdemo.training.augment import Augmentation
from vitdemo.training.data import PhotoSet
from vitdemo.training.features import knn_score
from vitdemo.training.recipes.base import Recipe, StepContext

STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.04
CENTRE_MOMENTUM = 0.9


class DinoHead(nn.Module):
    """A three-layer MLP, an L2-normalised bottleneck, and a weight-normalised linear layer."""

    def __init__(self, width: int, outputs: int, hidden: int = 512, bottleneck: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.prototypes = nn.Parameter(torch.randn(outputs, bottleneck))

    def forward(self, features: Tensor) -> Tensor:
        """`[B, D]` to `[B, outputs]`."""
        prototypes = nn.functional.normalize(self.prototypes, dim=-1)
        return nn.functional.normalize(self.layers(features), dim=-1) @ prototypes.T


class Dino(Recipe):
    """Takes a ViT without a classifier; the result is the EMA teacher."""

    needs_labels = False
    classifies = False
    score_name = "k-NN accuracy"
    centre: Tensor

    def __init__(
        self, student: nn.Module, size: int, outputs: int = 2048, local: int = 4, momentum: float = 0.99
    ) -> None:
        super().__init__()
        config = getattr(student, "config", None)
        if config is None or config.model_type != "vit" or not hasattr(student, "embeddings"):
            raise OptionError("The recipe dino takes the architecture vit.")
        self.student, self.size, self.local, self.momentum = student, size, local, momentum
        self.patch: int = config.patch_size
        self.head = DinoHead(config.hidden_size, outputs)
        self.ema_student = copy.deepcopy(student).requires_grad_(False)
        self.ema_head = copy.deepcopy(self.head).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(outputs))

    def augmentations(self, size: int) -> Sequence[Augmentation]:
        small = max(self.patch, round(size * 0.43 / self.patch) * self.patch)
        large = [Augmentation(size, (0.4, 1.0), colour=0.4, grey=0.2, blur=share) for share in (0.5, 0.1)]
        return (*large, *[Augmentation(small, (0.05, 0.4), colour=0.4, grey=0.2, blur=0.3)] * self.local)

    def forward(
        self, views: Sequence[Tensor], labels: Tensor, context: StepContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            teacher_output = self.ema_head(self._class_token(self.ema_student, torch.cat(list(views[:2])))).float()
            if context.step == 0:
                # Started at zero, the centre would need a hundred steps to converge, and one output would dominate until then.
                self.centre.copy_(teacher_output.mean(dim=0))
            targets = ((teacher_output - self.centre) / TEACHER_TEMPERATURE).softmax(dim=-1).chunk(2)
            if self.training:
                self.centre.lerp_(teacher_output.mean(dim=0), 1 - CENTRE_MOMENTUM)
        groups = [torch.cat(list(views[:2])), *([torch.cat(list(views[2:]))] if len(views) > 2 else [])]
        student_output = torch.cat([self.head(self._class_token(self.student, group)) for group in groups])
        logs = (student_output.float() / STUDENT_TEMPERATURE).log_softmax(dim=-1).chunk(len(views))
        losses = [
            -(target * log).sum(dim=-1).mean()
            for teacher_crop, target in enumerate(targets)
            for student_crop, log in enumerate(logs)
            if teacher_crop != student_crop
        ]
        entropy = -(targets[0] * (targets[0] + 1e-12).log()).sum(dim=-1).mean()
        return torch.stack(losses).mean(), {"teacher_entropy": entropy}

    @torch.no_grad()
    def after_step(self, context: StepContext) -> None:
        momentum = 1 - (1 - self.momentum) * (math.cos(math.pi * context.progress) + 1) / 2
        for average, network in ((self.ema_student, self.student), (self.ema_head, self.head)):
            for mean, new in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(new, 1 - momentum)

    def result(self) -> nn.Module:
        return self.ema_student

    def score(self, network: nn.Module, train: PhotoSet, test: PhotoSet) -> float:
        return knn_score(network, lambda pixels: self._class_token(network, pixels), train, test, self.size)

    def _class_token(self, network: nn.Module, pixels: Tensor) -> Tensor:
        resized = pixels.shape[-1] != self.size
        token: Tensor = network(pixels, interpolate_pos_encoding=resized).last_hidden_state[:, 0]
        return token
