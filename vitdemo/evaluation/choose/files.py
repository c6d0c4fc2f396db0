"""A choice as files: JSON, CSV, a report in one HTML file, labels, and a probe as a model folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitdemo.evaluation.choose.types import Choice
from vitdemo.types import ModelSpec


def choice_json(choice: Choice) -> dict[str, Any]:
    """What `vitdemo choose --json` prints; see docs/choose.md."""
    raise NotImplementedError


def choice_csv(choice: Choice) -> str:
    """One line per model."""
    raise NotImplementedError


def photos_csv(choice: Choice) -> str:
    """One line per photo: name, label, and each model's answer."""
    raise NotImplementedError


def report_html(choice: Choice) -> str:
    """A self-contained page with pictures: verdict, table, scatter, confusions, map."""
    raise NotImplementedError


def labels_csv(labels: Mapping[str, str]) -> str:
    """`file,label` lines, with a head."""
    raise NotImplementedError


def labels_json(labels: Mapping[str, str]) -> str:
    """One object: file name to label."""
    raise NotImplementedError


def read_labels(path: Path) -> dict[str, str]:
    """Labels as `labels_csv` or `labels_json` writes them.

    Raises:
        InputError: the file is neither.
    """
    raise NotImplementedError


def write_probe(choice: Choice, model: str, folder: Path) -> ModelSpec:
    """Fit a model's linear probe on all labelled photos, and write the model with it as a folder that every tab loads.

    Where transformers has a classifier of the family that reads the same features, the probe is its head, and
    `AutoModelForImageClassification.from_pretrained` loads the folder.

    Returns:
        The model in the folder, to be added with `vitdemo.registry.add_folder`.

    Raises:
        OptionError: there are no labels, or the model failed.
        TrainingError: the folder cannot be written.
    """
    raise NotImplementedError
