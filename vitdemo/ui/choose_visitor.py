"""What one browser has on the server: its comparison, photos and result."""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from vitdemo.errors import InputError
from vitdemo.evaluation.choose import Choice, ChooseRequest, Progress
from vitdemo.ui.choose_settings import ChooseForm
from vitdemo.ui.train_data import joined, put_data

FILE_MB = 50.0
"""Limit of a file of boxes or labels, in 10^6 bytes."""

CROPS = (0.15, 0.4)
"""Of the examples, as shares of their shorter side: small ones, which not every model can tell."""

INSTEAD = "Use the command line: vitdemo choose."

State = Literal["preparing", "running", "stopping", "stopped", "done", "failed"]
UNDER_WAY: tuple[State, ...] = ("preparing", "running", "stopping")


@dataclass
class Visitor:
    """What one browser has here."""

    owner: str
    """What it alone knows."""
    folder: Path
    number: int = 0
    """Of its last comparison."""
    state: State = "stopped"
    said: str = ""
    form: ChooseForm | None = None
    request: ChooseRequest | None = None
    labels: Mapping[str, str] | None = None
    """Of a second round, without a forward pass."""
    own_store: bool = True
    """Whether features are kept with the photos, and deleted with them."""
    progress: Progress | None = None
    models: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Photos that each model has seen, and of how many."""
    stop: threading.Event = field(default_factory=threading.Event)
    choice: Choice | None = None
    choice_number: int = 0
    """Of the comparison that it came from."""
    used: float = field(default_factory=time.monotonic)
    asked: dict[str, Future[dict[str, Any]]] = field(default_factory=dict)
    """What is being computed of the result, by question."""

    @property
    def under_way(self) -> bool:
        return self.state in UNDER_WAY

    @property
    def bytes(self) -> int:
        return sum(one.nbytes for one in self.choice.features.values()) if self.choice else 0


def put_photos(visitor: Visitor, data: Mapping[str, Any], megabytes: float, folders: bool) -> tuple[Path, bool]:
    """Where the photos are, and whether they are a visitor's own.

    Args:
        data: see `vitdemo.ui.train_data.put_data`; of the kind `same` are the photos of the last comparison.
        megabytes: limit of an archive, in 10^6 bytes.
        folders: whether a folder of the server may be named.

    Raises:
        OptionError: something was not chosen.
        InputError: the photos cannot be stored, or are no longer here.
    """
    if data.get("kind") == "same":
        if visitor.request is None or not visitor.request.data[0].exists():
            raise InputError("Those photos are no longer on the server. Choose them again.")
        return visitor.request.data[0], visitor.own_store
    # The last photos stay until the new ones are here.
    new = visitor.folder / "new"
    shutil.rmtree(new, ignore_errors=True)
    try:
        name = put_data(data, new / "data", megabytes, folders, INSTEAD, CROPS)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if data.get("kind") == "folder":
        return Path(name), False
    shutil.rmtree(visitor.folder / "data", ignore_errors=True)
    (new / "data").rename(visitor.folder / "data")
    return visitor.folder / name, True


def put_file(visitor: Visitor, given: Any, name: str) -> Path | None:
    """A file of boxes or labels that was uploaded beside the photos; None without one."""
    if not isinstance(given, dict):
        return None
    folder = visitor.folder / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return joined(given, folder, FILE_MB, INSTEAD, f"Choose the file of {name}.")


def key_of(owner: str) -> str:
    """Of a browser's secret, which is not to be found on the disk, nor by how long it takes to compare it."""
    return hashlib.sha256(owner.encode()).hexdigest()[:32]


def reporter(visitor: Visitor) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.stage == "features" and progress.model:
            visitor.models = {**visitor.models, progress.model: (progress.done, progress.total)}
        # A share that falls back would make the bar jump.
        before = visitor.progress.share if visitor.progress else 0.0
        visitor.progress = replace(progress, share=max(before, progress.share))

    return report
