"""Inputs and outputs of a forward pass."""

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
    """The part of a photo that a pixel tensor shows."""

    crop: Box
    """In pixels of the upright photo."""


@dataclass(frozen=True)
class PixelBatch:
    """Preprocessed images."""

    pixel_values: Tensor
    """`[B, 3, H, W]`, float32, normalised."""
    views: tuple[View, ...]


@dataclass(frozen=True)
class Capture:
    """What a forward pass records beside its logits; by default nothing."""

    tokens: tuple[int, ...] = ()
    """Query tokens whose attention rows are recorded, for all layers and heads."""
    mean: bool = False
    """Record the mean row over all query tokens, for all layers and heads."""
    queries: bool = False
    """Record queries and keys of all layers, from which any attention row can be computed."""
    features: bool = False
    """Record the last layer's patch features."""
    gradients: bool = False
    """Record the attention matrices of all layers as part of the autograd graph."""


@dataclass(frozen=True)
class LayerQueries:
    """Queries and keys of one layer's attention, `[B, H, N, D]`."""

    query: Tensor
    key: Tensor
    mask: Tensor | None
    """Additive or boolean; broadcasts to `[B, H, N, N]`."""
    scaling: float


@dataclass(frozen=True)
class PatchFeatures:
    """The last layer's features of one photo's patches in row-major order, float32 on the CPU."""

    values: Tensor
    """`[P, D]`: last hidden states, after the final LayerNorm; of a CNN, its last stage's map."""
    norms: Tensor
    """`[P]`: their norms before the final LayerNorm."""
    keys: Tensor
    """`[P, H * D]`: keys of the last layer's attention, heads concatenated; a CNN has none: `[P, 0]`."""


@dataclass(frozen=True)
class Attribution:
    """The attribution map to compute beside the logits."""

    method: str
    target: int | None = None
    """Index of the class to explain; None explains the class at `rank`."""
    rank: int = 1
    """1 is the predicted class."""
    fusion: Fusion = "mean"
    """How rollout fuses heads."""
    discard: float = 0.0
    """Share of the smallest values per row that rollout sets to 0; the class token's column is kept."""
    query: int = 0
    """Row-major index of the patch that `similarity` compares with."""
    variant: str = ""
    """One of the method's `variants`; empty for the default."""


@dataclass(frozen=True, eq=False)
class Reconstruct:
    """The patches that a masked autoencoder reconstructs."""

    hidden: Tensor
    """`[B, h, w]` bool, True where hidden."""


@dataclass(frozen=True)
class ModelOutput:
    """Output of one model for one photo; tensors are on the CPU."""

    logits: Tensor | None
    """`[K]` float32, or None for a model without a classifier."""
    rows: Mapping[str, Tensor]
    """By read-out: `[L, H, N]` float32; each row sums to 1 over all N tokens, prefix tokens included."""
    patch_grid: tuple[int, int]
    milliseconds: float
    """Of the forward pass alone, device-synchronised, divided by the batch size."""
    device: str
    dtype: str
    notes: tuple[str, ...] = ()
    """For the user, about how the model was run."""
    values: Tensor | None = None
    """`[h, w]` float32: the requested attribution map."""
    target: int | None = None
    """The class that the map explains."""
    queries: tuple[LayerQueries, ...] = ()
    """One per layer, in the dtype of the forward pass, if requested."""
    features: PatchFeatures | None = None
    """If requested."""
    filled: Tensor | None = None
    """`[3, H, W]` float32, normalised: the image with its hidden patches reconstructed."""
