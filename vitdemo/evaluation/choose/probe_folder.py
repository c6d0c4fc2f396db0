"""A linear probe and the network below it, written as a model folder."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn

from vitdemo.errors import OptionError, TrainingError
from vitdemo.evaluation.choose.scores import fit_probe
from vitdemo.evaluation.choose.see import features_of
from vitdemo.evaluation.choose.types import Choice
from vitdemo.models.loading import load_model
from vitdemo.models.nn.hybrid import ViTHybridForImageClassification
from vitdemo.registry import read_json, spec_from_folder, write_json
from vitdemo.training.probe import save_probe
from vitdemo.types import ModelSpec

_HEADED: dict[str, tuple[type[transformers.PreTrainedModel], str]] = {
    # By transformers' `model_type`: the class whose head reads the features of such a `pooling`.
    "vit": (transformers.ViTForImageClassification, "class"),
    "deit": (transformers.DeiTForImageClassification, "class"),
    "dinov2": (transformers.Dinov2ForImageClassification, "class"),
    "dinov2_with_registers": (transformers.Dinov2WithRegistersForImageClassification, "class"),
    "vit_msn": (transformers.ViTMSNForImageClassification, "class"),
    "ijepa": (transformers.IJepaForImageClassification, "mean"),
    "vit-hybrid": (ViTHybridForImageClassification, "class"),
    "resnet": (transformers.ResNetForImageClassification, "class"),
}


def write_probe(choice: Choice, model: str, folder: Path) -> ModelSpec:
    """Fit a model's linear probe on all labelled photos, and write the model with it as a folder that every tab loads.

    Where transformers has a classifier of the family that reads the same features, the probe is its head, and
    `AutoModelForImageClassification.from_pretrained` loads the folder: ViT, DINO and DINOv2, DeiT (of a distilled one the class
    token's half), BEiT, MSN, I-JEPA, ResNet. A hybrid is written the same way, but transformers 5 has no class for it. MAE and
    DINOv3 keep the probe in a file beside the weights, which this project reads.

    Returns:
        The model in the folder, to be added with `vitdemo.registry.add_folder`.

    Raises:
        OptionError: there are no labels, the model failed or is none of them, or the folder has a model already.
        CheckpointError: the model's files are missing or damaged by now.
        TrainingError: the folder cannot be written.
    """
    if not choice.labelled:
        raise OptionError("Without labels there is no probe. Name the clusters, or give one folder per class.")
    features = features_of(choice, model)
    if (folder / "config.json").exists():
        raise OptionError(f"There is a model in {folder.name} already. Choose another folder.")
    spec = next(one for one in choice.specs if one.name == model)
    head = fit_probe(features, choice.labels, len(choice.classes), choice.labels >= 0, choice.request.strength).float()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(spec, head, choice.classes, folder)
        (folder / "README.md").write_text(_card(choice, model, folder), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TrainingError(f"The model cannot be written to {folder.name}: {reason}.") from error
    return spec_from_folder(folder)


def _write(spec: ModelSpec, head: nn.Linear, classes: tuple[str, ...], folder: Path) -> None:
    source = Path(spec.checkpoint)
    network: Any = load_model(spec, torch.device("cpu"), torch.float32).network
    own = read_json(source / "config.json")
    labels = {"id2label": dict(enumerate(classes)), "label2id": {name: index for index, name in enumerate(classes)}}
    target = _headed(network, spec)
    if target is not None:
        config = type(network.config).from_dict({**network.config.to_dict(), **labels})
        headed = target(config)
        # The encoder is the same object; what is random in the new network is its head, which comes next.
        encoder = network if type(network).__name__.endswith("Model") else network.base_model
        setattr(headed, headed.base_model_prefix, encoder)
        _fill(headed, head)
        network = headed
    kept = str(own.get("dtype") or own.get("torch_dtype") or "float32")
    network.to(getattr(torch, kept, torch.float32)).save_pretrained(folder)
    config = read_json(folder / "config.json")
    config |= {"architectures": [type(network).__name__], "dtype": kept}
    config["vitdemo"] = {
        "family": spec.family,
        "license": spec.license,
        "revision": f"probe of {spec.name}, {spec.revision}",
    }
    if spec.pooling == "mean":
        config["vitdemo"]["pooling"] = "mean"
    write_json(folder / "config.json", config)
    shutil.copyfile(source / "preprocessor_config.json", folder / "preprocessor_config.json")
    if target is None:
        save_probe(replace(spec, checkpoint=str(folder), name=folder.name), head, classes)


def _headed(network: Any, spec: ModelSpec) -> type[transformers.PreTrainedModel] | None:
    """The class of transformers whose head reads what the probe reads."""
    if spec.model_type == "beit":
        # Without its pooler, the mean was not normalised.
        pooler = getattr(network.base_model, "pooler", None)
        fits = pooler is not None or spec.pooling == "class"
        return transformers.BeitForImageClassification if fits else None
    target, pooling = _HEADED.get(spec.model_type, (None, ""))
    return target if pooling == spec.pooling else None


def _fill(headed: Any, head: nn.Linear) -> None:
    last = headed.classifier
    linear = (
        last if isinstance(last, nn.Linear) else next(part for part in last.modules() if isinstance(part, nn.Linear))
    )
    with torch.no_grad():
        # DINOv2's head reads the class token and, after it, the mean of the patches, which the probe does not.
        linear.weight.zero_()
        linear.weight[:, : head.in_features] = head.weight
        linear.bias.copy_(head.bias)


def _card(choice: Choice, model: str, folder: Path) -> str:
    row = choice.candidate(model)
    probe = row.probe
    figures = (
        ""
        if probe is None
        else f"{probe.value:.1%} of {probe.photos:,} photos, 95% interval {probe.low:.1%} to {probe.high:.1%}"
    )
    names = ", ".join(f"`{path.name}`" for path in choice.request.data)
    return f"""---
library_name: transformers
license: {row.license.lower()}
---

# {folder.name}

A linear probe on the frozen features of {model}, fitted on {int((choice.labels >= 0).sum()):,} photos of {names},
{len(choice.classes)} classes. Cross-validated over {choice.request.folds} folds, such a probe answers {figures} right.

It equals scikit-learn's `LogisticRegression(C={choice.request.strength:g})` on standardised features.
"""
