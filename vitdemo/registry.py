"""What models there are. Reads configuration files and safetensors headers; never loads weights, never imports torch."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from vitdemo.errors import CheckpointError, UnknownModelError
from vitdemo.settings import ASSETS, Settings
from vitdemo.types import ModelSpec, Processor, Readout

FAMILIES = ("ViT", "DeiT", "BEiT", "DINO", "hybrid", "MAE", "CNN")
"""In the order in which they are shown."""

PREFIX_TOKENS = {"vit": 1, "deit": 2, "beit": 1, "vit-hybrid": 1, "vit_mae": 1, "resnet": 0}
"""Tokens before the patch tokens, by transformers' `model_type`; the types that can be loaded."""

PROBE_FILE = "linear_probe.safetensors"


def available_models() -> tuple[ModelSpec, ...]:
    """Every model that can be named, embedded ones first."""
    return tuple(sorted(_embedded().values(), key=lambda spec: (FAMILIES.index(spec.family), spec.name)))


def get_spec(name: str) -> ModelSpec:
    """The model of that name.

    Raises:
        UnknownModelError: there is none; the message lists the choices.
    """
    specs = available_models()
    for spec in specs:
        if spec.name == name:
            return spec
    raise UnknownModelError(f"Unknown model {name!r}. Choose from: {', '.join(spec.name for spec in specs)}.")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """As `read_json` reads it."""
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def find_spec(name: str) -> ModelSpec:
    """The model of that name, or the one in that folder. Not for names that strangers give: it looks at the disk.

    Raises:
        UnknownModelError: neither.
        CheckpointError: the folder holds no model that can be loaded.
    """
    folder = Path(name)
    if (folder / "config.json").is_file():
        return spec_from_folder(folder)
    return get_spec(name)


def default_models(settings: Settings) -> tuple[ModelSpec, ...]:
    """The models that a comparison opens with: those of the settings, else every embedded one."""
    if settings.models:
        return tuple(get_spec(name) for name in settings.models)
    return tuple(spec for spec in available_models() if spec.source == "embedded")


@lru_cache(maxsize=1)
def _embedded() -> dict[str, ModelSpec]:
    folders = sorted(path.parent for path in (ASSETS / "models").glob("*/config.json"))
    return {folder.name: spec_from_folder(folder, source="embedded") for folder in folders}


def spec_from_folder(folder: Path, source: Any = "local") -> ModelSpec:
    """Describe a checkpoint folder: `config.json`, `preprocessor_config.json`, `model.safetensors`.

    Raises:
        CheckpointError: a file is missing, is damaged, or tells of a kind of model that cannot be loaded.
    """
    config = read_json(folder / "config.json")
    model_type = str(config.get("model_type"))
    if model_type not in PREFIX_TOKENS:
        raise CheckpointError(
            f"{folder.name} is of type {model_type!r}, which cannot be loaded. Types: {', '.join(PREFIX_TOKENS)}."
        )
    weights = folder / "model.safetensors"
    probe = folder / PROBE_FILE
    with _wording(folder / "preprocessor_config.json"):
        processor = processor_from_config(read_json(folder / "preprocessor_config.json"))
    with _wording(folder / "config.json"):
        return _spec(folder, source, config, processor, weights, probe)


def _spec(
    folder: Path, source: Any, config: dict[str, Any], processor: Processor, weights: Path, probe: Path
) -> ModelSpec:
    ours: dict[str, Any] = config.get("vitdemo", {})
    labels = config.get("id2label", {})
    cnn = config["model_type"] == "resnet"
    return ModelSpec(
        name=folder.name,
        family=ours.get("family", "ViT"),
        checkpoint=str(folder),
        revision=ours.get("revision", "local"),
        source=source,
        model_type=config["model_type"],
        image_size=_image_size(config, processor),
        patch_size=_patch_side(config),
        num_prefix_tokens=PREFIX_TOKENS[config["model_type"]],
        num_layers=0 if cnn else config["num_hidden_layers"],
        num_heads=0 if cnn else config["num_attention_heads"],
        readouts=_readouts(config),
        labels=tuple(labels[str(index)] for index in range(len(labels))),
        processor=processor,
        parameters=count_parameters(weights),
        bytes=sum(file.stat().st_size for file in (weights, probe) if file.exists()),
        license=ours.get("license", "unknown"),
        threshold=float(ours.get("threshold", 0.0)),
        pooling="mean" if ours.get("pooling") == "mean" or _reads_patches(config) else "class",
        note=f"{ours.get('family', 'ViT')} has no classifier: the labels are a linear probe's on its features."
        if probe.exists()
        else "",
    )


def processor_from_config(config: dict[str, Any]) -> Processor:
    """Read transformers' `preprocessor_config.json`, old and new spellings of the sizes included."""
    resize: tuple[int, int] | int | None = None
    if config.get("do_resize", True):
        size = config.get("size", 224)
        if isinstance(size, dict):
            resize = size["shortest_edge"] if "shortest_edge" in size else (size["height"], size["width"])
        else:
            resize = _pair(size)
    crop = None
    if config.get("do_center_crop", False):
        size = config["crop_size"]
        crop = (size["height"], size["width"]) if isinstance(size, dict) else _pair(size)
    normalise = config.get("do_normalize", True)
    return Processor(
        resize=resize,
        crop=crop,
        resample=int(config.get("resample", 2)),
        rescale=float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0,
        mean=tuple(config["image_mean"]) if normalise else (0.0, 0.0, 0.0),
        std=tuple(config["image_std"]) if normalise else (1.0, 1.0, 1.0),
    )


def count_parameters(weights: Path) -> int:
    """Numbers in a safetensors file, from its header alone.

    Raises:
        CheckpointError: the file is missing or is not a safetensors file.
    """
    try:
        with weights.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > 100_000_000:
                raise ValueError("header too long")
            header = json.loads(file.read(length))
        return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    except (OSError, ValueError, struct.error, KeyError, TypeError):
        raise CheckpointError(f"The weights of {weights.parent.name} are missing or damaged.") from None


@contextmanager
def _wording(path: Path) -> Iterator[None]:
    """Whatever a file lacks, or holds in the wrong form, is one error."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError):
        raise CheckpointError(f"{path.name} of {path.parent.name} is damaged, or lacks what is needed.") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: the file is missing or is not one.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise CheckpointError(f"{path.name} of {path.parent.name} is missing or damaged.") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name} of {path.parent.name} is damaged.")
    return value


def _pair(size: Any) -> tuple[int, int]:
    pair = (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))
    if min(pair) < 1:
        raise ValueError("a side is at least one pixel")
    return pair


def _image_size(config: dict[str, Any], processor: Processor) -> tuple[int, int]:
    """The input's size; of a CNN, which takes any, what its processor makes."""
    if config["model_type"] != "resnet" or "image_size" in config:
        return _pair(config["image_size"])
    size = processor.crop or processor.resize
    if size is None:
        raise KeyError("image_size")
    return _pair(size)


def _patch_side(config: dict[str, Any]) -> int:
    if config["model_type"] == "resnet":
        # A cell of the last feature map: the stem shrinks by 4, each stage but the first by 2.
        return int(4 * 2 ** (len(config["depths"]) - 1))
    side = _pair(config["patch_size"])[0]
    if config["model_type"] == "vit-hybrid":
        # As `ViTHybridConfig.feature_stride`, which would need torch; so are the values of what is left out.
        backbone = config.get("backbone_config") or {"out_features": ["stage3"]}
        last = backbone["out_features"][-1]
        stage = 1 if last == "stem" else int(last.removeprefix("stage"))
        side *= min(4 * 2 ** (stage - 1), int(backbone.get("output_stride", 32)))
    return side


def _reads_patches(config: dict[str, Any]) -> bool:
    kind = config["model_type"]
    return kind == "vit_mae" or (kind == "beit" and bool(config.get("use_mean_pooling", True)))


def _readouts(config: dict[str, Any]) -> tuple[Readout, ...]:
    if config["model_type"] == "resnet":
        return ()
    if config["model_type"] == "deit":
        return ("class", "distillation")
    if config["model_type"] == "beit" and config.get("use_mean_pooling", True):
        return ("mean", "class")
    return ("class",)
