"""The threshold of a photo's own features, and foregrounds of features that share a large common part."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vitdemo.segmentation import ALL_ALIKE, TAU, foreground, threshold_of, unit
from vitdemo.segmentation.methods import PhotoFeatures

GRID = (12, 16)


def planted(common: float, noise: float = 0.15, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Features `[N, 64]` of an object before a ground, a part of this length being common to all patches; and the object."""
    rng = np.random.default_rng(seed)
    shared, inside, outside = np.linalg.qr(rng.normal(size=(64, 3)))[0].T
    mask = np.zeros(GRID, np.bool_)
    mask[3:8, 5:11] = True
    features = common * shared + np.where(mask.ravel()[:, None], inside, outside)
    features += noise * rng.normal(size=features.shape) / 8
    return features.astype(np.float32), mask


def photo_of(features: NDArray[np.float32], mask: NDArray[np.bool_], **options: object) -> PhotoFeatures:
    heads = np.stack([mask + 0.1] * 2).astype(np.float32)
    return PhotoFeatures(heads, features, features, graph="hidden states", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("common", [0.0, 1.0, 2.0])
def test_an_object_is_found_whatever_its_features_have_in_common_with_the_ground(common: float) -> None:
    features, mask = planted(common)
    found = photo_of(features, mask).cut()
    np.testing.assert_array_equal(found.masks, mask[None])


def test_the_papers_threshold_finds_nothing_in_features_with_a_large_common_part() -> None:
    features, mask = planted(2.0)
    assert foreground(features, GRID, tau=TAU).reason == ALL_ALIKE
    assert photo_of(features, mask, tau=TAU).cut().reason == ALL_ALIKE


def test_the_threshold_lies_between_the_cosines_within_and_across() -> None:
    features, mask = planted(1.0)
    tau, rows, inside = threshold_of(features), unit(features), mask.ravel()
    assert tau is not None
    assert (rows[inside] @ rows[~inside].T).max() < tau < (rows[inside] @ rows[inside].T).min()


def test_features_that_are_all_alike_have_no_threshold_and_no_foreground() -> None:
    rng = np.random.default_rng(0)
    features = (5 + 0.1 * rng.normal(size=(192, 64))).astype(np.float32)
    assert threshold_of(features) is None
    assert threshold_of(features[:1]) is None
    assert threshold_of(np.zeros((5, 4))) is None
    found = photo_of(features, planted(1.0)[1]).cut()
    assert (found.found, found.reason) == (False, ALL_ALIKE)


def test_a_photo_is_compared_by_the_features_of_its_graph() -> None:
    one, other = np.eye(4, dtype=np.float32), np.ones((4, 3), np.float32)
    photos = {
        graph: PhotoFeatures(np.ones((1, 2, 2), np.float32), one, other, graph)  # type: ignore[arg-type]
        for graph in ("keys", "hidden states", "keys and hidden states")
    }
    assert photos["keys"].compared is other
    assert photos["hidden states"].compared is one
    both = photos["keys and hidden states"].compared
    np.testing.assert_allclose(both @ both.T, 0.8 + 0.2 * np.eye(4), atol=1e-6)
