"""Tokens, parameters and floating-point operations of a ViT, by part, from its sizes: Dosovitskiy et al. 2021, arXiv:2010.11929,
section 3.1 and table 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vitdemo.errors import OptionError

Part = Literal["patch embedding", "position embeddings", "projections", "attention", "mlp", "norms", "classifier"]


@dataclass(frozen=True)
class Sizes:
    """What the size of a ViT follows from."""

    dim: int
    depth: int
    heads: int
    mlp_dim: int
    classes: int = 0
    """0 without a classifier."""
    prefix: int = 1
    """Tokens before those of the patches."""
    key_bias: bool = True
    """BEiT's keys have none."""


@dataclass(frozen=True)
class Cost:
    """Of one part of the network, all layers together."""

    part: Part
    parameters: int
    flops: int
    """Floating-point operations for one image: multiplications and additions of its matrix products."""


def tokens_of(height: int, width: int, patch: int, prefix: int = 1) -> int:
    """How many tokens an image of so many pixels becomes.

    Raises:
        OptionError: it is smaller than a patch.

    >>> tokens_of(224, 224, 16), tokens_of(448, 448, 16), tokens_of(224, 224, 8)
    (197, 785, 785)
    """
    if patch < 1 or min(height, width) < patch:
        raise OptionError(f"{width} x {height} pixels hold no patch of {patch} x {patch}.")
    return prefix + (height // patch) * (width // patch)


def costs(sizes: Sizes, height: int, width: int, patch: int) -> tuple[Cost, ...]:
    """What each part holds and computes at a resolution and patch size in pixels.

    "attention" is the product of queries and keys and that of attention and values, which grow with the square of the tokens and
    have no parameters; the linear layers around them are "projections". Prefix tokens have position embeddings too.

    Raises:
        OptionError: the image is smaller than a patch.
    """
    tokens = tokens_of(height, width, patch, sizes.prefix)
    patches, dim, depth, mlp = tokens - sizes.prefix, sizes.dim, sizes.depth, sizes.mlp_dim
    pixels = 3 * patch**2
    biases = 4 * dim if sizes.key_bias else 3 * dim
    return (
        Cost("patch embedding", pixels * dim + dim + sizes.prefix * dim, 2 * patches * pixels * dim),
        Cost("position embeddings", tokens * dim, 0),
        Cost("projections", depth * (4 * dim**2 + biases), depth * 2 * tokens * 4 * dim**2),
        Cost("attention", 0, depth * 2 * 2 * tokens**2 * dim),
        Cost("mlp", depth * (2 * dim * mlp + mlp + dim), depth * 2 * tokens * 2 * dim * mlp),
        Cost("norms", (2 * depth + 1) * 2 * dim, 0),
        Cost("classifier", sizes.classes * (dim + 1), 2 * dim * sizes.classes),
    )
