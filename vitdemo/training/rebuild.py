"""Trains the embedded models from random weights: each by its family's own idea, in stages of `vitdemo.training.patience`."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, ViTForImageClassification

from vitdemo.errors import UnknownModelError
from vitdemo.images.class_folders import BACKGROUND, file_names, label_of
from vitdemo.registry import embedded_models, read_json, spec_from_folder, write_json
from vitdemo.settings import ASSETS
from vitdemo.training.architectures import build
from vitdemo.training.card import StageRun, replace_training_section, summarise_log, training_section
from vitdemo.training.config import LOG
from vitdemo.training.data import PhotoSet
from vitdemo.training.export import Provenance, export
from vitdemo.training.init_weights import initialise
from vitdemo.training.patience import ENDED, TEST, TRAIN, has_ended, run_stage
from vitdemo.training.photo_cache import fill_photo_cache
from vitdemo.training.probe import probe
from vitdemo.training.run import FAMILIES, device_name
from vitdemo.training.stages import Stage
from vitdemo.types.labels import class_called

SIZE = 224
"""Side in pixels of what the embedded models take."""
DINO_TEACHER = "facebook/dinov2-small"
"""From the Hub."""
HELD_OUT = 0.1
"""Share of the labelled photos to evaluate on, if no others are given."""

LOW_TO_HIGH = ((0.0, 64), (0.55, 96), (0.88, 128))
UP_TO_FULL = ((0.0, 160), (0.3, 192), (0.6, SIZE))
# More photos with a label than the store holds: a short training learns its classes first.
_COMMON: dict[str, Any] = {"reuse": 14.0, "labelled": 0.75}
_GUIDED: dict[str, Any] = {**_COMMON, "guide": "cnn-3", "mimetic": True, "learning_rate": 2e-3}


def _soft(temperature: float) -> dict[str, Any]:
    """To learn how the teacher ranks the other classes: at temperature 1 its logits say little more than the labels."""
    return {"temperature": temperature, "loss_weights": {"labels": 0.1}}


def _at_full_size(arch: str, init: str, **options: Any) -> Stage:
    """The last stage of a classifier: few steps are enough to adapt it to the resolution of the page."""
    chosen = {"steps": 160, "kept": 0.25, "guide": "cnn-224", **_soft(3.0), **options}
    rates: dict[str, Any] = {"learning_rate": 5e-4, "warmup": 0.1, "ema_decay": 0.99}
    return Stage(f"{arch}-{SIZE}", arch, sizes=UP_TO_FULL, batch=64, init=init, **chosen, **rates, **_COMMON)


STAGES = {
    stage.name: stage
    for stage in (
        Stage("cnn", "cnn", 5000, ((0.0, 64), (0.5, 96), (0.9, 160)), learning_rate=2.5e-3, **_COMMON),
        Stage("cnn-2", "cnn", 2500, ((0.0, 128),), init="cnn", learning_rate=1.5e-3, **_COMMON),
        Stage(
            "cnn-3", "cnn", 2000, ((0.0, 96), (0.6, 128)), init="cnn-2", learning_rate=1.5e-3, **_soft(4.0), **_COMMON
        ),
        Stage("vit", "vit", 5000, LOW_TO_HIGH, **{**_GUIDED, "guide": "cnn"}),
        Stage(
            "vit-2",
            "vit",
            1500,
            ((0.0, 96), (0.6, 128)),
            init="vit",
            guide="cnn-3",
            learning_rate=1.5e-3,
            **_soft(3.0),
            **_COMMON,
        ),
        Stage("deit", "deit", 4000, LOW_TO_HIGH, **_GUIDED, **_soft(3.0), seed=1),
        Stage(
            "beit-masked",
            "beit",
            2000,
            ((0.0, 64),),
            **_GUIDED,
            seed=2,
            mask_ratio=0.4,
            loss_weights={"labels": 0.0, "logits": 0.0},
        ),
        Stage(
            "beit",
            "beit",
            3000,
            ((0.0, 64), (0.4, 96), (0.88, 128)),
            init="beit-masked",
            guide="cnn-3",
            learning_rate=1.5e-3,
            **_soft(3.0),
            **_COMMON,
        ),
        Stage("hybrid", "hybrid", 3500, LOW_TO_HIGH, **_GUIDED, **_soft(3.0), seed=3),
        Stage(
            "dino",
            "dino",
            4500,
            ((0.0, 64), (0.65, 96), (0.95, 160)),
            mimetic=True,
            store="views-dinov2",
            teacher=DINO_TEACHER,
            # Nothing depends on labels, not even how often a photo is seen.
            views={"size": 112, "cells": 8, "evenness": 0.0},
            reuse=16.0,
            max_parts=24,
        ),
        Stage("mae-112", "mae", 2000, ((0.0, 112),)),
        Stage("mae", "mae", 300, ((0.0, SIZE),), init="mae-112", batch=96),
        _at_full_size("vit", "vit-2"),
        *(_at_full_size(arch, arch) for arch in ("deit", "beit", "hybrid")),
        _at_full_size("cnn", "cnn-3", steps=400, guide=None, **_soft(4.0)),
    )
}
LAST_STAGES = {
    f"{name}-mini": name if name in ("dino", "mae") else f"{name}-{SIZE}"
    for name in ("vit", "deit", "beit", "dino", "hybrid", "mae", "cnn")
}
"""The stage that ends as each embedded model."""


@dataclass(frozen=True)
class Rebuild:
    """What the stages of a rebuild share."""

    data: tuple[Path, ...]
    """Labelled photos, the same for all stages."""
    out: Path
    """Folder for the photos, the teachers' targets, the stages, and the model itself, which gets the embedded model's name."""
    test: tuple[Path, ...] = ()
    """Photos to evaluate on; a tenth of the data is held out if none are given."""
    unlabelled: tuple[Path, ...] = ()
    """More photos, whose folders are no classes: they have a teacher's targets only."""
    dino_teacher: str = DINO_TEACHER
    """What a DINO learns from: a registered model, or a folder with one."""
    share: float = 1.0
    """Share of the steps to train for; 2 trains twice as long."""
    cpu: bool = False
    license: str = "unknown"
    """Licence of the photos, for the card."""


def rebuild(
    name: str, options: Rebuild, report: Callable[[str, dict[str, Any]], None] = lambda stage, figures: None
) -> Path:
    """Train an embedded model from scratch. Called again, it skips finished stages and resumes an interrupted one.

    Args:
        report: called with the stage's name and the figures that `run_stage` reports.

    Returns:
        The model's folder.

    Raises:
        UnknownModelError: there is no embedded model of that name.
        InputError: the photos cannot be used.
        TrainingError: the disk is full, or the loss is not finite.
    """
    if name not in LAST_STAGES:
        raise UnknownModelError(f"Unknown embedded model {name!r}. Choose from: {', '.join(LAST_STAGES)}.")
    classes = _classes_in(options.data)
    photos = fill_photo_cache(options.out / TRAIN, classes, options.data, options.unlabelled)
    if options.test:
        fill_photo_cache(options.out / TEST, classes, options.test)
    stages = [_adapted(stage, options) for stage in needed(LAST_STAGES[name])]
    for stage in stages:
        if not has_ended(options.out, stage.name):
            run_stage(stage, options.out, cpu=options.cpu, report=partial(report, stage.name))
    return _assemble(name, stages, photos, options)


def needed(name: str) -> list[Stage]:
    """This stage after those that it begins with or is guided by."""
    found: dict[str, Stage] = {}

    def add(one: str) -> None:
        for other in (STAGES[one].guide, STAGES[one].init):
            if other is not None:
                add(other)
        found[one] = STAGES[one]

    add(name)
    return list(found.values())


def embedded_labels() -> tuple[str, ...]:
    """The classes of the embedded models, in their order."""
    return next((spec.labels for spec in embedded_models() if spec.labels), ())


def _classes_in(data: Sequence[Path]) -> tuple[str, ...]:
    """In the order of the embedded models, if they know all of them."""
    known = embedded_labels()
    present = {class_called(label_of(name), known) for path in data for name in file_names(path)} - {BACKGROUND}
    return tuple(label for label in known if label in present) if present <= set(known) else tuple(sorted(present))


def _adapted(stage: Stage, options: Rebuild) -> Stage:
    return replace(
        stage,
        steps=max(2, round(stage.steps * options.share)),
        teacher=options.dino_teacher if stage.teacher == DINO_TEACHER else stage.teacher,
        held_out=0.0 if options.test else HELD_OUT,
        license=options.license,
    )


def _assemble(name: str, stages: Sequence[Stage], photos: PhotoSet, options: Rebuild) -> Path:
    """What the last stage ended with, at 224 px and under the model's name, with a card of all stages."""
    last, out = stages[-1], options.out / name
    ended = options.out / last.name / ENDED
    dino = last.arch == "dino"
    network = build("vit" if dino else last.arch, "mini", photos.classes, SIZE)
    initialise(network, ended)
    assert isinstance(network, PreTrainedModel)
    if dino:
        assert isinstance(network, ViTForImageClassification)
        network = network.vit
    runs = [
        StageRun(
            stage.name,
            _teachers(stage),
            ", ".join(str(size) for _, size in stage.sizes),
            stage.batch,
            summarise_log(options.out / stage.name / LOG),
        )
        for stage in stages
    ]
    names = [path.name for path in options.data]
    command = f"python -m vitdemo rebuild {name} {' '.join(names)}"
    if options.unlabelled:
        command += " --unlabelled " + " ".join(path.name for path in options.unlabelled)
    provenance = Provenance(
        command=command,
        data=tuple(names),
        photos=len(photos),
        recipe="guided",
        family="DINO" if dino else FAMILIES[last.arch],
        license=last.license,
        device=device_name(options.cpu),
        seconds=60 * sum(run.summary.minutes for run in runs),
        steps=sum(run.summary.steps for run in runs),
        score_name="accuracy",
        score=0.0,
        pooling="mean" if last.arch == "mae" else "class",
    )
    shutil.rmtree(out, ignore_errors=True)  # with the probe of an earlier rebuild
    export(network, out, () if dino or last.arch == "mae" else photos.classes, SIZE, provenance)
    config = read_json(out / "config.json")
    config["vitdemo"]["revision"] = f"{datetime.date.today():%Y-%m-%d}"
    write_json(out / "config.json", config)
    if dino:
        probe(spec_from_folder(out), options.data, options.test, save=True)
    # The hand-written card of the embedded model holds only for a model of the same classes.
    same_classes = photos.classes == embedded_labels()
    source = ASSETS / "models" / name / "README.md" if same_classes else out / "README.md"
    section = training_section(command, len(photos), len(photos.labelled()), runs, provenance.device)
    (out / "README.md").write_text(
        replace_training_section(source.read_text(encoding="utf-8"), section), encoding="utf-8"
    )
    return out


def _teachers(stage: Stage) -> str:
    if stage.arch == "mae":
        return "pixels of hidden patches"
    found = [Path(stage.teacher).name]
    if stage.guide is not None:
        found.append(stage.guide)
    if stage.arch != "dino" and stage.loss_weights.get("labels") != 0:
        found.append("labels")
    return ", ".join(found) + (", patches hidden" if stage.mask_ratio else "")
