"""Learning from labels: Dosovitskiy et al. 2021, with the augmentation of Touvron et al. 2021, arXiv:2012.12877."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vitdemo.training.augment import Augmentation, Mixing
from vitdemo.training.data import PhotoSet
from vitdemo.training.features import accuracy, over
from vitdemo.training.recipes.base import Moment, Recipe, cross_entropy, logits_of, soft_targets


class Supervised(Recipe):
    """Cross-entropy on the labels, smoothed, of mixed photos."""

    def __init__(
        self, student: nn.Module, classes: int, size: int, mixing: Mixing | None = None, smoothing: float = 0.1
    ) -> None:
        super().__init__()
        self.student = student
        self.classes, self.size = classes, size
        self.mixing = Mixing(mixup=0.2, cutmix=1.0) if mixing is None else mixing
        self.smoothing = smoothing

    def augmentations(self, size: int) -> Sequence[Augmentation]:
        return (Augmentation(size),)

    def forward(self, views: Sequence[Tensor], labels: Tensor, moment: Moment) -> tuple[Tensor, dict[str, Tensor]]:
        targets = soft_targets(labels, self.classes, self.smoothing)
        pixels, targets = self.mixing(views[0], targets, moment.random())
        logits = logits_of(self.student, pixels)
        right = (logits.argmax(dim=-1) == targets.argmax(dim=-1)).float().mean()
        return cross_entropy(logits, targets), {"accuracy": right}

    def score(self, network: nn.Module, train: PhotoSet, test: PhotoSet) -> float:
        return classifier_score(network, test, self.size)


def classifier_score(network: nn.Module, test: PhotoSet, size: int) -> float:
    """Top-1 on centre crops."""
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    result = accuracy(over(test, size, lambda pixels: logits_of(network, pixels), device), test)
    network.train(training)
    return result
