"""Robustness: how a model answers while its input is changed more and more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import PIL.Image


@dataclass(frozen=True)
class RobustnessPoint:
    """One strength: means over the photos, or one photo."""

    strength: float
    photos: int
    accuracy: float | None
    """Share of the photos whose top class is the true one; None where the true class is not known."""
    agreement: float
    """Share of the photos whose top class is that of the unperturbed photo."""
    score: float
    """Mean softmax probability of the true class; where it is not known, of the unperturbed photo's top class."""
    interval: tuple[float, float]
    """95% Wilson interval of the accuracy, or of the agreement where there is no accuracy."""
    follows: float | None = None
    """For `shift`: how much the last feature map moves along, -1 to 1. See `vitdemo.evaluation.robustness.following`."""
    stays: float | None = None
    """For `shift`: how much it stays where it was, on the same scale."""
    label: str = ""
    """The top class; only for one photo."""

    @property
    def value(self) -> float:
        """The accuracy, or the agreement where there is none."""
        return self.agreement if self.accuracy is None else self.accuracy


@dataclass(frozen=True)
class RobustnessCurve:
    """One model and one perturbation."""

    model: str
    kind: str
    points: tuple[RobustnessPoint, ...]
    """The unperturbed photos first."""
    target: str = ""
    """The class whose score is followed; only for one photo."""
    pictures: tuple[PIL.Image.Image, ...] = ()
    """The model's input at each point; only for one photo."""
    note: str = ""
    """For the user: why there is no accuracy."""

    @property
    def measure(self) -> str:
        """What `RobustnessPoint.value` is."""
        return "agreement" if self.points[0].accuracy is None else "accuracy"
