"""The seam between the product and whatever runs its models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from torch import Tensor

from vitdemo.models.loading import Classifier
from vitdemo.types import Attribution, Capture, Lens, ModelOutput, ModelSpec, Reconstruct

Seen = TypeVar("Seen")

Request = Capture | Attribution | Lens | Reconstruct
"""What a forward pass is to give beside its logits: recorded attention and features, a map, what the classifier reads off
after each block, or filled-in patches."""


class Backend(Protocol):
    """Runs models. Safe to call from many threads."""

    @property
    def forwards(self) -> int:
        """How many forward passes were made for callers since the start."""
        ...

    def run(self, spec: ModelSpec, pixel_values: Tensor, request: Request, dtype: str = "auto") -> list[ModelOutput]:
        """Run `[B, 3, H, W]` pixels; one output per image, or per knock-out of a single image, in their order.

        Raises:
            EngineError: the model could not be loaded, does not fit into memory, or gave invalid scores.
            OptionError: an unknown dtype; no such class or patch; or a knock-out that the model cannot have.
        """
        ...

    def look(self, spec: ModelSpec, at: Callable[[Classifier], Seen]) -> Seen:
        """What a function reads off a model's weights; it must not change or keep them.

        Raises:
            EngineError: as `run`.
        """
        ...

    def loaded(self) -> dict[str, int]:
        """Checkpoints in memory, and the bytes of each."""
        ...

    def unload(self, spec: ModelSpec) -> None:
        """Let a model leave the memory: at once, or with its last user."""
        ...
