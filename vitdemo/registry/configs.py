"""What `config.json` and `preprocessor_config.json` of a checkpoint tell, without torch or transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitdemo.errors import CheckpointError
from vitdemo.types import Processor, Readout

Config = Mapping[str, Any]

FAMILIES = ("ViT", "DeiT", "BEiT", "DINO", "hybrid", "MAE", "CNN", "MSN", "I-JEPA")
"""In the order in which they are shown."""

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
"""By transformers' `model_type`: the types that can be loaded."""

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
"""transformers' classes that `vitdemo.models.loading` takes."""

_WHY_NOT = {
    "levit": "its attention does not pass through transformers' attention interface",
    "cvt": "its attention does not pass through transformers' attention interface",
    "mobilevit": "its attention does not pass through transformers' attention interface",
    "mobilevitv2": "its attention does not pass through transformers' attention interface",
    "data2vec-vision": "its attention does not pass through transformers' attention interface",
    "poolformer": "it has no attention",
    "swin": "it attends within windows, so that no token looks at the whole picture",
    "swinv2": "it attends within windows, so that no token looks at the whole picture",
    "clip": "it matches pictures with texts, and names no classes by itself",
    "siglip": "it matches pictures with texts, and names no classes by itself",
}

_DEFAULTS: dict[str, Any] = {
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_size": 768,
    "image_size": 224,
    "patch_size": 16,
    "use_mean_pooling": True,
}
"""What transformers takes for keys that a file leaves out, where its types agree."""

_OWN_DEFAULTS: dict[str, dict[str, Any]] = {
    "dinov2": {"patch_size": 14},
    "dinov2_with_registers": {"num_register_tokens": 4},
    "dinov3_vit": {"num_attention_heads": 6, "hidden_size": 384},
    "vit-hybrid": {"patch_size": 1},
    "resnet": {"depths": [3, 4, 6, 3]},
}


def check_type(name: str, config: Config) -> str:
    """The `model_type`, if it can be loaded.

    Raises:
        CheckpointError: it cannot; the message says why, and what can.
    """
    model_type = str(config.get("model_type"))
    if model_type not in FAMILY_OF:
        reason = _WHY_NOT.get(model_type, "only types whose attention is read and tested here can be loaded")
        raise CheckpointError(
            f"{name} is of type {model_type!r}, which cannot be loaded: {reason}. Types that can: {', '.join(FAMILY_OF)}."
        )
    if config.get("num_channels", 3) != 3:
        raise CheckpointError(f"{name} cannot be loaded: it does not read colour pictures, which have 3 channels.")
    return model_type


def check_architecture(name: str, config: Config) -> None:
    """Refuse networks of a type that can be loaded, but for another task, before their weights are fetched.

    Raises:
        CheckpointError: it is one; the message names what can be loaded.
    """
    architecture = str((config.get("architectures") or ["model without an architecture"])[0])
    if architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"{name} is a {architecture}, which cannot be loaded. Architectures that can: {', '.join(ARCHITECTURES)}."
        )


def value(config: Config, key: str) -> Any:
    """An entry of the configuration, or what transformers takes where it is left out."""
    if config.get(key) is not None:
        return config[key]
    own = _OWN_DEFAULTS.get(config["model_type"], {})
    return own[key] if key in own else _DEFAULTS[key]


def prefix_tokens(config: Config) -> int:
    """Tokens before the patch tokens."""
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
    """Whose attention can be shown, the default first."""
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


def reads_patches(config: Config) -> bool:
    """Whether the class token was never taught to gather anything."""
    kind = config["model_type"]
    return kind in ("vit_mae", "ijepa") or (kind == "beit" and bool(value(config, "use_mean_pooling")))


def labels(config: Config) -> tuple[str, ...]:
    """Names of the classes of a model that has a classifier; none of one that has not, whatever the file lists."""
    architecture = (config.get("architectures") or [""])[0]
    if "ForImageClassification" not in architecture:
        return ()
    names = config.get("id2label") or {str(index): f"LABEL_{index}" for index in range(config.get("num_labels", 2))}
    return tuple(str(names[str(index)]) for index in range(len(names)))


def image_size(config: Config, processor: Processor) -> tuple[int, int]:
    """`(height, width)` that the processor makes, which need not be what the position embeddings were trained at."""
    trained = None if config["model_type"] == "resnet" else pair(value(config, "image_size"))
    size = processor.crop or processor.resize or trained
    if size is None:
        raise KeyError("image_size")
    return size if isinstance(size, tuple) else trained or pair(size)


def patch_side(config: Config) -> int:
    """Side, in input pixels, of the square that one patch token, or one cell of a CNN's last map, stands for."""
    if config["model_type"] == "resnet":
        # The stem shrinks by 4, each stage but the first by 2.
        return int(4 * 2 ** (len(value(config, "depths")) - 1))
    height, side = pair(value(config, "patch_size"))
    if height != side:
        raise ValueError("patches that are not square")
    if config["model_type"] == "vit-hybrid":
        # As `ViTHybridConfig.feature_stride`, which would need torch; so are the values of what is left out.
        backbone = config.get("backbone_config") or {"out_features": ["stage3"]}
        last = backbone["out_features"][-1]
        stage = 1 if last == "stem" else int(last.removeprefix("stage"))
        side *= min(4 * 2 ** (stage - 1), int(backbone.get("output_stride", 32)))
    return side


_OF_THE_SHORTER_SIDE = ("Bit", "CLIP", "ViTHybrid")
"""Processors that take a size of one number as that of the shorter side, others as that of a square."""


def processor_from_config(config: Config) -> Processor:
    """Read transformers' `preprocessor_config.json`, old and new spellings of the sizes included."""
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    resize: tuple[int, int] | int | None = None
    if config.get("do_resize", True):
        size = config.get("size", 224)
        if isinstance(size, dict):
            resize = int(size["shortest_edge"]) if "shortest_edge" in size else (size["height"], size["width"])
        elif isinstance(size, int) and kind.startswith(_OF_THE_SHORTER_SIDE):
            resize = size
        else:
            resize = pair(size)
    crop = None
    if kind.startswith("ConvNext") and resize is not None:
        # One number is the side after the crop: below 384 the shorter side is made larger first.
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
    """`(height, width)` of one number, or of two."""
    found = (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))
    if min(found) < 1:
        raise ValueError("a side is at least one pixel")
    return found
