"""Trains the embedded models: stages of the project's own recipes, low resolutions first and 224 px last."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vitdemo.errors import UnknownModelError
from vitdemo.registry import embedded_models, read_json, spec_from_folder, write_json
from vitdemo.settings import ASSETS
from vitdemo.training.card import StageRun, replace_training_section, summarise_log, training_section
from vitdemo.training.config import LOG, STATE, TrainConfig, TrainJob
from vitdemo.training.probe import probe
from vitdemo.training.run import device_name, train

TEACHER = "efficientnet-lite2:224"
VIEWS = 4
SIZE = 224


@dataclass(frozen=True)
class Stage:
    """One run, initialised with the weights of the previous one."""

    recipe: str
    resolution: int
    epochs: float
    batch: int = 96
    learning_rate: float = 1e-3
    keep_ratio: float = 1.0
    optimiser: str = "muon"


@dataclass(frozen=True)
class TrainingPlan:
    """All stages of a model's training."""

    arch: str
    stages: tuple[Stage, ...]
    init_from: str | None = None
    """The model whose layers initialise the first stage."""


TRAINING_PLANS = {
    "vit-mini": TrainingPlan(
        "vit",
        (
            Stage("distill", 96, 60, 128, 2e-3),
            Stage("distill", 160, 10, keep_ratio=0.4),
            Stage("distill", SIZE, 2, keep_ratio=0.4),
        ),
    ),
    "deit-mini": TrainingPlan(
        "deit",
        (Stage("distill", 160, 10, keep_ratio=0.4), Stage("distill", SIZE, 2, keep_ratio=0.4)),
        init_from="vit-mini",
    ),
    "beit-mini": TrainingPlan("beit", (Stage("distill", 112, 10), Stage("distill", SIZE, 1)), init_from="vit-mini"),
    "dino-mini": TrainingPlan(
        "vit",
        (Stage("dino", 128, 4, 48, 2e-4, optimiser="adamw"), Stage("dino", SIZE, 0.5, 48, 5e-5, optimiser="adamw")),
        init_from="vit-mini",
    ),
    "hybrid-mini": TrainingPlan(
        "hybrid", (Stage("distill", 96, 40, 128, 2e-3), Stage("distill", SIZE, 2, keep_ratio=0.4)), init_from="vit-mini"
    ),
    "mae-mini": TrainingPlan("mae", (Stage("mim", SIZE, 30, 128, 2e-3),), init_from="vit-mini"),
    "cnn-mini": TrainingPlan(
        "cnn",
        (Stage("distill", 96, 60, 128, 2e-3), Stage("distill", 160, 8), Stage("distill", SIZE, 2)),
    ),
}


@dataclass(frozen=True)
class Rebuild:
    """What the stages of a rebuild share."""

    data: tuple[Path, ...]
    """Labelled photos, the same for all stages."""
    out: Path
    """Folder for the stages, the cached targets and the model itself, which gets the embedded model's name."""
    test: tuple[Path, ...] = ()
    """Photos to evaluate on; a tenth of the data is held out if none are given."""
    share: float = 1.0
    """Share of the epochs to train for; 2 trains twice as long."""
    cpu: bool = False
    precision: str = "fp32"
    """"bf16" only where the device computes in it: a CPU that emulates it takes 14 times as long."""


def rebuild(
    name: str, options: Rebuild, report: Callable[[str, dict[str, Any]], None] = lambda stage, figures: None
) -> Path:
    """Train an embedded model from scratch. Called again, it skips finished stages and resumes an interrupted one.

    Args:
        report: called with the stage's name and the figures of each step.

    Returns:
        The model's folder.

    Raises:
        UnknownModelError: there is no embedded model of that name.
        InputError: the photos cannot be used.
        TrainingError: the disk is full, or the loss is not finite.
    """
    if name not in TRAINING_PLANS:
        raise UnknownModelError(f"Unknown embedded model {name!r}. Choose from: {', '.join(TRAINING_PLANS)}.")
    plan = TRAINING_PLANS[name]
    init = rebuild(plan.init_from, options, report) if plan.init_from else None
    last = init
    folders = [options.out / f"{name}-{number}" for number, _ in enumerate(plan.stages, 1)]
    for stage, folder in zip(plan.stages, folders, strict=True):
        if not (folder / "README.md").exists():
            train(_stage_job(plan.arch, stage, folder, last, options), partial(report, folder.name))
        last = folder
    return _assemble(name, folders, init, options)


def _assemble(name: str, folders: Sequence[Path], init: Path | None, options: Rebuild) -> Path:
    """The last stage under the model's name, with a card of all stages."""
    plan, out, last = TRAINING_PLANS[name], options.out / name, folders[-1]
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for file in ("config.json", "preprocessor_config.json", "model.safetensors", "README.md"):
        shutil.copyfile(last / file, out / file)
    config = read_json(out / "config.json")
    config["vitdemo"]["revision"] = f"{datetime.date.today():%Y-%m-%d}"
    write_json(out / "config.json", config)
    if plan.stages[-1].recipe == "dino":
        probe(spec_from_folder(out), options.data, options.test, save=True)
    # The hand-written card of the embedded model holds only for a model of the same classes.
    same_classes = spec_from_folder(init or out).labels == embedded_labels()
    source = ASSETS / "models" / name / "README.md" if same_classes else out / "README.md"
    card = source.read_text(encoding="utf-8").replace(f"# {last.name}\n", f"# {name}\n", 1)
    names = [path.name for path in options.data]
    runs = [
        StageRun(stage.recipe, stage.resolution, stage.batch, summarise_log(folder / LOG), folder.name)
        for stage, folder in zip(plan.stages, folders, strict=True)
    ]
    section = training_section(
        f"python -m vitdemo rebuild {name} {' '.join(names)}",
        names,
        plan.init_from,
        any(stage.recipe == "distill" for stage in plan.stages),
        runs,
        device_name(options.cpu),
    )
    (out / "README.md").write_text(replace_training_section(card, section), encoding="utf-8")
    return out


def embedded_labels() -> tuple[str, ...]:
    """The classes of the embedded models, in their order."""
    return next((spec.labels for spec in embedded_models() if spec.labels), ())


def _stage_job(arch: str, stage: Stage, folder: Path, init: Path | None, options: Rebuild) -> TrainJob:
    distilled = stage.recipe == "distill"
    return TrainJob(
        data=options.data,
        recipe=stage.recipe,
        arch=arch,
        out=folder,
        test=options.test,
        teacher=TEACHER if distilled else None,
        teacher_cache=options.out / "bank" if distilled else None,
        views=VIEWS,
        keep_ratio=stage.keep_ratio,
        init=init,
        epochs=max(stage.epochs * options.share, 1e-3),
        resume=(folder / STATE).exists(),
        cpu=options.cpu,
        labels=embedded_labels(),
        config=TrainConfig(
            steps=0,
            batch=stage.batch,
            resolution=stage.resolution,
            optimiser=stage.optimiser,
            learning_rate=stage.learning_rate,
            ema_decay=0.99 if distilled or stage.recipe == "mim" else 0.0,
            precision=options.precision,
            evaluate_every=10**9,
        ),
    )
