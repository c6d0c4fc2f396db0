"""A photo, and what is known of a model before its weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import PIL.Image

Fusion = Literal["mean", "max", "min"]
"""How the heads of a layer are fused into one map."""

FUSIONS: tuple[Fusion, ...] = get_args(Fusion)

Readout = Literal["class", "distillation", "mean", "patch"]
"""Whose attention is shown: the class token's row, the distillation token's, the mean over all query tokens, or one patch's."""


@dataclass(frozen=True)
class Photo:
    """A picture that passed the image door: upright RGB, within the limits."""

    image: PIL.Image.Image
    digest: str
    """SHA-256 of the size and the RGB pixels, in hex: the same picture has the same digest, whatever file it came in."""
    notes: tuple[str, ...] = ()
    """What the door did that a user should know, such as "The first frame of an animation is used."."""
    name: str = ""
    """What its owner calls it; never a path of the server."""

    @property
    def size(self) -> tuple[int, int]:
        """`(width, height)` in pixels."""
        return self.image.size


@dataclass(frozen=True)
class Processor:
    """How a model wants its picture: resize, crop, scale, normalise. Equal processors share one pixel tensor."""

    resize: tuple[int, int] | int | None
    """`(height, width)`, or one number for the shorter side, or None."""
    crop: tuple[int, int] | None
    """Centre crop `(height, width)` after the resize, or None."""
    resample: int
    """Pillow's number of the filter."""
    rescale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class ModelSpec:
    """What is known of a model before its weights are loaded."""

    name: str
    family: str
    checkpoint: str
    """A folder, or the id on the Hub."""
    revision: str
    source: Literal["embedded", "hub", "local"]
    model_type: str
    image_size: tuple[int, int]
    """`(height, width)` in pixels."""
    patch_size: int
    """Side, in input pixels, of the square that one patch token stands for."""
    num_prefix_tokens: int
    """Tokens before the patch tokens: class token, distillation token, registers."""
    num_layers: int
    num_heads: int
    readouts: tuple[Readout, ...]
    """Read-outs that mean something for this model, the default first."""
    labels: tuple[str, ...]
    processor: Processor
    parameters: int
    bytes: int
    license: str
    methods: tuple[str, ...] = ("attention",)
    temperature: float = 1.0
    """By which logits are divided before the softmax, so that scores are as high as answers are right."""
    threshold: float = 0.0
    """Best scores under this are answered with "probably not one of the classes"."""
    pooling: Literal["class", "mean"] = "class"
    """What a probe reads: the class token, or the mean of the patches where no class token was ever taught."""
    note: str = ""
    """How labels come about where the model itself has no classifier."""
    ready: bool = True
    """Whether the weights are on this machine's disk."""
    pickled: bool = False
    """Whether the weights are an old PyTorch file, which is read with `weights_only=True`."""
    reconstructs: bool = False
    """Whether it can fill in hidden patches: MAE with its decoder."""
    gated: str = ""
    """How to get access, where the owner has to grant it."""
    expected_classes: int = 0
    """Number of classes of a model whose labels are not known before it is downloaded."""

    @property
    def num_classes(self) -> int:
        """Classes that it tells apart; 0 without a classifier."""
        return len(self.labels) or self.expected_classes

    @property
    def link(self) -> str:
        """The page of a Hub model."""
        return f"https://huggingface.co/{self.name.partition('@')[0]}" if self.source == "hub" else ""

    @property
    def patch_grid(self) -> tuple[int, int]:
        """`(rows, columns)` of patches at the model's own input size."""
        return self.grid_of(*self.image_size)

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """`(rows, columns)` of an input of that many pixels: whole patches; a CNN's padding makes a cell of what is left over."""
        over = 0 if self.readouts else self.patch_size - 1
        return (height + over) // self.patch_size, (width + over) // self.patch_size
