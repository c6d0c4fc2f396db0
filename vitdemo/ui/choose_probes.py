"""Linear probes of comparisons as models of the page, and as files."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path

from vitdemo.engine import Backend
from vitdemo.errors import OptionError
from vitdemo.evaluation.choose import Choice, write_probe
from vitdemo.registry import add_folder, available_models, forget_folder
from vitdemo.types import ModelSpec

KEPT = 4
"""Probes that stay; the oldest goes when another one is made."""


@dataclass(frozen=True)
class Probe:
    """A probe as a model of the page."""

    owner: str
    source: str
    """The model whose features it reads."""
    number: int
    """Of the comparison that it was fitted in."""
    folder: Path
    model: ModelSpec


class Probes:
    """The probes of one server. Safe to use from many threads."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._guard = threading.Lock()
        self._kept: list[Probe] = []

    def make(self, owner: str, choice: Choice, number: int, source: str, place: Path) -> Probe:
        """Fit the probe of a model on all photos, unless it is here already.

        Args:
            place: the folder in which its own one is made.

        Raises:
            VitDemoError: it cannot be made.
        """
        with self._guard:
            if (found := self.of(owner, number, source)) is not None:
                return found
            name = _free_name(f"{source.rsplit('/', 1)[-1]}-probe")
            folder = place / name
            place.mkdir(parents=True, exist_ok=True)
            try:
                write_probe(choice, source, folder)
                made = Probe(owner, source, number, folder, add_folder(str(folder)))
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            for old in self._kept[: max(0, len(self._kept) - KEPT + 1)]:
                self._kept.remove(old)
                self.backend.unload(old.model)
                forget_folder(old.model.name)
                shutil.rmtree(old.folder, ignore_errors=True)
            self._kept.append(made)
            return made

    def of(self, owner: str, number: int, source: str) -> Probe | None:
        """The probe of a model in a comparison, if it was made."""
        return next(
            (one for one in self._kept if (one.owner, one.number, one.source) == (owner, number, source)),
            None,
        )

    def archive(self, owner: str, number: int, source: str, cache: Path) -> Path:
        """A model folder as a new zip file in `cache`.

        Raises:
            OptionError: it was not made, or is no longer kept.
        """
        probe = self.of(owner, number, source)
        if probe is None:
            raise OptionError("This probe is not on the server. Make it first.")
        path = Path(tempfile.mkdtemp(dir=cache)) / f"{probe.model.name}.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as packed:
            for file in sorted(probe.folder.rglob("*")):
                if file.is_file():
                    packed.write(file, f"{probe.model.name}/{file.relative_to(probe.folder).as_posix()}")
        return path


def _free_name(name: str) -> str:
    taken = {spec.name for spec in available_models()}
    later = (f"{name}-{number}" for number in itertools.count(2))
    return next(one for one in itertools.chain([name], later) if one not in taken)
