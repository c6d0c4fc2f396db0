"""Each recipe learns: its loss falls, and the score is better than a guess."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.training.small import (
    CLASSES,
    SIZE,
    ColourClassifier,
    beit,
    colour_teacher,
    coloured_photos,
    deit,
    encoder,
    log_of,
    mae,
    trainer,
    vit,
)
from vitdemo.errors import OptionError
from vitdemo.models.nn.vit import VisionTransformer
from vitdemo.training.architectures import build
from vitdemo.training.augment import Mixing, normalised
from vitdemo.training.data import Batches, PhotoSet
from vitdemo.training.features import linear_probe, nearest_neighbours
from vitdemo.training.recipes.base import (
    Recipe,
    StepContext,
    cross_entropy,
    soft_targets,
    softened_cross_entropy,
)
from vitdemo.training.recipes.dino import Dino
from vitdemo.training.recipes.distill import Distill
from vitdemo.training.recipes.mim import MaskedModelling, patch_pixels
from vitdemo.training.recipes.supervised import Supervised
from vitdemo.training.teachers import Teacher

FIRST = StepContext(0, 0.0, 0)

RECIPES: dict[str, Callable[[], Recipe]] = {
    "supervised vit": lambda: Supervised(vit(), 3, SIZE),
    "supervised scratch": lambda: Supervised(VisionTransformer(SIZE, 8, 3, 48, 2, 2, 96, 0.0), 3, SIZE),
    "distill deit": lambda: Distill(deit(), colour_teacher(), 3, SIZE),
    "distill vit": lambda: Distill(vit(), colour_teacher(), 3, SIZE),
    "masked beit, teacher": lambda: MaskedModelling(beit(), SIZE, colour_teacher()),
    "masked vit, pixels": lambda: MaskedModelling(vit(), SIZE),
    "masked mae": lambda: MaskedModelling(mae(), SIZE),
    "dino": lambda: Dino(encoder(), SIZE, outputs=16, local=2, momentum=0.9),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", RECIPES)
def test_the_loss_falls_and_the_score_beats_a_guess(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = {"steps": 60 if name == "dino" else 40, "save_every": 10**9, "seed": 1}
    result = trainer(tmp_path, RECIPES[name](), coloured_photos(60), **settings).run()
    losses = [line["loss"] for line in log_of(tmp_path)]
    # Most losses have fallen far before the tenth step.
    assert np.mean(losses[-10:]) < np.mean(losses[:3])
    # 30 photos of 3 classes: chance gets 10 right, and 18 or more once in 300 tries.
    assert result.score >= 0.6


def test_the_label_loss_is_torchs_with_smoothing() -> None:
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    ours = cross_entropy(logits, soft_targets(labels, 4, 0.2))
    torch.testing.assert_close(ours, nn.functional.cross_entropy(logits, labels, label_smoothing=0.2))


def test_a_teacher_at_a_temperature_is_learned_as_hinton_defines_it() -> None:
    teacher, logits = torch.randn(6, 5) * 4, torch.randn(6, 5)
    ours = softened_cross_entropy(logits, teacher.softmax(dim=-1), 3.0)
    torch.testing.assert_close(
        ours, 3 * nn.functional.cross_entropy(logits / 3, (teacher / 3).softmax(dim=-1)), rtol=1e-4, atol=1e-4
    )
    same = teacher.clone().requires_grad_()
    softened_cross_entropy(same, teacher.softmax(dim=-1), 3.0).backward()
    assert same.grad is not None
    assert same.grad.abs().max() < 1e-3
    targets = teacher.softmax(dim=-1)
    torch.testing.assert_close(softened_cross_entropy(logits, targets, 1.0), cross_entropy(logits, targets))


def test_deit_learns_labels_with_one_token_and_the_teacher_with_the_other() -> None:
    recipe = Distill(deit(), colour_teacher(), 3, SIZE).eval()
    pixels = normalised(Batches(coloured_photos(), 12, recipe.augmentations(SIZE), 0).batch(0).views[0])
    recipe.mixing = Mixing()
    labels = torch.zeros(12, dtype=torch.int64)
    loss, figures = recipe([pixels], labels, FIRST)
    output = recipe.student(pixels)
    hard = recipe.teacher.logits(pixels).argmax(dim=-1)
    from_labels = nn.functional.cross_entropy(output.cls_logits, labels, label_smoothing=0.1)
    from_teacher = nn.functional.cross_entropy(output.distillation_logits, hard)
    torch.testing.assert_close(loss, 0.5 * from_labels + 0.5 * from_teacher)
    torch.testing.assert_close(figures["teacher"], from_teacher)


def test_a_background_photo_learns_from_the_teacher_alone() -> None:
    recipe = Distill(vit(), colour_teacher(), 3, SIZE).eval()
    pixels = [torch.randn(4, 3, SIZE, SIZE)]
    _, with_labels = recipe(pixels, torch.tensor([0, 1, 2, 0]), FIRST)
    _, without = recipe(pixels, torch.full((4,), -1), FIRST)
    assert float(without["labels"]) == 0
    torch.testing.assert_close(with_labels["teacher"], without["teacher"])


def test_a_teacher_never_trains_and_stays_out_of_the_saved_state() -> None:
    recipe = Distill(vit(), colour_teacher(), 3, SIZE)
    recipe.train()
    assert not recipe.teacher.training
    assert not any(parameter.requires_grad for parameter in recipe.teacher.parameters())
    assert not any("teacher" in name for name in recipe.state())
    recipe.load_state(recipe.state())


def test_the_mask_ratio_of_the_patches_is_masked() -> None:
    recipe = MaskedModelling(beit(), SIZE, mask_ratio=0.5)
    pixels = torch.randn(5, 3, SIZE, SIZE)
    loss, figures = recipe([pixels], torch.zeros(5, dtype=torch.int64), StepContext(3, 0.0, 0))
    assert float(figures["hidden"]) == 0.5
    loss.backward()
    table = next(p for n, p in recipe.named_parameters() if n.endswith("mask_token"))
    assert table.grad is not None
    assert table.grad.abs().sum() > 0


def test_the_pixels_of_a_patch_are_normalised_one_by_one() -> None:
    patches = patch_pixels(torch.randn(2, 3, 16, 24) * 5 + 2, 8)
    assert patches.shape == (2, 6, 192)
    torch.testing.assert_close(patches.mean(dim=-1), torch.zeros(2, 6), atol=1e-5, rtol=0)
    torch.testing.assert_close(patches.std(dim=-1), torch.ones(2, 6), atol=1e-4, rtol=0)


def test_a_new_mae_distinguishes_positions() -> None:
    network: Any = build("mae", "mini", ["a", "b"], 64)
    for positions in (network.vit.embeddings.position_embeddings, network.decoder.decoder_pos_embed):
        patches = positions[0, 1:]
        assert len(torch.unique(patches.round(decimals=4), dim=0)) == 16
        assert not positions.requires_grad
    with torch.no_grad():
        predicted = network(torch.rand(1, 3, 64, 64)).logits[0]
    assert (predicted - predicted[0]).abs().amax(dim=1)[1:].min() > 1e-4


def test_mae_sees_a_quarter_in_training_and_everything_in_evaluation() -> None:
    recipe = MaskedModelling(mae(), SIZE)
    output = recipe.student(torch.randn(2, 3, SIZE, SIZE))
    assert float(output.mask.mean()) == 0.75
    assert recipe.encoder.patches(torch.randn(2, 3, SIZE, SIZE), None).shape == (2, 16, 48)
    assert recipe.student.config.mask_ratio == 0.75


def test_the_teacher_of_dino_follows_the_student_and_has_no_gradient() -> None:
    recipe = Dino(encoder(), SIZE, outputs=16, local=1, momentum=0.5)
    views = [torch.randn(4, 3, SIZE, SIZE), torch.randn(4, 3, SIZE, SIZE), torch.randn(4, 3, 16, 16)]
    loss, _ = recipe(views, torch.zeros(4), FIRST)
    loss.backward()
    assert all(p.grad is None for p in recipe.ema_student.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in recipe.student.parameters())
    with torch.no_grad():
        for parameter in recipe.student.parameters():
            parameter.add_(1.0)
    before = [p.clone() for p in recipe.ema_student.parameters()]
    recipe.after_step(FIRST)
    for old, new in zip(before, recipe.ema_student.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.5)


def test_dino_matches_every_crop_with_the_other_large_one() -> None:
    """The loss written out as in Caron et al.: the teacher sees two large crops, the student all of them."""
    recipe = Dino(encoder(), SIZE, outputs=8, local=1).eval()
    views = [torch.randn(3, 3, SIZE, SIZE), torch.randn(3, 3, SIZE, SIZE), torch.randn(3, 3, 16, 16)]
    loss, _ = recipe(views, torch.zeros(3), FIRST)

    def student_log(view: torch.Tensor) -> torch.Tensor:
        token = recipe.student(view, interpolate_pos_encoding=view.shape[-1] != SIZE).last_hidden_state[:, 0]
        return (recipe.head(token) / 0.1).log_softmax(dim=-1)

    total, pairs = torch.zeros(()), 0  # the centre is the mean of the teacher's first outputs
    for teacher_crop in (0, 1):
        token = recipe.ema_student(views[teacher_crop]).last_hidden_state[:, 0]
        target = ((recipe.ema_head(token) - recipe.centre) / 0.04).softmax(dim=-1)
        for student_crop, view in enumerate(views):
            if student_crop != teacher_crop:
                total, pairs = total - (target * student_log(view)).sum(dim=-1).mean(), pairs + 1
    torch.testing.assert_close(loss, total / pairs)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Dino(deit(), SIZE), "architecture vit"),
        (lambda: MaskedModelling(mae(), SIZE, colour_teacher()), "takes no teacher"),
        (lambda: MaskedModelling(VisionTransformer(SIZE, 8, 3, 48, 2, 2, 96, 0.0), SIZE), "vit, deit, beit and mae"),
        (lambda: Teacher(ColourClassifier(), 16).feature_map(torch.zeros(1, 3, 16, 16), (2, 2)), "no feature map"),
    ],
)
def test_combinations_that_do_not_fit_are_rejected(make: Callable[[], object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        make()


def test_a_registered_model_has_patch_features_as_a_teacher() -> None:
    from vitdemo.registry import get_spec
    from vitdemo.training.teachers import teacher_from_spec

    spec = get_spec("deit-mini")
    found = teacher_from_spec(spec, spec.labels)
    pixels = torch.randn(1, 3, 224, 224)
    tokens = found.network.network.base_model(pixels).last_hidden_state[:, 2:]  # type: ignore[union-attr, operator]
    torch.testing.assert_close(found.feature_map(pixels, spec.patch_grid), tokens)


def test_classes_take_the_order_of_the_initial_weights() -> None:
    from vitdemo.training.run import reorder_classes

    photos = PhotoSet(coloured_photos(4).images, np.array([0, 1, 2, -1]), CLASSES)
    ordered = reorder_classes(photos, ["blue", "red", "green"])
    assert ordered.classes == ("blue", "red", "green")
    assert [ordered.classes[label] for label in ordered.labels[:3]] == [CLASSES[label] for label in photos.labels[:3]]
    assert ordered.labels[3] == -1
    assert reorder_classes(photos, ["cat", "dog"]) is photos


def test_nearest_neighbours_vote_by_similarity() -> None:
    train = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    votes = nearest_neighbours(train, torch.tensor([0, 0, 1]), torch.tensor([[1.0, 0.2], [0.1, 2.0]]), classes=2, k=1)
    assert votes.argmax(dim=-1).tolist() == [0, 1]


def test_a_linear_probe_separates_what_a_line_can_separate() -> None:
    features = torch.randn(300, 5) * torch.tensor([1.0, 100.0, 0.01, 1.0, 1.0]) + 3
    labels = torch.stack([features[:, 0], features[:, 3], 6 - features[:, 4]], dim=1).argmax(dim=1)
    head = linear_probe(features, labels, 3)
    assert (head(features).argmax(dim=-1) == labels).float().mean() > 0.97
    assert not head.weight.requires_grad


def test_a_balanced_probe_gives_a_rare_class_its_half_of_the_line() -> None:
    features = torch.cat([torch.randn(1900, 1), torch.randn(100, 1) + 2])
    labels = torch.tensor([0] * 1900 + [1] * 100)
    for balance, boundary in ((0.0, 1 + np.log(19) / 2), (1.0, 1.0)):
        head = linear_probe(features, labels, 2, balance=balance)
        weight, bias = head.weight[1] - head.weight[0], head.bias[1] - head.bias[0]
        assert float(-bias / weight) == pytest.approx(boundary, abs=0.25)


def test_background_photos_are_only_for_recipes_without_labels() -> None:
    photos = PhotoSet(coloured_photos(6).images, np.array([0, 1, -1, 2, -1, 0]), CLASSES)
    assert photos.labelled().labels.tolist() == [0, 1, 2, 0]
    assert Supervised.needs_labels
    assert not Distill.needs_labels
    assert not MaskedModelling.needs_labels
    assert not Dino.needs_labels
