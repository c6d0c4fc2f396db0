"""Long trainings: photos are decoded once, views asked about once, and a killed run ends as one that was left alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import vitdemo.training.patience as patience
import vitdemo.training.views as views
from tests.photos import FOLDERS, files, in_tar
from tests.test_loop import CLASSES, assert_same, coloured_photos, weights
from tests.test_recipes import SIZE, beit, deit, vit
from vitdemo.errors import OptionError, TrainingError
from vitdemo.loading import load_model
from vitdemo.nn.heads import blocks
from vitdemo.registry import spec_from_folder
from vitdemo.training.architectures import build
from vitdemo.training.augment import normalised
from vitdemo.training.data import PhotoSet
from vitdemo.training.export import export
from vitdemo.training.kept_photos import INDEX, PIXELS, keep_photos, kept_photos
from vitdemo.training.loop import Plan, Trainer
from vitdemo.training.mimetic import mimic, waves
from vitdemo.training.patience import Stage, main, read_stages, run_stage
from vitdemo.training.recipes.guided import Diet, Guide, Guided
from vitdemo.training.views import Answer, ViewPlan, ViewStore, scaled, weights_of

PLAN = ViewPlan("colours", size=32, cells=4, width=3, summary=3, views=40, labelled=0.5, evenness=1.0)


def colours() -> Answer:
    """The picture itself, small: it mirrors when the picture does."""

    def answer(pixels: Tensor) -> tuple[Tensor, Tensor]:
        found = torch.nn.functional.adaptive_avg_pool2d(pixels, 4)
        return found.permute(0, 2, 3, 1), found.mean(dim=(2, 3))

    return answer


def never() -> Answer:
    raise AssertionError("nothing is left to ask")


def photos() -> PhotoSet:
    found = coloured_photos(60)
    labels = found.labels.copy()
    labels[45:] = -1
    return PhotoSet(found.images, labels, found.classes)


def store_in(folder: Path) -> ViewStore:
    return ViewStore(folder, photos(), PLAN, colours)


def recipe(store: ViewStore, student: PreTrainedModel, guide: Guide | None = None, steps: int = 30) -> Guided:
    diet = Diet(steps, ((0.0, SIZE),), reuse=2, first=2, most=3)
    return Guided(student, store, np.ones(60, bool), diet, SIZE, guide)


def cnn_in(folder: Path) -> Path:
    torch.manual_seed(0)
    export(build("cnn", "mini", CLASSES, SIZE), folder, CLASSES, SIZE)
    return folder


def test_photos_are_decoded_once_and_come_back_as_they_were(tmp_path: Path) -> None:
    labelled = in_tar(tmp_path / "a.tar", files(dict.fromkeys(FOLDERS, 2)))
    others = in_tar(tmp_path / "b.tar", {f"pool/{name}": data for name, data in files({"one": 2, "two": 1}).items()})
    classes = sorted({folder.replace("_", " ") for folder in FOLDERS if not folder.startswith("_")})
    found = keep_photos(tmp_path / "kept", classes, [labelled], [others], {"pool/two": classes[1]})
    assert found.classes == tuple(classes)
    assert found.labels[-3:].tolist() == [-1, -1, 1]
    labelled.unlink()
    others.unlink()
    again = keep_photos(tmp_path / "kept", classes, [labelled], [others])
    assert all(np.array_equal(old, new) for old, new in zip(found.images, again.images, strict=True))
    assert again.labels.tolist() == found.labels.tolist()


def test_photos_that_are_cut_off_are_refused(tmp_path: Path) -> None:
    keep_photos(tmp_path, ["a", "b"], [in_tar(tmp_path / "a.tar", files({"a": 2, "b": 2}))])
    whole = (tmp_path / PIXELS).read_bytes()
    (tmp_path / PIXELS).write_bytes(whole[:-1])
    with pytest.raises(TrainingError, match="cut off"):
        kept_photos(tmp_path)
    (tmp_path / INDEX).unlink()
    with pytest.raises(TrainingError, match="no decoded photos"):
        kept_photos(tmp_path)


def test_classes_are_drawn_as_evenly_as_asked_for() -> None:
    labels = np.array([0] * 30 + [1] * 3 + [-1] * 10)
    some = PhotoSet((np.zeros((8, 8, 3), np.uint8),) * 43, labels, ("many", "few"))
    even = weights_of(some, PLAN)
    assert even.sum() == pytest.approx(1)
    assert even[labels >= 0].sum() == pytest.approx(PLAN.labelled)
    assert even[labels == 0].sum() == pytest.approx(even[labels == 1].sum())


def test_a_view_is_asked_about_once_and_its_answer_is_that_of_its_pixels(tmp_path: Path) -> None:
    part = store_in(tmp_path).part(1)
    again = ViewStore(tmp_path, photos(), PLAN, never)
    assert np.array_equal(again.part(1), part)
    basis = again.basis()
    for view in part[:5]:
        seen = normalised(torch.from_numpy(scaled(again.pixels(view), PLAN.size)).permute(2, 0, 1)[None])
        features, summary = colours()(seen)
        along = (features.flatten(1, 2)[0] - basis["mean"]) @ basis["directions"] / basis["deviations"]
        kept = torch.from_numpy(view["features"].astype(np.float32)) * 4 / 127
        torch.testing.assert_close(kept, along.clamp(-4, 4), atol=0.02, rtol=0)
        summed = (summary[0] - basis["summary_mean"]) @ basis["summary_directions"]
        torch.testing.assert_close(torch.from_numpy(view["summary"].astype(np.float32)), summed, atol=5e-3, rtol=5e-3)


def test_a_part_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "SAVE_EVERY", 16)
    whole = store_in(tmp_path / "whole").part(0)
    asked: list[int] = []

    def tired() -> Answer:
        answer = colours()

        def some(pixels: Tensor) -> tuple[Tensor, Tensor]:
            # The directions are found on all views of the part, in five batches, before the first is kept.
            asked.append(len(pixels))
            if len(asked) == 5 + 4:
                raise KeyboardInterrupt
            return answer(pixels)

        return some

    with pytest.raises(KeyboardInterrupt):
        ViewStore(tmp_path / "cut", photos(), PLAN, tired).part(0)
    asked.clear()
    rest = ViewStore(tmp_path / "cut", photos(), PLAN, tired).part(0)
    assert sum(asked) == PLAN.views - 16
    assert np.array_equal(rest, whole)
    assert not list((tmp_path / "cut").glob("*.part"))


def test_a_store_drawn_otherwise_is_refused(tmp_path: Path) -> None:
    store_in(tmp_path)
    with pytest.raises(OptionError, match="drawn otherwise: seed"):
        ViewStore(tmp_path, photos(), ViewPlan(**{**vars(PLAN), "seed": 1}), colours)


def test_the_teachers_classifier_names_the_classes(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    head, part = store.head(np.ones(60, bool), 2), store.part(2)
    known = store.photos.labels[part["photo"]] >= 0
    named = head(torch.from_numpy(part["summary"].astype(np.float32))).argmax(dim=1).numpy()
    assert (named == store.photos.labels[part["photo"]])[known].mean() > 0.9


def test_a_mirrored_view_has_a_mirrored_map(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    batches = recipe(store, vit()).batches(store.photos, 32, SIZE, 0)
    batch = batches.batch(0)
    seen, _ = colours()(normalised(batch.views[0]))
    basis = store.basis()
    along = (seen.flatten(1, 2) - basis["mean"]) @ basis["directions"] / basis["deviations"]
    told = batch.targets[0].flatten(1, 2)
    # Colours were changed since, places were not.
    along, told = (value - value.mean(dim=1, keepdim=True) for value in (along, told))
    assert torch.nn.functional.cosine_similarity(along.flatten(1), told.flatten(1)).min() > 0.7


def test_photos_held_out_are_not_shown(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    made = recipe(store, vit())
    made.allowed[::2] = False
    batches = made.batches(store.photos, 64, SIZE, 0)
    assert all((batches.batch(step).indices % 2 == 1).all() for step in range(3))


@pytest.mark.parametrize("make", [vit, deit, beit, "cnn", "dino"])
def test_every_family_learns_from_views_and_a_guide(make: object, tmp_path: Path) -> None:
    torch.manual_seed(0)
    store = store_in(tmp_path / "views")
    student = build("cnn", "mini", CLASSES, SIZE) if make == "cnn" else vit().vit if make == "dino" else make()  # type: ignore[operator]
    guide = None if make == "cnn" else Guide(cnn_in(tmp_path / "guide"))
    made = recipe(store, student, guide)
    plan = Plan(30, batch=16, size=SIZE, learning_rate=3e-3, judge_every=30)
    trainer = Trainer(made, plan, store.photos, photos().labelled(), tmp_path / "run", cpu=True)
    before = {name: value.clone() for name, value in guide.state_dict().items()} if guide else {}
    score = trainer.run().score
    log = [json.loads(line)["loss"] for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert np.mean(log[-5:]) < np.mean(log[:5])
    assert score > 0.6
    assert all(torch.equal(value, before[name]) for name, value in (guide.state_dict() if guide else {}).items())
    assert not any(name.startswith("teacher.") for name in made.state())


def test_a_killed_run_ends_as_one_that_was_left_alone(tmp_path: Path) -> None:
    def trainer(folder: Path) -> Trainer:
        torch.manual_seed(0)
        made = recipe(store_in(tmp_path / "views"), vit(), steps=6)
        return Trainer(made, Plan(6, batch=8, size=SIZE), photos(), photos().labelled(), folder, cpu=True)

    whole = trainer(tmp_path / "whole")
    whole.run()
    trainer(tmp_path / "cut").run(until=3)
    rest = trainer(tmp_path / "cut")
    rest.resume()
    rest.run()
    assert_same(weights(whole), weights(rest))


def test_sizes_and_parts_grow_with_the_steps() -> None:
    diet = Diet(100, ((0, 64), (0.5, 96)), reuse=2, first=3, most=5)
    assert [diet.size(step) for step in (0, 49, 50, 99)] == [64, 64, 96, 96]
    assert [diet.parts(step, 10, 40) for step in (0, 8, 99)] == [3, 4, 5]


def test_no_guide_for_a_cnn(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="for transformers"):
        recipe(store_in(tmp_path / "views"), build("cnn", "mini", CLASSES, SIZE), Guide(cnn_in(tmp_path / "guide")))  # type: ignore[arg-type]


def test_mimetic_attention_compares_like_with_like() -> None:
    network = build("vit", "mini", CLASSES, 64)
    assert isinstance(network, PreTrainedModel)
    mimic(network, torch.Generator().manual_seed(0))
    layer = dict(blocks(network)[0].named_modules())
    named = {name.rpartition(".")[2]: module for name, module in layer.items()}
    values = named["o_proj"].weight @ named["v_proj"].weight
    assert float(values.diagonal().detach().mean()) == pytest.approx(-0.4, abs=0.05)
    own = named["q_proj"].weight[:32].T @ named["k_proj"].weight[:32]
    assert own.diagonal().mean() > 0.1
    assert own.diagonal().mean() > 5 * (own - own.diagonal().diag()).mean().abs()


def test_waves_tell_places_apart() -> None:
    table = waves(4, 16)
    distances = torch.cdist(table, table)
    assert (distances + 10 * torch.eye(16)).min() > 0.1
    assert distances[0, 1] < distances[0, 3]


def test_stages_follow_one_another_and_come_out_as_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(patience, "view_teacher", lambda name, cells: colours())
    tar = in_tar(tmp_path / "a.tar", files({"red": 8, "green": 8}))
    for part in ("photos-train", "photos-test"):
        keep_photos(tmp_path / part, ["green", "red"], [tar])
    drawn = {"size": 32, "cells": 4, "width": 3, "summary": 3, "views": 16}
    common = {"steps": 2, "batch": 4, "sizes": [[0, 32]], "views": drawn, "parts": 8, "judge_every": 2}
    stages = [
        {"name": "cnn", "arch": "cnn", "held_out": 0.25, **common},
        {"name": "vit", "arch": "vit", "guide": "cnn", "mimetic": True, **common},
        {"name": "dino", "arch": "dino", "begin": "vit", **common},
    ]
    path = tmp_path / "stages.json"
    path.write_text(json.dumps(stages))
    with pytest.raises(OptionError, match="The stage cnn has not ended"):
        main([str(path), "vit", "--work", str(tmp_path)])
    for name in ("cnn", "vit", "dino", "dino"):
        assert main([str(path), name, "--work", str(tmp_path)]) == 0
    assert "dino has ended before" in capsys.readouterr().out
    spec = spec_from_folder(tmp_path / "vit/ended")
    assert spec.labels == ("green", "red")
    assert load_model(spec, torch.device("cpu"), torch.float32)(torch.zeros(1, 3, 32, 32)).shape == (1, 2)
    assert spec_from_folder(tmp_path / "dino/ended").family == "DINO"
    with pytest.raises(OptionError, match="Choose from: cnn, vit, dino"):
        main([str(path), "mae", "--work", str(tmp_path)])


def test_a_damaged_list_of_stages_is_refused(tmp_path: Path) -> None:
    (tmp_path / "stages.json").write_text('[{"name": "a"}]')
    with pytest.raises(OptionError, match="no list of stages"):
        read_stages(tmp_path / "stages.json")
    with pytest.raises(TrainingError, match="no decoded photos"):
        run_stage(Stage("a", "cnn", 1, ((0, 32),)), tmp_path)
