"""A small choice that several tests look at, and what it is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.photos import FOLDERS, files, in_folder
from vitdemo.evaluation.choose import Choice, ChooseRequest, FeatureStore, choose
from vitdemo.pipeline import Pipeline
from vitdemo.settings import Settings
from vitdemo.types import ModelSpec

COUNTS = dict(zip(FOLDERS, (9, 12, 7), strict=True))


def pipeline(**settings: Any) -> Pipeline:
    return Pipeline(Settings(device="cpu", **settings))


def photos(folder: Path, **counts: int) -> Path:
    return in_folder(folder, files(counts or COUNTS))


def chosen(
    specs: Sequence[ModelSpec], data: Path, store: Path, on: Pipeline | None = None, limit: int = 10**8, **request: Any
) -> Choice:
    """A choice with a store of its own."""
    stopped: Callable[[], bool] = request.pop("stopped", lambda: False)
    report = request.pop("report", None)
    kept = FeatureStore(store, limit)
    asked = ChooseRequest((data,), **{"folds": 3, "k": 3, **request})
    return choose(on or pipeline(), specs, asked, store=kept, report=report, stopped=stopped)
