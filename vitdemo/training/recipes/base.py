"""What a recipe is: a module that holds the student and whatever teaches it, and says how far off the student is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from vitdemo.training.augment import Augmentation
from vitdemo.training.data import Batches, PhotoSet

STATE = "state.pt"
"""The file of a run's folder that has what the next step depends on."""


@dataclass(frozen=True)
class Moment:
    """Where in a run a batch stands."""

    step: int
    progress: float
    """0 at the start, 1 at the end."""
    seed: int

    def random(self) -> np.random.Generator:
        """Numbers that belong to this step alone, so that a resumed run draws the same ones."""
        return np.random.default_rng((self.seed, self.step, 7))


class Recipe(nn.Module, ABC):
    """A way of learning.

    Called with the views of a batch, it returns the loss. What it trains are its parameters that require gradients.
    """

    student: nn.Module

    needs_labels = True
    """Whether photos of no class are left out."""

    classifies = True
    """Whether the result names classes; otherwise it has features alone."""

    pooling = "class"
    """What of a network without a classifier is to be read: its class token, or "mean", the mean of its patches."""

    score_name = "accuracy"

    @abstractmethod
    def augmentations(self, size: int) -> Sequence[Augmentation]:
        """One entry for each view of a photo that `forward` takes."""

    def batches(self, photos: PhotoSet, batch: int, size: int, seed: int) -> Batches:
        """Where the batches come from. One that has `targets` is given to `forward` with them."""
        return Batches(photos, batch, self.augmentations(size), seed)

    @abstractmethod
    def forward(self, views: Sequence[Tensor], labels: Tensor, moment: Moment) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, a scalar, and figures for the log.

        Args:
            views: `[B, 3, S, S]` each, normalised.
            labels: `[B]`, -1 for photos of no class.
        """

    def state(self) -> dict[str, Tensor]:
        """What changes during a run; a teacher from outside does not, and may be large."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("teacher.")}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave.

        Raises:
            RuntimeError: it is another network's.
        """
        kept = {name: value for name, value in self.state_dict().items() if name.startswith("teacher.")}
        self.load_state_dict({**kept, **state})

    def result(self) -> nn.Module:
        """What is judged and exported: the student, if the recipe has nothing better."""
        return self.student

    def after_step(self, moment: Moment) -> None:
        """Called when the optimiser has moved the student."""

    def finish(self, network: nn.Module, train: PhotoSet) -> bool:
        """Called once, when all steps are done, on what will be exported. Whether it changed."""
        return False

    @abstractmethod
    def score(self, network: nn.Module, train: PhotoSet, test: PhotoSet) -> float:
        """How good the student, or an average of its past, is on photos it was not trained on: higher is better."""


def logits_of(network: nn.Module, pixels: Tensor) -> Tensor:
    """`[B, K]`, whether the network returns a tensor or an output of transformers."""
    output = network(pixels)
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits


def soft_targets(labels: Tensor, classes: int, smoothing: float) -> Tensor:
    """`[B, K]` probabilities: one-hot with the rest spread evenly."""
    targets = torch.full((len(labels), classes), smoothing / classes, device=labels.device)
    return targets.scatter_(1, labels[:, None], 1 - smoothing + smoothing / classes)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the batch, with probabilities as targets."""
    return -(targets * logits.float().log_softmax(dim=-1)).sum(dim=-1).mean()
