"""The photos that ship with the product."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from vitdemo.images.open import open_image
from vitdemo.pipeline import Pipeline
from vitdemo.settings import ASSETS
from vitdemo.types import Photo
from vitdemo.ui.state import SEGMENT, TABS

FOLDER = ASSETS / "examples"


@dataclass(frozen=True)
class Example:
    """A photo and what is on it."""

    path: Path
    title: str
    label: str | None
    """One of the embedded models' classes, or None for a photo of none of them."""
    fools: bool = False
    """Whether it is among those that most of the embedded models are sure of, and wrong about."""


def opened(pipeline: Pipeline, example: Example) -> Photo:
    """The photo itself, under its file's name."""
    return replace(pipeline.open(example.path), name=example.path.name)


@lru_cache(maxsize=1)
def examples() -> tuple[Example, ...]:
    """In the order in which they are shown; the first is on the page when it opens."""
    entries = json.loads((FOLDER / "credits.json").read_text(encoding="utf-8"))
    return tuple(
        Example(FOLDER / entry["file"], entry["title"], entry["label"], entry.get("fools", False)) for entry in entries
    )


def opening_example(tab: str) -> Example:
    """What a tab shows before anybody has chosen a photo: Segment the one with the best cut-out, the others the first."""
    return next(one for one in examples() if one.path.stem == "crab") if tab == SEGMENT else examples()[0]


def example_of(photo: Photo) -> Example | None:
    """The example that this photo is, by its content."""
    return _by_digest().get(photo.digest)


def label_of(photo: Photo) -> str:
    """What is on an example, in the words of the embedded models' classes; "" where that is not known."""
    example = example_of(photo)
    return (example.label or "") if example else ""


def example_to_open(tab: str, photo: object, touched: bool) -> Example | None:
    """The example that a tab is to show instead of that of another tab; None where somebody has chosen what is there.

    Args:
        photo: what is there.
        touched: whether somebody has chosen a photo.
    """
    shown = example_of(photo) if isinstance(photo, Photo) else None
    wanted = opening_example(tab)
    others = {opening_example(one) for one in TABS} - {wanted}
    return None if touched or shown not in others else wanted


@lru_cache(maxsize=1)
def _by_digest() -> dict[str, Example]:
    return {open_image(example.path).digest: example for example in examples()}
