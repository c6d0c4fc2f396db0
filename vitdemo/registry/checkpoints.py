"""A folder with a checkpoint, described. Reads configuration files and safetensors headers; never loads weights."""

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

_PART = re.compile(r"\w[\w.-]*\.safetensors")
PROBE_FILE = "linear_probe.safetensors"
WEIGHTS, INDEX, PICKLE = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"


def spec_from_folder(
    folder: Path,
    source: Literal["embedded", "hub", "local"] = "local",
    name: str | None = None,
    known: ModelSpec | None = None,
) -> ModelSpec:
    """Describe a checkpoint folder: `config.json`, `preprocessor_config.json`, and the weights.

    Args:
        name: what it is called; the folder's name if not given.
        known: what the table of official checkpoints says of it; only those may have pickled weights.

    Raises:
        CheckpointError: a file is missing, is damaged, or tells of a kind of model that cannot be loaded.
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
    """What a checkpoint's configuration files tell: all but its size.

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
    """The safetensors files of a checkpoint: one, or several that an index names.

    Raises:
        CheckpointError: there are none, or one of them is missing.
    """
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    if (folder / INDEX).exists():
        names = parts(folder)
        lacking = [file for file in names if not (folder / file).exists()]
        if lacking:
            raise CheckpointError(f"The weights of {folder.name} are missing: {', '.join(lacking)}.")
        return [folder / file for file in names]
    if (folder / PICKLE).exists():
        raise CheckpointError(
            f"The weights of {folder.name} are pickled ({PICKLE}), and unpickling can run any code. Convert them to safetensors."
        )
    raise CheckpointError(f"The weights of {folder.name} are missing or damaged.")


def parts(folder: Path) -> list[str]:
    """Names of the files that the index of the weights lists.

    Raises:
        CheckpointError: it is damaged, or lists what is no safetensors file beside it.
    """
    index = read_json(folder / INDEX)
    with _as_checkpoint_errors(folder / INDEX):
        names = sorted(set(index["weight_map"].values()))
        # An index must not reach out of its folder.
        if not names or not all(_PART.fullmatch(name) for name in names):
            raise ValueError("no name of a part")
    return names


def has_safetensors(folder: Path) -> bool:
    """Whether there are weights of the safe kind."""
    return (folder / WEIGHTS).exists() or (folder / INDEX).exists()


def _spec(folder: Path, source: Any, config: dict[str, Any], processor: Processor) -> ModelSpec:
    ours: dict[str, Any] = config.get("vitdemo", {})
    model_type = config["model_type"]
    cnn = model_type == "resnet"
    probe = folder / PROBE_FILE
    size = configs.image_size(config, processor)
    if processor.crop is None and not isinstance(processor.resize, tuple):
        # One shape for all photos: what is left of the longer side is cut off.
        processor = replace(processor, crop=size)
    labels = configs.labels(config)
    if probe.exists():
        names = config["id2label"]
        labels = tuple(names[str(index)] for index in range(len(names)))
    shown = configs.readouts(config)
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
        readouts=shown,
        labels=labels,
        processor=processor,
        parameters=0,
        bytes=0,
        license=str(ours.get("license", "unknown")),
        methods=applicable(bool(shown), bool(labels)),
        temperature=_temperature(ours),
        threshold=float(ours.get("threshold", 0.0)),
        pooling="mean" if ours.get("pooling") == "mean" or configs.reads_patches(config) else "class",
        note=f"{family} has no classifier: the labels are a linear probe's on its features." if probe.exists() else "",
        reconstructs="ViTMAEForPreTraining" in (config.get("architectures") or []),
    )


def _temperature(ours: Mapping[str, Any]) -> float:
    found = float(ours.get("temperature", 1.0))
    if not 0 < found < math.inf:
        raise CheckpointError(f"The temperature in config.json must be above 0, not {found}.")
    return found


def count_parameters(weights: Path) -> int:
    """Numbers that were learned, in a safetensors file, from its header alone.

    Raises:
        CheckpointError: the file is missing or is not a safetensors file.
    """
    try:
        with weights.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > 100_000_000:
                raise ValueError("header too long")
            header = json.loads(file.read(length))
        return sum(math.prod(entry["shape"]) for name, entry in header.items() if _is_learned(name, entry))
    except (OSError, ValueError, struct.error, AttributeError, LookupError, RecursionError, TypeError):
        raise CheckpointError(f"The weights of {weights.parent.name} are missing or damaged.") from None


def _is_learned(name: str, entry: dict[str, Any]) -> bool:
    """Neither statistics of a BatchNorm nor an index such as old files of BEiT have."""
    if name == "__metadata__" or name.endswith((".running_mean", ".running_var")):
        return False
    return str(entry["dtype"]).startswith(("F", "BF"))


def _card_license(folder: Path) -> str:
    """The licence that a Hub repository's README names in its front matter."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")[:10_000]
    except (OSError, ValueError):
        return "unknown"
    found = re.match(r"---\n(?:(?!---).*\n)*?license: *[\"']?([\w.+-]+)", text)
    return found.group(1) if found else "unknown"


@contextmanager
def _as_checkpoint_errors(path: Path) -> Iterator[None]:
    """Whatever a file lacks, or holds in the wrong form, is one error."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        raise CheckpointError(f"{path.name} of {path.parent.name} is damaged, or lacks what is needed.") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: the file is missing or is not one.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError):
        raise CheckpointError(f"{path.name} of {path.parent.name} is missing or damaged.") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path.name} of {path.parent.name} is damaged.")
    return value


def write_json(path: Path, value: dict[str, Any]) -> None:
    """As `read_json` reads it."""
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
