"""Writes a trained network as a model folder: configuration, processor, weights and a model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel, ViTForImageClassification

from vitdemo.errors import TrainingError
from vitdemo.models.nn.vit import PretrainingHead, VisionTransformer, pretrained_encoder, to_transformers
from vitdemo.registry import read_json, write_json
from vitdemo.training.augment import MEAN, STD


@dataclass(frozen=True)
class Provenance:
    """How a network was trained, for its model card."""

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
    """Step and score of each evaluation."""


def export(
    network: nn.Module,
    folder: Path,
    classes: Sequence[str],
    size: int,
    provenance: Provenance | None = None,
    half: bool = True,
) -> None:
    """Write the model folder.

    Args:
        classes: names of the outputs; empty for a network without a classifier. A pre-training head is exported without them: its
            hidden layer is the pooler of the encoder, its output layer is dropped.
        size: side of the input in pixels.
        half: save the weights in fp16.

    Raises:
        TrainingError: the disk is full, or the folder cannot be written.
    """
    model = to_transformers(network, classes) if isinstance(network, VisionTransformer) else network
    if not isinstance(model, PreTrainedModel):
        raise TrainingError(f"transformers cannot load a {type(model).__name__}.")
    if isinstance(model, ViTForImageClassification) and isinstance(model.classifier, PretrainingHead):
        model, classes = pretrained_encoder(model), ()
    # No progress bar for every saved folder.
    transformers.logging.disable_progress_bar()
    training, precision = model.training, next(model.parameters()).dtype
    if classes:
        model.config.id2label = dict(enumerate(classes))
        model.config.label2id = {name: index for index, name in enumerate(classes)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Saved from a copy: the network itself keeps its precision.
        state = {
            name: value.detach().to("cpu", torch.float16 if half and value.is_floating_point() else None, copy=True)
            for name, value in model.state_dict().items()
        }
        model.save_pretrained(folder, state_dict=state)
        _write_config(
            folder, provenance, "float16" if half else str(precision).removeprefix("torch."), model, bool(classes)
        )
        write_json(folder / "preprocessor_config.json", _processor(size))
        if provenance is not None:
            (folder / "README.md").write_text(card(folder.name, provenance, size), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TrainingError(f"The model cannot be written to {folder.name}: {reason}.") from error
    finally:
        model.train(training)


def _write_config(
    folder: Path, provenance: Provenance | None, dtype: str, model: PreTrainedModel, has_labels: bool
) -> None:
    config = read_json(folder / "config.json")
    config["architectures"] = [type(model).__name__]
    config["dtype"] = dtype
    if not has_labels:
        config = {key: value for key, value in config.items() if key not in ("id2label", "label2id", "num_labels")}
    if provenance is not None:
        config["vitdemo"] = {
            "family": provenance.family,
            "license": provenance.license,
            "revision": f"step-{provenance.steps}",
        }
        if not has_labels:
            config["vitdemo"]["pooling"] = provenance.pooling
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


def card(name: str, provenance: Provenance, size: int) -> str:
    """The model card, in Markdown."""
    minutes, seconds = divmod(round(provenance.seconds), 60)
    curve = "".join(f"| {step} | {score:.1%} |\n" for step, score in provenance.curve)
    return f"""---
library_name: transformers
license: {provenance.license.lower()}
---

# {name}

A {provenance.family}, trained with the recipe `{provenance.recipe}` at {size} px.

## Figures

{provenance.score_name} on held-out photos at the end of training: {provenance.score:.1%}.

<!-- measured -->
<!-- /measured -->

## Training

- Data: {", ".join(provenance.data)}; {provenance.photos} photos.
- Steps: {provenance.steps}. Time: {minutes} min {seconds} s on {provenance.device}.
- Command: `{provenance.command}`

| step | {provenance.score_name} |
|---|---|
{curve}"""
