"""What a user is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vitdemo.types.forward import Box, LayerQueries, PatchFeatures, View
from vitdemo.types.models import Fusion, ModelSpec, Readout

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    from numpy.typing import NDArray


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
    features: PatchFeatures | None = None
    """Where they were asked for."""


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
class Faithfulness:
    """Scores of the explained class while patches are deleted and inserted: Petsiuk et al. 2018, arXiv:1806.07421."""

    method: str
    target: int
    shares: tuple[float, ...]
    """Share of the patches that is replaced or brought back: 0 to 1."""
    deletion: tuple[float, ...]
    """Softmax probability at each share; lower areas are better."""
    insertion: tuple[float, ...]
    """Higher areas are better."""
    random: tuple[float, ...]
    """Mean over random orders of deletion; read backwards it is that of insertion."""

    @property
    def deletion_auc(self) -> float:
        return _area(self.deletion)

    @property
    def insertion_auc(self) -> float:
        return _area(self.insertion)

    @property
    def random_auc(self) -> float:
        """Of deletion and of insertion alike: bringing back the last patches is deleting the first ones, backwards."""
        return _area(self.random)


def _area(values: tuple[float, ...]) -> float:
    """By the trapezoidal rule, over shares from 0 to 1."""
    return (sum(values) - (values[0] + values[-1]) / 2) / (len(values) - 1)


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


@dataclass(frozen=True)
class Comparison:
    """One photo through several models."""

    explanations: tuple[Explanation, ...]
    agreement: tuple[Agreement, ...] = field(default=())


@dataclass(frozen=True)
class Pair:
    """A patch of a first photo and one of another photo, each of which is the other's nearest."""

    first: tuple[float, float]
    """`(x, y)` of its middle, in pixels of the upright first photo."""
    second: tuple[float, float]
    """The same in the other photo."""
    score: float
    """Cosine, -1 to 1."""


@dataclass(frozen=True)
class Segmentation:
    """A photo parted into masks."""

    spec: ModelSpec
    method: str
    masks: NDArray[np.bool_]
    """`[n, H, W]` in pixels of the crop; n is 0 where nothing was found."""
    names: tuple[str, ...]
    """One a mask."""
    patches: NDArray[np.bool_]
    """`[n, h, w]`: the same on the patch grid, before any refinement."""
    values: NDArray[np.float32] | None
    """`[h, w]`: what the masks were made of, or, of `similarity`, the cosine map."""
    colours: NDArray[np.float32] | None
    """`[h, w, 3]` RGB in 0..1, of `pca`."""
    boxes: tuple[Box, ...]
    """Of `similarity`: the best matches, best first, in pixels of the crop."""
    view: View
    parameters: Mapping[str, Any]
    milliseconds: float
    device: str
    dtype: str
    notes: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    """Of `similarity`: cosines of the best matches."""
    pairs: tuple[Pair, ...] = ()
    """Of `similarity`, of a photo after the first: what is where in both, best first."""
    outliers: NDArray[np.bool_] | None = None
    """`[h, w]`: patches of huge features, whether or not they were clipped."""

    @property
    def areas(self) -> tuple[float, ...]:
        """Share of the crop that each mask covers."""
        return tuple(float(mask.mean()) for mask in self.masks)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of each mask, from 1, by which it is coloured: a part has the same one in all photos."""
        if self.method == "parts":
            return tuple(int(name.split()[-1]) for name in self.names)
        return tuple(range(1, len(self.names) + 1))
