"""A teacher cache holds the teacher's targets of each view; a student learns from it as from the teacher itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.training.small import (
    CLASSES,
    SIZE,
    ColourClassifier,
    assert_same,
    beit,
    cnn,
    coloured_photos,
    deit,
    log_of,
    trainer,
    vit,
    weights,
)
from vitdemo.errors import OptionError, TrainingError
from vitdemo.training.augment import Augmentation, normalised
from vitdemo.training.data import PhotoSet
from vitdemo.training.loop import Trainer
from vitdemo.training.recipes.base import StepContext
from vitdemo.training.recipes.cached_distill import CachedBatches, CachedDistill
from vitdemo.training.teacher_cache import (
    BASIS,
    GRID,
    SETTINGS,
    CacheSettings,
    TeacherCache,
    fill_teacher_cache,
    open_teacher_cache,
    photo_id,
)
from vitdemo.training.teachers import Teacher

VIEW = Augmentation(56, scale=(0.3, 1.0))
COLOURS = CacheSettings("colours", augmentation=VIEW)
FIRST = StepContext(0, 0.0, 0)


def teacher() -> Teacher:
    """Its features are the photo itself, small: mirrored when the photo is."""
    return Teacher(ColourClassifier(), 56, features=nn.AdaptiveAvgPool2d(GRID))


def not_needed() -> Teacher:
    raise AssertionError("nothing is missing")


def cache_in(folder: Path, photos: PhotoSet, views: int = 2) -> TeacherCache:
    return fill_teacher_cache(folder, photos, teacher, COLOURS, views)


def live_targets(cache: TeacherCache, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """What the teacher computes now, with the features in the components of the cache."""
    logits, features = teacher().logits_and_features(normalised(pixels), (GRID, GRID))
    basis = load_file(cache.folder / BASIS)
    return logits, (features - basis["mean"]) @ basis["directions"]


def test_every_batch_has_the_targets_of_its_own_pixels_mirrored_or_not(tmp_path: Path) -> None:
    photos = coloured_photos(12)
    batches = CachedBatches(photos, cache_in(tmp_path, photos), 6, VIEW.size, seed=0)
    for step in range(8):
        batch = batches.batch(step)
        logits, features = live_targets(batches.cache, batch.views[0])
        torch.testing.assert_close(batch.targets[0], logits, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(batch.targets[1], features, rtol=2e-3, atol=2e-3)


def test_half_of_the_views_are_mirrored_and_epochs_show_the_next_ones(tmp_path: Path) -> None:
    photos = coloured_photos(12)
    cache = cache_in(tmp_path, photos)
    batches = CachedBatches(photos, cache, 12, 28, seed=0)
    rows, seen, mirrored = cache.rows(photos), set(), 0
    for epoch in range(4):
        batch = batches.batch(epoch)
        for pixels, index in zip(batch.views[0].permute(0, 2, 3, 1).numpy(), batch.indices.tolist(), strict=True):
            number = (epoch + int(rows[index])) % 2
            plain = cache.view(photos.images[index], int(rows[index]), number, 28)
            assert np.array_equal(pixels, plain) or np.array_equal(pixels, plain[:, ::-1])
            mirrored += not np.array_equal(pixels, plain)
            seen.add((index, number))
    assert len(seen) == 24
    assert 12 <= mirrored <= 36


def test_a_view_is_the_same_crop_at_every_resolution(tmp_path: Path) -> None:
    slope = np.linspace(0, 255, 160, dtype=np.uint8)
    image = np.stack([np.tile(slope, (120, 1)), np.tile(slope[:120, None], (1, 160)), np.zeros((120, 160))], axis=-1)
    photos = PhotoSet((image.astype(np.uint8), 255 - image.astype(np.uint8)), np.array([0, 1]), CLASSES)
    cache = cache_in(tmp_path, photos)
    for number in range(2):
        small, large = (cache.view(photos.images[0], int(cache.rows(photos)[0]), number, size) for size in (24, 96))
        means = large.reshape(24, 4, 24, 4, 3).mean(axis=(1, 3))
        assert np.abs(means - small).max() < 6


def test_an_interrupted_fill_ends_with_identical_targets(tmp_path: Path) -> None:
    photos = coloured_photos(9)
    whole = cache_in(tmp_path / "whole", photos, 3)
    cache_in(tmp_path / "cut", photos, 1)
    (tmp_path / "cut" / "view-0001.part").write_bytes(b"half a vi")
    done: list[tuple[int, int]] = []
    cut = fill_teacher_cache(
        tmp_path / "cut",
        photos,
        teacher,
        COLOURS,
        3,
        report=lambda some, all_: done.append((some, all_)),
    )
    assert done == [(2, 3), (3, 3)]
    for first, second in zip(whole.features + whole.logits, cut.features + cut.logits, strict=True):
        assert torch.equal(first, second)


def test_a_complete_cache_does_not_load_its_teacher(tmp_path: Path) -> None:
    photos = coloured_photos(9)
    cache_in(tmp_path, photos)
    assert fill_teacher_cache(tmp_path, photos, not_needed, COLOURS, 2).views == 2
    assert open_teacher_cache(tmp_path, 1).views == 1


def test_photos_find_their_targets_in_any_order_and_subset(tmp_path: Path) -> None:
    photos = coloured_photos(9)
    cache = cache_in(tmp_path, photos)
    part = photos.subset([7, 2, 5])
    assert list(cache.rows(part)) == [cache.rows(photos)[index] for index in (7, 2, 5)]
    # The cache does not depend on the order of the photos either.
    assert fill_teacher_cache(tmp_path, photos.subset(range(8, -1, -1)), not_needed, COLOURS, 2).photos == cache.photos


def test_the_logits_are_in_the_requested_order_of_classes(tmp_path: Path) -> None:
    photos = coloured_photos(9)
    cache = cache_in(tmp_path, photos)
    other = PhotoSet(photos.images, (photos.labels + 1) % 3, ("blue", "red", "green"))
    again = fill_teacher_cache(tmp_path, other, not_needed, COLOURS, 2)
    assert cache.classes == CLASSES
    assert again.classes == other.classes
    for first, second in zip(cache.logits, again.logits, strict=True):
        assert torch.equal(first[:, [2, 0, 1]], second)


def test_the_id_of_a_photo_depends_on_its_pixels_and_its_shape() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert photo_id(image) == photo_id(image.copy())
    assert photo_id(image) != photo_id(image.reshape(4, 2, 3))
    assert photo_id(image) != photo_id(image[:, ::-1])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"photos": coloured_photos(6)}, "photos"),
        ({"wanted": replace(COLOURS, teacher="another")}, "teacher"),
        ({"wanted": replace(COLOURS, seed=1)}, "seed"),
        ({"wanted": replace(COLOURS, augmentation=Augmentation(28))}, "augmentation"),
    ],
)
def test_a_cache_with_other_settings_is_rejected(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    cache_in(tmp_path, coloured_photos(9))
    given = {"photos": coloured_photos(9), "teacher": teacher, "wanted": COLOURS, "views": 3} | change
    with pytest.raises(OptionError, match=f"has other settings: .*{word}"):
        fill_teacher_cache(tmp_path, **given)


def test_a_cache_of_other_photos_is_rejected(tmp_path: Path) -> None:
    cache = cache_in(tmp_path, coloured_photos(9))
    with pytest.raises(OptionError, match="other photos"):
        cache.rows(coloured_photos(9, seed=4))


def test_a_missing_short_or_damaged_cache_is_reported(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no teacher cache"):
        open_teacher_cache(tmp_path)
    cache_in(tmp_path, coloured_photos(9))
    with pytest.raises(TrainingError, match="2 views, not 5"):
        open_teacher_cache(tmp_path, 5)
    (tmp_path / "view-0001.safetensors").write_bytes(b"no tensors")
    with pytest.raises(TrainingError, match="damaged"):
        open_teacher_cache(tmp_path)
    (tmp_path / SETTINGS).write_text("{", encoding="utf-8")
    with pytest.raises(TrainingError, match="damaged"):
        open_teacher_cache(tmp_path)
    with pytest.raises(TrainingError, match="damaged"):
        cache_in(tmp_path, coloured_photos(9))


def test_a_teacher_without_a_feature_map_fills_no_cache(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no feature map"):
        fill_teacher_cache(tmp_path, coloured_photos(6), lambda: Teacher(ColourClassifier(), 16), COLOURS, 1)


def test_one_pass_of_a_teacher_gives_what_two_give() -> None:
    features, head = nn.Conv2d(3, 5, 8, 8), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))
    two = Teacher(nn.Sequential(features, head), 56, features=features)
    one = Teacher(nn.Sequential(features, head), 56, features=features, head=head)
    pixels = torch.randn(2, 3, 56, 56)
    for first, second in zip(
        one.logits_and_features(pixels, (GRID, GRID)), two.logits_and_features(pixels, (GRID, GRID)), strict=True
    ):
        assert torch.equal(first, second)
    assert torch.equal(one.logits_and_features(pixels, (3, 3))[1], one.feature_map(pixels, (3, 3)))


def run(folder: Path, cache: TeacherCache, photos: PhotoSet, make: Callable[[], nn.Module], **changes: Any) -> Trainer:
    torch.manual_seed(0)
    recipe = CachedDistill(make(), cache, 3, SIZE, mask_ratio=0.3 if make is beit else 0.0)
    return trainer(folder, recipe, photos, **changes)


@pytest.mark.parametrize("make", [deit, beit, cnn])
def test_a_student_learns_cached_targets_and_its_classifier_is_refitted(
    tmp_path: Path, make: Callable[[], nn.Module]
) -> None:
    photos = coloured_photos(24)
    run_ = run(tmp_path, cache_in(tmp_path / "cache", photos), photos, make, steps=40, save_every=10**9)
    assert run_.run().score >= 0.9
    log = log_of(tmp_path)
    for term in ("patches", "whole", "logits", "labels"):
        assert sum(line[term] for line in log[-5:]) < sum(line[term] for line in log[:5]), term
    student: nn.Module = run_.recipe.student
    before = {name: value.clone() for name, value in student.state_dict().items()}
    assert run_.recipe.finish(student, photos)
    assert run_.recipe.score(student, photos, coloured_photos(12, 1)) >= 0.9
    changed = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all("classifier" in name for name in changed)


def test_a_resumed_run_ends_with_identical_weights_and_passes_on_its_heads(tmp_path: Path) -> None:
    photos = coloured_photos(24)
    cache = cache_in(tmp_path / "cache", photos)
    whole, cut, rest = (
        run(tmp_path / name, cache, photos, vit, optimiser="muon", ema_decay=0.9) for name in ("whole", "cut", "cut")
    )
    whole.run()
    cut.run(until=3)
    rest.resume()
    rest.run()
    assert_same(weights(whole), weights(rest))
    next_stage = CachedDistill(vit(), cache, 3, SIZE)
    assert next_stage.load_heads(tmp_path / "whole")
    trained = whole.recipe.state_dict()
    for name, value in next_stage.state_dict().items():
        if not name.startswith("student."):
            assert torch.equal(value, trained[name]), name
    assert not next_stage.load_heads(tmp_path / "none")


def test_background_photos_are_learned_from_too(tmp_path: Path) -> None:
    photos = coloured_photos(6)
    photos = PhotoSet(photos.images, np.full(6, -1), photos.classes)
    recipe = CachedDistill(vit(), cache_in(tmp_path, photos), 3, SIZE)
    batch = recipe.batches(photos, 6, SIZE, 0).batch(0)
    loss, parts = recipe([normalised(batch.views[0])], batch.labels, FIRST, targets=batch.targets)
    assert parts["labels"] == 0
    assert loss.item() > 0.1


def test_patches_are_masked_in_training_only(tmp_path: Path) -> None:
    photos = coloured_photos(6)
    cache = cache_in(tmp_path, photos)
    recipe = CachedDistill(beit(), cache, 3, SIZE, mask_ratio=0.5)
    batch = recipe.batches(photos, 6, SIZE, 0).batch(0)

    def logit_loss(step: int) -> Tensor:
        arguments = [normalised(batch.views[0])], batch.labels, StepContext(step, 0.0, 0)
        return recipe(*arguments, targets=batch.targets)[1]["logits"]

    recipe.train()
    assert not torch.equal(logit_loss(0), logit_loss(1))
    recipe.eval()
    assert torch.equal(logit_loss(0), logit_loss(1))


def test_a_mixed_view_has_the_targets_of_the_mixture(tmp_path: Path) -> None:
    photos = coloured_photos(12)
    cache = cache_in(tmp_path, photos)
    recipe = CachedDistill(vit(), cache, 3, SIZE, cutmix=0.8)
    batch = recipe.batches(photos, 12, VIEW.size, 0).batch(0)
    pixels, shares = normalised(batch.views[0]), torch.eye(12)
    mixed, features, taught, truth = recipe._mix(pixels, batch.targets[1], shares, shares, StepContext(3, 0.0, 0))
    basis = load_file(cache.folder / BASIS)
    live_ones = (teacher().feature_map(mixed, (GRID, GRID)) - basis["mean"]) @ basis["directions"]
    torch.testing.assert_close(features, live_ones, rtol=2e-3, atol=2e-3)
    changed = (mixed != pixels).flatten(1).any(dim=1)
    assert 5 <= int(changed.sum()) <= 12
    torch.testing.assert_close(taught.sum(dim=1), torch.ones(12))
    own = (mixed == pixels).all(dim=1).float().mean(dim=(1, 2))
    torch.testing.assert_close(taught.diagonal()[changed], own[changed], atol=0.02, rtol=0)
    assert torch.equal(taught, truth)
    recipe.eval()
    assert recipe._mix(pixels, features, taught, truth, StepContext(3, 0.0, 0))[0] is pixels


@pytest.mark.parametrize("make", [vit, deit])
def test_dropping_patches_leaves_the_others_in_place(tmp_path: Path, make: Callable[[], nn.Module]) -> None:
    cache, pixels = cache_in(tmp_path, coloured_photos(6)), torch.randn(2, 3, SIZE, SIZE)
    half, shuffled, plain = (
        CachedDistill(make(), cache, 3, SIZE, keep_ratio=ratio).eval() for ratio in (0.5, 0.99, 1.0)
    )
    shuffled.load_state_dict(plain.state_dict())
    few = half._run_student(pixels, FIRST)
    assert (few.patches.shape[1], few.grid) == (8, (4, 4))
    assert few.kept is not None
    assert all(len(set(row.tolist())) == 8 for row in few.kept)
    # Attention is permutation-invariant: all patches in another order give the same tokens.
    mixed, straight = (recipe._run_student(pixels, FIRST) for recipe in (shuffled, plain))
    assert mixed.kept is not None
    assert straight.kept is None
    in_order = torch.stack([row[index] for row, index in zip(straight.patches, mixed.kept, strict=True)])
    torch.testing.assert_close(mixed.patches, in_order)
    torch.testing.assert_close(mixed.whole, straight.whole)
    assert half.student.base_model.embeddings(pixels).shape[1] > 16, "no hook is left behind"  # type: ignore[operator, union-attr]


def test_a_beit_drops_no_patches(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="dropped in vit, deit and hybrid only"):
        CachedDistill(beit(), cache_in(tmp_path, coloured_photos(6)), 3, SIZE, keep_ratio=0.5)


def test_cached_targets_train_transformers_architectures_only(tmp_path: Path) -> None:
    cache = cache_in(tmp_path, coloured_photos(6))
    with pytest.raises(OptionError, match="vit instead of scratch"):
        CachedDistill(nn.Linear(2, 2), cache, 3, SIZE)
