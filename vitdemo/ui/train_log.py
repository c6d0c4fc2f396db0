"""One training of the page, and what it has written so far, read while it is written."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vitdemo.training.config import STATE
from vitdemo.types import ModelSpec
from vitdemo.ui.train_settings import TrainRequest

POINTS = 240
"""Most points of a curve; each is the mean of as many steps."""


State = Literal["preparing", "running", "stopping", "stopped", "done", "failed"]
UNDER_WAY: tuple[State, ...] = ("preparing", "running", "stopping")


@dataclass
class TrainLog:
    """The figures of a run, by step. `read` looks for new ones."""

    path: Path
    steps: int = 0
    """In all."""
    losses: dict[int, float] = field(default_factory=dict)
    accuracies: dict[int, float] = field(default_factory=dict)
    """On the batches that are trained on, for recipes with labels."""
    scores: dict[int, float] = field(default_factory=dict)
    """On held-out photos."""
    speed: float = 0.0
    """Photos per second."""
    seconds: float = 0.0
    """Of training so far, all parts of a resumed run together."""
    _offset: int = 0

    @property
    def step(self) -> int:
        """The last one."""
        return max(self.losses, default=0)

    @property
    def left(self) -> float:
        """Seconds that the rest is going to take."""
        return self.seconds / self.step * (self.steps - self.step) if self.step else 0.0

    def read(self) -> None:
        """Take in the lines that have been finished since."""
        with suppress(OSError), self.path.open("rb") as file:
            file.seek(self._offset)
            for line in file.read().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                with suppress(ValueError, KeyError, TypeError):
                    self._take(json.loads(line))

    def _take(self, entry: dict[str, Any]) -> None:
        step = int(entry["step"])
        self.losses[step] = float(entry["loss"])
        self.steps, self.speed = int(entry["steps"]), float(entry["images_per_second"])
        self.seconds = float(entry["seconds"])
        for name, values in (("accuracy", self.accuracies), ("score", self.scores)):
            if name in entry:
                values[step] = float(entry[name])

    def curves(self) -> dict[str, list[list[float]]]:
        """Points `[step, value]` of each curve, in order."""
        named = {"loss": self.losses, "accuracy": self.accuracies, "score": self.scores}
        return {name: _points(values) for name, values in named.items()}


def _points(values: dict[int, float]) -> list[list[float]]:
    """
    >>> _points({2: 1.0, 1: 3.0})
    [[1.0, 3.0], [2.0, 1.0]]
    """
    found = np.array(sorted((step, value) for step, value in values.items() if value == value), np.float64).reshape(
        -1, 2
    )
    if len(found) > POINTS:
        found = np.array([part.mean(axis=0) for part in np.array_split(found, POINTS)])
    return [[round(float(step), 1), float(f"{value:.5g}")] for step, value in found]


def fault(errors: Path) -> str:
    """What a command that failed has said of it, in its own words; "" if it has not.

    Its bar of progress is in the same file, and returns to the start of its line.
    """
    with suppress(OSError):
        lines = errors.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
        said = [line.removeprefix("vitdemo: ") for line in lines if line.startswith("vitdemo: ")]
        return said[-1] if said else ""
    return ""


def skipped(errors: Path) -> list[str]:
    """Files that could not be used, each with the reason."""
    with suppress(OSError):
        lines = errors.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
        return [line.removeprefix("skipped: ") for line in lines if line.startswith("skipped: ")]
    return []


@dataclass
class Run:
    """One training, and what is known of it."""

    number: int
    name: str
    """Of the model, and of its folder."""
    owner: str
    """What only the page that started it knows."""
    request: TrainRequest
    folder: Path
    state: State = "preparing"
    said: str = ""
    """Why it failed."""
    data: str = ""
    photo: str = ""
    log: TrainLog = field(init=False)
    process: subprocess.Popen[bytes] | None = None
    model: ModelSpec | None = None

    def __post_init__(self) -> None:
        self.log = TrainLog(self.out / "log.jsonl")

    @property
    def out(self) -> Path:
        """The folder of its model."""
        return self.folder / self.name

    @property
    def errors(self) -> Path:
        return self.folder / "errors.txt"

    @property
    def resumable(self) -> bool:
        return self.state in ("stopped", "failed") and (self.out / STATE).exists() and (self.folder / "data").exists()

    def command(self, cpu: bool) -> list[str]:
        """With paths that say nothing of this server: the model's card repeats it."""
        resume = ["--resume"] if (self.out / STATE).exists() else []
        device = ["--cpu"] if cpu else []
        files = [self.data, *self.request.arguments, "--watch", self.photo, "--out", self.name]
        return ["train", *files, *device, *resume, "--json"]


def forget_photos(run: Run) -> None:
    """Delete what only a resumed training needs: photos, state, and the networks at single steps."""
    for folder in (run.folder / "data", run.out / "steps"):
        shutil.rmtree(folder, ignore_errors=True)
    (run.out / STATE).unlink(missing_ok=True)
