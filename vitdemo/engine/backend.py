"""The seam between the product and whatever runs its models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor

from vitdemo.engine.counts import Shown
from vitdemo.models.loading import Classifier
from vitdemo.types import Attribution, Capture, Lens, ModelOutput, ModelSpec, Reconstruct

Seen = TypeVar("Seen")

Request = Capture | Attribution | Lens | Reconstruct
"""What a forward pass is to give beside its logits: recorded attention and features, a map, what the classifier reads off
after each block, or filled-in patches."""


@dataclass(frozen=True, eq=False)
class ModelRun:
    """What `Backend.run` is given, as a value."""

    spec: ModelSpec
    pixel_values: Tensor
    """`[B, 3, H, W]` float32, normalised, on the CPU."""
    request: Request
    dtype: str = "auto"


class Counted(Protocol):
    """See `vitdemo.engine.counts`."""

    def shown(self) -> Shown: ...


class Backend(Protocol):
    """Runs models. Safe to call from many threads."""

    @property
    def where(self) -> str:
        """What models run on, for people: such as `CPU`."""
        ...

    @property
    def borrowed(self) -> bool:
        """Whether each call borrows a GPU from elsewhere. Then all that an action needs belongs into one call, models are those
        of the start, and frames of a camera are not answered."""
        ...

    @property
    def forwards(self) -> int:
        """How many forward passes were made for callers since the start."""
        ...

    @property
    def counts(self) -> Counted:
        """What was run, in numbers."""
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

    def run_many(self, runs: Sequence[ModelRun]) -> list[list[ModelOutput]]:
        """All that one action of a user needs: as `run` for each, in their order.

        Raises:
            EngineError, OptionError: as `run`, of the first that fails.
        """
        ...

    def loaded(self) -> dict[str, int]:
        """Checkpoints in memory, and the bytes of each."""
        ...

    def unload(self, spec: ModelSpec) -> None:
        """Let a model leave the memory: at once, or with its last user."""
        ...
