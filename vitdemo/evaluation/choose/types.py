"""What a choice among models is asked for, and what comes out of it. Arrays are NumPy's; photos are numbered from 0."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vitdemo.types import ModelSpec

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

Projection = Literal["pca", "t-sne"]
"""How features become places on a map."""

FOLDS, NEIGHBOURS, STRENGTH = 5, 20, 1.0
"""Defaults of `ChooseRequest`."""


@dataclass(frozen=True)
class ChooseRequest:
    """What to compare models on, and how. Checked by `choose`."""

    data: tuple[Path, ...]
    """Folders, zip or tar archives: one folder per class, or photos without labels."""
    folds: int = FOLDS
    """Parts of the cross-validation, 2 to 20: each photo is answered by a probe and by neighbours from the other parts."""
    k: int = NEIGHBOURS
    """Nearest neighbours that vote, 1 to 1000."""
    strength: float = STRENGTH
    """Inverse L2 penalty of the linear probe: `C` of scikit-learn's LogisticRegression, on standardised features."""
    clusters: int | None = None
    """Number of clusters, 2 to 100; None for the number of classes, or, without labels, the one that the silhouette prefers."""
    labels: Mapping[str, str] | None = None
    """File name to class, such as `labels_of` gives, instead of the names of folders. Files that are not in it have no label."""
    ignore_labels: bool = False
    """Take photos as having no label, whatever their folders."""
    boxes: Path | None = None
    """COCO JSON with boxes or masks of objects on these photos, by file name."""
    most: int | None = None
    """How many photos at most, drawn by their names alone; None for all."""
    seed: int = 0
    """Of folds, clusters and maps."""
    dtype: str = "auto"


@dataclass(frozen=True)
class Progress:
    """How far the photos have come. Sent some times a second."""

    stage: Literal["reading", "features", "timing", "probes", "boxes"]
    model: str
    """Empty while photos are read."""
    done: int
    """Photos that this model has seen, or, of the stages `timing` and `probes`, models that are done."""
    total: int
    share: float
    """Of all the work, 0 to 1."""
    seconds_left: float | None
    """None as long as nothing is known."""


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class PhotoEntry:
    """One photo of the data."""

    name: str
    """As in its folder or archive, such as `crab/image_0001.jpg`."""
    digest: str
    """As `Photo.digest`."""
    size: tuple[int, int]
    """`(width, height)` in pixels."""
    source: Path
    """The folder or archive it is from. Never shown on the page."""


@dataclass(frozen=True)
class Accuracy:
    """A share of photos that were answered right, each once, by what had not seen it."""

    value: float
    low: float
    """95% Wilson interval over the photos."""
    high: float
    photos: int


@dataclass(frozen=True)
class Localization:
    """How well a model's attention stays on the objects of the boxes: means over photos."""

    photos: int
    energy: float
    """Share of the last layer's mean map that lies inside, 0 to 1."""
    iou: float
    """Of the top patches of that map, as many as are inside, with those that are inside, 0 to 1."""
    heads_energy: Floats
    """`[L, H]`; empty for a model without attention."""
    heads_iou: Floats
    """`[L, H]`."""
    distance: float
    """Earth mover's distance from that map to an even map of what is inside, as a share of the grid's diagonal."""
    heads_distance: Floats
    """`[L, H]`."""
    area: float
    """Mean share of the view that is inside: what a flat map's energy would be."""
    method: str = "attention"
    """Of the map: a network without attention has Grad-CAM, of the class it predicts."""

    def best(self, number: int = 3) -> list[tuple[int, int, float, float]]:
        """Layer, head, energy and IoU of the heads whose top patches lie best, the best first."""
        if not self.heads_iou.size:
            return []
        order = np.argsort(-self.heads_iou, axis=None, kind="stable")[:number]
        places = [divmod(int(one), self.heads_iou.shape[1]) for one in order]
        return [
            (row, column, float(self.heads_energy[row, column]), float(self.heads_iou[row, column]))
            for row, column in places
        ]


@dataclass(frozen=True)
class Candidate:
    """One model's row. What could not be measured is None; `error` says why, if the model failed."""

    model: str
    family: str
    parameters: int
    bytes: int
    """Of its files."""
    license: str
    dimensions: int | None = None
    """Of its features."""
    knn: Accuracy | None = None
    """k nearest neighbours by cosine, from the other folds."""
    probe: Accuracy | None = None
    """Linear probe, from the other folds."""
    fold_accuracies: tuple[float, ...] = ()
    """Of the probe, one per fold."""
    own: Accuracy | None = None
    """The model's own classifier, on photos whose class it knows."""
    own_classes: int = 0
    """How many of the classes it knows."""
    ece: float | None = None
    """Expected calibration error of the probe's answers, 0 to 1."""
    ms_alone: float | None = None
    """Milliseconds of the forward pass of one photo, median."""
    ms_batched: float | None = None
    """The same per photo in a batch of `Choice.batch`."""
    memory: int | None = None
    """Bytes of the weights while it runs, and of the most that one photo's forward pass holds beside them."""
    localization: Localization | None = None
    pareto: bool = False
    """Whether no other model is both at least as accurate and at least as fast, and better in one of them."""
    device: str = ""
    dtype: str = ""
    error: str = ""
    """Why there is nothing, or not everything, in words."""


@dataclass(frozen=True)
class Verdict:
    """The answer in a sentence, and what it rests on."""

    sentence: str
    rests_on: str
    """Photos, folds, intervals, machine."""
    best: str | None = None
    """The most accurate model."""
    recommended: str | None = None
    """The fastest one that is not clearly less accurate; may be the same."""


@dataclass(frozen=True)
class Confusion:
    """Photos of one class that a model's probe takes for another."""

    truth: str
    answer: str
    photos: tuple[int, ...]


@dataclass(frozen=True)
class Neighbour:
    """A photo that is near another by a model's features."""

    photo: int
    cosine: float


@dataclass(frozen=True)
class Disagreement:
    """A photo on which models differ: by the answers of their probes, or, without labels, by its neighbours."""

    photo: int
    score: float
    """0 to 1: mean total variation between the probes' probabilities, or the share of neighbours that are not shared; over
    pairs of models."""
    answers: Mapping[str, str]
    """The probe's answer by model; empty without labels."""


@dataclass(frozen=True)
class Clustering:
    """Clusters of the photos by one model's features."""

    model: str
    assigned: Ints
    """`[N]`: the cluster of each photo, the largest is 0."""
    silhouette: float
    """-1 to 1, by cosine distance: how much nearer photos are to their own cluster than to the next one."""
    central: tuple[tuple[int, ...], ...]
    """For each cluster the photos nearest to its centre, up to 9."""

    @property
    def number(self) -> int:
        return len(self.central)


@dataclass(frozen=True)
class Answers:
    """What probes and neighbours say of each photo, by those that had not seen it."""

    probe: Ints
    """`[N]`: class, or -1 where a photo has no label."""
    probabilities: Floats
    """`[N, K]`; rows of photos without a label are 0."""
    knn: Ints
    """`[N]`."""
    own: Ints | None = None
    """`[N]`: the own classifier's answer if it is one of the classes, else -1."""


@dataclass(frozen=True, eq=False)
class Choice:
    """The result, with what shows why. The methods of `vitdemo.evaluation.choose.see` read it."""

    request: ChooseRequest
    photos: tuple[PhotoEntry, ...]
    classes: tuple[str, ...]
    """Empty without labels."""
    labels: Ints
    """`[N]`: class of each photo; -1 without one."""
    skipped: tuple[str, ...]
    """Unreadable files, each with the reason."""
    specs: tuple[ModelSpec, ...]
    """Of the candidates, in their order."""
    candidates: tuple[Candidate, ...]
    """In the order in which the models were given."""
    features: Mapping[str, Floats]
    """By model: `[N, D]`, as the linear probe reads them. Models that failed are not in it."""
    answers: Mapping[str, Answers]
    """By model; empty without labels."""
    verdict: Verdict
    notes: tuple[str, ...] = ()
    """For the user: what was left out, and what is not kept."""
    machine: str = ""
    batch: int = 8
    """Photos of a batch in `Candidate.ms_batched`."""
    seconds: float = 0.0
    """Wall clock, and of it, what went into forward passes."""
    forward_seconds: float = 0.0
    thumbnails: Callable[[int], bytes] = field(default=lambda _: b"", repr=False)
    """A photo's small picture as JPEG, longest side 96 pixels."""
    own: Mapping[str, Ints] = field(default_factory=dict, repr=False)
    """By model: `[N]`, what its own classifier says, as a number of its own classes; -1 without one."""
    kept: dict[Any, Any] = field(default_factory=dict, repr=False)
    """What was computed from it, for the next time."""

    @property
    def labelled(self) -> bool:
        """Whether accuracies were measured."""
        return bool(self.classes)

    def candidate(self, model: str) -> Candidate:
        """The row of a model.

        Raises:
            KeyError: it is none of them.
        """
        return {one.model: one for one in self.candidates}[model]
