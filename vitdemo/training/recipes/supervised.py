"""Supervised learning from labels: Dosovitskiy et al. 2021, with the augmentation of Touvron et al. 2021, arXiv:2012.12877."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vitdemo.training.augment import DEFAULT_MIXING, Augmentation, Mixing
from vitdemo.training.data import PhotoSet
from vitdemo.training.features import accuracy, predict
from vitdemo.training.recipes.base import Recipe, StepContext, cross_entropy, logits_of, soft_targets


class Supervised(Recipe):
    """Cross-entropy with label smoothing, mixup and CutMix."""

    def __init__(self, student: nn.Module, classes: int, size: int, mixing: Mixing = DEFAULT_MIXING) -> None:
        super().__init__()
        self.student, self.classes, self.size, self.mixing = student, classes, size, mixing

    def augmentations(self, size: int) -> Sequence[Augmentation]:
        return (Augmentation(size),)

    def forward(
        self, views: Sequence[Tensor], labels: Tensor, context: StepContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        targets = soft_targets(labels, self.classes)
        pixels, targets = self.mixing(views[0], targets, context.rng())
        logits = logits_of(self.student, pixels)
        correct = (logits.argmax(dim=-1) == targets.argmax(dim=-1)).float().mean()
        return cross_entropy(logits, targets), {"accuracy": correct}

    def score(self, network: nn.Module, train: PhotoSet, test: PhotoSet) -> float:
        return classifier_score(network, test, self.size)


def classifier_score(network: nn.Module, test: PhotoSet, size: int) -> float:
    """Top-1 accuracy on centre crops."""
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    result = accuracy(predict(test, size, lambda pixels: logits_of(network, pixels), device), test)
    network.train(training)
    return result
