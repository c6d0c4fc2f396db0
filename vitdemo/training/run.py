"""From photos to a model folder: what `python -m vitdemo train` does."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, ViTForImageClassification

from vitdemo.errors import OptionError
from vitdemo.images.open import open_image
from vitdemo.registry import find_spec
from vitdemo.training.architectures import build
from vitdemo.training.augment import normalised
from vitdemo.training.card import read_log
from vitdemo.training.config import LOG, STATE, TrainJob, validate_job
from vitdemo.training.data import PhotoSet, load_photos
from vitdemo.training.efficientnet import NAME, SIZE, efficientnet_teacher
from vitdemo.training.export import Provenance, export
from vitdemo.training.init_weights import initialise
from vitdemo.training.loop import Result, Trainer
from vitdemo.training.recipes.base import Recipe, StepContext
from vitdemo.training.recipes.dino import Dino
from vitdemo.training.recipes.distill import Distill
from vitdemo.training.recipes.mim import MaskedModelling
from vitdemo.training.recipes.supervised import Supervised
from vitdemo.training.teachers import Teacher, teacher_from_spec
from vitdemo.training.watch import Watch

FAMILIES = {
    "vit": "ViT",
    "deit": "DeiT",
    "beit": "BEiT",
    "mae": "MAE",
    "hybrid": "hybrid",
    "cnn": "CNN",
    "scratch": "ViT",
}


@dataclass(frozen=True)
class Outcome:
    """Figures of a finished job."""

    result: Result
    bare_images_per_second: float
    """Throughput of forward and backward alone on a fixed batch, measured before the run."""
    skipped: tuple[str, ...]
    photos: int
    """How many it was trained on."""

    @property
    def efficiency(self) -> float:
        """Throughput of the run as a share of the bare one."""
        return self.result.images_per_second / self.bare_images_per_second


def train(
    job: TrainJob,
    report: Callable[[dict[str, Any]], None] = lambda figures: None,
    teacher: Teacher | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train, evaluate and export.

    Args:
        report: called with the figures of each step.
        teacher: used instead of the one that the job names.
        stop: asked after each step whether to end there; the network so far is exported, and the run can be resumed.

    Raises:
        InputError: the photos cannot be used.
        OptionError: recipe, architecture and teacher do not fit together.
        ImageError: the watched photo cannot be used.
        TrainingError: the disk is full, the loss is not finite, or there is nothing to resume.
    """
    validate_job(job, teacher is not None)
    watched = None if job.watch is None else replace(open_image(job.watch), name=job.watch.name)
    photos = reorder_classes(load_photos(job.data, most=job.max_photo_bytes), _class_order(job) or job.labels)
    if job.test:
        training, test = photos, load_photos(job.test, photos.classes, job.max_photo_bytes)
    else:
        training, test = photos.split(0.1, job.config.seed)
    skipped, test = photos.skipped + test.skipped, test.labelled()
    torch.manual_seed(job.config.seed)
    if teacher is None and job.teacher is not None:
        teacher = load_teacher(job.teacher, training)
    recipe = make_recipe(job, photos.classes, teacher)
    training = training.labelled() if recipe.needs_labels else training
    bare = bare_throughput(recipe, training, job)
    names = photos.classes if recipe.classifies else ()
    watch = (
        None if watched is None else Watch(watched, job.out, {"recipe": job.recipe, "arch": job.arch, "size": job.size})
    )
    per_epoch = max(1, len(training) // min(job.config.batch, len(training)))
    config = replace(
        job.config, steps=_steps(job, per_epoch, bare), evaluate_every=job.config.evaluate_every or per_epoch
    )
    provenance = Provenance(
        command=job.command,
        data=tuple(path.name for path in job.data),
        photos=len(training),
        recipe=job.recipe,
        family="DINO" if job.recipe == "dino" else FAMILIES[job.arch],
        license=job.license,
        device=device_name(job.cpu),
        seconds=0.0,
        steps=0,
        score_name=recipe.score_name,
        pooling=recipe.pooling,
        score=0.0,
    )

    def on_step(figures: dict[str, Any]) -> None:
        if watch is not None:
            watch.note(figures["loss"])
        report(figures)

    def on_power_of_two(network: nn.Module, step: int) -> None:
        folder = job.out / "steps" / f"{step:07d}"
        export(network, folder, names, config.resolution, replace(provenance, steps=step))
        if watch is not None:
            watch.add(folder, step, recipe.score(network, training, test) if recipe.classifies else math.nan)

    trainer = Trainer(
        recipe,
        config,
        training,
        test,
        job.out,
        cpu=job.cpu,
        report=on_step,
        snapshot=on_power_of_two,
        stop=stop,
    )
    if job.resume:
        trainer.resume()
    result = trainer.run()
    if trainer.accelerator.is_main_process:
        curve = _curve(job.out / LOG)
        if math.isnan(result.score) and curve:  # a finished run was resumed: take its last score
            result = replace(result, score=curve[-1][1])
        done = replace(provenance, seconds=result.seconds, steps=result.steps, score=result.score, curve=curve)
        export(trainer.network, job.out, names, config.resolution, done)
        if watch is not None:
            if result.steps & (result.steps - 1):  # of a power of two there is a snapshot
                watch.add(job.out, result.steps, result.score if recipe.classifies else math.nan)
            watch.draw()
    return Outcome(result, bare, skipped, len(training))


def device_name(cpu: bool) -> str:
    """The device that a run uses, for its card."""
    if torch.cuda.is_available() and not cpu:
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'' if threads == 1 else 's'}"


def reorder_classes(photos: PhotoSet, labels: Sequence[str]) -> PhotoSet:
    """The photos with their classes in the order of `labels`; unchanged if those are other classes."""
    if sorted(labels) != sorted(photos.classes):
        return photos
    indices = np.array([*(list(labels).index(name) for name in photos.classes), -1])
    return replace(photos, labels=indices[photos.labels], classes=tuple(labels))


def _class_order(job: TrainJob) -> Sequence[str]:
    """Classes of the initial weights, or of the teacher: their outputs keep their meaning only in that order."""
    init = str(job.init) if job.init is not None and (job.init / "config.json").is_file() else None
    for name in (init, job.teacher):
        if name is not None and name.split(":")[0] != NAME:
            labels = find_spec(name).labels
            if labels:
                return labels
    return ()


def make_recipe(job: TrainJob, classes: Sequence[str], teacher: Teacher | None = None) -> Recipe:
    """The job's recipe, with a new network as its student."""
    size = job.config.resolution
    network = build(job.arch, job.size, classes, size, pretrain=job.pretrain)
    if isinstance(network, PreTrainedModel) and (job.cpu or not torch.cuda.is_available()):
        # On a CPU, eager attention is 1.7 times as fast on small grids as the fused kernel, backward pass included.
        network.set_attn_implementation("eager")
    if job.init is not None:
        initialise(network, job.init)
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


def load_teacher(name: str, photos: PhotoSet) -> Teacher:
    """A registered model, a model folder, or EfficientNet-Lite2 with a linear probe fitted on these photos.

    "efficientnet-lite2:160" sets the side of its input in pixels: smaller is faster.
    """
    if name.split(":")[0] == NAME:
        size = name.partition(":")[2] or str(SIZE)
        if not size.isdigit() or not 32 <= int(size) <= 512:
            raise OptionError(f"{size!r} is not an input size for {NAME}: use 32 to 512 pixels.")
        return efficientnet_teacher(photos, int(size))
    return teacher_from_spec(find_spec(name), photos.classes)


def bare_throughput(recipe: Recipe, photos: PhotoSet, job: TrainJob, rounds: int = 5) -> float:
    """Photos per second of forward and backward alone, on one fixed batch: the reference for the efficiency of a run."""
    device = torch.device("cuda" if torch.cuda.is_available() and not job.cpu else "cpu")
    batch = recipe.batches(photos, job.config.batch, job.config.resolution, job.config.seed).batch(0)
    recipe.to(device)
    state = {name: value.clone() for name, value in recipe.state_dict().items()}
    views = [normalised(view.to(device)) for view in batch.views]
    labels = batch.labels.to(device)
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=job.config.precision == "bf16"):
            loss, _ = recipe(views, labels, StepContext(0, 0.0, job.config.seed))
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
        recipe.zero_grad()
    # Undo what the passes changed in running statistics.
    recipe.load_state_dict(state)
    return len(labels) / statistics.median(times[1:])


def _steps(job: TrainJob, per_epoch: int, speed: float) -> int:
    if job.resume:
        try:
            state = torch.load(job.out / STATE, map_location="cpu", weights_only=True)
            return int(state["config"]["steps"])
        except Exception:  # missing or damaged: `Trainer.resume` reports it
            return 1
    if job.minutes is not None:
        return max(1, int(job.minutes * 60 * speed * 0.9 / job.config.batch))
    return max(1, round((job.epochs if job.epochs is not None else 30) * per_epoch))


def _curve(log: Path) -> tuple[tuple[int, float], ...]:
    """Step and score of each evaluation."""
    return tuple((step, entry["score"]) for step, entry in read_log(log).items() if "score" in entry)
