"""See why: maps, neighbours, confusions and disagreements of a choice."""

from __future__ import annotations

from collections.abc import Sequence

from vitdemo.evaluation.choose.types import Choice, Clustering, Confusion, Disagreement, Floats, Neighbour, Projection
from vitdemo.types import Photo


def coordinates(choice: Choice, model: str, projection: Projection = "pca") -> Floats:
    """Places of the photos by a model's features: `[N, 2]`, each axis centred, the larger one within -1..1. Kept in the choice.

    Raises:
        OptionError: the model has no features; or t-SNE needs scikit-learn, which is not installed (`pip install vitdemo[choose]`).
    """
    raise NotImplementedError


def neighbours(choice: Choice, model: str, photo: int, number: int = 8) -> list[Neighbour]:
    """The photos nearest to one by cosine, nearest first, without itself."""
    raise NotImplementedError


def confusions(choice: Choice, model: str, number: int = 10) -> list[Confusion]:
    """The most frequent errors of a model's probe, most frequent first; empty without labels."""
    raise NotImplementedError


def disagreements(choice: Choice, models: Sequence[str] | None = None, number: int = 24) -> list[Disagreement]:
    """The photos on which models differ most; all models if none are named, or two of them."""
    raise NotImplementedError


def similarity(choice: Choice) -> tuple[tuple[str, ...], Floats]:
    """Models, and `[M, M]`: linear centred kernel alignment (CKA) of their features, 0 to 1."""
    raise NotImplementedError


def clusters(choice: Choice, model: str, number: int | None = None) -> Clustering:
    """k-means on unit-length features; the number of the request if none is given. Kept in the choice."""
    raise NotImplementedError


def cluster_agreement(choice: Choice, number: int | None = None) -> tuple[tuple[str, ...], Floats]:
    """Models, and `[M, M]`: adjusted Rand index between their clusters, 1 for equal ones, about 0 for unrelated ones."""
    raise NotImplementedError


def near_duplicates(choice: Choice, model: str, threshold: float = 0.98) -> list[tuple[int, int, float]]:
    """Pairs of photos with a cosine of at least `threshold`, most alike first; at most 500."""
    raise NotImplementedError


def outliers(choice: Choice, model: str, number: int = 12) -> list[tuple[int, float]]:
    """Photos farthest from their k-th nearest neighbour: number and cosine distance, farthest first."""
    raise NotImplementedError


def labels_of(choice: Choice, clustering: Clustering, names: Sequence[str]) -> dict[str, str]:
    """File name to label, by naming clusters: one name per cluster; clusters with an empty name give no label.

    It can be exported (`labels_csv`, `labels_json`), and given as `ChooseRequest.labels`.

    Raises:
        OptionError: not one name per cluster.
    """
    raise NotImplementedError


def opened(choice: Choice, photo: int) -> Photo:
    """The photo itself, decoded once more, such as for Compare; its name is the file's.

    Raises:
        InputError: it is no longer there.
    """
    raise NotImplementedError
