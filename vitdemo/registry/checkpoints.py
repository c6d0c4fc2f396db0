"""Checkpoint folder to `ModelSpec`, from configuration files and safetensors headers; never loads weights."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from vitdemo.errors import CheckpointError
from vitdemo.options.methods import applicable
from vitdemo.registry import configs
from vitdemo.types import ModelSpec, Processor

_SHARD = re.compile(r"\w[\w.-]*\.safetensors")
PROBE_FILE = "linear_probe.safetensors"
LARGEST_HEADER = 100_000_000
"""Bytes of a safetensors header, as in the safetensors library."""
WEIGHTS, INDEX, PICKLE = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"


def spec_from_folder(
    folder: Path,
    source: Literal["embedded", "hub", "local"] = "local",
    name: str | None = None,
    known: ModelSpec | None = None,
) -> ModelSpec:
    """Describe a checkpoint folder: `config.json`, `preprocessor_config.json`, and the weights.

    Args:
        name: the folder's name if None.
        known: its entry in the table of official checkpoints; only these may have pickled weights.

    Raises:
        CheckpointError: a file is missing or damaged, or the type of model is not supported.
    """
    name = name or folder.name
    spec = spec_from_configs(folder, source, name)
    pickled = known is not None and known.source == "hub" and not has_safetensors(folder)
    weights = [folder / PICKLE] if pickled else weight_files(folder)
    parameters = known.parameters if known is not None and pickled else sum(map(count_parameters, weights))
    files = [file for file in (*weights, folder / PROBE_FILE) if file.exists()]
    size = sum(file.stat().st_size for file in files)
    spec = replace(spec, pickled=pickled, parameters=parameters, bytes=size)
    if known is not None:
        spec = replace(spec, family=known.family, license=known.license, gated=known.gated)
    elif source == "hub":
        spec = replace(spec, license=_card_license(folder))
    return spec


def spec_from_configs(folder: Path, source: Literal["embedded", "hub", "local"], name: str) -> ModelSpec:
    """The model's description without its size, from the configuration files alone.

    Raises:
        CheckpointError: as `spec_from_folder`.
    """
    config = read_json(folder / "config.json")
    configs.check_type(name, config)
    if source == "hub":
        with _as_checkpoint_errors(folder / "config.json"):
            configs.check_architecture(name, config)
    with _as_checkpoint_errors(folder / "preprocessor_config.json"):
        processor = configs.processor_from_config(read_json(folder / "preprocessor_config.json"))
    with _as_checkpoint_errors(folder / "config.json"):
        return replace(_spec(folder, source, config, processor), name=name)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: one, or the shards that the index lists.

    Raises:
        CheckpointError: there are none, or one is missing.
    """
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if (folder / INDEX).exists():
        names = shard_names(folder)
        missing = [file for file in names if not (folder / file).exists()]
        if missing:
            raise CheckpointError(f"The weights of {folder.name} are missing: {', '.join(missing)}.")
        return [folder / file for file in names]
    if (folder / PICKLE).exists():
        raise CheckpointError(
            f"The weights of {folder.name} are pickled ({PICKLE}), and unpickling can run any code. Convert them to safetensors."
        )
    raise CheckpointError(f"The weights of {folder.name} are missing or damaged.")


def shard_names(folder: Path) -> list[str]:
    """Names of the shards that the index of the weights lists.

    Raises:
        CheckpointError: the index is damaged, or lists anything but safetensors files of the same folder.
    """
    index = read_json(folder / INDEX)
    with _as_checkpoint_errors(folder / INDEX):
        names = sorted(set(index["weight_map"].values()))
        # An index must not reach outside its folder.
        if not names or not all(_SHARD.fullmatch(name) for name in names):
            raise ValueError("not the name of a shard")
    return names


def has_safetensors(folder: Path) -> bool:
    """Whether there are safetensors weights."""
    return (folder / WEIGHTS).exists() or (folder / INDEX).exists()


def _spec(folder: Path, source: Any, config: dict[str, Any], processor: Processor) -> ModelSpec:
    ours: dict[str, Any] = config.get("vitdemo", {})
    model_type = config["model_type"]
    cnn = model_type == "resnet"
    probe = folder / PROBE_FILE
    size = configs.image_size(config, processor)
    if processor.crop is None and not isinstance(processor.resize, tuple):
        # One shape for all photos: the longer side is cropped.
        processor = replace(processor, crop=size)
    labels = configs.labels(config)
    if probe.exists():
        names = config["id2label"]
        labels = tuple(names[str(index)] for index in range(len(names)))
    readouts = configs.readouts(config)
    family = ours.get("family", configs.FAMILY_OF[model_type])
    return ModelSpec(
        name=folder.name,
        family=family if family in configs.FAMILIES else configs.FAMILY_OF[model_type],
        checkpoint=str(folder),
        revision=str(ours.get("revision", "local")),
        source=source,
        model_type=model_type,
        image_size=size,
        patch_size=configs.patch_side(config),
        num_prefix_tokens=configs.prefix_tokens(config),
        num_layers=0 if cnn else int(configs.value(config, "num_hidden_layers")),
        num_heads=0 if cnn else int(configs.value(config, "num_attention_heads")),
        readouts=readouts,
        labels=labels,
        processor=processor,
        parameters=0,
        bytes=0,
        license=str(ours.get("license", "unknown")),
        methods=applicable(bool(readouts), bool(labels)),
        temperature=_temperature(ours),
        threshold=float(ours.get("threshold", 0.0)),
        pooling="mean" if ours.get("pooling") == "mean" or configs.pools_patches(config) else "class",
        note=f"{family} has no classifier: the labels are a linear probe's on its features." if probe.exists() else "",
        reconstructs="ViTMAEForPreTraining" in (config.get("architectures") or []),
    )


def _temperature(ours: Mapping[str, Any]) -> float:
    found = float(ours.get("temperature", 1.0))
    if not 0 < found < math.inf:
        raise CheckpointError(f"The temperature in config.json must be above 0, not {found}.")
    return found


def count_parameters(weights: Path) -> int:
    """Number of learned parameters in a safetensors file, from its header alone.

    Raises:
        CheckpointError: the file is missing or is not a safetensors file.
    """
    try:
        with weights.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > LARGEST_HEADER:
                raise ValueError("header too long")
            header = json.loads(file.read(length))
        return sum(math.prod(entry["shape"]) for name, entry in header.items() if _is_learned(name, entry))
    except (OSError, ValueError, struct.error, AttributeError, LookupError, RecursionError, TypeError):
        raise CheckpointError(f"The weights of {weights.parent.name} are missing or damaged.") from None


def _is_learned(name: str, entry: dict[str, Any]) -> bool:
    """Neither BatchNorm statistics nor an integer index, as in old BEiT files."""
    if name == "__metadata__" or name.endswith((".running_mean", ".running_var")):
        return False
    return str(entry["dtype"]).startswith(("F", "BF"))


def _card_license(folder: Path) -> str:
    """The licence in the front matter of a Hub repository's README."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")[:10_000]
    except (OSError, ValueError):
        return "unknown"
    found = re.match(r"---\n(?:(?!---).*\n)*?license: *[\"']?([\w.+-]+)", text)
    return found.group(1) if found else "unknown"


@contextmanager
def _as_checkpoint_errors(path: Path) -> Iterator[None]:
    """Turn exceptions about missing or malformed entries of a file into one `CheckpointError`."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        raise CheckpointError(f"{path.name} of {path.parent.name} is damaged, or lacks what is needed.") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: the file is missing, or holds no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError):
        raise CheckpointError(f"{path.name} of {path.parent.name} is missing or damaged.") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name} of {path.parent.name} is damaged.")
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write an object as `read_json` reads it."""
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
