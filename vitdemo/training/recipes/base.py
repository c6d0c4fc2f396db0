"""The interface of a recipe: a module that holds the student, and its teacher if any, and computes the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from vitdemo.training.augment import Augmentation
from vitdemo.training.data import Batches, PhotoSet


@dataclass(frozen=True)
class StepContext:
    """Position of a batch in a run."""

    step: int
    progress: float
    """0 at the start, 1 at the end."""
    seed: int

    def rng(self) -> np.random.Generator:
        """A generator seeded by the step: a resumed run draws the same numbers."""
        return np.random.default_rng((self.seed, self.step, 7))


class Recipe(nn.Module, ABC):
    """A training objective.

    Called with the views of a batch, it returns the loss. The parameters that require gradients are trained.
    """

    student: nn.Module

    needs_labels = True
    """Whether background photos are left out."""

    classifies = True
    """Whether the result has a classifier; otherwise it only computes features."""

    pooling = "class"
    """Features of a network without a classifier: "class", its class token, or "mean", the mean of its patch tokens."""

    score_name = "accuracy"

    @abstractmethod
    def augmentations(self, size: int) -> Sequence[Augmentation]:
        """One for each view of a photo that `forward` takes."""

    def batches(self, photos: PhotoSet, batch: int, size: int, seed: int) -> Batches:
        """Batches for `forward`; their `targets`, if any, are passed as its last argument."""
        return Batches(photos, batch, self.augmentations(size), seed)

    @abstractmethod
    def forward(
        self, views: Sequence[Tensor], labels: Tensor, context: StepContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and figures for the log.

        Args:
            views: `[B, 3, S, S]` each, normalised.
            labels: `[B]`, -1 for background photos.
        """

    def state(self) -> dict[str, Tensor]:
        """The state that training changes: without an external teacher, which is frozen and may be large."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("teacher.")}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Load what `state` returned.

        Raises:
            RuntimeError: it belongs to another network.
        """
        teacher = {name: value for name, value in self.state_dict().items() if name.startswith("teacher.")}
        self.load_state_dict({**teacher, **state})

    def result(self) -> nn.Module:
        """The network to evaluate and export."""
        return self.student

    def after_step(self, context: StepContext) -> None:
        """Called after each optimiser step."""

    @abstractmethod
    def score(self, network: nn.Module, train: PhotoSet, test: PhotoSet) -> float:
        """Evaluate the result, or its EMA, on held-out photos: higher is better."""


def logits_of(network: nn.Module, pixels: Tensor) -> Tensor:
    """`[B, K]`, whether the network returns a tensor or a transformers output."""
    output = network(pixels)
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits


def soft_targets(labels: Tensor, classes: int, smoothing: float = 0.1) -> Tensor:
    """`[B, K]` probabilities: one-hot with label smoothing."""
    targets = torch.full((len(labels), classes), smoothing / classes, device=labels.device)
    return targets.scatter_(1, labels[:, None], 1 - smoothing + smoothing / classes)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the batch; targets are probabilities."""
    return -(targets * logits.float().log_softmax(dim=-1)).sum(dim=-1).mean()


def softened_cross_entropy(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Cross-entropy at a temperature (Hinton et al. 2015, arXiv:1503.02531), times the temperature.

    A higher one also teaches which of the classes that the teacher rules out are more probable than others.

    Args:
        logits: `[B, K]`.
        targets: `[B, K]`: probabilities at temperature 1.
    """
    softened = (targets.clamp(min=1e-8).log() / temperature).softmax(dim=-1)
    return temperature * cross_entropy(logits.float() / temperature, softened)


def cosine_distance(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean of one minus the cosine similarity."""
    return 1 - nn.functional.cosine_similarity(predicted.float(), target, dim=-1).mean()
