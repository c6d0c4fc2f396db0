"""Settings of a training run, and their validation. Imports no torch: the command line reads its choices here."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from vitdemo.errors import OptionError, TrainingError

RECIPES = ("supervised", "distill", "mim", "dino")
ARCHITECTURES = ("vit", "deit", "beit", "mae", "hybrid", "cnn", "scratch")
OPTIMISERS = ("adam", "adamw", "muon")

STATE, LOG = "state.pt", "log.jsonl"
"""Files of a run's folder: what the next step depends on, and the figures of every step."""

MIN_FREE_BYTES = 500_000_000
"""Disk space that must be free before a run starts."""


@dataclass(frozen=True)
class ModelSize:
    """Width, depth and heads of a transformer."""

    width: int
    depth: int
    heads: int


SIZES = {
    "mini": ModelSize(192, 8, 6),
    "tiny": ModelSize(192, 12, 3),
    "small": ModelSize(384, 12, 6),
    "base": ModelSize(768, 12, 12),
}
"""`tiny`, `small` and `base` are those of Touvron et al. 2021, arXiv:2012.12877; `mini` is ours."""


@dataclass(frozen=True)
class TrainConfig:
    """Hyperparameters of the training loop. A run resumes only under the configuration it was started with."""

    steps: int
    batch: int = 64
    resolution: int = 224
    optimiser: str = "adamw"
    learning_rate: float = 5e-4
    """Peak of the schedule: linear warm-up, then cosine decay."""
    warmup: float = 0.05
    """Share of the steps."""
    weight_decay: float = 0.05
    clip: float = 1.0
    """Largest norm of the gradients; 0 switches clipping off."""
    ema_decay: float = 0.0
    """Decay of the EMA of the weights, which is then evaluated and exported; 0 switches it off."""
    precision: str = "fp32"
    seed: int = 0
    evaluate_every: int = 0
    """Steps between two evaluations; 0 evaluates once, at the end."""
    patience: int = 0
    """Evaluations without a better score before early stopping; 0 never stops early."""
    save_every: int = 200

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        warmup_steps = max(1, round(self.warmup * self.steps))
        if step < warmup_steps:
            return self.learning_rate * (step + 1) / warmup_steps
        progress = (step - warmup_steps) / max(1, self.steps - warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class TrainJob:
    """What to train, on which data, and for how long."""

    data: tuple[Path, ...]
    recipe: str
    arch: str
    out: Path
    size: str = "mini"
    test: tuple[Path, ...] = ()
    """Photos to evaluate on; a tenth of the data is held out if none are given."""
    teacher: str | None = None
    init: Path | None = None
    pretrain: bool = False
    """Whether the head has a hidden layer, as the paper's has at pre-training; it is exported as the encoder's pooler."""
    watch: Path | None = None
    """A photo whose attention is kept at steps 1, 2, 4, 8 and so on."""
    epochs: float | None = None
    minutes: float | None = None
    max_photo_bytes: int | None = None
    """Memory that the photos may take; any amount if None."""
    resume: bool = False
    cpu: bool = False
    command: str = ""
    license: str = "unknown"
    labels: tuple[str, ...] = ()
    """Order of the classes, unless the initial weights or the teacher have one."""
    config: TrainConfig = field(default_factory=lambda: TrainConfig(steps=0))


def validate_job(job: TrainJob, has_teacher: bool) -> None:
    """Reject what cannot work before any photo is read.

    Args:
        has_teacher: a teacher is passed beside the job.

    Raises:
        OptionError: recipe, architecture and teacher do not fit together.
        TrainingError: the folder already holds a run, is not writable, or the disk is full.
    """
    if job.recipe not in RECIPES:
        raise OptionError(f"Unknown recipe {job.recipe!r}. Choose from: {', '.join(RECIPES)}.")
    if job.recipe == "distill" and job.teacher is None and not has_teacher:
        raise OptionError("The recipe distill needs a teacher: name a model.")
    if job.recipe in ("supervised", "dino") and (job.teacher is not None or has_teacher):
        raise OptionError(f"The recipe {job.recipe} takes no teacher: use distill.")
    if job.arch == "mae" and job.recipe != "mim":
        raise OptionError("The architecture mae has no classifier: train it with the recipe mim.")
    if job.pretrain and (job.recipe != "supervised" or job.arch not in ("vit", "scratch")):
        raise OptionError("The pre-training head is for the recipe supervised, and the architectures vit and scratch.")
    if job.watch is not None and job.arch == "cnn":
        raise OptionError("A convolutional network has no attention to watch: choose another architecture.")
    if (job.out / STATE).exists() and not job.resume:
        raise TrainingError(f"{job.out.name} already holds a run: resume it, or choose another folder.")
    parent = next(folder for folder in (job.out, *job.out.absolute().parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise TrainingError(f"{job.out.name} cannot be written: {parent.name} is not a writable folder.")
    free = shutil.disk_usage(parent).free
    if free < MIN_FREE_BYTES:
        raise TrainingError(f"Only {free / 1e6:.0f} MB are free; a run needs {MIN_FREE_BYTES / 1e6:.0f} MB.")
