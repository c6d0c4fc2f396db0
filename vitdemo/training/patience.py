"""Long trainings in the background, stage after stage: `python -m vitdemo.training.patience STAGES.json NAME --work FOLDER`.

A stage is one run of the recipe `guided` on the store of views of its teacher. It begins with the weights of another stage, or
with random ones, is saved every few minutes, goes on after a kill, and is exported at each judgement and when it ends.
It takes one thread: whoever works on the same machine has the others.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, ViTForImageClassification

from vitdemo.errors import OptionError
from vitdemo.training.architectures import build
from vitdemo.training.data import PhotoSet
from vitdemo.training.efficientnet import NAME
from vitdemo.training.export import Origin, export
from vitdemo.training.initial import initialise
from vitdemo.training.kept_photos import kept_photos
from vitdemo.training.loop import Plan, Trainer
from vitdemo.training.mimetic import mimic
from vitdemo.training.precision import quick_bf16
from vitdemo.training.recipes.base import STATE
from vitdemo.training.recipes.guided import Diet, Guide, Guided, Shares
from vitdemo.training.run import FAMILY
from vitdemo.training.view_teachers import view_teacher
from vitdemo.training.views import ViewPlan, ViewStore

DONE = "model.safetensors"
LATEST = "latest"
"""Folder of a stage's network as it was last judged."""


@dataclass(frozen=True)
class Stage:
    """One run."""

    name: str
    arch: str
    steps: int
    sizes: tuple[tuple[float, int], ...]
    """Pixels a side, each from a share of the steps on; the last one is judged and exported at."""
    batch: int = 128
    rate: float = 1e-3
    warm_up: float = 0.03
    optimiser: str = "muon"
    weight_decay: float = 0.05
    average: float = 0.999
    begin: str | None = None
    """Stage whose weights it begins with, where they fit."""
    mimetic: bool = False
    """Whether its attention begins as trained attention looks."""
    guide: str | None = None
    """Stage whose CNN guides it."""
    store: str = "views"
    """Folder of the views."""
    teacher: str = NAME
    """Of the store: EfficientNet, or a folder with a transformer."""
    views: dict[str, Any] = field(default_factory=dict)
    """Of `ViewPlan`, what differs from its defaults."""
    reuse: float = 4.0
    parts: int = 128
    shares: dict[str, float] = field(default_factory=dict)
    mix: float = 0.5
    hidden: float = 0.0
    held_out: float = 0.0
    """Share of the labelled photos that are not trained on but judged on."""
    judge_every: int = 1000
    save_every: int = 10
    seed: int = 0


def read_stages(path: Path) -> dict[str, Stage]:
    """The stages of a file, in its order.

    Raises:
        OptionError: it is no list of stages.
    """
    try:
        found = [
            Stage(**{**entry, "sizes": tuple((float(share), int(size)) for share, size in entry["sizes"])})
            for entry in json.loads(path.read_text(encoding="utf-8"))
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise OptionError(f"{path.name} is no list of stages: {error}") from error
    return {stage.name: stage for stage in found}


def run_stage(stage: Stage, work: Path, say_every: int = 50) -> float:
    """Train to the end, from where it was left.

    Args:
        work: folder with `photos-train`, `photos-test`, the stores of views, and a folder a stage.
        say_every: steps between two lines on stdout.

    Returns:
        The score on the photos held out, or on `photos-test` if there are none.

    Raises:
        OptionError: the stage does not fit together, or the one that it begins with has not ended.
        TrainingError: no finite loss, or no room.
    """
    folder = work / stage.name
    photos = kept_photos(work / "photos-train")
    allowed, judged = _split(photos, stage)
    test = judged if judged is not None else kept_photos(work / "photos-test").labelled()
    views = ViewPlan(stage.teacher, **stage.views)
    store = ViewStore(
        work / stage.store,
        photos,
        views,
        lambda: view_teacher(stage.teacher, views.cells),
        lambda part, done: print(f"{_now()} {stage.store}: part {part}, {done} of {views.views} views", flush=True),
    )
    size = stage.sizes[-1][1]
    torch.manual_seed(stage.seed)
    student = _student(stage, photos.classes, size, _ended(work, stage.begin) if stage.begin else None)
    guide = Guide(_ended(work, stage.guide)) if stage.guide is not None else None
    diet = Diet(stage.steps, stage.sizes, stage.reuse, most=stage.parts)
    recipe = Guided(
        student, store, allowed, diet, size, guide, Shares(**stage.shares), mix=stage.mix, hidden=stage.hidden
    )
    if stage.begin is not None and not (folder / STATE).exists():
        _take_heads(recipe, work / stage.begin / STATE)
    plan = Plan(
        steps=stage.steps,
        batch=stage.batch,
        size=size,
        optimiser=stage.optimiser,
        learning_rate=stage.rate,
        warm_up=stage.warm_up,
        weight_decay=stage.weight_decay,
        average=stage.average,
        precision="bf16" if quick_bf16() else "fp32",
        seed=stage.seed,
        judge_every=stage.judge_every,
        save_every=stage.save_every,
    )
    begun = time.process_time()
    trainer: Trainer

    def report(figures: dict[str, Any]) -> None:
        if "score" in figures:
            figures = {**figures, **recipe.said}
            export(trainer.network, folder / LATEST, photos.classes if recipe.classifies else (), size)
        if figures["step"] % say_every == 0 or "score" in figures:
            print(_line(stage, figures, time.process_time() - begun), flush=True)

    trainer = Trainer(recipe, plan, photos, test, folder, cpu=True, report=report)
    if (folder / STATE).exists():
        trainer.resume()
    print(f"{_now()} {stage.name}: step {trainer.step} of {stage.steps}, {plan.precision}", flush=True)
    result = trainer.run()
    origin = Origin(
        command=f"python -m vitdemo.training.patience {stage.name}",
        data=("photos-train",),
        photos=int(allowed.sum()),
        recipe="guided",
        family=FAMILY[stage.arch] if recipe.classifies else "DINO",
        license="CC-BY-4.0",
        device="CPU, 1 thread",
        seconds=result.seconds,
        steps=result.steps,
        score_name="accuracy" if recipe.classifies else "k-NN accuracy",
        score=result.score,
    )
    # The weights come last: they say that the stage has ended.
    export(trainer.network, folder / "ended", photos.classes if recipe.classifies else (), size, origin)
    return result.score


def _student(stage: Stage, classes: Sequence[str], size: int, begin: Path | None) -> PreTrainedModel:
    network = build("vit" if stage.arch == "dino" else stage.arch, "mini", classes, size)
    if not isinstance(network, PreTrainedModel):
        raise OptionError(f"The architecture {stage.arch} has no form that transformers could load.")
    network.set_attn_implementation("eager")
    if stage.mimetic:
        mimic(network)
    if begin is not None:
        initialise(network, begin)
    return network.vit if isinstance(network, ViTForImageClassification) and stage.arch == "dino" else network


def _split(photos: PhotoSet, stage: Stage) -> tuple[NDArray[np.bool_], PhotoSet | None]:
    """Which photos are trained on, and those held out, the same ones whatever the stage."""
    allowed = np.ones(len(photos), bool)
    if not stage.held_out:
        return allowed, None
    random = np.random.default_rng(0)
    for label in range(len(photos.classes)):
        places = random.permutation(np.flatnonzero(photos.labels == label))
        allowed[places[: round(len(places) * stage.held_out)]] = False
    return allowed, photos.subset(np.flatnonzero(~allowed))


def _ended(work: Path, name: str) -> Path:
    folder = work / name / "ended"
    if not (folder / DONE).exists():
        raise OptionError(f"The stage {name} has not ended.")
    return folder


def _take_heads(recipe: Guided, state: Path) -> None:
    """The heads that tell features, of the stage before, where they fit."""
    if not state.exists():
        return
    found = torch.load(state, map_location="cpu", weights_only=True)["recipe"]
    own = recipe.state_dict()
    fitting = {
        key: value for key, value in found.items() if "_head" in key and key in own and own[key].shape == value.shape
    }
    recipe.load_state_dict({**own, **fitting})


def _now() -> str:
    return time.strftime("%m-%d %H:%M:%S")


def _line(stage: Stage, figures: dict[str, Any], seconds: float) -> str:
    shown = [f"{_now()} {stage.name} step {figures['step']}/{stage.steps}"]
    names = ("loss", "cells", "summary", "logits", "labels", "guide", "agreement", "rate", "score", "per_class")
    shown += [f"{name} {figures[name]:.4g}" for name in names if name in figures]
    shown.append(f"{figures['images_per_second']:.0f} photos/s, {seconds:.0f} s of CPU")
    return " ".join(shown)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage; 0 when it has ended, now or before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stages", type=Path)
    parser.add_argument("name")
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    stages = read_stages(options.stages)
    if options.name not in stages:
        raise OptionError(f"There is no stage {options.name!r}. Choose from: {', '.join(stages)}.")
    if (options.work / options.name / "ended" / DONE).exists():
        print(f"{options.name} has ended before.")
        return 0
    score = run_stage(stages[options.name], options.work)
    print(f"{options.name} has ended: {score:.1%}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
