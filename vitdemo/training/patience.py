"""Long trainings in the background, stage by stage: `python -m vitdemo.training.patience STAGES NAME --work FOLDER`.

A stage is one run of the recipe `guided` on a view store. It starts with the weights of another stage or with random ones, saves
a checkpoint every few minutes, resumes after an interruption, and exports the network at each evaluation and at its end. It uses
one thread. The name is that of Beyer et al. 2022, arXiv:2106.05237: a good teacher is patient.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, ViTForImageClassification

from vitdemo.errors import OptionError, VitDemoError
from vitdemo.training.architectures import build
from vitdemo.training.config import STATE, TrainConfig
from vitdemo.training.data import PhotoSet
from vitdemo.training.efficientnet import NAME
from vitdemo.training.export import Provenance, export
from vitdemo.training.init_weights import initialise
from vitdemo.training.loop import Result, Trainer
from vitdemo.training.mimetic import mimetic_init
from vitdemo.training.photo_cache import open_photo_cache
from vitdemo.training.precision import quick_bf16
from vitdemo.training.recipes.guide import Guide
from vitdemo.training.recipes.guided import Guided, GuidedOptions, LossWeights
from vitdemo.training.run import FAMILIES
from vitdemo.training.view_batches import ViewSchedule
from vitdemo.training.view_teachers import load_view_teacher
from vitdemo.training.views import ViewPlan, ViewStore

TRAIN, TEST = "photos-train", "photos-test"
"""Photo caches in the work folder."""
LATEST, ENDED = "latest", "ended"
"""Model folders of a stage: as last evaluated, and its result."""


@dataclass(frozen=True)
class Stage:
    """One run."""

    name: str
    arch: str
    """An architecture of `train`, or "dino": a ViT without a classifier."""
    steps: int
    sizes: tuple[tuple[float, int], ...]
    """See `ViewSchedule`; the last resolution is that of evaluation and export."""
    batch: int = 128
    learning_rate: float = 1e-3
    warmup: float = 0.03
    optimiser: str = "muon"
    weight_decay: float = 0.05
    ema_decay: float = 0.999
    init: str | None = None
    """Stage whose weights it starts with, where they fit."""
    mimetic: bool = False
    """Whether its attention has mimetic initialisation."""
    guide: str | None = None
    """Stage whose CNN guides it."""
    store: str = "views"
    """Folder of the view store, in the work folder."""
    teacher: str = NAME
    """Teacher of the store: EfficientNet-Lite2, a registered transformer, or a folder with one."""
    views: dict[str, Any] = field(default_factory=dict)
    """Fields of `ViewPlan` that differ from its defaults."""
    reuse: float = 4.0
    max_parts: int = 128
    loss_weights: dict[str, float] = field(default_factory=dict)
    """Fields of `LossWeights` that differ from its defaults."""
    cutmix: float = 0.5
    mask_ratio: float = 0.0
    held_out: float = 0.0
    """Share of the labelled photos that is held out for evaluation; 0 evaluates on the test photos."""
    evaluate_every: int = 1000
    save_every: int = 10
    seed: int = 0
    license: str = "unknown"
    """Licence of the photos, for the card."""

    @property
    def size(self) -> int:
        """Resolution at its end."""
        return self.sizes[-1][1]


def read_stages(path: Path) -> dict[str, Stage]:
    """The stages in a JSON file, by name.

    Raises:
        OptionError: the file holds no list of stages.
    """
    try:
        stages = [
            Stage(**{**entry, "sizes": tuple((float(share), int(size)) for share, size in entry["sizes"])})
            for entry in json.loads(path.read_text(encoding="utf-8"))
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise OptionError(f"{path.name} holds no list of stages: {error}") from error
    return {stage.name: stage for stage in stages}


def run_stage(stage: Stage, work: Path, print_every: int = 50) -> float:
    """Train a stage to its end, resuming where it was interrupted.

    Args:
        work: folder with the photo caches, the view stores, and a folder for each stage.
        print_every: steps between two lines on stdout.

    Returns:
        The score on the photos held out, or on the test photos.

    Raises:
        OptionError: the stage cannot work, or needs another one that has not ended.
        TrainingError: photos are missing, the loss is not finite, or the disk is full.
    """
    folder = work / stage.name
    photos = open_photo_cache(work / TRAIN)
    allowed, held_out = hold_out(photos, stage.held_out)
    test = held_out if stage.held_out else open_photo_cache(work / TEST).labelled()
    torch.manual_seed(stage.seed)
    recipe = _make_recipe(stage, work, photos, allowed)
    config = TrainConfig(
        steps=stage.steps,
        batch=stage.batch,
        resolution=stage.size,
        optimiser=stage.optimiser,
        learning_rate=stage.learning_rate,
        warmup=stage.warmup,
        weight_decay=stage.weight_decay,
        ema_decay=stage.ema_decay,
        precision="bf16" if quick_bf16() else "fp32",
        seed=stage.seed,
        evaluate_every=stage.evaluate_every,
        save_every=stage.save_every,
    )
    classes = photos.classes if recipe.classifies else ()
    trainer: Trainer
    print_step = _step_printer(stage, print_every)

    def report(figures: dict[str, Any]) -> None:
        if "score" in figures:
            export(trainer.network, folder / LATEST, classes, stage.size)
            if recipe.mean_class_accuracy is not None:
                figures = {**figures, "per_class": recipe.mean_class_accuracy}
        print_step(figures)

    trainer = Trainer(recipe, config, photos, test, folder, cpu=True, report=report)
    if (folder / STATE).exists():
        trainer.resume()
    print(f"{_now()} {stage.name}: step {trainer.step} of {stage.steps}, {config.precision}", flush=True)
    result = trainer.run()
    export(trainer.network, folder / ENDED, classes, stage.size, _provenance(stage, recipe, result))
    return result.score


def hold_out(photos: PhotoSet, share: float) -> tuple[NDArray[np.bool_], PhotoSet]:
    """Which photos to train on, `[N]`, and this share of the labelled ones: the same in every stage."""
    allowed = np.ones(len(photos), bool)
    rng = np.random.default_rng(0)
    for label in range(len(photos.classes)):
        members = rng.permutation(np.flatnonzero(photos.labels == label))
        allowed[members[: round(len(members) * share)]] = False
    return allowed, photos.subset(np.flatnonzero(~allowed))


def _make_recipe(stage: Stage, work: Path, photos: PhotoSet, allowed: NDArray[np.bool_]) -> Guided:
    plan = ViewPlan(stage.teacher, **stage.views)
    store = ViewStore(
        work / stage.store,
        photos,
        plan,
        lambda: load_view_teacher(stage.teacher, plan.cells),
        lambda part, done: print(f"{_now()} {stage.store}: part {part}, {done} of {plan.views} views", flush=True),
    )
    recipe = Guided(
        _make_student(stage, photos.classes, None if stage.init is None else _result_of(work, stage.init)),
        store,
        allowed,
        ViewSchedule(stage.steps, stage.sizes, stage.reuse, max_parts=stage.max_parts),
        None if stage.guide is None else Guide(_result_of(work, stage.guide)),
        GuidedOptions(LossWeights(**stage.loss_weights), stage.cutmix, stage.mask_ratio),
    )
    if stage.init is not None and not (work / stage.name / STATE).exists():
        _load_heads(recipe, work / stage.init / STATE)
    return recipe


def _make_student(stage: Stage, classes: Sequence[str], init: Path | None) -> PreTrainedModel:
    network = build("vit" if stage.arch == "dino" else stage.arch, "mini", classes, stage.size)
    if not isinstance(network, PreTrainedModel):
        raise OptionError(f"transformers cannot load the architecture {stage.arch}.")
    network.set_attn_implementation("eager")
    if stage.mimetic:
        mimetic_init(network)
    if init is not None:
        initialise(network, init)
    return network.vit if isinstance(network, ViTForImageClassification) and stage.arch == "dino" else network


def _has_ended(work: Path, name: str) -> bool:
    # The card is the last file that an export writes.
    return (work / name / ENDED / "README.md").exists()


def _result_of(work: Path, name: str) -> Path:
    if not _has_ended(work, name):
        raise OptionError(f"The stage {name} has not ended.")
    return work / name / ENDED


def _load_heads(recipe: Guided, state: Path) -> None:
    """Load the heads that predict features from another stage, where they fit."""
    if not state.exists():
        return
    saved = torch.load(state, map_location="cpu", weights_only=True)["recipe"]
    own = recipe.state_dict()
    fitting = {
        key: value for key, value in saved.items() if "_head" in key and key in own and own[key].shape == value.shape
    }
    recipe.load_state_dict({**own, **fitting})


def _provenance(stage: Stage, recipe: Guided, result: Result) -> Provenance:
    return Provenance(
        command=f"python -m vitdemo.training.patience STAGES {stage.name}",
        data=(TRAIN,),
        photos=int(recipe.allowed.sum()),
        recipe="guided",
        family=FAMILIES[stage.arch] if recipe.classifies else "DINO",
        license=stage.license,
        device="CPU, 1 thread",
        seconds=result.seconds,
        steps=result.steps,
        score_name=recipe.score_name,
        score=result.score,
    )


def _now() -> str:
    return time.strftime("%m-%d %H:%M:%S")


def _step_printer(stage: Stage, every: int) -> Callable[[dict[str, Any]], None]:
    """Prints the figures of every evaluation, and of some steps."""
    names = ("loss", "cells", "summary", "logits", "labels", "guide", "agreement", "rate", "score", "per_class")
    started = time.process_time()

    def print_step(figures: dict[str, Any]) -> None:
        if figures["step"] % every and "score" not in figures:
            return
        shown = [f"{_now()} {stage.name} step {figures['step']}/{stage.steps}"]
        shown += [f"{name} {figures[name]:.4g}" for name in names if name in figures]
        seconds = time.process_time() - started
        print(*shown, f"{figures['images_per_second']:.0f} photos/s, {seconds:.0f} s of CPU", flush=True)

    return print_step


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage, unless it has ended already."""
    parser = argparse.ArgumentParser(
        prog="python -m vitdemo.training.patience", description="Run one stage of a long training."
    )
    parser.add_argument("stages", type=Path, metavar="STAGES", help="JSON file with a list of stages")
    parser.add_argument("name", metavar="NAME", help="of the stage to run")
    parser.add_argument("--work", type=Path, required=True, metavar="FOLDER", help="photos, views and stages")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    stages = read_stages(options.stages)
    if options.name not in stages:
        raise OptionError(f"There is no stage {options.name!r}. Choose from: {', '.join(stages)}.")
    if _has_ended(options.work, options.name):
        print(f"{options.name} has already ended.")
        return 0
    score = run_stage(stages[options.name], options.work)
    print(f"{options.name} has ended: {score:.1%}", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except VitDemoError as error:
        sys.exit(str(error))
