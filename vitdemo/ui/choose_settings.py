"""What the Choose tab offers, its limits on this server, and what of it somebody asks for, checked."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vitdemo.errors import OptionError
from vitdemo.evaluation.choose import types
from vitdemo.registry import ready_models
from vitdemo.settings import Settings
from vitdemo.ui.choices import specs_of

ABSENT = (
    "This server's GPU is lent for single calls, out of each visitor's daily quota of minutes, and comparing models on a folder "
    "takes thousands. Run vitdemo on your own machine, or in a copy of this Space on other hardware: there this tab works, "
    "and so does the command `vitdemo choose`."
)
"""Where a GPU is lent for each call."""


@dataclass(frozen=True)
class Limits:
    """Of one comparison on the page."""

    photos: int
    minutes: float
    megabytes: float


def may_choose(settings: Settings) -> bool:
    """Whether the page has the tab."""
    return settings.choose is not False


def limits(settings: Settings) -> Limits:
    """Those of the settings; what they leave open is less on a Hugging Face Space, whose visitors share its cores."""
    open_to_all = bool(os.environ.get("SPACE_ID"))
    return Limits(
        settings.choose_photos or (1_000 if open_to_all else 20_000),
        settings.choose_minutes or (10.0 if open_to_all else 120.0),
        settings.choose_mb or (100.0 if open_to_all else 800.0),
    )


@dataclass(frozen=True)
class ChooseForm:
    """What a page asks for, beside the photos."""

    models: tuple[str, ...]
    folds: int = types.FOLDS
    k: int = types.NEIGHBOURS
    ignore_labels: bool = False


def read_form(given: Mapping[str, Any], settings: Settings) -> ChooseForm:
    """From what a page sends.

    Raises:
        OptionError: something of it is not offered.
        UnknownModelError: there is no model of that name.
        NotDownloadedError: its weights are not on this machine.
    """
    names = given.get("models")
    if not isinstance(names, list) or not names:
        raise OptionError("Choose at least one model.")
    specs = specs_of([str(name) for name in names], settings)
    folds = _whole(given.get("folds", types.FOLDS), "Folds", 2, 20)
    k = _whole(given.get("k", types.NEIGHBOURS), "Neighbours", 1, 1000)
    return ChooseForm(tuple(spec.name for spec in specs), folds, k, given.get("ignore_labels") is True)


def models_offered() -> list[dict[str, Any]]:
    """Those that can run at once."""
    return [{"name": spec.name, "family": spec.family, "source": spec.source} for spec in ready_models()]


def models_chosen() -> list[str]:
    """With which the tab opens: what ships with vitdemo."""
    return [spec.name for spec in ready_models() if spec.source == "embedded"]


def projections() -> list[str]:
    """How the map of the photos can be made here."""
    return ["pca", "t-sne"] if importlib.util.find_spec("sklearn") else ["pca"]


def offers(settings: Settings, folders: bool, borrowed: bool) -> dict[str, Any]:
    """What the controls of the tab offer.

    Args:
        folders: whether a folder of the server may be named.
        borrowed: whether a GPU is lent for each call.
    """
    most = limits(settings)
    return {
        "models": models_offered(),
        "chosen": models_chosen()[: settings.max_models],
        "most": settings.max_models,
        "photos": most.photos,
        "minutes": most.minutes,
        "megabytes": most.megabytes,
        "piece": int(min(settings.max_image_mb, 8.0) * 1e6),
        "folds": types.FOLDS,
        "k": types.NEIGHBOURS,
        "folders": folders,
        "projections": projections(),
        "missing": ABSENT if borrowed else "",
    }


def _whole(value: Any, name: str, low: int, high: int) -> int:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not (low <= number <= high and number == int(number)):
        raise OptionError(f"{name} must be a whole number from {low} to {high}.")
    return int(number)
