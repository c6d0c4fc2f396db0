"""How the embedded models are made: stages of the project's own recipes, low resolutions first and 224 px last."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vitdemo.errors import UnknownModelError
from vitdemo.registry import embedded_models, read_json, spec_from_folder, write_json
from vitdemo.settings import ASSETS
from vitdemo.training.card import Run, run_log, training_section, with_training
from vitdemo.training.config import Job
from vitdemo.training.loop import LOG, Plan
from vitdemo.training.probe import probe
from vitdemo.training.recipes.base import STATE
from vitdemo.training.run import device_name, train

TEACHER = "efficientnet-lite2:224"
VIEWS = 4
SIZE = 224


@dataclass(frozen=True)
class Stage:
    """One run. It begins with the weights of the one before it."""

    recipe: str
    resolution: int
    epochs: float
    batch: int = 96
    rate: float = 1e-3
    keep: float = 1.0
    optimiser: str = "muon"


@dataclass(frozen=True)
class Making:
    """All of a model's runs."""

    arch: str
    stages: tuple[Stage, ...]
    begin: str | None = None
    """The model whose layers the first stage takes over."""


MAKINGS = {
    "vit-mini": Making(
        "vit",
        (Stage("distill", 96, 60, 128, 2e-3), Stage("distill", 160, 10, keep=0.4), Stage("distill", SIZE, 2, keep=0.4)),
    ),
    "deit-mini": Making(
        "deit", (Stage("distill", 160, 10, keep=0.4), Stage("distill", SIZE, 2, keep=0.4)), begin="vit-mini"
    ),
    "beit-mini": Making("beit", (Stage("distill", 112, 10), Stage("distill", SIZE, 1)), begin="vit-mini"),
    "dino-mini": Making(
        "vit",
        (Stage("dino", 128, 4, 48, 2e-4, optimiser="adamw"), Stage("dino", SIZE, 0.5, 48, 5e-5, optimiser="adamw")),
        begin="vit-mini",
    ),
    "hybrid-mini": Making(
        "hybrid", (Stage("distill", 96, 40, 128, 2e-3), Stage("distill", SIZE, 2, keep=0.4)), begin="vit-mini"
    ),
    "mae-mini": Making("mae", (Stage("mim", SIZE, 30, 128, 2e-3),), begin="vit-mini"),
    "cnn-mini": Making(
        "cnn",
        (Stage("distill", 96, 60, 128, 2e-3), Stage("distill", 160, 8), Stage("distill", SIZE, 2)),
    ),
}


def rebuild(
    name: str,
    data: tuple[Path, ...],
    out: Path,
    test: tuple[Path, ...] = (),
    share: float = 1.0,
    cpu: bool = False,
    report: Callable[[str, dict[str, Any]], None] = lambda stage, figures: None,
) -> Path:
    """Train the model anew, and put it where it goes on from: a stage that is done is not done again, a cut one is resumed.

    Args:
        data: labelled photos, the same for all stages.
        out: folder for the stages, the teacher's answers, and the model itself, which is named as the embedded one.
        test: photos to judge on; a tenth of the data is held back if none are given.
        share: of the epochs.
        report: called with the stage's name and the figures of each step.

    Returns:
        The model's folder.

    Raises:
        UnknownModelError: no embedded model has that name.
        InputError: the photos cannot be used.
        TrainingError: no room, or no finite loss.
    """
    if name not in MAKINGS:
        raise UnknownModelError(f"Unknown embedded model {name!r}. Choose from: {', '.join(MAKINGS)}.")
    making = MAKINGS[name]
    told: list[tuple[Stage, Path]] = []
    begin = rebuild(making.begin, data, out, test, share, cpu, report) if making.begin else None
    last = begin
    for number, stage in enumerate(making.stages, 1):
        folder = out / f"{name}-{number}"
        if not (folder / "README.md").exists():
            job = _job(making.arch, stage, data, folder, last, test, share, cpu)
            train(job, partial(report, folder.name))
        told.append((stage, folder))
        last = folder
    assert last is not None
    return _finished(name, making, begin, last, out / name, data, test, told, cpu)


def _finished(
    name: str,
    making: Making,
    begin: Path | None,
    last: Path,
    out: Path,
    data: tuple[Path, ...],
    test: tuple[Path, ...],
    told: list[tuple[Stage, Path]],
    cpu: bool,
) -> Path:
    """The last stage under the model's name, with a card of all stages."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for file in ("config.json", "preprocessor_config.json", "model.safetensors", "README.md"):
        shutil.copyfile(last / file, out / file)
    config = read_json(out / "config.json")
    config["vitdemo"]["revision"] = f"{datetime.date.today():%Y-%m-%d}"
    write_json(out / "config.json", config)
    if making.stages[-1].recipe == "dino":
        probe(spec_from_folder(out), data, test, save=True)
    # What is said of the embedded model by hand is true of one of the same classes alone.
    known, classes = embedded_labels(), spec_from_folder(begin or out).labels
    words = ASSETS / "models" / name / "README.md" if classes == known else out / "README.md"
    text = words.read_text(encoding="utf-8").replace(f"# {last.name}\n", f"# {name}\n", 1)
    command = f"python -m vitdemo rebuild {name} {' '.join(path.name for path in data)}"
    runs = [
        Run(stage.recipe, stage.resolution, stage.batch, run_log(folder / LOG), folder.name) for stage, folder in told
    ]
    taught = any(stage.recipe == "distill" for stage in making.stages)
    section = training_section(command, [path.name for path in data], making.begin, taught, runs, device_name(cpu))
    (out / "README.md").write_text(with_training(text, section), encoding="utf-8")
    return out


def embedded_labels() -> tuple[str, ...]:
    """The classes of the embedded models, in their order."""
    return next((spec.labels for spec in embedded_models() if spec.labels), ())


def _job(
    arch: str,
    stage: Stage,
    data: tuple[Path, ...],
    folder: Path,
    begin: Path | None,
    test: tuple[Path, ...],
    share: float,
    cpu: bool,
) -> Job:
    banked = stage.recipe == "distill"
    on_cpu = cpu or not torch.cuda.is_available()
    return Job(
        data=data,
        recipe=stage.recipe,
        arch=arch,
        out=folder,
        test=test,
        teacher=TEACHER if banked else None,
        bank=folder.parent / "bank" if banked else None,
        views=VIEWS,
        keep=stage.keep,
        init=begin,
        epochs=max(stage.epochs * share, 1e-3),
        resume=(folder / STATE).exists(),
        cpu=cpu,
        labels=embedded_labels(),
        plan=Plan(
            steps=0,
            batch=stage.batch,
            size=stage.resolution,
            optimiser=stage.optimiser,
            learning_rate=stage.rate,
            average=0.99 if banked or stage.recipe == "mim" else 0.0,
            precision="bf16" if on_cpu or torch.cuda.is_bf16_supported() else "fp32",
            judge_every=10**9,
        ),
    )
