"""Inputs and outputs of a forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from vitdemo.types.models import Fusion

if TYPE_CHECKING:
    from torch import Tensor

Part = TypeVar("Part", int, tuple[int, int])

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


Fill = Literal["grey", "mean", "mae"]
"""What stands in for a hidden patch: grey pixels (0 after the model's normalisation), the mean of the photo's visible patch
tokens, or what a masked autoencoder makes up."""


@dataclass(frozen=True)
class Knockout:
    """Parts of a network that are off during a forward pass, and patches of the photo that are hidden from it. Numbers from 0."""

    heads: tuple[tuple[int, int], ...] = ()
    """`(layer, head)`: the head's output is 0, as if its columns of the output projection were; the others keep theirs."""
    attention: tuple[int, ...] = ()
    """Layers whose attention block adds nothing to the tokens."""
    mlp: tuple[int, ...] = ()
    """Layers whose MLP block adds nothing to the tokens."""
    patches: tuple[int, ...] = ()
    """Row-major indices of hidden patches."""
    fill: Fill = "grey"
    """What stands in for them."""

    def __bool__(self) -> bool:
        return bool(self.heads or self.attention or self.mlp or self.patches)

    def __or__(self, other: Knockout) -> Knockout:
        """Both together, with the fill of the one that hides patches."""
        return Knockout(
            _joined(self.heads, other.heads),
            _joined(self.attention, other.attention),
            _joined(self.mlp, other.mlp),
            _joined(self.patches, other.patches),
            self.fill if self.patches else other.fill,
        )


def _joined(first: tuple[Part, ...], second: tuple[Part, ...]) -> tuple[Part, ...]:
    return tuple(sorted(set(first).union(second)))


@dataclass(frozen=True)
class Shuffle:
    """The patches of a photo in another order."""

    order: tuple[int, ...]
    """Place i shows patch `order[i]`; row-major indices."""
    along: bool = False
    """Whether each patch keeps its own position embedding, so that only the order of the tokens changes. False: patches change
    places in the photo. A CNN, which has no position embeddings, sees the photo so in both cases."""


@dataclass(frozen=True)
class Capture:
    """What a forward pass records beside its logits; by default nothing."""

    tokens: tuple[int, ...] = ()
    """Query tokens whose attention rows are recorded, for all layers and heads."""
    mean: bool = False
    """Record the mean row over all query tokens, for all layers and heads."""
    queries: bool = False
    """Record queries and keys of all layers, from which any attention row can be computed."""
    values: bool = False
    """Record values beside them."""
    features: bool = False
    """Record the last layer's patch features."""
    gradients: bool = False
    """Record the attention matrices of all layers as part of the autograd graph."""
    knockouts: tuple[Knockout, ...] = ()
    """What is off: one for each image, or one for all; for a single image any number, each of which gives an output. Attention of
    heads that are off is recorded nevertheless."""
    shuffle: Shuffle | None = None
    """The order of the patches of all images; None for their own."""
    pooled: bool = False
    """Record one vector per image, as a linear probe reads it."""


@dataclass(frozen=True)
class LayerQueries:
    """Queries and keys of one layer's attention, `[B, H, N, D]`."""

    query: Tensor
    key: Tensor
    mask: Tensor | None
    """Additive or boolean; broadcasts to `[B, H, N, N]`."""
    scaling: float
    value: Tensor | None = None
    """`[B, H, N, D]`, if requested."""


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
    knockouts: tuple[Knockout, ...] = ()
    """What is off: one for each image, or one for all."""


@dataclass(frozen=True)
class Lens:
    """The classifier read off after every block (logit lens): for ViTs Vilas et al. 2023, arXiv:2310.18969."""

    target: int | None = None
    """Index of the class whose probability each patch gets; None for the class at `rank`."""
    rank: int = 1
    """1 is the predicted class."""


@dataclass(frozen=True)
class LayerReadings:
    """What the classifier reads off after each block, for one photo; float32 on the CPU."""

    logits: Tensor
    """`[L, K]`: from the tokens that the model classifies from; those of the last layer are the model's own."""
    patches: Tensor
    """`[L, h, w]`: probability of the target, from each patch alone."""
    best: Tensor
    """`[L, h, w]` int64: the most probable class of each patch alone."""


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
    readings: LayerReadings | None = None
    """If a `Lens` was requested; `target` is the class of the patches' probabilities."""
    pooled: Tensor | None = None
    """`[D]` float32, if requested: what a linear probe reads."""
