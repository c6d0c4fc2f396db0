"""Attention mass, parts, principal components, similarity and outliers on inputs with known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vitdemo.errors import OptionError
from vitdemo.segmentation import (
    best_matches,
    clip_outliers,
    component_colours,
    correspond,
    find_outliers,
    find_parts,
    keep_mass,
    similarity_map,
    spread_out,
)

Array = NDArray[np.float32]


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def blob(height: int, width: int) -> NDArray[np.bool_]:
    mask = np.zeros((height, width), np.bool_)
    mask[height // 4 : height // 2 + 2, width // 3 : 2 * width // 3] = True
    return mask


# Attention mass


def by_the_book(heads: torch.Tensor, share: float) -> torch.Tensor:
    """The published procedure in PyTorch, in float64 and with a stable sort."""
    flat = heads.double().flatten(1)
    values, places = torch.sort(flat, dim=1, stable=True)
    values = values / values.sum(dim=1, keepdim=True)
    above = values.cumsum(dim=1) > 1 - share
    back = torch.argsort(places, dim=1)
    return torch.gather(above, 1, back).reshape(heads.shape)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.6, 0.9, 1.0])
def test_attention_mass_is_the_published_procedure_to_the_patch(share: float) -> None:
    for seed in range(20):
        heads = np.exp(2 * random(6, 9, 13, seed=seed))
        assert (keep_mass(heads, share) == by_the_book(torch.from_numpy(heads), share).numpy()).all()


def test_kept_patches_hold_the_share_and_one_fewer_would_not() -> None:
    heads = np.exp(random(4, 8, 8)).astype(np.float64)
    for head, mask in zip(heads, keep_mass(heads, 0.6), strict=True):
        kept = np.sort(head[mask])
        assert kept.sum() >= 0.6 * head.sum() > kept[1:].sum()
        assert kept[0] >= head[~mask].max()


def test_each_head_is_judged_alone_and_a_head_without_attention_keeps_nothing() -> None:
    heads = np.abs(random(3, 5, 7))
    heads[1] = 0
    masks = keep_mass(heads, 0.5)
    assert masks.shape == (3, 5, 7)
    assert not masks[1].any()
    assert (masks[2] == keep_mass(1000 * heads[2], 0.5)).all()


def test_of_equal_patches_the_later_ones_are_kept() -> None:
    kept = keep_mass(np.ones((8, 16)), 0.5)
    assert not kept[:4].any()
    assert kept[4:].all()
    # Few different values, so that most of them are equal.
    steps = np.random.default_rng(0).integers(0, 3, (2, 8, 16))
    assert (keep_mass(steps, 0.7) == by_the_book(torch.from_numpy(steps), 0.7).numpy()).all()


def test_all_of_the_mass_keeps_all_patches_also_those_rounded_to_nothing() -> None:
    assert keep_mass([[0.0, 0.2], [0.3, 0.0]], 1).all()
    assert not keep_mass(np.zeros((2, 2)), 1).any()


@pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(OptionError, match="above 0 and at most 1"):
        keep_mass(np.ones((2, 2)), share)


# Parts


def planted(counts: list[int], seed: int, noise: float = 0.1) -> tuple[Array, NDArray[np.int64]]:
    """`[N, 16]` around one direction per part, in random order, and each one's part; directions do not depend on the seed."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    centres = random(len(counts), 16, seed=99)
    lengths = rng.uniform(0.5, 3, (len(truth), 1))
    return ((centres[truth] + noise * rng.standard_normal((len(truth), 16))) * lengths).astype(np.float32), truth


def test_the_same_part_has_the_same_number_in_all_photos_and_the_largest_is_the_first() -> None:
    counts = [[20, 50, 10], [15, 70, 0], [5, 30, 20]]
    made = [planted(own, seed) for seed, own in enumerate(counts)]
    parts = find_parts([features for features, _ in made], 3)
    assert parts.sizes == (150, 40, 30)
    number = np.array([1, 0, 2])  # the planted parts by size
    for labels, (_, truth) in zip(parts.labels, made, strict=True):
        assert (labels == number[truth]).all()


def test_outside_of_a_mask_there_is_no_part() -> None:
    features, truth = planted([30, 40, 50], 3)
    mask = (truth != 2).reshape(10, 12)
    parts = find_parts([features, features], 2, masks=[mask, None])
    assert (parts.labels[0][truth == 2] == -1).all()
    assert (parts.labels[0][truth != 2] >= 0).all()
    assert (parts.labels[1] >= 0).all()


def test_parts_are_the_same_each_time_and_whatever_the_length_of_features() -> None:
    features = random(300, 8)
    once, again, longer = (find_parts([factor * features], 5).labels[0] for factor in (1, 1, 64))
    assert (once == again).all()
    assert (once == longer).all()


def test_there_are_no_more_parts_than_different_patches() -> None:
    features = np.repeat(np.eye(3, 8, dtype=np.float32), [2, 5, 1], axis=0)
    parts = find_parts([features], 6)
    assert parts.sizes == (5, 2, 1)
    assert parts.labels[0].tolist() == [1, 1, 0, 0, 0, 0, 0, 2]


def test_an_empty_mask_gives_no_parts() -> None:
    parts = find_parts([random(6, 4)], 2, masks=[np.zeros((2, 3), np.bool_)])
    assert parts.sizes == ()
    assert parts.labels[0].tolist() == [-1] * 6


# Principal components


def test_planted_components_become_red_green_and_blue() -> None:
    height, width = 12, 20
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.standard_normal((32, 3)))[0].T
    weights = rng.standard_normal((height * width, 3)) * [9, 4, 2]
    (image,) = component_colours([weights @ axes + 7], [(height, width)]).colours
    assert image.shape == (height, width, 3)
    assert image.min() == 0
    assert image.max() == 1
    for channel in range(3):
        found = np.corrcoef(image[..., channel].ravel(), weights[:, channel])[0, 1]
        assert abs(found) > 0.97


def test_explained_shares_are_those_of_a_full_decomposition() -> None:
    features = random(200, 10) * np.arange(1, 11, dtype=np.float32)
    spectrum = np.linalg.svd(features - features.mean(axis=0), compute_uv=False) ** 2
    found = component_colours([features], [(10, 20)]).explained
    assert np.allclose(found, spectrum[:3] / spectrum.sum(), atol=1e-6)


def test_like_patches_of_two_photos_have_like_colours_and_what_is_masked_is_black() -> None:
    features = random(60, 12)
    mask = blob(6, 10)
    shared = component_colours([features, features[::-1]], [(6, 10), (6, 10)])
    assert np.allclose(shared.colours[0].reshape(60, 3), shared.colours[1].reshape(60, 3)[::-1])
    masked = component_colours([features], [(6, 10)], [mask]).colours[0]
    assert not masked[~mask].any()
    assert masked[mask].any()


def test_a_few_wild_patches_do_not_flatten_all_others() -> None:
    features = random(400, 8)
    features[0] *= 1000
    # The wild one takes the first component; there too the others keep most of the range.
    (image,) = component_colours([features], [(20, 20)]).colours
    assert (image.reshape(-1, 3)[1:].std(axis=0) > 0.15).all()


@pytest.mark.parametrize("features", [np.ones((6, 5)), np.zeros((6, 2)), np.arange(12.0).reshape(6, 2)])
def test_components_that_are_not_there_are_neither_high_nor_low(features: Array) -> None:
    found = component_colours([features], [(2, 3)])
    assert np.isfinite(found.colours[0]).all()
    assert found.explained[2] == 0
    assert (found.colours[0][..., 2] == 0.5).all()


# Similarity


def test_similarity_is_the_cosine_to_the_query_in_its_own_and_in_another_photo() -> None:
    own, other = random(12, 5), random(8, 5, seed=1)
    for searched, found in ((own, similarity_map(own, 3)), (other, similarity_map(own, 3, other))):
        expected = [row @ own[3] / np.linalg.norm(row) / np.linalg.norm(own[3]) for row in searched]
        assert np.allclose(found, expected, atol=1e-6)
    with pytest.raises(OptionError, match="0 to 11"):
        similarity_map(own, 12)


def test_best_matches_do_not_overlap_and_come_best_first() -> None:
    for seed, side in ((0, 1), (1, 2), (2, 3), (3, 4)):
        scores = random(11, 14, seed=seed)
        found = best_matches(scores, 9, side=side)
        covered = np.zeros(scores.shape, np.int64)
        for match in found:
            left, top, right, bottom = match.box
            covered[top:bottom, left:right] += 1
            assert left <= match.column < right
            assert top <= match.row < bottom
        assert covered.max() == 1
        values = [match.score for match in found]
        assert values == sorted(values, reverse=True)
        assert found[0].score == pytest.approx(scores.max())


def test_the_query_is_not_its_own_match() -> None:
    scores = np.zeros((7, 7), np.float32)
    scores[3, 3], scores[3, 4], scores[3, 6] = 1, 0.9, 0.8
    (match,) = best_matches(scores, 1, side=3, skip=3 * 7 + 3)
    assert (match.row, match.column, match.box) == (3, 6, (5, 2, 7, 5))


def test_a_small_grid_has_no_more_matches_than_fit() -> None:
    assert len(best_matches(np.ones((3, 3)), 50, side=3)) <= 4
    assert len(best_matches(np.ones((3, 3)), 50, side=1)) == 9


def test_shuffled_patches_correspond_to_themselves() -> None:
    features = random(40, 16)
    order = np.random.default_rng(5).permutation(40)
    found = correspond(features, features[order])
    assert sorted(found.first.tolist()) == list(range(40))
    assert (order[found.second] == found.first).all()
    assert np.allclose(found.scores, 1, atol=1e-5)


def test_correspondence_is_mutual_masked_limited_and_best_first() -> None:
    first, second = random(30, 6), random(24, 6, seed=1)
    mask = np.arange(30) % 2 == 0
    found = correspond(first, second, masks=[mask, None], limit=5)
    cosine = np.array([similarity_map(first, number, second) for number in range(30)])
    assert 0 < len(found.first) <= 5
    assert mask[found.first].all()
    for one, other in zip(found.first, found.second, strict=True):
        assert cosine[one].argmax() == other
        assert np.where(mask, cosine[:, other], -2).argmax() == one
    assert (np.diff(found.scores) <= 0).all()
    assert not len(correspond(first, second, masks=[np.zeros(30, np.bool_), None]).first)


def test_pairs_that_are_spread_out_are_the_best_of_their_neighbourhoods() -> None:
    features = random(12 * 10, 64)
    moved = np.roll(features.reshape(12, 10, 64), 2, axis=1).reshape(120, 64)
    every = correspond(features, moved)
    found = spread_out(every, (10, 10), 6)
    assert len(found.scores) == 6
    assert (np.diff(found.scores) <= 0).all()
    assert found.first[0] == every.first[0]
    for numbers in (found.first, found.second):
        places = np.stack(divmod(numbers, 10), axis=1)
        apart = np.abs(places[:, None] - places[None]).max(axis=2)
        assert apart[~np.eye(6, dtype=np.bool_)].min() >= 3
    assert (found.second == found.first // 10 * 10 + (found.first + 2) % 10).all()
    assert not len(spread_out(correspond(features, moved, limit=0), (10, 10), 6).scores)


# Outliers


def lengths(features: Array) -> Array:
    return np.linalg.norm(features, axis=1)


def test_patches_of_huge_norm_are_found_and_no_others() -> None:
    features = random(15 * 20, 64)
    huge = np.zeros((15, 20), np.bool_)
    huge[[0, 7, 7, 14], [0, 3, 4, 19]] = True
    features[huge.ravel()] *= 4
    assert (find_outliers(lengths(features), (15, 20)) == huge).all()
    assert not find_outliers(lengths(random(300, 64)), (15, 20)).any()


def test_a_sky_of_large_norms_is_no_outlier() -> None:
    features = random(200, 64)
    features[:60] *= 4
    assert not find_outliers(lengths(features), (10, 20)).any()
    assert find_outliers(lengths(features), (10, 20), most=0.4)[:3].all()


def test_equal_norms_have_no_outliers_even_with_the_last_bit_different() -> None:
    features = np.ones((20, 4), np.float32)
    features[3] *= 1.0001
    assert not find_outliers(lengths(features), (4, 5)).any()


def test_a_clipped_patch_is_the_mean_of_its_neighbours_and_the_rest_is_untouched() -> None:
    features = random(6 * 7, 3)
    mask = np.zeros((6, 7), np.bool_)
    mask[2, 3] = mask[0, 0] = True
    grid = features.reshape(6, 7, 3)
    clipped = clip_outliers(features, mask).reshape(6, 7, 3)
    around = np.delete(grid[1:4, 2:5].reshape(9, 3), 4, axis=0)
    assert np.allclose(clipped[2, 3], around.mean(axis=0), atol=1e-6)
    assert np.allclose(clipped[0, 0], (grid[0, 1] + grid[1, 0] + grid[1, 1]) / 3, atol=1e-6)
    assert (clipped[~mask] == grid[~mask]).all()


def test_outliers_amid_outliers_are_filled_from_outside() -> None:
    features = np.ones((49, 2), np.float32)
    mask = np.zeros((7, 7), np.bool_)
    mask[1:6, 1:6] = True
    features[mask.ravel()] = 1e4
    assert (clip_outliers(features, mask) == 1).all()
    assert (clip_outliers(features, np.ones((7, 7), np.bool_)) == features).all()


# Shapes


def test_features_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="grid of 3 x 4"):
        find_outliers(lengths(random(11, 4)), (3, 4))
    with pytest.raises(ValueError, match="must be finite"):
        similarity_map(np.full((2, 2), np.nan), 0)
    with pytest.raises(ValueError, match="1 masks for 2 photos"):
        find_parts([random(4, 2), random(4, 2)], 2, masks=[None])
    with pytest.raises(ValueError, match="mask of 5 patches"):
        find_parts([random(4, 2)], 2, masks=[np.ones(5, np.bool_)])
