"""What goes into a forward pass, and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitdemo.types.models import Fusion

if TYPE_CHECKING:
    from torch import Tensor

Box = tuple[int, int, int, int]
"""`(left, top, right, bottom)` in pixels; right and bottom are exclusive."""


Grid = tuple[int, int]
"""`(rows, columns)` of patches."""


@dataclass(frozen=True)
class View:
    """Where a pixel tensor lies in its photo."""

    crop: Box
    """In pixels of the upright photo."""


@dataclass(frozen=True)
class PixelBatch:
    """Pictures as a model takes them."""

    pixel_values: Tensor
    """`[B, 3, H, W]`, float32, normalised."""
    views: tuple[View, ...]


@dataclass(frozen=True)
class Capture:
    """What a forward pass is to record beside its logits. Nothing else is recorded."""

    tokens: tuple[int, ...] = ()
    """Query tokens whose rows are kept, for all layers and heads."""
    mean: bool = False
    """Keep the mean over all query tokens, for all layers and heads."""
    queries: bool = False
    """Keep queries and keys of all layers, from which any row follows."""
    features: bool = False
    """Keep what the last layer knows of the patches."""
    gradients: bool = False
    """Keep the attention matrices of all layers, as part of the graph of a forward with gradients."""


@dataclass(frozen=True)
class LayerQueries:
    """What the attention of one layer follows from: `query` and `key` are `[B, H, N, D]`."""

    query: Tensor
    key: Tensor
    mask: Tensor | None
    """Additive or boolean; broadcasts to `[B, H, N, N]`."""
    scaling: float


@dataclass(frozen=True)
class PatchFeatures:
    """What the last layer knows of one photo's patches, row by row, float32 on the CPU."""

    values: Tensor
    """`[P, D]`: last hidden states, after the last normalisation."""
    norms: Tensor
    """`[P]`: their lengths before it, which it hides."""
    keys: Tensor
    """`[P, H * D]`: keys of the last layer's attention, all heads side by side."""


@dataclass(frozen=True)
class Attribution:
    """Which map is to be made beside the scores."""

    method: str
    target: int | None = None
    """Index of the class that is explained; None for the one of this rank."""
    rank: int = 1
    """From 1, the predicted class."""
    fusion: Fusion = "mean"
    """How rollout fuses heads."""
    discard: float = 0.0
    """Share of the smallest attention in each row that rollout sets to 0; the class token's stays."""
    query: int = 0
    """Number of the patch that `similarity` compares with, row by row from 0."""


@dataclass(frozen=True, eq=False)
class Reconstruct:
    """Patches that a masked autoencoder is to fill in beside nothing else."""

    hidden: Tensor
    """`[B, h, w]` bool, True where hidden."""


@dataclass(frozen=True)
class ModelOutput:
    """One photo's answer of one model."""

    logits: Tensor | None
    """`[K]` float32 on the CPU, or None for a model without a classifier."""
    rows: Mapping[str, Tensor]
    """By read-out: `[L, H, N]` float32 on the CPU; each row sums to 1 over all N tokens, prefix tokens included."""
    patch_grid: tuple[int, int]
    milliseconds: float
    """The forward alone, device-synchronised, divided by the size of its batch."""
    device: str
    dtype: str
    notes: tuple[str, ...] = ()
    """What a user should know of how it ran."""
    values: Tensor | None = None
    """`[h, w]` float32 on the CPU: the map that was asked for."""
    target: int | None = None
    """The class that the map explains."""
    queries: tuple[LayerQueries, ...] = ()
    """A layer each, on the CPU, in the dtype of the forward, where they were asked for."""
    features: PatchFeatures | None = None
    """Where they were asked for."""
    filled: Tensor | None = None
    """`[3, H, W]` float32 on the CPU, normalised: the image with its hidden patches filled in."""
