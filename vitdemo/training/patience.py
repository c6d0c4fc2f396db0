"""Long trainings in the background, stage by stage: `python -m vitdemo.training.patience STAGES NAME --work FOLDER`.

A stage is one run, on a view store unless its architecture is MAE. It starts with the weights of another stage or with random
ones, saves a checkpoint every few minutes, resumes after an interruption, and exports the network at each evaluation and at its
end. From the command line it uses one thread. The name is that of Beyer et al. 2022, arXiv:2106.05237: a good teacher is patient.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel, ViTForImageClassification

from vitdemo.errors import OptionError, VitDemoError
from vitdemo.training.architectures import build
from vitdemo.training.config import STATE, TrainConfig
from vitdemo.training.data import PhotoSet
from vitdemo.training.export import Provenance, export
from vitdemo.training.init_weights import initialise
from vitdemo.training.loop import Result, Trainer
from vitdemo.training.mimetic import mimetic_init
from vitdemo.training.photo_cache import open_photo_cache
from vitdemo.training.precision import quick_bf16
from vitdemo.training.recipes.guide import Guide
from vitdemo.training.recipes.guided import Guided, GuidedOptions, LossWeights
from vitdemo.training.recipes.mim import MaskedModelling
from vitdemo.training.run import FAMILIES, device_name
from vitdemo.training.stages import Stage, read_stages
from vitdemo.training.view_batches import ViewSchedule
from vitdemo.training.view_teachers import load_view_teacher
from vitdemo.training.views import ViewPlan, ViewStore

TRAIN, TEST = "photos-train", "photos-test"
"""Photo caches in the work folder."""
LATEST, ENDED = "latest", "ended"
"""Model folders of a stage: as last evaluated, and its result."""
PRINT_EVERY = 50
"""Steps between two lines on stdout."""


def run_stage(
    stage: Stage, work: Path, *, cpu: bool = True, report: Callable[[dict[str, Any]], None] = lambda figures: None
) -> float:
    """Train a stage to its end, resuming where it was interrupted.

    Args:
        work: folder with the photo caches, the view stores, and a folder for each stage.
        cpu: whether it stays off a GPU.
        report: called with the figures of each step, or how many views of a part of the store have their targets: `store`,
            `part`, `views`, `of`.

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
    recipe = _make_recipe(stage, work, photos, allowed, report)
    config = TrainConfig(
        steps=stage.steps,
        batch=stage.batch,
        resolution=stage.size,
        optimiser=stage.optimiser,
        learning_rate=stage.learning_rate,
        warmup=stage.warmup,
        weight_decay=stage.weight_decay,
        ema_decay=stage.ema_decay,
        precision="bf16" if quick_bf16("cpu" if cpu or not torch.cuda.is_available() else "cuda") else "fp32",
        seed=stage.seed,
        evaluate_every=stage.evaluate_every,
        save_every=stage.save_every,
    )
    classes = photos.classes if recipe.classifies else ()
    trainer: Trainer

    def on_step(figures: dict[str, Any]) -> None:
        if "score" in figures:
            export(trainer.network, folder / LATEST, classes, stage.size)
            if isinstance(recipe, Guided) and recipe.mean_class_accuracy is not None:
                figures = {**figures, "per_class": recipe.mean_class_accuracy}
        report(figures)

    trainer = Trainer(recipe, config, photos.subset(np.flatnonzero(allowed)), test, folder, cpu=cpu, report=on_step)
    if (folder / STATE).exists():
        trainer.resume()
    result = trainer.run()
    network = trainer.network
    if stage.kept and stage.init is not None:
        blend(network, _make_student(stage, photos.classes, _result_of(work, stage.init)), stage.kept)
        result = replace(result, score=recipe.score(network, trainer.train_set, test))
    export(
        network,
        folder / ENDED,
        classes,
        stage.size,
        _provenance(stage, recipe, int(allowed.sum()), result, cpu),
    )
    return result.score


@torch.no_grad()
def blend(network: nn.Module, other: nn.Module, share: float) -> None:
    """Average a network's weights and statistics, in place, with this share of those of another one of the same shape."""
    others = other.state_dict()
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.lerp_(others[name].to(value), share)


def hold_out(photos: PhotoSet, share: float) -> tuple[NDArray[np.bool_], PhotoSet]:
    """Which photos to train on, `[N]`, and this share of the labelled ones: the same in every stage."""
    allowed = np.ones(len(photos), bool)
    rng = np.random.default_rng(0)
    for label in range(len(photos.classes)):
        members = rng.permutation(np.flatnonzero(photos.labels == label))
        if share:  # of every class at least one photo, but never its only one
            allowed[members[: min(max(1, round(len(members) * share)), len(members) - 1)]] = False
    return allowed, photos.subset(np.flatnonzero(~allowed))


def _make_recipe(
    stage: Stage,
    work: Path,
    photos: PhotoSet,
    allowed: NDArray[np.bool_],
    report: Callable[[dict[str, Any]], None],
) -> Guided | MaskedModelling:
    student = _make_student(stage, photos.classes, None if stage.init is None else _result_of(work, stage.init))
    if stage.arch == "mae":
        return MaskedModelling(student, stage.size)
    plan = ViewPlan(stage.teacher, **stage.views)
    store = ViewStore(
        work / stage.store,
        photos,
        plan,
        lambda: load_view_teacher(stage.teacher, plan.cells),
        lambda part, done: report({"store": stage.store, "part": part, "views": done, "of": plan.views}),
    )
    recipe = Guided(
        student,
        store,
        allowed,
        ViewSchedule(stage.steps, stage.sizes, stage.reuse, max_parts=stage.max_parts, labelled=stage.labelled),
        None if stage.guide is None else Guide(_result_of(work, stage.guide)),
        GuidedOptions(LossWeights(**stage.loss_weights), stage.cutmix, stage.mask_ratio, stage.temperature),
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


def has_ended(work: Path, name: str) -> bool:
    """Whether a stage has its result."""
    # The card is the last file that an export writes.
    return (work / name / ENDED / "README.md").exists()


def _result_of(work: Path, name: str) -> Path:
    if not has_ended(work, name):
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


def _provenance(stage: Stage, recipe: Guided | MaskedModelling, photos: int, result: Result, cpu: bool) -> Provenance:
    return Provenance(
        command=f"python -m vitdemo.training.patience STAGES {stage.name}",
        data=(TRAIN,),
        photos=photos,
        recipe="guided" if isinstance(recipe, Guided) else "mim",
        family="DINO" if stage.arch == "dino" else FAMILIES[stage.arch],
        license=stage.license,
        device=device_name(cpu),
        seconds=result.seconds,
        steps=result.steps,
        score_name=recipe.score_name,
        score=result.score,
        pooling=recipe.pooling,
    )


def _now() -> str:
    return time.strftime("%m-%d %H:%M:%S")


def _step_printer(stage: Stage, every: int) -> Callable[[dict[str, Any]], None]:
    """Prints the figures of every evaluation, and of some steps."""
    names = ("loss", "cells", "summary", "logits", "labels", "guide", "agreement", "rate", "score", "per_class")
    started = time.process_time()

    def print_step(figures: dict[str, Any]) -> None:
        if "views" in figures:
            print(f"{_now()} {figures['store']}: part {figures['part']}, {figures['views']} views", flush=True)
            return
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
    if has_ended(options.work, options.name):
        print(f"{options.name} has already ended.")
        return 0
    stage = stages[options.name]
    print(f"{_now()} {stage.name}: {stage.steps} steps", flush=True)
    score = run_stage(stage, options.work, report=_step_printer(stage, PRINT_EVERY))
    print(f"{options.name} has ended: {score:.1%}", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except VitDemoError as error:
        sys.exit(str(error))
