"""Results: predictions, attribution maps, comparisons, reconstructions, segmentations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from vitdemo.types.forward import Box, Knockout, LayerQueries, PatchFeatures, View
from vitdemo.types.models import Fusion, ModelSpec, Readout

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    from numpy.typing import NDArray


@dataclass(frozen=True)
class AttributionMap:
    """One number per patch."""

    values: NDArray[np.float32]
    """`[h, w]`, not normalised."""
    method: str
    layer: int | None
    """From 0; None where the method has none."""
    head: int | Fusion | None
    readout: Readout | None
    target: int | None = None
    query: tuple[int, int] | None = None
    """Row and column, from 0, of the query patch."""
    variant: str = ""
    """Which of the method's variants it is; empty where it has none."""

    @property
    def low(self) -> float:
        return float(self.values.min())

    @property
    def high(self) -> float:
        return float(self.values.max())


@dataclass(frozen=True)
class Label:
    """A class and its softmax probability."""

    label: str
    score: float
    index: int


@dataclass(frozen=True)
class Prediction:
    """One model's classification of one photo."""

    spec: ModelSpec
    labels: tuple[Label, ...]
    """Most probable first; empty for a model without a classifier."""
    milliseconds: float
    device: str
    dtype: str
    from_cache: bool = False
    notes: tuple[str, ...] = ()
    """For the user, about how the model was run."""
    plain: bool = False
    """Whether what the model saw is of one colour, so that no score means anything."""

    @property
    def uncovered(self) -> bool:
        """Whether the photo probably shows none of the model's classes."""
        return bool(self.labels) and (self.plain or self.labels[0].score < self.spec.threshold)


@dataclass(frozen=True)
class Explanation:
    """A prediction and its attribution map."""

    prediction: Prediction
    map: AttributionMap | None
    """None for a model without attention."""
    rows: Mapping[str, NDArray[np.float32]]
    """By read-out: `[L, H, h, w]`, attention to the patches, not renormalised."""
    view: View
    description: str
    notes: tuple[str, ...]
    patch_grid: tuple[int, int]
    queries: tuple[LayerQueries, ...] = ()
    """If requested: the attention of any patch can be computed with `vitdemo.attribution.patch_attention`."""
    features: PatchFeatures | None = None
    """If requested."""


@dataclass(frozen=True)
class Reconstruction:
    """A photo whose hidden patches a masked autoencoder has predicted."""

    spec: ModelSpec
    seen: PIL.Image.Image
    """The crop, hidden patches in grey."""
    filled: PIL.Image.Image
    """The crop, hidden patches as predicted by the decoder."""
    hidden: NDArray[np.bool_]
    """`[h, w]`, True where hidden."""
    view: View
    milliseconds: float
    device: str
    dtype: str
    notes: tuple[str, ...] = ()
    """For the user, about how the model was run."""


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
    """Mean over deletions in random order; reversed, it is that of insertions."""

    @property
    def deletion_auc(self) -> float:
        return _area(self.deletion)

    @property
    def insertion_auc(self) -> float:
        return _area(self.insertion)

    @property
    def random_auc(self) -> float:
        """The baseline of both: inserting patches is deleting them in reverse order."""
        return _area(self.random)


def _area(values: tuple[float, ...]) -> float:
    """By the trapezoidal rule, over shares from 0 to 1."""
    return (sum(values) - (values[0] + values[-1]) / 2) / (len(values) - 1)


@dataclass(frozen=True)
class Agreement:
    """Agreement of two models on one photo."""

    models: tuple[str, str]
    same_label: bool | None
    """None if the models' classes differ, or one has no classifier."""
    rank_correlation: float | None
    """Spearman's, of the two maps on a common grid; None if one is flat or missing."""
    overlap: float | None
    """Intersection over union, on the same grid, of the patches holding the top 20% of each map's mass."""


@dataclass(frozen=True)
class Comparison:
    """One photo through several models."""

    explanations: tuple[Explanation, ...]
    agreement: tuple[Agreement, ...] = field(default=())


@dataclass(frozen=True)
class Effect:
    """What one part of a network does for a class, seen from its absence."""

    part: Literal["head", "attention", "mlp"]
    layer: int
    head: int | None
    """None for a whole block."""
    score: float
    """Probability of the class without this part."""
    change: float
    """That, minus the probability with it: negative where the part speaks for the class."""
    label: str
    """The predicted class without this part."""


@dataclass(frozen=True)
class Ablation:
    """One photo through a network as it is, and with parts of it off or patches hidden."""

    knockout: Knockout
    before: Explanation
    after: Explanation
    target: int | None
    """The class whose score is told; None without a classifier."""
    scores: tuple[float, float] | None
    """Its softmax probability before and after."""
    agreement: Agreement
    """Of the two predictions and maps."""
    seen: PIL.Image.Image | None = None
    """What the network was shown, if patches are hidden; those that the mean token stands in for are grey."""
    ranking: tuple[Effect, ...] = ()
    """If requested: parts, each off for itself beside what is off anyway, the largest change first."""


@dataclass(frozen=True)
class LayerAnswers:
    """What a classifier says after each block of its network."""

    prediction: Prediction
    """The model's own, after the last block."""
    labels: tuple[tuple[Label, ...], ...]
    """By layer, first layer first: the most probable classes, best first."""
    target: int
    """The class that `scores` and `patches` are of."""
    scores: tuple[float, ...]
    """By layer: its softmax probability."""
    patches: NDArray[np.float32]
    """`[L, h, w]`: its softmax probability, read off each patch alone."""
    best: NDArray[np.int64]
    """`[L, h, w]`: the most probable class of each patch alone."""
    view: View
    notes: tuple[str, ...] = ()

    @property
    def decided(self) -> int:
        """The first layer from which on the most probable class is the model's answer."""
        answer = self.labels[-1][0].index
        late = [layer for layer, labels in enumerate(self.labels) if labels[0].index != answer]
        return late[-1] + 1 if late else 0


@dataclass(frozen=True)
class Pair:
    """Mutual nearest neighbours: a patch of the first photo and one of another photo."""

    first: tuple[float, float]
    """`(x, y)` of the patch centre, in pixels of the upright first photo."""
    second: tuple[float, float]
    """Likewise in the other photo."""
    score: float
    """Cosine, -1 to 1."""


@dataclass(frozen=True)
class Segmentation:
    """Masks of one photo."""

    spec: ModelSpec
    method: str
    masks: NDArray[np.bool_]
    """`[n, H, W]` in pixels of the crop; n is 0 if nothing was found."""
    names: tuple[str, ...]
    """One per mask."""
    patches: NDArray[np.bool_]
    """`[n, h, w]`: the masks on the patch grid, before refinement."""
    values: NDArray[np.float32] | None
    """`[h, w]`: the map that the masks were derived from; for `similarity`, cosines."""
    colours: NDArray[np.float32] | None
    """For `pca`: `[h, w, 3]` RGB in 0..1."""
    boxes: tuple[Box, ...]
    """For `similarity`: the best matches, best first, in pixels of the crop."""
    view: View
    parameters: Mapping[str, Any]
    milliseconds: float
    device: str
    dtype: str
    notes: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    """For `similarity`: cosines of the best matches."""
    pairs: tuple[Pair, ...] = ()
    """For `similarity`, in photos after the first: correspondences with the first photo, best first."""
    outliers: NDArray[np.bool_] | None = None
    """`[h, w]`: patches with outlier norms, whether or not they were clipped."""
    features: str = ""
    """What patches were compared by, such as "keys"; empty where the method compares none."""
    tau_from: Literal["request", "model", "photo", ""] = ""
    """Where `parameters["tau"]` is from; that of a photo is None if all its patches are alike."""

    @property
    def areas(self) -> tuple[float, ...]:
        """Each mask's share of the crop."""
        return tuple(float(mask.mean()) for mask in self.masks)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Each mask's number, from 1, which sets its colour; a part keeps its number in all photos."""
        if self.method == "parts":
            return tuple(int(name.split()[-1]) for name in self.names)
        return tuple(range(1, len(self.names) + 1))
