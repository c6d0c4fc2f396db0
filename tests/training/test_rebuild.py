"""The stages of the embedded models, run for a step or two; and the models that ship."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

from tests.photos import FOLDERS, files, in_tar
from vitdemo.cli import build_parser, main
from vitdemo.errors import NotDownloadedError, UnknownModelError
from vitdemo.evaluation.model_card import (
    ECE,
    PER_CLASS,
    TABLE_BEGIN,
    TABLE_END,
    TOP1,
    figure,
    models_table,
    write_models_table,
)
from vitdemo.pipeline import Pipeline
from vitdemo.registry import embedded_models, find_spec, spec_from_folder
from vitdemo.settings import ASSETS, ROOT
from vitdemo.training.card import CURVE_POINTS, replace_training_section, summarise_log
from vitdemo.training.config import LOG
from vitdemo.training.data import PhotoSet
from vitdemo.training.patience import hold_out
from vitdemo.training.rebuild import DINO_TEACHER, LAST_STAGES, SIZE, STAGES, Rebuild, needed, rebuild

CLASSES = len(FOLDERS)


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return in_tar(tmp_path_factory.mktemp("photos") / "photos.tar", files(dict.fromkeys(FOLDERS, 4)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all models: a model that initialises others is trained once."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINOv2 with random weights, in the Hub's layout."""
    folder = tmp_path_factory.mktemp("dinov2")
    config = Dinov2Config(hidden_size=48, num_hidden_layers=4, num_attention_heads=3, patch_size=14, image_size=56)
    Dinov2Model(config).save_pretrained(folder)
    BitImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}).save_pretrained(folder)
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few small views and photos instead of thousands."""
    for name, stage in STAGES.items():
        views = {**stage.views, "size": 64, "cells": 2, "views": 64, "width": 16, "summary": 16}
        sizes = ((0.0, SIZE),) if stage.arch == "mae" else ((0.0, 32), (0.5, 64))
        monkeypatch.setitem(STAGES, name, replace(stage, sizes=sizes, views=views, batch=4, max_parts=8))


def stages(runs: Path) -> dict[str, int]:
    """When each run ended."""
    return {path.parent.parent.name: path.stat().st_mtime_ns for path in sorted(runs.glob("*/ended/README.md"))}


@pytest.mark.thorough
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", LAST_STAGES)
def test_every_embedded_model_is_trained_from_photos_by_one_command(
    name: str, tar: Path, runs: Path, dinov2: Path, pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["rebuild", name, str(tar), "--test", str(tar), "--unlabelled", str(tar), "--dino-teacher", str(dinov2)]
    command += ["--out", str(runs), "--share", "0.0001", "--cpu", "--json"]
    assert main(command) == 0
    folder = Path(json.loads(capsys.readouterr().out)["model"])
    assert folder == runs / name
    spec = spec_from_folder(folder)
    assert spec.family == next(known.family for known in embedded_models() if known.name == name)
    assert spec.image_size == (SIZE, SIZE)
    assert len(spec.labels) == (0 if name == "mae-mini" else CLASSES)
    photo = pipeline.open(next((ASSETS / "examples").glob("*.jpg")))
    assert len(pipeline.classify([photo], spec)[0].labels) == len(spec.labels)
    card = (folder / "README.md").read_text(encoding="utf-8")
    for stage in needed(LAST_STAGES[name]):
        assert card.count(f"| {stage.name} | ") == 1
    assert f"`python -m vitdemo rebuild {name} photos.tar --unlabelled photos.tar`" in card
    before = stages(runs)
    assert main(command) == 0
    assert stages(runs) == before
    # Interrupted after its last step: it resumes from there.
    last = runs / LAST_STAGES[name]
    log = (last / LOG).read_text(encoding="utf-8")
    (last / "ended/README.md").unlink()
    assert main(command) == 0
    assert (last / "ended/README.md").exists()
    assert (last / LOG).read_text(encoding="utf-8") == log


def test_a_dino_learns_from_a_model_that_the_registry_knows() -> None:
    with pytest.raises(NotDownloadedError, match="python -m vitdemo download"):
        find_spec(DINO_TEACHER)
    assert build_parser().parse_args(["rebuild", "dino-mini", "photos"]).dino_teacher == DINO_TEACHER


def test_of_few_photos_some_are_held_out() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2, -1])
    photos = PhotoSet(tuple(np.zeros((8, 8, 3), np.uint8) for _ in labels), labels, ("a", "b", "c"))
    allowed, held_out = hold_out(photos, 0.1)
    assert sorted(held_out.labels.tolist()) == [0, 1]
    assert allowed.sum() == len(labels) - 2
    assert hold_out(photos, 0.0)[0].all()


def test_stages_come_after_those_that_they_build_on() -> None:
    for name in STAGES:
        order = [stage.name for stage in needed(name)]
        assert order[-1] == name
        assert len(set(order)) == len(order)
        for stage in needed(name):
            assert {stage.guide, stage.init} - {None} <= set(order[: order.index(stage.name)])


def test_a_dino_learns_nothing_that_came_from_labels() -> None:
    stages = needed("dino")
    assert all(stage.guide is None and stage.teacher == DINO_TEACHER for stage in stages)
    assert all(stage.views["evenness"] == 0 for stage in stages)


def test_an_unknown_model_is_rejected_with_the_known_names(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="vit-mini, deit-mini"):
        rebuild("vit", Rebuild((tmp_path / "photos.tar",), tmp_path))


def test_of_a_repeated_step_the_last_line_counts(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = [{"step": step, "loss": 9.0 - step, "seconds": 60.0 * step} for step in (1, 2, 3)]
    again = [{"step": step, "loss": 1.0, "seconds": 120.0 * step} for step in (2, 3)]
    path.write_text("\n".join(map(json.dumps, [*lines, *again])) + '\n{"step": 4, "lo')
    log = summarise_log(path)
    assert (log.steps, log.minutes, log.losses) == (3, 6.0, (8.0, 1.0, 1.0))
    path.write_text("\n".join(json.dumps({"step": step, "loss": step, "seconds": 1.0}) for step in range(12)))
    assert summarise_log(path).losses == tuple(2 * part + 0.5 for part in range(CURVE_POINTS))


def test_a_card_keeps_its_text_around_the_training_section() -> None:
    section = "## Training\n\nnew\n"
    card = "# Mine\n\nWords.\n\n## Training\n\nold\n\n## Known weaknesses\n\nMany.\n"
    assert replace_training_section(card, section) == card.replace("old", "new")
    assert replace_training_section("# Mine\n", section) == "# Mine\n\n" + section
    assert replace_training_section(replace_training_section(card, section), section) == replace_training_section(
        card, section
    )


def test_the_embedded_models_are_small_enough_to_ship() -> None:
    sizes = [path.stat().st_size for path in (ASSETS / "models").rglob("*.safetensors")]
    assert max(sizes) < 10_000_000
    assert sum(sizes) < 50_000_000


def test_every_embedded_model_has_stages() -> None:
    assert sorted(LAST_STAGES) == sorted(spec.name for spec in embedded_models())
    assert set(LAST_STAGES.values()) <= set(STAGES)


def test_the_table_replaces_the_text_between_its_marks(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"Before.\n{TABLE_BEGIN}old\n{TABLE_END}\nAfter.\n", encoding="utf-8")
    for _ in range(2):
        write_models_table(readme)
        assert readme.read_text(encoding="utf-8") == f"Before.\n{TABLE_BEGIN}{models_table()}{TABLE_END}\nAfter.\n"
    for text in ("No marks.\n", f"{TABLE_BEGIN}No end.\n"):
        readme.write_text(text, encoding="utf-8")
        write_models_table(readme)
        assert readme.read_text(encoding="utf-8") == text
    write_models_table(tmp_path / "absent.md")
    assert not (tmp_path / "absent.md").exists()


def test_the_readme_has_the_figures_of_the_cards() -> None:
    assert models_table() in (ROOT / "README.md").read_text(encoding="utf-8")
    for spec in embedded_models():
        figures = [figure(spec, name) for name in (TOP1, PER_CLASS, ECE)]
        assert all(figures) if spec.labels else not any(figures)
