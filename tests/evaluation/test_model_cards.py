"""The figures in the model cards are right: measured again on a fixed sample of the same photos."""

from __future__ import annotations

import math
import re
import tarfile
from pathlib import Path

import pytest

from vitdemo.evaluation.accuracy import BACKGROUND
from vitdemo.images.open import open_image
from vitdemo.pipeline import Pipeline
from vitdemo.registry import get_spec, ready_models
from vitdemo.types import Photo
from vitdemo.types.labels import class_called

STEP = 6
"""Every sixth photo, in the order of their names."""


@pytest.fixture(scope="module")
def sample(caltech: Path) -> tuple[list[tuple[str, Photo]], int]:
    """Label and photo of every sixth labelled photo, and how many there are in all."""
    with tarfile.open(caltech) as archive:
        members = [member for member in archive if member.isfile() and BACKGROUND not in member.name]
        chosen = sorted(members, key=lambda member: member.name)[::STEP]
        photos = []
        for member in chosen:
            content = archive.extractfile(member)
            assert content is not None
            photos.append((Path(member.name).parent.name.replace("_", " "), open_image(content.read())))
    return photos, len(members)


def _card_figure(folder: Path) -> float | None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^\| top-1 \| ([0-9.]+)% \|$", text, re.MULTILINE)
    return float(found[1]) / 100 if found else None


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(spec.name, marks=[] if spec.name == "vit-mini" else pytest.mark.thorough)
        for spec in ready_models()
        if spec.labels
    ],
)
def test_the_top1_of_the_card_is_reached(
    pipeline: Pipeline, sample: tuple[list[tuple[str, Photo]], int], name: str
) -> None:
    spec = get_spec(name)
    stated = _card_figure(Path(spec.checkpoint))
    assert stated is not None, f"the card of {name} has no top-1: run `python -m vitdemo evaluate ARCHIVE --card`"
    photos, total = sample
    right = 0
    for start in range(0, len(photos), 16):
        chunk = photos[start : start + 16]
        predictions = pipeline.classify([photo for _, photo in chunk], spec, top_k=1)
        right += sum(
            class_called(label, spec.labels) == found.labels[0].label
            for (label, _), found in zip(chunk, predictions, strict=True)
        )
    count = len(photos)
    # Three standard deviations of a draw without replacement: about 10 points for 181 of 1,086 photos.
    margin = 3 * math.sqrt(stated * (1 - stated) / count * (total - count) / (total - 1))
    assert abs(right / count - stated) <= margin, f"{right} of {count} are right; the card says {stated:.1%}"
