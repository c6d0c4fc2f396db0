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

    recipe: str
    resolution: int
    batch: int
    summary: RunSummary
    name: str


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


def training_section(
    command: str, data: Sequence[str], init_from: str | None, distilled: bool, runs: Sequence[StageRun], device: str
) -> str:
    """The section, in Markdown.

    Args:
        data: names of the archives and folders with the photos.
        init_from: the model whose layers initialise the first run.
        distilled: EfficientNet-Lite2 was the teacher.
    """
    rows = "".join(
        f"| {run.name} | `{run.recipe}` | {run.resolution} | {run.summary.steps:,} of {run.batch} photos | "
        f"{run.summary.minutes:.0f} | {', '.join(f'{loss:.2f}' for loss in run.summary.losses)} |\n"
        for run in runs
    )
    facts = [f"- Data: {', '.join(f'`{name}`' for name in data)}."]
    if distilled:
        facts += [
            "- Teacher: an EfficientNet-Lite2 with ImageNet weights. Its targets for four views of each photo are cached:",
            "  features at the patches, their mean, and class scores; the labels are targets too. The classifier was fitted",
            "  last, by logistic regression.",
        ]
    if init_from:
        facts.append(f"- Layers initialised from {init_from}.")
    facts.append(f"- Command: `{command}`")
    listed = "\n".join(facts)
    return f"""{HEADING}
{listed}

| run | recipe | pixels | steps | minutes | mean loss of each sixth |
|---|---|---|---|---|---|
{rows}
On {device}. Where the loss still falls in the last sixths, longer training would help.
"""


def replace_training_section(card: str, section: str) -> str:
    """The card with this section in place of its own, or at its end."""
    before, found, rest = card.partition(HEADING)
    _, more, after = rest.partition(NEXT_HEADING)
    return (before if found else card.rstrip("\n") + "\n\n") + section + (more + after if more else "")
