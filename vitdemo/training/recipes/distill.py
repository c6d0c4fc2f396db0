"""Learning from labels and a teacher: Touvron et al. 2021, arXiv:2012.12877 (DeiT), and Beyer et al. 2022, arXiv:2106.05237.

A student with a distillation token learns the labels with its class token and the teacher's hard labels with the other. Any other
student learns the teacher's whole distribution beside the labels. The teacher sees the same crop and the same mixture.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vitdemo.training.augment import Augmentation, Mixing
from vitdemo.training.data import PhotoSet
from vitdemo.training.recipes.base import Moment, Recipe, cross_entropy, soft_targets
from vitdemo.training.recipes.supervised import classifier_score
from vitdemo.training.teachers import Teacher


class Distill(Recipe):
    """Half labels, half teacher; photos of no class have the teacher alone."""

    needs_labels = False

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher,
        classes: int,
        size: int,
        mixing: Mixing | None = None,
        smoothing: float = 0.1,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher
        self.classes, self.size = classes, size
        self.mixing = Mixing(mixup=0.2, cutmix=1.0) if mixing is None else mixing
        self.smoothing, self.temperature = smoothing, temperature

    def augmentations(self, size: int) -> Sequence[Augmentation]:
        return (Augmentation(size),)

    def forward(self, views: Sequence[Tensor], labels: Tensor, moment: Moment) -> tuple[Tensor, dict[str, Tensor]]:
        known = (labels >= 0).float()[:, None]
        # A photo of no class pulls towards no class: its row of targets is empty.
        targets = soft_targets(labels.clamp(min=0), self.classes, self.smoothing) * known
        pixels, targets = self.mixing(views[0], targets, moment.random())
        taught = self.teacher.logits(pixels)
        output = self.student(pixels)
        if hasattr(output, "distillation_logits"):
            from_labels = cross_entropy(output.cls_logits, targets)
            from_teacher = nn.functional.cross_entropy(output.distillation_logits.float(), taught.argmax(dim=-1))
            logits = output.logits
        else:
            logits = output if isinstance(output, Tensor) else output.logits
            from_labels = cross_entropy(logits, targets)
            softened = (taught / self.temperature).softmax(dim=-1)
            from_teacher = cross_entropy(logits / self.temperature, softened) * self.temperature**2
        agreement = (logits.argmax(dim=-1) == taught.argmax(dim=-1)).float().mean()
        loss = 0.5 * from_labels + 0.5 * from_teacher
        return loss, {"labels": from_labels.detach(), "teacher": from_teacher.detach(), "agreement": agreement}

    def score(self, network: nn.Module, train: PhotoSet, test: PhotoSet) -> float:
        return classifier_score(network, test, self.size)
