"""The seam between the product and whatever runs its models."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from vitdemo.types import Attribution, Capture, ModelOutput, ModelSpec


class Backend(Protocol):
    """Runs models. Safe to call from many threads."""

    @property
    def forwards(self) -> int:
        """How many forward passes were made for callers since the start."""
        ...

    def run(self, spec: ModelSpec, pixel_values: Tensor, capture: Capture, dtype: str = "auto") -> list[ModelOutput]:
        """Run `[B, 3, H, W]` pixels; one output a picture, in their order.

        Raises:
            EngineError: the model could not be loaded, does not fit into memory, or gave invalid scores.
            OptionError: an unknown dtype.
        """
        ...

    def attribute(
        self, spec: ModelSpec, pixel_values: Tensor, request: Attribution, dtype: str = "auto"
    ) -> list[ModelOutput]:
        """Run `[B, 3, H, W]` pixels, and make a map of each picture; `milliseconds` are those of both.

        Raises:
            EngineError, OptionError: as `run`; there is no such class or patch.
        """
        ...

    def reconstruct(
        self, spec: ModelSpec, pixel_values: Tensor, hidden: Tensor, dtype: str = "auto"
    ) -> tuple[Tensor, ModelOutput]:
        """`[B, 3, H, W]` pixels with the hidden patches, `[B, h, w]` bool, filled in; and how it ran.

        Raises:
            EngineError, OptionError: as `run`.
        """
        ...

    def loaded(self) -> dict[str, int]:
        """Checkpoints in memory, and the bytes of each."""
        ...

    def unload(self, spec: ModelSpec) -> None:
        """Let a model leave the memory: at once, or with its last user."""
        ...
