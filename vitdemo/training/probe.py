"""How much a frozen network knows: a linear probe and nearest neighbours on its features."""

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
from vitdemo.training.data import PhotoSet, load_photos
from vitdemo.training.features import accuracy, linear_probe, nearest_neighbours, over
from vitdemo.types import ModelSpec

CPU = torch.device("cpu")


def probe(
    spec: ModelSpec, data: Sequence[Path], test: Sequence[Path] = (), save: bool = False, device: torch.device = CPU
) -> dict[str, Any]:
    """Fit on the labelled photos of `data`, judge on those of `test`, or on a tenth held back.

    Args:
        save: keep the probe beside the weights, so that the model names what it sees.

    Returns:
        Accuracies of the linear probe and of 20 nearest neighbours, and the number of photos.

    Raises:
        OptionError: the probe is to be kept with a model that has a classifier.
    """
    if save and spec.labels and not (Path(spec.checkpoint) / PROBE_FILE).exists():
        raise OptionError(f"{spec.name} has a classifier; a probe is kept only with models that have none.")
    fit = load_photos(data).labelled()
    if test:
        judge = load_photos(test, fit.classes).labelled()
    else:
        fit, judge = fit.split(0.1, seed=0)
    run = load_model(spec, device, torch.float32).features
    size = spec.image_size[0]
    known, seen = (over(photos, size, run, device) for photos in (fit, judge))
    head = linear_probe(known, torch.from_numpy(fit.labels), len(fit.classes))
    votes = nearest_neighbours(known, torch.from_numpy(fit.labels), seen, len(fit.classes))
    if save:
        save_probe(spec, head, fit)
    return {
        "model": spec.name,
        "linear_probe": accuracy(head(seen), judge),
        "nearest_neighbours": accuracy(votes, judge),
        "photos": len(fit),
        "test_photos": len(judge),
    }


def save_probe(spec: ModelSpec, head: torch.nn.Linear, photos: PhotoSet) -> ModelSpec:
    """Write the probe and the names of its classes into the model's folder.

    Raises:
        TrainingError: there is no room, or the folder cannot be written.
    """
    folder = Path(spec.checkpoint)
    config = read_json(folder / "config.json")
    config["id2label"] = {str(index): name for index, name in enumerate(photos.classes)}
    config["label2id"] = {name: index for index, name in enumerate(photos.classes)}
    try:
        save_file({"weight": head.weight.detach().half(), "bias": head.bias.detach().half()}, folder / PROBE_FILE)
        write_json(folder / "config.json", config)
    except (OSError, SafetensorError) as error:
        words = getattr(error, "strerror", None) or error
        raise TrainingError(f"The probe cannot be written to {folder.name}: {words}.") from error
    return replace(spec, labels=photos.classes)
