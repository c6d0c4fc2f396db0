"""Values that cross the borders between rooms. All are immutable; tensors in them are not to be written to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    from numpy.typing import NDArray
    from torch import Tensor

Box = tuple[int, int, int, int]
"""`(left, top, right, bottom)` in pixels; right and bottom are exclusive."""

Fusion = Literal["mean", "max", "min"]
"""How the heads of a layer become one map."""

Readout = Literal["class", "distillation", "mean", "patch"]
"""Whose attention is shown: the class token's row, the distillation token's, the mean over all query tokens, or one patch's."""


@dataclass(frozen=True)
class Photo:
    """A picture that passed the image door: upright RGB, within the limits."""

    image: PIL.Image.Image
    digest: str
    """SHA-256 of the size and the RGB pixels, in hex: the same picture has the same digest, whatever file it came in."""
    notes: tuple[str, ...] = ()
    """What the door did that a user should know, such as "The first frame of an animation is used."."""
    name: str = ""
    """What its owner calls it; never a path of the server."""

    @property
    def size(self) -> tuple[int, int]:
        """`(width, height)` in pixels."""
        return self.image.size


@dataclass(frozen=True)
class Processor:
    """How a model wants its picture: resize, crop, scale, normalise. Equal processors share one pixel tensor."""

    resize: tuple[int, int] | int | None
    """`(height, width)`, or one number for the shorter side, or None."""
    crop: tuple[int, int] | None
    """Centre crop `(height, width)` after the resize, or None."""
    resample: int
    """Pillow's number of the filter."""
    rescale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class ModelSpec:
    """What is known of a model before its weights are loaded."""

    name: str
    family: str
    checkpoint: str
    """A folder, or the id on the Hub."""
    revision: str
    source: Literal["embedded", "hub", "local"]
    model_type: str
    image_size: tuple[int, int]
    """`(height, width)` in pixels."""
    patch_size: int
    """Side, in input pixels, of the square that one patch token stands for."""
    num_prefix_tokens: int
    """Tokens before the patch tokens: class token, distillation token, registers."""
    num_layers: int
    num_heads: int
    readouts: tuple[Readout, ...]
    """Read-outs that mean something for this model, the default first."""
    labels: tuple[str, ...]
    processor: Processor
    parameters: int
    bytes: int
    license: str
    methods: tuple[str, ...] = ("attention",)
    threshold: float = 0.0
    """Best scores under this are answered with "probably not one of the classes"."""
    pooling: Literal["class", "mean"] = "class"
    """What a probe reads: the class token, or the mean of the patches where no class token was ever taught."""
    note: str = ""
    """How labels come about where the model itself has no classifier."""
    ready: bool = True
    """Whether the weights are on this machine's disk."""
    pickled: bool = False
    """Whether the weights are an old PyTorch file, which is read with `weights_only=True`."""
    reconstructs: bool = False
    """Whether it can fill in hidden patches: MAE with its decoder."""
    gated: str = ""
    """How to get access, where the owner has to grant it."""
    expected_classes: int = 0
    """Number of classes of a model whose labels are not known before it is downloaded."""

    @property
    def num_classes(self) -> int:
        """Classes that it tells apart; 0 without a classifier."""
        return len(self.labels) or self.expected_classes

    @property
    def link(self) -> str:
        """The page of a Hub model."""
        return f"https://huggingface.co/{self.name.partition('@')[0]}" if self.source == "hub" else ""

    @property
    def patch_grid(self) -> tuple[int, int]:
        """`(rows, columns)` of patches at the model's own input size."""
        return self.grid_of(*self.image_size)

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """`(rows, columns)` of an input of that many pixels: whole patches; a CNN's padding makes a cell of what is left over."""
        over = 0 if self.readouts else self.patch_size - 1
        return (height + over) // self.patch_size, (width + over) // self.patch_size


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
    layer: int | None = None
    """Keep all rows of this one layer, for all heads."""
    queries: bool = False
    """Keep queries and keys of all layers, from which any row follows."""
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
    full: Tensor | None = None
    """`[H, N, N]` float32 on the CPU: all rows of the layer that was asked for."""
    values: Tensor | None = None
    """`[h, w]` float32 on the CPU: the map that was asked for."""
    target: int | None = None
    """The class that the map explains."""
    queries: tuple[LayerQueries, ...] = ()
    """A layer each, on the CPU, in the dtype of the forward, where they were asked for."""


@dataclass(frozen=True)
class AttributionMap:
    """One number a patch."""

    values: NDArray[np.float32]
    """`[h, w]` raw, not normalised."""
    method: str
    layer: int | None
    """From 0; None where the method has none."""
    head: int | Fusion | None
    readout: Readout | None
    target: int | None = None
    query: tuple[int, int] | None = None
    """Row and column, from 0, of the patch whose attention or similarity this is."""

    @property
    def low(self) -> float:
        return float(self.values.min())

    @property
    def high(self) -> float:
        return float(self.values.max())

    def scaled(self) -> NDArray[np.float32]:
        """`[h, w]` in 0..1: the smallest value at 0, the largest at 1; all 0 for a flat map."""
        spread = self.high - self.low
        if spread <= 0:
            return self.values * 0
        return (self.values - self.low) / spread


@dataclass(frozen=True)
class Label:
    """A class and its softmax probability."""

    label: str
    score: float
    index: int


@dataclass(frozen=True)
class Prediction:
    """What one model says of one photo."""

    spec: ModelSpec
    labels: tuple[Label, ...]
    """Most probable first; empty for a model without a classifier."""
    milliseconds: float
    device: str
    dtype: str
    from_cache: bool = False
    notes: tuple[str, ...] = ()
    """What a user should know of how it ran."""

    @property
    def uncovered(self) -> bool:
        """Whether the photo is probably of none of the model's classes."""
        return bool(self.labels) and self.labels[0].score < self.spec.threshold


@dataclass(frozen=True)
class Explanation:
    """A prediction, and where the model looked."""

    prediction: Prediction
    map: AttributionMap | None
    """None for a model without attention."""
    rows: Mapping[str, NDArray[np.float32]]
    """By read-out: `[L, H, h, w]`, the rows over the patch columns, not renormalised."""
    view: View
    description: str
    notes: tuple[str, ...]
    patch_grid: tuple[int, int]
    queries: tuple[LayerQueries, ...] = ()
    """From which the attention of any patch follows, where they were asked for: see `vitdemo.attribution.patch_attention`."""


@dataclass(frozen=True)
class Reconstruction:
    """A photo of which a masked autoencoder saw some patches, and made up the others."""

    spec: ModelSpec
    seen: PIL.Image.Image
    """The crop, hidden patches in grey."""
    filled: PIL.Image.Image
    """The crop, hidden patches as the decoder made them."""
    hidden: NDArray[np.bool_]
    """`[h, w]`."""
    view: View
    milliseconds: float
    device: str
    dtype: str
    notes: tuple[str, ...] = ()
    """What a user should know of how it ran."""


@dataclass(frozen=True)
class Comparison:
    """One photo through several models."""

    explanations: tuple[Explanation, ...]
    agreement: tuple[Agreement, ...] = field(default=())


@dataclass(frozen=True)
class Agreement:
    """How far two models agree on a photo."""

    models: tuple[str, str]
    same_label: bool | None
    """None for models of different vocabularies, or without one."""
    rank_correlation: float | None
    """Spearman's, of the two maps on the common grid; None where one is flat or absent."""
    overlap: float | None
    """Intersection over union, on the same grid, of the patches that hold the top 20% of each map's mass."""
