"""Evaluation of frozen features: a linear probe and k nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from vitdemo.errors import OptionError, TrainingError
from vitdemo.models.loading import load_model
from vitdemo.registry import PROBE_FILE, read_json, write_json
from vitdemo.training.data import load_photos
from vitdemo.training.features import accuracy, linear_probe, nearest_neighbours, predict
from vitdemo.types import ModelSpec

CPU = torch.device("cpu")


def probe(
    spec: ModelSpec, data: Sequence[Path], test: Sequence[Path] = (), save: bool = False, device: torch.device = CPU
) -> dict[str, Any]:
    """Fit on the labelled photos of `data`, all classes alike; evaluate on those of `test`, or on a held-out tenth of `data`.

    Args:
        save: store the probe beside the weights, so that the model predicts labels.

    Returns:
        Accuracies of the linear probe and of 20 nearest neighbours, and the number of photos.

    Raises:
        OptionError: `save` for a model that has a classifier.
    """
    if save and spec.labels and not (Path(spec.checkpoint) / PROBE_FILE).exists():
        raise OptionError(f"{spec.name} has a classifier; a probe is saved only with models that have none.")
    fit = load_photos(data).labelled()
    if test:
        held_out = load_photos(test, fit.classes).labelled()
    else:
        fit, held_out = fit.split(0.1, seed=0)
    run = load_model(spec, device, torch.float32).features
    size = spec.image_size[0]
    fit_features, test_features = (predict(photos, size, run, device) for photos in (fit, held_out))
    head = linear_probe(fit_features, torch.from_numpy(fit.labels), len(fit.classes), balance=1.0)
    votes = nearest_neighbours(fit_features, torch.from_numpy(fit.labels), test_features, len(fit.classes))
    if save:
        save_probe(spec, head, fit.classes)
    return {
        "model": spec.name,
        "linear_probe": accuracy(head(test_features), held_out),
        "nearest_neighbours": accuracy(votes, held_out),
        "photos": len(fit),
        "test_photos": len(held_out),
    }


def save_probe(spec: ModelSpec, head: torch.nn.Linear, classes: Sequence[str]) -> ModelSpec:
    """Write the probe and the names of its classes into the model's folder.

    Raises:
        TrainingError: there is no room, or the folder cannot be written.
    """
    folder = Path(spec.checkpoint)
    config = read_json(folder / "config.json")
    config["id2label"] = {str(index): name for index, name in enumerate(classes)}
    config["label2id"] = {name: index for index, name in enumerate(classes)}
    try:
        save_file({"weight": head.weight.detach().half(), "bias": head.bias.detach().half()}, folder / PROBE_FILE)
        write_json(folder / "config.json", config)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TrainingError(f"The probe cannot be written to {folder.name}: {reason}.") from error
    return replace(spec, labels=tuple(classes))
