"""Table of the official checkpoints on the Hugging Face Hub.

Once a model is downloaded, its own files take precedence.
"""

from __future__ import annotations

from dataclasses import replace

from vitdemo.options.methods import applicable
from vitdemo.registry.configs import pools_patches, prefix_tokens, readouts
from vitdemo.types import IMAGENET_MEAN, IMAGENET_STD, ModelSpec, Processor

_BILINEAR, _BICUBIC = 2, 3
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)

_TINY, _SMALL, _BASE, _LARGE = (12, 3), (12, 6), (12, 12), (24, 16)
"""Numbers of layers and heads; each head is 64 wide."""

_REGISTERS = 4
"""Of every official checkpoint that has any."""


def _square(side: int, resample: int = _BILINEAR, norm: tuple[tuple[float, ...], ...] = _HALF) -> Processor:
    return Processor((side, side), None, resample, 1 / 255, *norm)


def _cropped(resize: tuple[int, int] | int, side: int, norm: tuple[tuple[float, ...], ...] = _IMAGENET) -> Processor:
    return Processor(resize, (side, side), _BICUBIC, 1 / 255, *norm)


def _entry(
    name: str,
    family: str,
    model_type: str,
    size: tuple[int, int],
    millions: float,
    processor: Processor,
    patch: int = 16,
    classes: int = 0,
) -> ModelSpec:
    layers, heads = size
    config = {"model_type": model_type, "num_register_tokens": _REGISTERS}
    shape = processor.crop or processor.resize
    assert isinstance(shape, tuple)
    own_readouts = readouts(config)
    return ModelSpec(
        name=name,
        family=family,
        checkpoint=name,
        revision="main",
        source="hub",
        model_type=model_type,
        image_size=shape,
        patch_size=patch,
        num_prefix_tokens=prefix_tokens(config),
        num_layers=layers,
        num_heads=heads,
        readouts=own_readouts,
        labels=(),
        processor=processor,
        parameters=round(millions * 1e6),
        bytes=round(millions * 4e6),
        license="apache-2.0",
        methods=applicable(bool(own_readouts), classes > 0),
        pooling="mean" if pools_patches(config) else "class",
        ready=False,
        reconstructs=model_type == "vit_mae",
        expected_classes=classes,
    )


def _gated(spec: ModelSpec) -> ModelSpec:
    how = f"Accept the licence at {spec.link} with a free account, then give its token as HF_TOKEN, or run `hf auth login`."
    return replace(spec, license="dinov3-license", gated=how)


_DEIT = _cropped((256, 256), 224)
_DEIT_384 = _cropped((438, 438), 384)
_DINO = _square(224, _BILINEAR, _IMAGENET)
_DINOV2 = _cropped(256, 224)

_TABLE = (
    _entry("google/vit-base-patch16-224", "ViT", "vit", _BASE, 86.567656, _square(224), classes=1000),
    _entry("google/vit-large-patch16-224", "ViT", "vit", _LARGE, 304.326632, _square(224), classes=1000),
    _entry("google/vit-base-patch16-384", "ViT", "vit", _BASE, 86.859496, _square(384), classes=1000),
    _entry("google/vit-base-patch32-384", "ViT", "vit", _BASE, 88.297192, _square(384), patch=32, classes=1000),
    _entry("facebook/deit-tiny-patch16-224", "DeiT", "vit", _TINY, 5.717416, _DEIT, classes=1000),
    _entry("facebook/deit-small-patch16-224", "DeiT", "vit", _SMALL, 22.050664, _DEIT, classes=1000),
    _entry("facebook/deit-base-patch16-224", "DeiT", "vit", _BASE, 86.567656, _DEIT, classes=1000),
    _entry("facebook/deit-base-patch16-384", "DeiT", "vit", _BASE, 86.859496, _DEIT_384, classes=1000),
    _entry("facebook/deit-tiny-distilled-patch16-224", "DeiT", "deit", _TINY, 5.910800, _DEIT, classes=1000),
    _entry("facebook/deit-small-distilled-patch16-224", "DeiT", "deit", _SMALL, 22.436432, _DEIT, classes=1000),
    _entry("facebook/deit-base-distilled-patch16-224", "DeiT", "deit", _BASE, 87.338192, _DEIT, classes=1000),
    _entry("facebook/deit-base-distilled-patch16-384", "DeiT", "deit", _BASE, 87.630032, _DEIT_384, classes=1000),
    _entry("microsoft/beit-base-patch16-224", "BEiT", "beit", _BASE, 86.530984, _square(224), classes=1000),
    _entry("microsoft/beit-base-patch16-384", "BEiT", "beit", _BASE, 86.744104, _square(384), classes=1000),
    _entry("microsoft/beit-large-patch16-224", "BEiT", "beit", _LARGE, 304.430568, _square(224), classes=1000),
    _entry(
        "microsoft/beit-base-patch16-224-pt22k-ft22k", "BEiT", "beit", _BASE, 102.557713, _square(224), classes=21841
    ),
    _entry("facebook/dino-vits16", "DINO", "vit", _SMALL, 21.665664, _DINO),
    _entry("facebook/dino-vits8", "DINO", "vit", _SMALL, 21.670272, _DINO, patch=8),
    _entry("facebook/dino-vitb16", "DINO", "vit", _BASE, 85.798656, _DINO),
    _entry("facebook/dino-vitb8", "DINO", "vit", _BASE, 85.807872, _DINO, patch=8),
    _entry("facebook/dinov2-small", "DINO", "dinov2", _SMALL, 22.056576, _DINOV2, patch=14),
    _entry("facebook/dinov2-base", "DINO", "dinov2", _BASE, 86.580480, _DINOV2, patch=14),
    _entry("facebook/dinov2-small-imagenet1k-1-layer", "DINO", "dinov2", _SMALL, 22.825576, _DINOV2, 14, classes=1000),
    _entry("facebook/dinov2-base-imagenet1k-1-layer", "DINO", "dinov2", _BASE, 88.117480, _DINOV2, 14, classes=1000),
    _entry("facebook/dinov2-with-registers-small", "DINO", "dinov2_with_registers", _SMALL, 22.058112, _DINOV2, 14),
    _entry("facebook/dinov2-with-registers-base", "DINO", "dinov2_with_registers", _BASE, 86.583552, _DINOV2, 14),
    _gated(_entry("facebook/dinov3-vits16-pretrain-lvd1689m", "DINO", "dinov3_vit", _SMALL, 21.596544, _DINO)),
    _gated(_entry("facebook/dinov3-vitb16-pretrain-lvd1689m", "DINO", "dinov3_vit", _BASE, 85.660416, _DINO)),
    _entry(
        "google/vit-hybrid-base-bit-384",
        "hybrid",
        "vit-hybrid",
        _BASE,
        98.950952,
        _cropped(384, 384, _HALF),
        classes=1000,
    ),
    _entry("facebook/vit-mae-base", "MAE", "vit_mae", _BASE, 111.907840, _square(224, _BILINEAR, _IMAGENET)),
    _entry("microsoft/resnet-50", "CNN", "resnet", (0, 0), 25.557032, _cropped(256, 224), patch=32, classes=1000),
)

OFFICIAL = {spec.name: spec for spec in _TABLE}
"""By Hub id, in display order."""
