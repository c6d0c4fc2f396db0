"""Distillation: Touvron et al. 2021, arXiv:2012.12877 (DeiT), and Beyer et al. 2022, arXiv:2106.05237.

A student with a distillation token learns the labels with its class token and the teacher's hard labels with the distillation
token. Any other student learns the labels and the teacher's soft targets. The teacher sees the same crop and the same mixture.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vitdemo.training.augment import DEFAULT_MIXING, Augmentation, Mixing
from vitdemo.training.data import PhotoSet
from vitdemo.training.recipes.base import Recipe, StepContext, cross_entropy, soft_targets
from vitdemo.training.recipes.supervised import classifier_score
from vitdemo.training.teachers import Teacher


class Distill(Recipe):
    """Equal weights for labels and teacher; background photos have only the teacher's targets."""

    needs_labels = False

    def __init__(
        self, student: nn.Module, teacher: Teacher, classes: int, size: int, mixing: Mixing = DEFAULT_MIXING
    ) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher
        self.classes, self.size, self.mixing = classes, size, mixing

    def augmentations(self, size: int) -> Sequence[Augmentation]:
        return (Augmentation(size),)

    def forward(
        self, views: Sequence[Tensor], labels: Tensor, context: StepContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        known = (labels >= 0).float()[:, None]
        # Background photos have no label: their targets are all zero.
        targets = soft_targets(labels.clamp(min=0), self.classes) * known
        pixels, targets = self.mixing(views[0], targets, context.rng())
        teacher_logits = self.teacher.logits(pixels)
        output = self.student(pixels)
        if hasattr(output, "distillation_logits"):
            from_labels = cross_entropy(output.cls_logits, targets)
            from_teacher = nn.functional.cross_entropy(
                output.distillation_logits.float(), teacher_logits.argmax(dim=-1)
            )
            logits = output.logits
        else:
            logits = output if isinstance(output, Tensor) else output.logits
            from_labels = cross_entropy(logits, targets)
            from_teacher = cross_entropy(logits, teacher_logits.softmax(dim=-1))
        agreement = (logits.argmax(dim=-1) == teacher_logits.argmax(dim=-1)).float().mean()
        loss = 0.5 * from_labels + 0.5 * from_teacher
        return loss, {"labels": from_labels.detach(), "teacher": from_teacher.detach(), "agreement": agreement}

    def score(self, network: nn.Module, train: PhotoSet, test: PhotoSet) -> float:
        return classifier_score(network, test, self.size)
