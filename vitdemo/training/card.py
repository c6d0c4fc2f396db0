"""The training section of an embedded model's card: every run, its duration, and its loss curve."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CURVE_POINTS = 6
"""Equal parts of a run whose mean losses form its curve."""

HEADING, NEXT_HEADING = "## Training\n", "\n## "


@dataclass(frozen=True)
class RunSummary:
    """Figures of a run, from its log."""

    steps: int
    minutes: float
    losses: tuple[float, ...]
    """Mean loss of each sixth of the run, in order."""


@dataclass(frozen=True)
class StageRun:
    """One stage of a model's training."""

    name: str
    learns_from: str
    resolutions: str
    batch: int
    summary: RunSummary


def read_log(path: Path) -> dict[int, dict[str, Any]]:
    """Entries of `log.jsonl` by step, in order. A resumed run may have repeated a step: its last entry counts."""
    entries = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):  # a line cut off when the process was killed
            entry = json.loads(line)
            entries[entry["step"]] = entry
    return dict(sorted(entries.items()))


def summarise_log(path: Path) -> RunSummary:
    """Steps, duration and loss curve of a run."""
    entries = list(read_log(path).values())
    parts = np.array_split(np.array([entry["loss"] for entry in entries]), CURVE_POINTS)
    minutes = entries[-1]["seconds"] / 60 if entries else 0.0
    return RunSummary(len(entries), minutes, tuple(float(part.mean()) for part in parts if len(part)))


def training_section(command: str, photos: int, labelled: int, runs: Sequence[StageRun], device: str) -> str:
    """The section, in Markdown.

    Args:
        photos: all photos that it was trained on.
        labelled: those of them that have a label.
        runs: in order; each may start with the weights of one before it.
    """
    rows = "".join(
        f"| {run.name} | {run.learns_from} | {run.resolutions} | {run.summary.steps:,} of {run.batch} photos | "
        f"{run.summary.minutes:.0f} | {', '.join(f'{loss:.2f}' for loss in run.summary.losses)} |\n"
        for run in runs
    )
    return f"""{HEADING}
- Photos: {photos:,}, {labelled:,} of them with a label.
- From random weights, by `{command}`

| run | learns from | pixels | steps | minutes | mean loss of each sixth |
|---|---|---|---|---|---|
{rows}
On {device}. Where the loss still falls in the last sixths, longer training would help.
"""


def replace_training_section(card: str, section: str) -> str:
    """The card with this section in place of its own, or at its end."""
    before, found, rest = card.partition(HEADING)
    _, more, after = rest.partition(NEXT_HEADING)
    return (before if found else card.rstrip("\n") + "\n\n") + section + (more + after if more else "")
