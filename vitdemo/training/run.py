"""From photos to a folder that loads: what `python -m vitdemo train` does."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, ViTForImageClassification

from vitdemo.errors import OptionError
from vitdemo.registry import find_spec
from vitdemo.training.architectures import build
from vitdemo.training.augment import normalised
from vitdemo.training.config import Job, check
from vitdemo.training.data import PhotoSet, load_photos
from vitdemo.training.efficientnet import NAME, SIZE, efficientnet_teacher
from vitdemo.training.export import Origin, export
from vitdemo.training.init_weights import initialise
from vitdemo.training.loop import LOG, Result, Trainer
from vitdemo.training.recipes.base import STATE, Moment, Recipe
from vitdemo.training.recipes.cached_distill import Banked
from vitdemo.training.recipes.dino import Dino
from vitdemo.training.recipes.distill import Distill
from vitdemo.training.recipes.mim import MaskedModelling
from vitdemo.training.recipes.supervised import Supervised
from vitdemo.training.teacher_cache import Bank, fill_bank
from vitdemo.training.teachers import Teacher, teacher_from_spec

FAMILY = {
    "vit": "ViT",
    "deit": "DeiT",
    "beit": "BEiT",
    "mae": "MAE",
    "hybrid": "hybrid",
    "cnn": "CNN",
    "scratch": "ViT",
}
HIDDEN = 0.3
"""Share of the patches that a BEiT does not see while a bank teaches it."""


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    result: Result
    bare_images_per_second: float
    """Of a bare forward and backward pass on a fixed tensor, measured before the run."""
    skipped: tuple[str, ...]

    @property
    def efficiency(self) -> float:
        """The run's speed as a share of the bare loop's."""
        return self.result.images_per_second / self.bare_images_per_second


def train(
    job: Job, report: Callable[[dict[str, Any]], None] = lambda figures: None, teacher: Teacher | None = None
) -> Outcome:
    """Train, judge and export.

    Args:
        report: called with the figures of each step.
        teacher: in place of the one that the job names.

    Raises:
        InputError: the photos cannot be used.
        OptionError: recipe, architecture and teacher do not fit together.
        TrainingError: no room, no finite loss, or nothing to resume.
    """
    check(job, teacher is not None)
    photos = in_order_of(load_photos(job.data), _known_labels(job) or job.labels)
    if job.test:
        training, test = photos, load_photos(job.test, photos.classes)
    else:
        training, test = photos.split(0.1, job.plan.seed)
    skipped, test = photos.skipped + test.skipped, test.labelled()
    torch.manual_seed(job.plan.seed)
    bank = None
    if job.bank is not None:
        bank = _filled(job, photos, training, teacher, report)
    elif teacher is None and job.teacher is not None:
        teacher = named_teacher(job.teacher, training)
    recipe = make_recipe(job, photos.classes, teacher, bank)
    training = training.labelled() if recipe.needs_labels else training
    bare = bare_speed(recipe, training, job)
    names = photos.classes if recipe.classifies else ()
    per_epoch = max(1, len(training) // min(job.plan.batch, len(training)))
    plan = replace(job.plan, steps=_steps(job, per_epoch, bare), judge_every=job.plan.judge_every or per_epoch)
    origin = Origin(
        command=job.command,
        data=tuple(path.name for path in job.data),
        photos=len(training),
        recipe=job.recipe,
        family="DINO" if job.recipe == "dino" else FAMILY[job.arch],
        license=job.license,
        device=device_name(job.cpu),
        seconds=0.0,
        steps=0,
        score_name=recipe.score_name,
        pooling=recipe.pooling,
        score=0.0,
    )
    trainer = Trainer(
        recipe,
        plan,
        training,
        test,
        job.out,
        cpu=job.cpu,
        report=lambda figures: report({**figures, "steps": plan.steps}),
        snapshot=lambda network, step: export(
            network, job.out / "steps" / f"{step:07d}", names, plan.size, replace(origin, steps=step)
        ),
    )
    if job.resume:
        trainer.resume()
    result = trainer.run()
    if trainer.accelerator.is_main_process:
        if recipe.finish(trainer.network, training):
            result = replace(result, score=recipe.score(trainer.network, training, test))
        curve = _curve(job.out / LOG)
        if math.isnan(result.score) and curve:  # a finished run that was resumed: it was judged before
            result = replace(result, score=curve[-1][1])
        done = replace(origin, seconds=result.seconds, steps=result.steps, score=result.score, curve=curve)
        export(trainer.network, job.out, names, plan.size, done)
    return Outcome(result, bare, skipped)


def device_name(cpu: bool) -> str:
    """Of what a run runs on."""
    if torch.cuda.is_available() and not cpu:
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def in_order_of(photos: PhotoSet, labels: Sequence[str]) -> PhotoSet:
    """The same photos with their classes in the order of `labels`, if those are the same classes; else unchanged."""
    if sorted(labels) != sorted(photos.classes):
        return photos
    places = np.array([*(list(labels).index(name) for name in photos.classes), -1])
    return replace(photos, labels=places[photos.labels], classes=tuple(labels))


def _known_labels(job: Job) -> Sequence[str]:
    """Of the network that is begun with, or of the teacher: its outputs keep their meaning only in their own order."""
    begun = str(job.init) if job.init is not None and (job.init / "config.json").is_file() else None
    for name in (begun, job.teacher):
        if name is not None and name.split(":")[0] != NAME:
            labels = find_spec(name).labels
            if labels:
                return labels
    return ()


def _filled(
    job: Job, photos: PhotoSet, training: PhotoSet, teacher: Teacher | None, report: Callable[[dict[str, Any]], None]
) -> Bank:
    """The bank of the job. It has all the photos, held back or not, so that it serves a run with another seed too."""
    assert job.bank is not None
    return fill_bank(
        job.bank,
        photos,
        lambda: teacher if teacher is not None else named_teacher(str(job.teacher), training),
        job.teacher or "given",
        job.views,
        half=job.plan.precision == "bf16",
        report=lambda done, views: report({"views": done, "of": views}),
    )


def make_recipe(job: Job, classes: Sequence[str], teacher: Teacher | None = None, bank: Bank | None = None) -> Recipe:
    """The network of the job in the hands of its recipe."""
    size = job.plan.size
    network = build(job.arch, job.size, classes, size)
    if isinstance(network, PreTrainedModel) and (job.cpu or not torch.cuda.is_available()):
        # On a CPU the plain products of small grids are 1.7 times as fast, backward too, as the fused kernel.
        network.set_attn_implementation("eager")
    if job.init is not None:
        initialise(network, job.init)
    if bank is not None:
        hidden = HIDDEN if job.arch == "beit" else 0.0
        banked = Banked(network, bank, len(classes), size, hidden=hidden, keep=job.keep, mix=job.mix)
        if job.init is not None:
            banked.take_heads(job.init)
        return banked
    if teacher is None and job.teacher is not None:
        teacher = teacher_from_spec(find_spec(job.teacher), classes)
    if job.recipe == "supervised":
        return Supervised(network, len(classes), size)
    if job.recipe == "mim":
        return MaskedModelling(network, size, teacher)
    if job.recipe == "dino":
        if not isinstance(network, ViTForImageClassification):
            raise OptionError("The recipe dino takes the architecture vit.")
        return Dino(network.vit, size)
    assert teacher is not None
    return Distill(network, teacher, len(classes), size)


def named_teacher(name: str, photos: PhotoSet) -> Teacher:
    """A model of the registry, a folder, or EfficientNet-Lite2 with a probe on these photos.

    The last one may be followed by the pixels a side that it is given, as in "efficientnet-lite2:160": fewer cost less.
    """
    if name.split(":")[0] == NAME:
        size = name.partition(":")[2] or str(SIZE)
        if not size.isdigit() or not 32 <= int(size) <= 512:
            raise OptionError(f"{size!r} is no size for {NAME}: use 32 to 512 pixels.")
        return efficientnet_teacher(photos, int(size))
    return teacher_from_spec(find_spec(name), photos.classes)


def bare_speed(recipe: Recipe, photos: PhotoSet, job: Job, rounds: int = 5) -> float:
    """Photos a second of forward and backward alone, on one fixed batch: what loader and log must not slow down."""
    device = torch.device("cuda" if torch.cuda.is_available() and not job.cpu else "cpu")
    batch = recipe.batches(photos, job.plan.batch, job.plan.size, job.plan.seed).batch(0)
    recipe.to(device)
    kept = {name: value.clone() for name, value in recipe.state_dict().items()}
    views = [normalised(view.to(device)) for view in batch.views]
    labels = batch.labels.to(device)
    more = {"targets": [target.to(device) for target in batch.targets]} if batch.targets else {}
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=job.plan.precision == "bf16"):
            loss, _ = recipe(views, labels, Moment(0, 0.0, job.plan.seed), **more)
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
        recipe.zero_grad()
    # Running averages moved; a run begins with what it was given.
    recipe.load_state_dict(kept)
    return len(labels) / statistics.median(times[1:])


def _steps(job: Job, per_epoch: int, speed: float) -> int:
    if job.resume:
        try:
            state = torch.load(job.out / STATE, map_location="cpu", weights_only=True)
            return int(state["plan"]["steps"])
        except Exception:  # missing or damaged in one of many ways: the trainer says it in words
            return 1
    if job.minutes is not None:
        return max(1, int(job.minutes * 60 * speed * 0.9 / job.plan.batch))
    return max(1, round((job.epochs if job.epochs is not None else 30) * per_epoch))


def _curve(log: Path) -> tuple[tuple[int, float], ...]:
    scores = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):  # a line that a kill cut off
            entry = json.loads(line)
            if "score" in entry:
                scores[entry["step"]] = entry["score"]
    return tuple(sorted(scores.items()))
