"""Long trainings: photos are decoded once, targets computed once, and an interrupted run ends like an uninterrupted one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor
from transformers import PreTrainedModel, ResNetConfig, ResNetForImageClassification

import vitdemo.training.patience as patience
import vitdemo.training.views as views
from tests.photos import FOLDERS, files, in_tar
from tests.training.small import CLASSES, SIZE, assert_same, beit, coloured_photos, deit, encoder, log_of, vit, weights
from vitdemo.errors import OptionError, TrainingError
from vitdemo.models.layers import blocks
from vitdemo.models.loading import load_model
from vitdemo.registry import spec_from_folder
from vitdemo.training.augment import MEAN, STD, normalised, resize
from vitdemo.training.config import TrainConfig
from vitdemo.training.data import PhotoSet
from vitdemo.training.export import export
from vitdemo.training.loop import Trainer
from vitdemo.training.mimetic import mimetic_init, sincos_positions
from vitdemo.training.patience import Stage, blend, main, read_stages, run_stage
from vitdemo.training.photo_cache import INDEX, PIXELS, fill_photo_cache, open_photo_cache
from vitdemo.training.recipes.base import StepContext
from vitdemo.training.recipes.guide import Guide
from vitdemo.training.recipes.guided import Guided, GuidedOptions
from vitdemo.training.view_batches import ViewSchedule
from vitdemo.training.view_teachers import load_view_teacher
from vitdemo.training.views import ViewPlan, ViewStore, ViewTeacher, sampling_probabilities
from vitdemo.types import ModelSpec

PLAN = ViewPlan("colours", size=32, cells=4, width=3, summary=3, views=40, labelled=0.5, evenness=1.0)


def colours() -> ViewTeacher:
    """Its features are the picture itself, small: they are mirrored when the picture is."""

    def teacher(pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = torch.nn.functional.adaptive_avg_pool2d(pixels, 4)
        return features.permute(0, 2, 3, 1), features.mean(dim=(2, 3))

    return teacher


def never() -> ViewTeacher:
    raise AssertionError("all targets are stored")


def photos() -> PhotoSet:
    found = coloured_photos(60)
    labels = found.labels.copy()
    labels[45:] = -1
    return PhotoSet(found.images, labels, found.classes)


def store_in(folder: Path) -> ViewStore:
    return ViewStore(folder, photos(), PLAN, colours)


def recipe(store: ViewStore, student: PreTrainedModel, guide: Guide | None = None, steps: int = 30) -> Guided:
    schedule = ViewSchedule(steps, ((0.0, SIZE),), reuse=2, first_parts=2, max_parts=3)
    return Guided(student, store, np.ones(60, bool), schedule, guide)


def cnn() -> ResNetForImageClassification:
    """With the four stages that a guide has."""
    widths = {"embedding_size": 16, "hidden_sizes": [16, 16, 24, 32], "depths": [1] * 4}
    return ResNetForImageClassification(ResNetConfig(**widths, layer_type="basic", num_labels=3))


def guide_in(folder: Path) -> Guide:
    export(cnn(), folder, CLASSES, SIZE)
    return Guide(folder)


def small_network(arch: str, size: str, classes: list[str], resolution: int) -> PreTrainedModel:
    return cnn() if arch == "cnn" else vit()


def test_photos_are_decoded_once_and_unchanged(tmp_path: Path) -> None:
    labelled = in_tar(tmp_path / "a.tar", files(dict.fromkeys(FOLDERS, 2)))
    others = in_tar(tmp_path / "b.tar", {f"pool/{name}": data for name, data in files({"one": 2, "two": 1}).items()})
    classes = sorted({folder.replace("_", " ") for folder in FOLDERS})
    found = fill_photo_cache(tmp_path / "cache", classes, [labelled], [others], {"pool/two": classes[1]})
    assert found.classes == tuple(classes)
    assert found.labels[-3:].tolist() == [-1, -1, 1]
    labelled.unlink()
    others.unlink()
    again = fill_photo_cache(tmp_path / "cache", classes, [labelled], [others])
    assert all(np.array_equal(old, new) for old, new in zip(found.images, again.images, strict=True))
    assert again.labels.tolist() == found.labels.tolist()


def test_incomplete_photos_are_rejected(tmp_path: Path) -> None:
    fill_photo_cache(tmp_path, ["a", "b"], [in_tar(tmp_path / "a.tar", files({"a": 2, "b": 2}))])
    whole = (tmp_path / PIXELS).read_bytes()
    (tmp_path / PIXELS).write_bytes(whole[:-1])
    with pytest.raises(TrainingError, match="incomplete"):
        open_photo_cache(tmp_path)
    (tmp_path / INDEX).unlink()
    with pytest.raises(TrainingError, match="no decoded photos"):
        open_photo_cache(tmp_path)


def test_rare_classes_are_oversampled() -> None:
    labels = np.array([0] * 30 + [1] * 3 + [-1] * 10)
    some = PhotoSet((np.zeros((8, 8, 3), np.uint8),) * 43, labels, ("many", "few"))
    even = sampling_probabilities(some, PLAN)
    assert even.sum() == pytest.approx(1)
    assert even[labels >= 0].sum() == pytest.approx(PLAN.labelled)
    assert even[labels == 0].sum() == pytest.approx(even[labels == 1].sum())


def test_targets_are_computed_once_and_belong_to_the_pixels_of_their_view(tmp_path: Path) -> None:
    part = store_in(tmp_path).part(1)
    again = ViewStore(tmp_path, photos(), PLAN, never)
    assert np.array_equal(again.part(1), part)
    basis, stored = again.basis(), again.features(part)
    for view, features in zip(part[:5], stored, strict=False):
        pixels = normalised(torch.from_numpy(resize(again.crop(view), PLAN.size)).permute(2, 0, 1)[None])
        expected, summary = colours()(pixels)
        components = (expected[0] - basis["mean"]) @ basis["directions"] / basis["deviations"]
        torch.testing.assert_close(torch.from_numpy(features), components.clamp(-4, 4), atol=0.02, rtol=0)
        projected = (summary[0] - basis["summary_mean"]) @ basis["summary_directions"]
        torch.testing.assert_close(
            torch.from_numpy(view["summary"].astype(np.float32)), projected, atol=5e-3, rtol=5e-3
        )


def test_an_interrupted_part_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "SAVE_EVERY", 16)
    whole = store_in(tmp_path / "whole").part(0)
    batches: list[int] = []

    def interrupted() -> ViewTeacher:
        teacher = colours()

        def targets(pixels: Tensor) -> tuple[Tensor, Tensor]:
            # Five batches give the principal components, before the first view is stored.
            batches.append(len(pixels))
            if len(batches) == 5 + 4:
                raise KeyboardInterrupt
            return teacher(pixels)

        return targets

    with pytest.raises(KeyboardInterrupt):
        ViewStore(tmp_path / "cut", photos(), PLAN, interrupted).part(0)
    batches.clear()
    rest = ViewStore(tmp_path / "cut", photos(), PLAN, interrupted).part(0)
    assert sum(batches) == PLAN.views - 16
    assert np.array_equal(rest, whole)
    assert not list((tmp_path / "cut").glob("*.part"))


def test_a_store_grows_only_under_its_own_plan(tmp_path: Path) -> None:
    store_in(tmp_path)
    with pytest.raises(OptionError, match="other settings: seed"):
        ViewStore(tmp_path, photos(), ViewPlan(**{**vars(PLAN), "seed": 1}), colours)


def test_the_teachers_classifier_predicts_the_labels(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    classifier, part = store.fit_classifier(np.ones(60, bool), 2), store.part(2)
    labels = store.photos.labels[part["photo"]]
    predicted = classifier(torch.from_numpy(part["summary"].astype(np.float32))).argmax(dim=1).numpy()
    assert (predicted == labels)[labels >= 0].mean() > 0.9


def test_a_mirrored_view_has_mirrored_features(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    batch = recipe(store, vit()).batches(store.photos, 32, SIZE, 0).batch(0)
    seen, _ = colours()(normalised(batch.views[0]))
    basis = store.basis()
    components = (seen.flatten(1, 2) - basis["mean"]) @ basis["directions"] / basis["deviations"]
    target = batch.targets[0].flatten(1, 2)
    # The colours differ, the places do not.
    components, target = (value - value.mean(dim=1, keepdim=True) for value in (components, target))
    assert torch.nn.functional.cosine_similarity(components.flatten(1), target.flatten(1)).min() > 0.7


@torch.no_grad()
@pytest.mark.parametrize("kind", ["dinov2", "vit"])
def test_a_transformer_teaches_with_its_last_layers(kind: str, tiny_spec: Callable[[str], ModelSpec]) -> None:
    spec = tiny_spec(kind)
    pixels = torch.randn(2, 3, *spec.image_size)
    features, summary = load_view_teacher(spec.checkpoint, spec.patch_grid[0])(pixels)
    network = load_model(spec, torch.device("cpu"), torch.float32).network.base_model
    std, mean = (torch.tensor(values).view(3, 1, 1) for values in (spec.processor.std, spec.processor.mean))
    own = (pixels * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1) - mean) / std
    hidden = network(own, output_hidden_states=True).hidden_states
    width, prefix = hidden[0].shape[-1], spec.num_prefix_tokens
    assert features.shape == (2, *spec.patch_grid, min(3, len(hidden)) * width)
    assert summary.shape == (2, 2 * features.shape[-1])
    normed = network.layernorm(hidden[-2])
    layer = features.flatten(1, 2)[..., -2 * width : -width]
    torch.testing.assert_close(layer, normed[:, prefix:], rtol=1e-3, atol=1e-3)
    classes = summary[:, : features.shape[-1]]
    torch.testing.assert_close(classes[:, -2 * width : -width], normed[:, 0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(summary[:, features.shape[-1] :], features.mean(dim=(1, 2)), rtol=1e-3, atol=1e-3)


def test_held_out_photos_are_not_trained_on(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    made = recipe(store, vit())
    made.allowed[::2] = False
    batches = made.batches(store.photos, 64, SIZE, 0)
    assert all((batches.batch(step).indices % 2 == 1).all() for step in range(3))


@pytest.mark.thorough
@pytest.mark.parametrize("share", [0.0, 1.0, 0.75])
def test_a_batch_has_the_wanted_share_of_labelled_photos(share: float, tmp_path: Path) -> None:
    store = store_in(tmp_path)
    made = recipe(store, vit())
    made.schedule = replace(made.schedule, labelled=share)
    batches = made.batches(store.photos, 400, SIZE, 0)
    found = float(np.mean([(batches.batch(step).labels >= 0).float().mean() for step in range(3)]))
    assert found == pytest.approx(share, abs=0.06 if share == 0.75 else 0)


@pytest.mark.parametrize(
    ("make", "guided"),
    [
        pytest.param(vit, True, id="vit"),
        pytest.param(cnn, False, id="cnn"),
        pytest.param(encoder, True, id="dino"),
        pytest.param(deit, True, id="deit", marks=pytest.mark.thorough),
        pytest.param(beit, True, id="beit", marks=pytest.mark.thorough),
    ],
)
def test_every_family_learns_from_views_and_a_guide(
    make: Callable[[], PreTrainedModel], guided: bool, tmp_path: Path
) -> None:
    store = store_in(tmp_path / "views")
    config = TrainConfig(20, batch=16, resolution=SIZE, learning_rate=3e-3, save_every=10**9)
    guide = None
    if guided:
        teaching = Trainer(recipe(store, cnn()), config, store.photos, photos().labelled(), tmp_path / "cnn", cpu=True)
        teaching.run()
        export(teaching.network, tmp_path / "guide", CLASSES, SIZE)
        guide = Guide(tmp_path / "guide")
    made = recipe(store, make(), guide)
    before = {name: value.clone() for name, value in guide.state_dict().items()} if guide else {}
    result = Trainer(made, config, store.photos, photos().labelled(), tmp_path / "run", cpu=True).run()
    losses = [line["loss"] for line in log_of(tmp_path / "run")]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert result.score > 0.6
    assert all(torch.equal(value, before[name]) for name, value in (guide.state_dict() if guide else {}).items())
    assert not any(name.startswith("teacher.") for name in made.state())


def test_the_temperature_of_a_stage_softens_the_teacher_alone(tmp_path: Path) -> None:
    store, losses = store_in(tmp_path / "views"), {}
    for temperature in (1.0, 4.0):
        torch.manual_seed(0)
        schedule = ViewSchedule(30, ((0.0, SIZE),), reuse=2, first_parts=2, max_parts=3)
        made = Guided(cnn(), store, np.ones(60, bool), schedule, options=GuidedOptions(temperature=temperature))
        batch = made.batches(store.photos, 8, SIZE, 0).batch(0)
        views = [normalised(view) for view in batch.views]
        _, losses[temperature] = made(views, batch.labels, StepContext(0, 0.0, 0), batch.targets)
    assert losses[1.0]["labels"] == losses[4.0]["labels"]
    assert losses[1.0]["summary"] == losses[4.0]["summary"]
    assert losses[1.0]["logits"] != losses[4.0]["logits"]


def test_an_interrupted_run_that_is_resumed_ends_with_identical_weights(tmp_path: Path) -> None:
    def trainer(folder: Path) -> Trainer:
        torch.manual_seed(0)
        made = recipe(store_in(tmp_path / "views"), vit(), steps=6)
        config = TrainConfig(6, batch=8, resolution=SIZE)
        return Trainer(made, config, photos(), photos().labelled(), folder, cpu=True)

    whole = trainer(tmp_path / "whole")
    whole.run()
    trainer(tmp_path / "cut").run(until=3)
    rest = trainer(tmp_path / "cut")
    rest.resume()
    rest.run()
    assert_same(weights(whole), weights(rest))


def test_resolution_and_parts_follow_the_schedule() -> None:
    schedule = ViewSchedule(100, ((0, 64), (0.5, 96)), reuse=2, first_parts=3, max_parts=5)
    assert [schedule.size(step) for step in (0, 49, 50, 99)] == [64, 64, 96, 96]
    assert [schedule.parts(step, 10, 40) for step in (0, 8, 99)] == [3, 4, 5]


def test_a_cnn_has_neither_guide_nor_mimetic_initialisation(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="for transformers"):
        recipe(store_in(tmp_path / "views"), cnn(), guide_in(tmp_path / "guide"))
    with pytest.raises(OptionError, match="for transformers"):
        mimetic_init(cnn())


def test_mimetic_attention_is_close_to_the_identity() -> None:
    width, heads = 48, 2
    network = vit()
    mimetic_init(network, torch.Generator().manual_seed(0))
    layer = dict(blocks(network)[0].named_modules())
    linear = {name.rpartition(".")[2]: module for name, module in layer.items()}
    values = (linear["o_proj"].weight @ linear["v_proj"].weight).detach()
    assert float(values.diagonal().mean()) == pytest.approx(-0.4, abs=0.1)
    rows = slice(width // heads)
    product = (linear["q_proj"].weight[rows].T @ linear["k_proj"].weight[rows]).detach()
    assert product.diagonal().mean() > 0.1
    assert product.diagonal().mean() > 5 * (product - product.diagonal().diag()).mean().abs()


def test_sine_cosine_positions_are_distinct_and_closer_to_their_neighbours() -> None:
    table = sincos_positions(4, 16)
    distances = torch.cdist(table, table)
    assert (distances + 10 * torch.eye(16)).min() > 0.1
    assert distances[0, 1] < distances[0, 3]


def test_stages_build_on_one_another_and_end_as_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(patience, "load_view_teacher", lambda name, cells: colours())
    monkeypatch.setattr(patience, "build", small_network)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    tar = in_tar(tmp_path / "a.tar", files({"red": 8, "green": 8, "blue": 8}))
    for folder in (patience.TRAIN, patience.TEST):
        fill_photo_cache(tmp_path / folder, CLASSES, [tar])
    drawn = {"size": 32, "cells": 4, "width": 3, "summary": 3, "views": 16}
    common = {"steps": 2, "batch": 4, "sizes": [[0, 32]], "views": drawn, "max_parts": 8, "evaluate_every": 2}
    stages = [
        {"name": "cnn", "arch": "cnn", "held_out": 0.25, **common},
        {"name": "vit", "arch": "vit", "guide": "cnn", "mimetic": True, **common, "sizes": [[0, 16], [0.5, 32]]},
        {"name": "dino", "arch": "dino", "init": "vit", **common},
        {"name": "same", "arch": "vit", "init": "vit", "kept": 1.0, **common},
    ]
    path = tmp_path / "stages.json"
    path.write_text(json.dumps(stages))
    with pytest.raises(OptionError, match="The stage cnn has not ended"):
        main([str(path), "vit", "--work", str(tmp_path)])
    for name in ("cnn", "vit", "dino", "dino", "same"):
        assert main([str(path), name, "--work", str(tmp_path)]) == 0
    assert "dino has already ended" in capsys.readouterr().out
    spec = spec_from_folder(tmp_path / "vit/ended")
    assert spec.labels == CLASSES
    logits = load_model(spec, torch.device("cpu"), torch.float32)(torch.zeros(1, 3, 32, 32))
    assert logits is not None
    assert logits.shape == (1, 3)
    assert spec_from_folder(tmp_path / "dino/ended").family == "DINO"
    begun, same = (safetensors.torch.load_file(tmp_path / name / "ended/model.safetensors") for name in ("vit", "same"))
    assert all(torch.equal(same[key], value) for key, value in begun.items())
    with pytest.raises(OptionError, match="Choose from: cnn, vit, dino"):
        main([str(path), "mae", "--work", str(tmp_path)])


def test_a_result_keeps_a_share_of_the_weights_that_it_began_with() -> None:
    network, other = cnn(), cnn()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    blend(network, other, 0.25)
    for name, value in network.state_dict().items():
        mean = before[name] if "num_batches" in name else 0.75 * before[name] + 0.25 * other.state_dict()[name]
        assert torch.allclose(value.double(), mean.double(), atol=1e-6)


def test_a_stage_needs_a_sound_list_and_photos(tmp_path: Path) -> None:
    (tmp_path / "stages.json").write_text('[{"name": "a"}]')
    with pytest.raises(OptionError, match="no list of stages"):
        read_stages(tmp_path / "stages.json")
    with pytest.raises(TrainingError, match="no decoded photos"):
        run_stage(Stage("a", "cnn", 1, ((0, 32),)), tmp_path)
