"""Reading of `config.json` and `preprocessor_config.json` without torch or transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitdemo.errors import CheckpointError
from vitdemo.types import Processor, Readout

Config = Mapping[str, Any]

FAMILIES = ("ViT", "DeiT", "BEiT", "DINO", "hybrid", "MAE", "CNN", "MSN", "I-JEPA")
"""In display order."""

FAMILY_OF = {
    "vit": "ViT",
    "deit": "DeiT",
    "beit": "BEiT",
    "dinov2": "DINO",
    "dinov2_with_registers": "DINO",
    "dinov3_vit": "DINO",
    "vit-hybrid": "hybrid",
    "vit_mae": "MAE",
    "resnet": "CNN",
    "vit_msn": "MSN",
    "ijepa": "I-JEPA",
}
"""By transformers' `model_type`: the supported types."""

ARCHITECTURES = (
    "BeitForImageClassification",
    "BeitModel",
    "DeiTForImageClassification",
    "DeiTForImageClassificationWithTeacher",
    "DeiTModel",
    "DINOv3ViTModel",
    "Dinov2ForImageClassification",
    "Dinov2Model",
    "Dinov2WithRegistersForImageClassification",
    "Dinov2WithRegistersModel",
    "IJepaForImageClassification",
    "IJepaModel",
    "ResNetForImageClassification",
    "ResNetModel",
    "ViTForImageClassification",
    "ViTHybridForImageClassification",
    "ViTMAEForPreTraining",
    "ViTMSNForImageClassification",
    "ViTMSNModel",
    "ViTModel",
)
"""The supported classes of transformers."""

_WHY_NOT = {
    "levit": "its attention does not pass through transformers' attention interface",
    "cvt": "its attention does not pass through transformers' attention interface",
    "mobilevit": "its attention does not pass through transformers' attention interface",
    "mobilevitv2": "its attention does not pass through transformers' attention interface",
    "data2vec-vision": "its attention does not pass through transformers' attention interface",
    "poolformer": "it has no attention",
    "swin": "it attends within windows, so that no token attends to the whole image",
    "swinv2": "it attends within windows, so that no token attends to the whole image",
    "clip": "it matches images with texts, and has no classes of its own",
    "siglip": "it matches images with texts, and has no classes of its own",
}

_DEFAULTS: dict[str, Any] = {
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_size": 768,
    "image_size": 224,
    "patch_size": 16,
    "use_mean_pooling": True,
}
"""transformers' defaults for missing keys, where all types agree."""

_OWN_DEFAULTS: dict[str, dict[str, Any]] = {
    "dinov2": {"patch_size": 14},
    "dinov2_with_registers": {"num_register_tokens": 4},
    "dinov3_vit": {"num_attention_heads": 6, "hidden_size": 384},
    "vit-hybrid": {"patch_size": 1},
    "resnet": {"depths": [3, 4, 6, 3]},
}


def check_type(name: str, config: Config) -> None:
    """Check that the `model_type` is supported.

    Raises:
        CheckpointError: it is not; the message gives the reason and the supported types.
    """
    model_type = str(config.get("model_type"))
    if model_type not in FAMILY_OF:
        reason = _WHY_NOT.get(model_type, "only types whose attention is read and tested here can be loaded")
        raise CheckpointError(
            f"{name} is of type {model_type!r}, which cannot be loaded: {reason}. Types that can: {', '.join(FAMILY_OF)}."
        )
    if config.get("num_channels", 3) != 3:
        raise CheckpointError(f"{name} cannot be loaded: it does not read colour images, which have 3 channels.")


def check_architecture(name: str, config: Config) -> None:
    """Check that the architecture is supported, before its weights are fetched: the type may be, but not the task.

    Raises:
        CheckpointError: it is not; the message lists the supported ones.
    """
    architecture = str((config.get("architectures") or ["model without an architecture"])[0])
    if architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"{name} is a {architecture}, which cannot be loaded. Architectures that can: {', '.join(ARCHITECTURES)}."
        )


def value(config: Config, key: str) -> Any:
    """An entry of the configuration, or transformers' default."""
    if config.get(key) is not None:
        return config[key]
    own = _OWN_DEFAULTS.get(config["model_type"], {})
    return own[key] if key in own else _DEFAULTS[key]


def prefix_tokens(config: Config) -> int:
    """Number of tokens before the patch tokens."""
    model_type = config["model_type"]
    if model_type in ("resnet", "ijepa"):
        return 0
    if model_type == "deit":
        return 2
    if model_type == "dinov2_with_registers":
        return 1 + int(value(config, "num_register_tokens"))
    if model_type == "dinov3_vit":
        return 1 + int(config.get("num_register_tokens", 0))
    return 1


def readouts(config: Config) -> tuple[Readout, ...]:
    """The read-outs of a model, the default first."""
    model_type = config["model_type"]
    if model_type == "resnet":
        return ()
    if model_type == "ijepa":
        return ("mean",)
    if model_type == "deit":
        return ("class", "distillation")
    if model_type == "beit" and value(config, "use_mean_pooling"):
        return ("mean", "class")
    return ("class",)


def pools_patches(config: Config) -> bool:
    """Whether a probe should read the mean patch token, because the class token was not trained."""
    kind = config["model_type"]
    return kind in ("vit_mae", "ijepa") or (kind == "beit" and bool(value(config, "use_mean_pooling")))


def labels(config: Config) -> tuple[str, ...]:
    """Class names; empty for a model without a classifier, whatever the file lists."""
    architecture = (config.get("architectures") or [""])[0]
    if "ForImageClassification" not in architecture:
        return ()
    names = config.get("id2label") or {str(index): f"LABEL_{index}" for index in range(config.get("num_labels", 2))}
    return tuple(str(names[str(index)]) for index in range(len(names)))


def image_size(config: Config, processor: Processor) -> tuple[int, int]:
    """`(height, width)` of the processor's output, which may differ from the size of the position embeddings."""
    trained = None if config["model_type"] == "resnet" else pair(value(config, "image_size"))
    size = processor.crop or processor.resize or trained
    if size is None:
        raise KeyError("image_size")
    return size if isinstance(size, tuple) else trained or pair(size)


def patch_side(config: Config) -> int:
    """Side, in input pixels, of the square covered by a patch token, or by a cell of a CNN's last feature map."""
    if config["model_type"] == "resnet":
        # The stem downsamples by 4, each stage but the first by 2.
        return int(4 * 2 ** (len(value(config, "depths")) - 1))
    height, side = pair(value(config, "patch_size"))
    if height != side:
        raise ValueError("patches that are not square")
    if config["model_type"] == "vit-hybrid":
        # As `ViTHybridConfig.feature_stride`, including its defaults, but without torch.
        backbone = config.get("backbone_config") or {"out_features": ["stage3"]}
        last = backbone["out_features"][-1]
        stage = 1 if last == "stem" else int(last.removeprefix("stage"))
        side *= min(4 * 2 ** (stage - 1), int(backbone.get("output_stride", 32)))
    return side


_SHORTEST_EDGE = ("Bit", "CLIP", "ViTHybrid")
"""Processors for which a size of one number is the shorter side; for the others it is a square."""


def processor_from_config(config: Config) -> Processor:
    """Read transformers' `preprocessor_config.json`, in its old and new forms."""
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    resize: tuple[int, int] | int | None = None
    if config.get("do_resize", True):
        size = config.get("size", 224)
        if isinstance(size, dict):
            resize = int(size["shortest_edge"]) if "shortest_edge" in size else (size["height"], size["width"])
        elif isinstance(size, int) and kind.startswith(_SHORTEST_EDGE):
            resize = size
        else:
            resize = pair(size)
    crop = None
    if kind.startswith("ConvNext") and resize is not None:
        # The size is that of the crop: below 384 the shorter side is resized to size / crop_pct first.
        side = resize if isinstance(resize, int) else resize[0]
        crop = (side, side) if side < 384 else None
        resize = int(side / config.get("crop_pct", 224 / 256)) if side < 384 else (side, side)
    elif config.get("do_center_crop", False):
        size = config["crop_size"]
        crop = (size["height"], size["width"]) if isinstance(size, dict) else pair(size)
    normalise = config.get("do_normalize", True)
    return Processor(
        resize=resize,
        crop=crop,
        resample=int(config.get("resample", 2)),
        rescale=float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0,
        mean=_colours(config["image_mean"]) if normalise else (0.0, 0.0, 0.0),
        std=_colours(config["image_std"]) if normalise else (1.0, 1.0, 1.0),
    )


def _colours(values: Any) -> tuple[float, ...]:
    red, green, blue = values
    return float(red), float(green), float(blue)


def pair(size: Any) -> tuple[int, int]:
    """`(height, width)` from one number or two."""
    found = (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))
    if min(found) < 1:
        raise ValueError("a side must be at least one pixel")
    return found
