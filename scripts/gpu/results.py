"""Results on disk: one JSON file a step, written anew after each figure, so that an interrupted run keeps what it has."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

DONE, PARTIAL, FAILED, LATE = "done", "unfinished", "failed", "over its time"
"""States of a step."""


@dataclass
class Result:
    """What one step found."""

    step: str
    state: str = PARTIAL
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    """The end of what a failed step wrote."""
    identity: dict[str, str] = field(default_factory=dict)
    """Of the code and of the device: a result of others is measured again."""

    def write(self, folder: Path) -> None:
        """Put it in its file, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.step}.json"
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        os.replace(part, path)


def read(folder: Path, step: str) -> Result | None:
    """The result of a step, if there is one."""
    try:
        return Result(**json.loads((folder / f"{step}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def code_digest(root: Path = ROOT) -> str:
    """Of everything that decides what a step measures."""
    found = hashlib.sha256()
    for folder in ("vitdemo", "scripts", "tests/gpu"):
        for path in sorted((root / folder).rglob("*.py")):
            found.update(path.relative_to(root).as_posix().encode())
            found.update(path.read_bytes())
    return found.hexdigest()[:12]
