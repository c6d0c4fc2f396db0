"""The stages of long trainings: what a run starts with, sees and learns from."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitdemo.errors import OptionError
from vitdemo.training.efficientnet import NAME


@dataclass(frozen=True)
class Stage:
    """One run."""

    name: str
    arch: str
    """An architecture of `train`, or "dino": a ViT without a classifier. MAE learns pixels, the others a teacher's targets."""
    steps: int
    sizes: tuple[tuple[float, int], ...]
    """See `ViewSchedule`; the last resolution is that of evaluation and export."""
    batch: int = 128
    learning_rate: float = 1e-3
    warmup: float = 0.03
    optimiser: str = "muon"
    weight_decay: float = 0.05
    ema_decay: float = 0.999
    init: str | None = None
    """Stage whose weights it starts with, where they fit."""
    kept: float = 0.0
    """Share of those weights in its result, which then loses less on photos of other kinds (Wortsman et al. 2022,
    arXiv:2109.01903)."""
    mimetic: bool = False
    """Whether its attention has mimetic initialisation."""
    guide: str | None = None
    """Stage whose CNN guides it."""
    store: str = "views"
    """Folder of the view store, in the work folder."""
    teacher: str = NAME
    """Teacher of the store: EfficientNet-Lite2, a registered transformer, or a folder with one."""
    views: dict[str, Any] = field(default_factory=dict)
    """Fields of `ViewPlan` that differ from its defaults."""
    reuse: float = 4.0
    max_parts: int = 128
    labelled: float | None = None
    """See `ViewSchedule`."""
    loss_weights: dict[str, float] = field(default_factory=dict)
    """Fields of `LossWeights` that differ from its defaults."""
    cutmix: float = 0.5
    mask_ratio: float = 0.0
    temperature: float = 1.0
    """These three: see `GuidedOptions`."""
    held_out: float = 0.0
    """Share of the labelled photos that is held out for evaluation; 0 evaluates on the test photos."""
    evaluate_every: int = 1000
    save_every: int = 10
    seed: int = 0
    license: str = "unknown"
    """Licence of the photos, for the card."""

    @property
    def size(self) -> int:
        """Resolution at its end."""
        return self.sizes[-1][1]


def read_stages(path: Path) -> dict[str, Stage]:
    """The stages in a JSON file, by name.

    Raises:
        OptionError: the file holds no list of stages.
    """
    try:
        stages = [
            Stage(**{**entry, "sizes": tuple((float(share), int(size)) for share, size in entry["sizes"])})
            for entry in json.loads(path.read_text(encoding="utf-8"))
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise OptionError(f"{path.name} holds no list of stages: {error}") from error
    return {stage.name: stage for stage in stages}
