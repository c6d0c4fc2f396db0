"""What may be asked of a segmentation, checked without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from vitdemo.errors import OptionError
from vitdemo.types import ModelSpec

METHODS = ("attention", "foreground", "parts", "pca", "similarity")

RESOLUTION = 320
"""Long side, in pixels, to which photos are enlarged by default."""

GraphFeatures = Literal["keys", "hidden states", "keys and hidden states"]
"""Of the last layer: what patches are compared by when a photo is cut or grouped."""


@dataclass(frozen=True)
class PatchGraph:
    """How a model's patches are compared."""

    features: GraphFeatures
    tau: float | None
    """Cosine from which two patches count as similar; None: found for each photo."""


def patch_graph(spec: ModelSpec) -> PatchGraph:
    """What suits a model, by its type and where it is from.

    DINO's first version as in TokenCut. The keys of DINOv2 share a large common part, so that all of them are similar; its last
    hidden states part, but not at the same cosine in every photo. The embedded models are as measured on composites. Of others
    nothing is known: both features, and a threshold for each photo.
    """
    if spec.is_dino_v1:
        return PatchGraph("keys", 0.2)
    if spec.model_type in ("dinov2", "dinov2_with_registers", "dinov3_vit"):
        return PatchGraph("hidden states", None)
    return PatchGraph("keys and hidden states", 0.5 if spec.source == "embedded" else None)


class SegmentOptions(TypedDict, total=False):
    """The fields of `SegmentRequest`, as keywords."""

    method: str
    threshold: float
    head: int | str
    objects: int
    tau: float | None
    parts: int
    within: bool
    point: tuple[float, float] | None
    matches: int
    refine: bool
    clip: bool
    resolution: int | None


@dataclass(frozen=True)
class SegmentRequest:
    """Which masks are wanted; each method reads its own fields."""

    method: str = "foreground"
    threshold: float = 0.6
    """For `attention`: share of the mass that is kept, above 0 and up to 1."""
    head: int | str = "mean"
    """For `attention`: a number from 0, a fusion, or "all" for a mask of each."""
    objects: int = 1
    """For `foreground`: at most this many."""
    tau: float | None = None
    """Cosine from which patches count as alike, for `foreground`, and for `parts`, `pca` and the pairs of `similarity`, which
    look for one first; that of `patch_graph` if not given."""
    parts: int = 4
    within: bool = True
    """For `parts` and `pca`: only inside the foreground."""
    point: tuple[float, float] | None = None
    """For `similarity`: `(x, y)` in pixels of the first photo; the middle if not given."""
    matches: int = 5
    """For `similarity`: best places that are boxed."""
    refine: bool = False
    """Whether masks follow the edges of the photo."""
    clip: bool = False
    """Whether outlier patches are replaced by the mean of their neighbours."""
    resolution: int | None = RESOLUTION

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise OptionError(f"Unknown method {self.method!r}. Choose from: {', '.join(METHODS)}.")
        # Checked before a network runs for nothing.
        if not 0 < self.threshold <= 1:
            raise OptionError(f"The share of attention to keep must be above 0 and at most 1, not {self.threshold}.")
        if self.tau is not None and not -1 <= self.tau < 1:
            raise OptionError(
                f"The cosine from which patches count as alike must be at least -1 and below 1, not {self.tau}."
            )
        for name, low, high in (("objects", 1, 10), ("parts", 1, 20), ("matches", 1, 50)):
            if not low <= getattr(self, name) <= high:
                raise OptionError(f"The number of {name} must be {low} to {high}, not {getattr(self, name)}.")

    @property
    def relevant(self) -> Mapping[str, Any]:
        """The fields that its method reads."""
        return {name: getattr(self, name) for name in (*OWN[self.method], "refine", "clip", "resolution")}


OWN = {
    "attention": ("threshold", "head"),
    "foreground": ("objects", "tau"),
    "parts": ("parts", "within", "tau"),
    "pca": ("within", "tau"),
    "similarity": ("point", "matches", "tau"),
}
"""Fields that each method reads, beside those that all read."""


def parse_head(text: str | None) -> int | str:
    """A head from text; the mean from none.

    >>> parse_head("3"), parse_head("all"), parse_head("")
    (3, 'all', 'mean')
    """
    text = (text or "").strip() or "mean"
    return int(text) if text.isdecimal() else text
