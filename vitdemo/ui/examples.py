"""The photos that ship with the product."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vitdemo.settings import ASSETS

FOLDER = ASSETS / "examples"


@dataclass(frozen=True)
class Example:
    """A photo and what is on it."""

    path: Path
    title: str
    label: str | None
    """One of the embedded models' classes, or None for a photo of none of them."""


@lru_cache(maxsize=1)
def examples() -> tuple[Example, ...]:
    """In the order in which they are shown; the first is on the page when it opens."""
    entries = json.loads((FOLDER / "credits.json").read_text(encoding="utf-8"))
    return tuple(Example(FOLDER / entry["file"], entry["title"], entry["label"]) for entry in entries)
