"""What references and methods are given: `scripts/compare_references.py` compares them, `tests/golden` holds the answers.

Everything is drawn from numbered streams of NumPy's legacy generator, which never change, so that the answers of a reference need
not be computed again. Weights have the names of timm, which DINO, MAE and most other references share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SIZE, PATCH = 32, 8
"""Side of a picture and of a patch, in pixels."""
WIDTH, LAYERS, HEADS, CLASSES = 24, 4, 3, 5
EPS = 1e-6
"""Of every LayerNorm."""
TARGET = 3
"""The class that is explained."""

MAE = {"size": 16, "patch": 4, "width": 16, "layers": 2, "heads": 2, "decoder_width": 12, "decoder_layers": 1}
"""Decoder heads are as many as the encoder's."""


SCENES = range(40, 60)
"""Those of `scene` that are cut."""


def numbers(seed: int, *shape: int) -> Tensor:
    """Normally distributed, float32."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def attentions(layers: int = LAYERS, heads: int = HEADS, tokens: int = 17) -> list[Tensor]:
    """One `[1, H, N, N]` for each layer, rows sum to 1."""
    return [one.softmax(dim=-1) for one in 2 * numbers(1, layers, 1, heads, tokens, tokens)]


def gradients(layers: int = LAYERS, heads: int = HEADS, tokens: int = 17) -> list[Tensor]:
    """As many, of both signs."""
    return list(numbers(2, layers, 1, heads, tokens, tokens))


def picture(height: int = SIZE, width: int = SIZE) -> Tensor:
    """`[1, 3, H, W]`."""
    return numbers(3, 1, 3, height, width)


def position_table(rows: int, width: int) -> Tensor:
    """`[1, 1 + rows * rows, D]`: position embeddings of a class token and a square grid."""
    return numbers(4, 1, 1 + rows * rows, width)


def vit() -> dict[str, Tensor]:
    """Weights of a Vision Transformer with a classifier."""
    tokens = (SIZE // PATCH) ** 2 + 1
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, tokens, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        **_blocks("blocks", LAYERS, WIDTH),
        **_norm("norm", WIDTH),
        "head.weight": (CLASSES, WIDTH),
        "head.bias": (CLASSES,),
    }
    return _drawn(shapes, seed=5)


def mae() -> dict[str, Tensor]:
    """Weights of a masked autoencoder."""
    tokens, patch = (MAE["size"] // MAE["patch"]) ** 2 + 1, MAE["patch"]
    width, inner = MAE["width"], MAE["decoder_width"]
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, tokens, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        **_blocks("blocks", MAE["layers"], width),
        **_norm("norm", width),
        "decoder_embed.weight": (inner, width),
        "decoder_embed.bias": (inner,),
        "mask_token": (1, 1, inner),
        "decoder_pos_embed": (1, tokens, inner),
        **_blocks("decoder_blocks", MAE["decoder_layers"], inner),
        **_norm("decoder_norm", inner),
        "decoder_pred.weight": (3 * patch**2, inner),
        "decoder_pred.bias": (3 * patch**2,),
    }
    return _drawn(shapes, seed=6)


def mae_mask() -> NDArray[np.bool_]:
    """`[h, w]`, True where a patch is hidden: three quarters of them."""
    side = MAE["size"] // MAE["patch"]
    order = np.random.RandomState(7).permutation(side * side)
    return (order < 3 * side * side // 4).reshape(side, side)


def scene(seed: int, side: int = 14, width: int = 12, objects: int = 3) -> NDArray[np.float32]:
    """`[side * side, D]`: features of patches that show rectangular objects on a ground, with noise."""
    random = np.random.RandomState(100 + seed)
    kinds = random.standard_normal((objects + 1, width))
    shown = np.zeros((side, side), int)
    for number in range(1, objects + 1):
        height, across = random.randint(3, 7, 2)
        top, left = random.randint(0, side - height + 1), random.randint(0, side - across + 1)
        shown[top : top + height, left : left + across] = number
    noisy = kinds[shown.ravel()] + 0.5 * random.standard_normal((side * side, width))
    return noisy.astype(np.float32)


def saliency() -> NDArray[np.float32]:
    """`[h, w]` for the picture's patches, all different."""
    side = SIZE // PATCH
    return np.random.RandomState(8).permutation(side * side).reshape(side, side).astype(np.float32)


def in_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under the names of transformers' ViT or ViT-MAE."""
    return {new: tensor for old, given in weights.items() for new, tensor in _renamed(old, given)}


_NAMES = {
    "cls_token": "vit.embeddings.cls_token",
    "pos_embed": "vit.embeddings.position_embeddings",
    "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
    "decoder_blocks": "decoder.decoder_layers",
    "decoder_": "decoder.decoder_",
    "mask_token": "decoder.mask_token",
    "blocks": "vit.layers",
    "norm.": "vit.layernorm.",
    "head": "classifier",
}
_IN_BLOCKS = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
}


def _renamed(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    first = next(start for start in _NAMES if name.startswith(start))
    new = _NAMES[first] + name.removeprefix(first)
    for old, ours in _IN_BLOCKS.items():
        new = new.replace(f".{old}.", f".{ours}.")
    if ".attn.qkv." not in new:
        yield new, tensor
        return
    for part, own in zip("qkv", tensor.chunk(3), strict=True):
        yield new.replace(".attn.qkv.", f".attention.{part}_proj."), own


def _blocks(name: str, count: int, width: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for number in range(count):
        block = f"{name}.{number}"
        shapes |= _norm(f"{block}.norm1", width)
        for layer, (wide, narrow) in {
            "attn.qkv": (3 * width, width),
            "attn.proj": (width, width),
            "mlp.fc1": (2 * width, width),
            "mlp.fc2": (width, 2 * width),
        }.items():
            shapes |= {f"{block}.{layer}.weight": (wide, narrow), f"{block}.{layer}.bias": (wide,)}
            if layer == "attn.proj":
                shapes |= _norm(f"{block}.norm2", width)
    return shapes


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _drawn(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Each in its own stream; weights of norms around 1, matrices such that activations keep their size."""
    found = {}
    for number, (name, shape) in enumerate(shapes.items()):
        drawn = numbers(1000 * seed + number, *shape)
        if "norm" in name and name.endswith(".weight"):
            found[name] = 1 + 0.3 * drawn
        elif len(shape) > 1 and name.endswith(".weight"):
            found[name] = drawn * 1.5 / math.sqrt(math.prod(shape[1:]))
        else:
            found[name] = 0.3 * drawn
    return found
