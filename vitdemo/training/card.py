"""What a model's card says of its training: every run, how long it took, and how its loss fell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PARTS = 6
"""Of a run, whose mean losses are its curve."""
HEAD, NEXT = "## Training\n", "\n## "


@dataclass(frozen=True)
class Log:
    """What a run wrote down."""

    steps: int
    minutes: float
    losses: tuple[float, ...]
    """Mean loss of each sixth of the run, in order."""


@dataclass(frozen=True)
class Run:
    """One stage of a model's training."""

    recipe: str
    resolution: int
    batch: int
    log: Log
    name: str


def run_log(path: Path) -> Log:
    """Read `log.jsonl`. Of a step that was done twice, since a run was resumed, the later line counts."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):  # a line that a kill cut off
            entry = json.loads(line)
            found[entry["step"]] = entry
    steps = sorted(found)
    losses = np.array([found[step]["loss"] for step in steps])
    parts = [float(part.mean()) for part in np.array_split(losses, PARTS) if len(part)]
    return Log(len(steps), found[steps[-1]]["seconds"] / 60 if steps else 0.0, tuple(parts))


def training_section(
    command: str, data: Sequence[str], begin: str | None, taught: bool, runs: Sequence[Run], device: str
) -> str:
    """The section, in Markdown.

    Args:
        data: names of the archives and folders with the photos.
        begin: the model whose layers the first run took over.
        taught: an EfficientNet was asked.
    """
    rows = "".join(
        f"| {run.name} | `{run.recipe}` | {run.resolution} | {run.log.steps:,} of {run.batch} photos | "
        f"{run.log.minutes:.0f} | {', '.join(f'{loss:.2f}' for loss in run.log.losses)} |\n"
        for run in runs
    )
    lines = [f"Data: {', '.join(f'`{name}`' for name in data)}."]
    if taught:
        lines += [
            "Teacher: an EfficientNet-Lite2 with ImageNet weights, asked once about four views of each photo: features at the",
            "  places of the patches, their mean, its class scores; and the labels. The classifier was fitted last, by logistic",
            "  regression.",
        ]
    if begin:
        lines.append(f"Its layers began with those of {begin}.")
    lines.append(f"Command: `{command}`")
    told = "\n".join(line if line.startswith("  ") else f"- {line}" for line in lines)
    return f"""{HEAD}
{told}

| run | recipe | pixels | steps | minutes | loss, mean of each sixth |
|---|---|---|---|---|---|
{rows}
On {device}. What the loss still falls in the last sixths is what more time would give.
"""


def with_training(card: str, section: str) -> str:
    """The card with this section in place of its own, or at its end."""
    before, found, rest = card.partition(HEAD)
    _, more, after = rest.partition(NEXT)
    return (before if found else card.rstrip("\n") + "\n\n") + section + (more + after if more else "")
