"""A trained network as a folder that loads like any other: configuration, processor, weights, and a card of how it came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from vitdemo.errors import TrainingError
from vitdemo.models.nn.vit import VisionTransformer, to_transformers
from vitdemo.registry import read_json, write_json
from vitdemo.training.augment import MEAN, STD


@dataclass(frozen=True)
class Origin:
    """How a network came about: what its card says."""

    command: str
    data: tuple[str, ...]
    photos: int
    recipe: str
    family: str
    license: str
    device: str
    seconds: float
    steps: int
    score_name: str
    score: float
    pooling: str = "class"
    curve: tuple[tuple[int, float], ...] = ()
    """Step and score of each judgement."""


def export(
    network: nn.Module, folder: Path, classes: Sequence[str], size: int, origin: Origin | None = None, half: bool = True
) -> None:
    """Write the folder.

    Args:
        classes: names of the outputs; none for a network without a classifier.
        size: pixels a side of the input.
        half: fp16 weights, half the size of fp32 ones.

    Raises:
        TrainingError: there is no room, or the folder cannot be written.
    """
    model = to_transformers(network, classes) if isinstance(network, VisionTransformer) else network
    if not isinstance(model, PreTrainedModel):
        raise TrainingError(f"A {type(model).__name__} has no form that transformers could load.")
    # Not a bar a folder on every console.
    transformers.logging.disable_progress_bar()
    training, precision = model.training, next(model.parameters()).dtype
    if classes:
        model.config.id2label = dict(enumerate(classes))
        model.config.label2id = {name: index for index, name in enumerate(classes)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Saved from a copy of the numbers: the network itself goes on in its own precision.
        state = {
            name: value.detach().to("cpu", torch.float16 if half and value.is_floating_point() else None, copy=True)
            for name, value in model.state_dict().items()
        }
        model.save_pretrained(folder, state_dict=state)
        _write_config(
            folder, origin, "float16" if half else str(precision).removeprefix("torch."), model, bool(classes)
        )
        write_json(folder / "preprocessor_config.json", _processor(size))
        if origin is not None:
            (folder / "README.md").write_text(card(folder.name, origin, size), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        words = getattr(error, "strerror", None) or error
        raise TrainingError(f"The model cannot be written to {folder.name}: {words}.") from error
    finally:
        model.train(training)


def _write_config(folder: Path, origin: Origin | None, dtype: str, model: PreTrainedModel, named: bool) -> None:
    config = read_json(folder / "config.json")
    config["architectures"] = [type(model).__name__]
    config["dtype"] = dtype
    if not named:
        config = {key: value for key, value in config.items() if key not in ("id2label", "label2id", "num_labels")}
    if origin is not None:
        config["vitdemo"] = {"family": origin.family, "license": origin.license, "revision": f"step-{origin.steps}"}
        if not named:
            config["vitdemo"]["pooling"] = origin.pooling
    write_json(folder / "config.json", config)


def _processor(size: int) -> dict[str, Any]:
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 2,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
    }


def card(name: str, origin: Origin, size: int) -> str:
    """The model card, in Markdown."""
    minutes, seconds = divmod(round(origin.seconds), 60)
    curve = "".join(f"| {step} | {score:.1%} |\n" for step, score in origin.curve)
    return f"""---
library_name: transformers
license: {origin.license.lower()}
---

# {name}

A {origin.family}, trained with the recipe `{origin.recipe}` at {size} px.

## Figures

{origin.score_name} on held-out photos at the end of training: {origin.score:.1%}.

<!-- measured -->
<!-- /measured -->

## Training

- Data: {", ".join(origin.data)}; {origin.photos} photos.
- Steps: {origin.steps}. Time: {minutes} min {seconds} s on {origin.device}.
- Command: `{origin.command}`

| step | {origin.score_name} |
|---|---|
{curve}"""
