"""What the Train tab offers, and what of it somebody asks for, checked."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vitdemo.errors import OptionError
from vitdemo.settings import Settings, on_zero_gpu
from vitdemo.training.config import SIZES

RECIPES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "supervised": ("Supervised: from the labels", ("scratch", "vit", "deit", "beit", "hybrid")),
    "mim": ("Masked image modelling: fill in hidden patches", ("vit", "beit", "mae")),
    "dino": ("DINO: agree with itself on other crops", ("vit",)),
}
"""Title and architectures of each recipe that needs nothing but photos."""

ARCHITECTURES = {
    "scratch": "ViT, written out in plain PyTorch",
    "vit": "ViT",
    "deit": "DeiT",
    "beit": "BEiT",
    "mae": "MAE",
    "hybrid": "Hybrid",
}

RESOLUTIONS = (64, 96, 128, 160, 192, 224)
"""Sides of the input, in pixels: whole patches of 16."""

MISSING = "Training needs one more package: pip install accelerate, then start the app again."


def may_train(settings: Settings) -> bool:
    """Whether the page has the tab."""
    if on_zero_gpu():
        return False
    return settings.train if settings.train is not None else not os.environ.get("SPACE_ID")


def can_train() -> bool:
    """Whether what training needs is installed."""
    return importlib.util.find_spec("accelerate") is not None


@dataclass(frozen=True)
class TrainRequest:
    """What is to be trained, and for how long."""

    recipe: str
    arch: str
    size: str
    resolution: int
    minutes: float

    @property
    def arguments(self) -> list[str]:
        """Those of the command."""
        return [
            *("--recipe", self.recipe, "--arch", self.arch, "--size", self.size),
            *("--resolution", str(self.resolution), "--minutes", f"{self.minutes:g}"),
        ]


def read_request(given: Mapping[str, Any], settings: Settings) -> TrainRequest:
    """From what a page sends.

    Raises:
        OptionError: something of it is not offered.
    """
    recipe, arch, size = (str(given.get(name, "")) for name in ("recipe", "arch", "size"))
    if recipe not in RECIPES:
        raise OptionError(f"Unknown recipe. Choose from: {', '.join(RECIPES)}; others run on the command line.")
    offered = RECIPES[recipe][1]
    if arch not in offered:
        raise OptionError(f"The recipe {recipe} takes the architectures {', '.join(offered)}.")
    if size not in SIZES:
        raise OptionError(f"Unknown size. Choose from: {', '.join(SIZES)}.")
    resolution = _number(given.get("resolution"))
    if resolution not in RESOLUTIONS:
        raise OptionError(f"Choose an image size of {', '.join(map(str, RESOLUTIONS))} px.")
    minutes = _number(given.get("minutes"))
    if not 0 < minutes <= settings.train_minutes:
        raise OptionError(
            f"Minutes must be above 0, and at most {settings.train_minutes:g} on this page. Train for longer with the command "
            "line."
        )
    return TrainRequest(recipe, arch, size, int(resolution), minutes)


def offers(settings: Settings, folders: bool) -> dict[str, Any]:
    """What the controls of the tab offer.

    Args:
        folders: whether a folder of the server may be named.
    """
    return {
        "recipes": {name: {"title": title, "archs": archs} for name, (title, archs) in RECIPES.items()},
        "archs": ARCHITECTURES,
        "sizes": {name: f"{name}: {one.depth} layers of width {one.width}" for name, one in SIZES.items()},
        "resolutions": RESOLUTIONS,
        "minutes": settings.train_minutes,
        "megabytes": settings.train_mb,
        "piece": int(min(settings.max_image_mb, 8.0) * 1e6),
        "folders": folders,
        "missing": "" if can_train() else MISSING,
    }


def _number(value: Any) -> float:
    """What was typed; -1 where it is no number."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return -1.0
    return found if found == found else -1.0
