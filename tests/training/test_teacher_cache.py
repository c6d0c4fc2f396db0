"""A bank keeps what a teacher says of each view, and a student that learns from it learns what it would have learned live."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel, ResNetConfig, ResNetForImageClassification

from tests.training.test_loop import CLASSES, assert_same, coloured_photos, weights
from tests.training.test_recipes import SIZE, ColourTeacher, beit, deit, vit
from vitdemo.errors import OptionError, TrainingError
from vitdemo.training.augment import Augmentation, normalised
from vitdemo.training.data import PhotoSet
from vitdemo.training.loop import Plan, Trainer
from vitdemo.training.recipes.base import Moment
from vitdemo.training.recipes.cached_distill import Banked, BankedBatches
from vitdemo.training.teacher_cache import BASIS, GRID, SETTINGS, Bank, fill_bank, identity, open_bank
from vitdemo.training.teachers import Teacher

HOW = Augmentation(56, scale=(0.3, 1.0))


class Pooled(nn.Module):
    """The picture itself, small, as a map of GRID cells a side: it mirrors when the picture does."""

    def forward(self, pixels: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(pixels, GRID)


def teacher() -> Teacher:
    return Teacher(ColourTeacher(), 56, features=Pooled())


def never() -> Teacher:
    raise AssertionError("nothing is left to ask")


def bank_in(folder: Path, photos: PhotoSet, views: int = 2, **changes: Any) -> Bank:
    return fill_bank(folder, photos, teacher, "colours", views, how=HOW, **changes)


def live(bank: Bank, photos: PhotoSet, index: int, number: int) -> tuple[Tensor, Tensor]:
    """What the teacher says of the pixels of a view now, the features in the directions of the bank."""
    pixels = bank.view(photos.images[index], int(bank.rows(photos)[index]), number, HOW.size)
    return said_of(bank, torch.from_numpy(pixels).permute(2, 0, 1)[None])


def said_of(bank: Bank, pixels: Tensor) -> tuple[Tensor, Tensor]:
    logits, features = teacher().answer(normalised(pixels), (GRID, GRID))
    basis = load_file(bank.folder / BASIS)
    return logits, (features - basis["mean"]) @ basis["directions"]


def test_a_banked_answer_is_the_live_one(tmp_path: Path) -> None:
    photos = coloured_photos(9)
    bank = bank_in(tmp_path, photos)
    for index in range(9):
        row = bank.rows(photos)[index]
        for number in range(2):
            logits, features = live(bank, photos, index, number)
            torch.testing.assert_close(bank.logits[number][row].float(), logits[0], rtol=2e-3, atol=2e-3)
            torch.testing.assert_close(bank.features[number][row].float(), features[0], rtol=2e-3, atol=2e-3)


def test_every_batch_has_what_the_teacher_says_of_its_own_pixels_mirrored_ones_too(tmp_path: Path) -> None:
    photos = coloured_photos(12)
    batches = BankedBatches(photos, bank_in(tmp_path, photos), 6, HOW.size, seed=0)
    for step in range(8):
        batch = batches.batch(step)
        logits, features = said_of(batches.bank, batch.views[0])
        torch.testing.assert_close(batch.targets[0], logits, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(batch.targets[1], features, rtol=2e-3, atol=2e-3)


def test_half_of_the_views_are_mirrored_and_epochs_show_the_next_ones(tmp_path: Path) -> None:
    photos = coloured_photos(12)
    bank = bank_in(tmp_path, photos)
    batches = BankedBatches(photos, bank, 12, 28, seed=0)
    rows, seen, mirrored = bank.rows(photos), set(), 0
    for epoch in range(4):
        batch = batches.batch(epoch)
        for pixels, index in zip(batch.views[0].permute(0, 2, 3, 1).numpy(), batch.indices.tolist(), strict=True):
            number = (epoch + int(rows[index])) % 2
            plain = bank.view(photos.images[index], int(rows[index]), number, 28)
            assert np.array_equal(pixels, plain) or np.array_equal(pixels, plain[:, ::-1])
            mirrored += not np.array_equal(pixels, plain)
            seen.add((index, number))
    assert len(seen) == 24
    assert 12 <= mirrored <= 36


def test_a_view_is_the_same_crop_at_every_size(tmp_path: Path) -> None:
    slope = np.linspace(0, 255, 160, dtype=np.uint8)
    image = np.stack([np.tile(slope, (120, 1)), np.tile(slope[:120, None], (1, 160)), np.zeros((120, 160))], axis=-1)
    photos = PhotoSet((image.astype(np.uint8), 255 - image.astype(np.uint8)), np.array([0, 1]), CLASSES)
    bank = bank_in(tmp_path, photos)
    for number in range(2):
        small, large = (bank.view(photos.images[0], int(bank.rows(photos)[0]), number, size) for size in (24, 96))
        means = large.reshape(24, 4, 24, 4, 3).mean(axis=(1, 3))
        assert np.abs(means - small).max() < 6


def test_a_fill_that_was_cut_off_ends_with_the_same_numbers(tmp_path: Path) -> None:
    photos = coloured_photos(9)
    whole = bank_in(tmp_path / "whole", photos, 3)
    bank_in(tmp_path / "cut", photos, 1)
    (tmp_path / "cut" / "view-0001.part").write_bytes(b"half a vi")
    done: list[tuple[int, int]] = []
    cut = fill_bank(
        tmp_path / "cut", photos, teacher, "colours", 3, how=HOW, report=lambda some, all_: done.append((some, all_))
    )
    assert done == [(2, 3), (3, 3)]
    for first, second in zip(whole.features + whole.logits, cut.features + cut.logits, strict=True):
        assert torch.equal(first, second)


def test_a_full_bank_does_not_need_its_teacher(tmp_path: Path) -> None:
    photos = coloured_photos(9)
    bank_in(tmp_path, photos)
    assert fill_bank(tmp_path, photos, never, "colours", 2, how=HOW).views == 2
    assert open_bank(tmp_path, 1).views == 1


def test_photos_find_their_answers_in_any_order_and_part(tmp_path: Path) -> None:
    photos = coloured_photos(9)
    bank = bank_in(tmp_path, photos)
    part = photos.subset([7, 2, 5])
    assert list(bank.rows(part)) == [bank.rows(photos)[index] for index in (7, 2, 5)]
    # The order in which a set is read does not change the bank either.
    assert fill_bank(tmp_path, photos.subset(range(8, -1, -1)), never, "colours", 2, how=HOW).photos == bank.photos


def test_the_logits_have_the_order_of_the_classes_that_is_asked_for(tmp_path: Path) -> None:
    photos = coloured_photos(9)
    bank = bank_in(tmp_path, photos)
    other = PhotoSet(photos.images, (photos.labels + 1) % 3, ("blue", "red", "green"))
    again = fill_bank(tmp_path, other, never, "colours", 2, how=HOW)
    assert bank.classes == CLASSES
    assert again.classes == other.classes
    for first, second in zip(bank.logits, again.logits, strict=True):
        assert torch.equal(first[:, [2, 0, 1]], second)


def test_the_identity_of_a_photo_is_its_pixels_and_its_shape() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert identity(image) == identity(image.copy())
    assert identity(image) != identity(image.reshape(4, 2, 3))
    assert identity(image) != identity(image[:, ::-1])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"photos": coloured_photos(6)}, "photos"),
        ({"name": "another"}, "teacher"),
        ({"seed": 1}, "seed"),
        ({"how": Augmentation(28)}, "augmentation"),
    ],
)
def test_a_bank_is_not_mixed_with_another_one(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    bank_in(tmp_path, coloured_photos(9))
    wanted = {"photos": coloured_photos(9), "teacher": teacher, "name": "colours", "views": 3, "how": HOW} | change
    with pytest.raises(OptionError, match=f"made otherwise: .*{word}"):
        fill_bank(tmp_path, **wanted)


def test_a_bank_of_other_photos_teaches_nothing(tmp_path: Path) -> None:
    bank = bank_in(tmp_path, coloured_photos(9))
    with pytest.raises(OptionError, match="other photos"):
        bank.rows(coloured_photos(9, seed=4))


def test_there_must_be_a_sound_bank(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no bank"):
        open_bank(tmp_path)
    bank_in(tmp_path, coloured_photos(9))
    with pytest.raises(TrainingError, match="2 views, not 5"):
        open_bank(tmp_path, 5)
    (tmp_path / "view-0001.safetensors").write_bytes(b"no tensors")
    with pytest.raises(TrainingError, match="damaged"):
        open_bank(tmp_path)
    (tmp_path / SETTINGS).write_text("{", encoding="utf-8")
    with pytest.raises(TrainingError, match="damaged"):
        open_bank(tmp_path)
    with pytest.raises(TrainingError, match="damaged"):
        bank_in(tmp_path, coloured_photos(9))


def test_a_teacher_without_features_fills_no_bank(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no feature map"):
        fill_bank(tmp_path, coloured_photos(6), lambda: Teacher(ColourTeacher(), 16), "flat", 1, how=HOW)


def test_one_pass_of_a_teacher_gives_what_two_give() -> None:
    features, head = nn.Conv2d(3, 5, 8, 8), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3))
    two = Teacher(nn.Sequential(features, head), 56, features=features)
    one = Teacher(nn.Sequential(features, head), 56, features=features, head=head)
    pixels = torch.randn(2, 3, 56, 56)
    for first, second in zip(one.answer(pixels, (GRID, GRID)), two.answer(pixels, (GRID, GRID)), strict=True):
        assert torch.equal(first, second)
    assert torch.equal(one.answer(pixels, (3, 3))[1], one.feature_map(pixels, (3, 3)))


def cnn() -> PreTrainedModel:
    return ResNetForImageClassification(
        ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", num_labels=3)
    )


def run(folder: Path, bank: Bank, photos: PhotoSet, make: Callable[[], nn.Module], **changes: Any) -> Trainer:
    torch.manual_seed(0)
    plan = Plan(**{"steps": 60, "batch": 12, "size": SIZE, "learning_rate": 2e-3, "average": 0.0, **changes})
    recipe = Banked(make(), bank, 3, SIZE, hidden=0.3 if make is beit else 0.0)
    return Trainer(recipe, plan, photos, coloured_photos(12, 1), folder, cpu=True)


@pytest.mark.parametrize("make", [vit, deit, beit, cnn])
def test_a_student_learns_from_a_bank(tmp_path: Path, make: Callable[[], nn.Module]) -> None:
    photos = coloured_photos(24)
    bank = bank_in(tmp_path / "bank", photos)
    trainer = run(tmp_path, bank, photos, make)
    assert trainer.run().score >= 0.9
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    for part in ("patches", "whole", "logits", "labels"):
        assert sum(line[part] for line in log[-5:]) < sum(line[part] for line in log[:5]), part


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_banked_run_that_is_resumed_ends_with_the_same_weights(tmp_path: Path, optimiser: str) -> None:
    photos = coloured_photos(24)
    bank = bank_in(tmp_path / "bank", photos)
    whole, cut, rest = (
        run(tmp_path / name, bank, photos, vit, steps=8, average=0.9, optimiser=optimiser)
        for name in ("whole", "cut", "cut")
    )
    whole.run()
    cut.run(until=5)
    rest.resume()
    rest.run()
    assert_same(weights(whole), weights(rest))


def test_photos_of_no_class_are_learned_from_too(tmp_path: Path) -> None:
    photos = coloured_photos(6)
    photos = PhotoSet(photos.images, np.full(6, -1), photos.classes)
    recipe = Banked(vit(), bank_in(tmp_path, photos), 3, SIZE)
    batch = recipe.batches(photos, 6, SIZE, 0).batch(0)
    loss, parts = recipe([normalised(batch.views[0])], batch.labels, Moment(0, 0.0, 0), targets=batch.targets)
    assert parts["labels"] == 0
    assert loss.item() > 0.1


def test_patches_are_hidden_while_learning_alone(tmp_path: Path) -> None:
    photos = coloured_photos(6)
    bank = bank_in(tmp_path, photos)
    recipe = Banked(beit(), bank, 3, SIZE, hidden=0.5)
    batch = recipe.batches(photos, 6, SIZE, 0).batch(0)

    def told(step: int) -> Tensor:
        arguments = [normalised(batch.views[0])], batch.labels, Moment(step, 0.0, 0)
        return recipe(*arguments, targets=batch.targets)[1]["logits"]

    recipe.train()
    assert not torch.equal(told(0), told(1))
    recipe.eval()
    assert torch.equal(told(0), told(1))


def test_a_mixed_view_has_what_the_teacher_says_of_the_mixture(tmp_path: Path) -> None:
    photos = coloured_photos(12)
    bank = bank_in(tmp_path, photos)
    recipe = Banked(vit(), bank, 3, SIZE, mix=0.8)
    batch = recipe.batches(photos, 12, HOW.size, 0).batch(0)
    pixels, shares = normalised(batch.views[0]), torch.eye(12)
    mixed, features, taught, truth = recipe._mixed(pixels, batch.targets[1], shares, shares, Moment(3, 0.0, 0))
    basis = load_file(bank.folder / BASIS)
    live_ones = (teacher().feature_map(mixed, (GRID, GRID)) - basis["mean"]) @ basis["directions"]
    torch.testing.assert_close(features, live_ones, rtol=2e-3, atol=2e-3)
    changed = (mixed != pixels).flatten(1).any(dim=1)
    assert 5 <= int(changed.sum()) <= 12
    torch.testing.assert_close(taught.sum(dim=1), torch.ones(12))
    own = (mixed == pixels).all(dim=1).float().mean(dim=(1, 2))
    torch.testing.assert_close(taught.diagonal()[changed], own[changed], atol=0.02, rtol=0)
    assert torch.equal(taught, truth)
    recipe.eval()
    assert recipe._mixed(pixels, features, taught, truth, Moment(3, 0.0, 0))[0] is pixels


@pytest.mark.parametrize("make", [vit, deit])
def test_patches_that_are_left_out_leave_the_others_at_their_places(
    tmp_path: Path, make: Callable[[], nn.Module]
) -> None:
    bank, pixels = bank_in(tmp_path, coloured_photos(6)), torch.randn(2, 3, SIZE, SIZE)
    few, all_, plain = (Banked(make(), bank, 3, SIZE, keep=share).eval() for share in (0.5, 0.99, 1.0))
    all_.load_state_dict(plain.state_dict())
    _, patches, _, chosen, grid = few._read(pixels, Moment(0, 0.0, 0))
    assert (patches.shape[1], grid) == (8, (4, 4))
    assert chosen is not None
    assert all(len(set(row.tolist())) == 8 for row in chosen)
    # Attention does not care for order: all patches in another order are the same patches.
    _, shuffled, whole, order, _ = all_._read(pixels, Moment(0, 0.0, 0))
    _, straight, same, none, _ = plain._read(pixels, Moment(0, 0.0, 0))
    assert order is not None
    assert none is None
    torch.testing.assert_close(shuffled, torch.stack([row[index] for row, index in zip(straight, order, strict=True)]))
    torch.testing.assert_close(whole, same)
    assert few.student.base_model.embeddings(pixels).shape[1] > 16, "no hook is left behind"  # type: ignore[operator, union-attr]


def test_a_beit_keeps_all_its_patches(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="left out of vit, deit and hybrid alone"):
        Banked(beit(), bank_in(tmp_path, coloured_photos(6)), 3, SIZE, keep=0.5)


def test_the_next_size_begins_with_the_heads_of_the_last_one(tmp_path: Path) -> None:
    photos = coloured_photos(24)
    bank = bank_in(tmp_path / "bank", photos)
    trainer = run(tmp_path / "small", bank, photos, vit, steps=2)
    trainer.run()
    heir = Banked(vit(), bank, 3, SIZE)
    assert heir.take_heads(tmp_path / "small")
    trained = trainer.recipe.state_dict()
    for name, value in heir.state_dict().items():
        if not name.startswith("student."):
            assert torch.equal(value, trained[name]), name
    assert not heir.take_heads(tmp_path / "none")


@pytest.mark.parametrize("make", [vit, deit, beit, cnn])
def test_a_classifier_is_fitted_anew_to_what_it_reads(tmp_path: Path, make: Callable[[], nn.Module]) -> None:
    photos, test = coloured_photos(30), coloured_photos(12, 1)
    recipe = Banked(make(), bank_in(tmp_path, photos), 3, SIZE)
    before = {name: value.clone() for name, value in recipe.student.state_dict().items()}
    assert recipe.finish(recipe.student, photos)
    assert recipe.score(recipe.student, photos, test) >= 0.9
    changed = {name for name, value in recipe.student.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all("classifier" in name for name in changed)


def test_the_bank_teaches_networks_of_transformers_alone(tmp_path: Path) -> None:
    bank = bank_in(tmp_path, coloured_photos(6))
    with pytest.raises(OptionError, match="vit instead of scratch"):
        Banked(nn.Linear(2, 2), bank, 3, SIZE)
