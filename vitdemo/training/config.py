"""What a run is asked for, and whether that can be done."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from vitdemo.errors import OptionError, TrainingError
from vitdemo.training.loop import Plan
from vitdemo.training.recipes.base import STATE

RECIPES = ("supervised", "distill", "mim", "dino")
LEAST_ROOM = 500_000_000
"""Bytes that must be free before a run begins."""


@dataclass(frozen=True)
class Job:
    """What to train, on what, and for how long."""

    data: tuple[Path, ...]
    recipe: str
    arch: str
    out: Path
    size: str = "mini"
    test: tuple[Path, ...] = ()
    """Photos to judge on; a tenth of the data if none are given."""
    teacher: str | None = None
    bank: Path | None = None
    """Folder where the teacher's answers are kept, for the recipe distill."""
    views: int = 8
    """Of each photo in the bank."""
    mix: float = 0.5
    """Share of the photos that a bank shows with a rectangle of another one."""
    keep: float = 1.0
    """Share of the patches that a student of a bank is given."""
    init: Path | None = None
    epochs: float | None = None
    minutes: float | None = None
    resume: bool = False
    cpu: bool = False
    command: str = ""
    license: str = "unknown"
    labels: tuple[str, ...] = ()
    """Order of the classes, where neither the weights that are begun with nor the teacher have one."""
    plan: Plan = field(default_factory=lambda: Plan(steps=0))


def check(job: Job, taught: bool) -> None:
    """Refuse what cannot work before anything is read.

    Args:
        taught: a teacher was given beside the job.

    Raises:
        OptionError: recipe, architecture and teacher do not fit together.
        TrainingError: the folder holds a run already, cannot be written, or there is no room.
    """
    if job.recipe not in RECIPES:
        raise OptionError(f"Unknown recipe {job.recipe!r}. Choose from: {', '.join(RECIPES)}.")
    if job.recipe == "distill" and job.teacher is None and not taught:
        raise OptionError("The recipe distill needs a teacher: name a model.")
    if job.bank is not None and job.recipe != "distill":
        raise OptionError("A bank of views is for the recipe distill.")
    if job.recipe in ("supervised", "dino") and (job.teacher is not None or taught):
        raise OptionError(f"The recipe {job.recipe} takes no teacher: use distill.")
    if job.arch == "mae" and job.recipe != "mim":
        raise OptionError("The architecture mae has no classifier: train it with the recipe mim.")
    if job.out.exists() and (job.out / STATE).exists() and not job.resume:
        raise TrainingError(f"There is a run in {job.out.name} already: resume it, or choose another folder.")
    parent = next(folder for folder in (job.out, *job.out.absolute().parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise TrainingError(f"{job.out.name} cannot be written: {parent.name} is no folder that can be written to.")
    free = shutil.disk_usage(parent).free
    if free < LEAST_ROOM:
        raise TrainingError(f"Only {free / 1e6:.0f} MB are free; a run needs {LEAST_ROOM / 1e6:.0f} MB.")
