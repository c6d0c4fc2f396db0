"""A photo, a processor, and a model's description."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import PIL.Image

Fusion = Literal["mean", "max", "min"]
"""How the heads of a layer are fused into one map."""

FUSIONS: tuple[Fusion, ...] = get_args(Fusion)

Readout = Literal["class", "distillation", "mean", "patch"]
"""The query token: class token, distillation token, the mean over all tokens, or one patch."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Statistics of ImageNet's red, green and blue, in 0..1, as most families' processors use them."""


@dataclass(frozen=True)
class Photo:
    """A decoded image: upright RGB, within the limits."""

    image: PIL.Image.Image
    digest: str
    """SHA-256 of the size and the RGB pixels, in hex: equal pixels have equal digests, whatever the file format."""
    notes: tuple[str, ...] = ()
    """For the user, such as "The first frame of an animation is used."."""
    name: str = ""
    """The user's file name or URL; never a path on the server."""

    @property
    def size(self) -> tuple[int, int]:
        """`(width, height)` in pixels."""
        return self.image.size


@dataclass(frozen=True)
class Processor:
    """A model's preprocessing: resize, crop, rescale, normalise. Models with equal processors share one pixel tensor."""

    resize: tuple[int, int] | int | None
    """`(height, width)`, or one number for the shorter side, or None."""
    crop: tuple[int, int] | None
    """Centre crop `(height, width)` after the resize, or None."""
    resample: int
    """Pillow's resampling filter."""
    rescale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class ModelSpec:
    """A model's description, read without loading its weights."""

    name: str
    family: str
    checkpoint: str
    """A folder, or the Hub id."""
    revision: str
    source: Literal["embedded", "hub", "local"]
    model_type: str
    image_size: tuple[int, int]
    """`(height, width)` in pixels."""
    patch_size: int
    """Side, in input pixels, of the square that a patch token covers."""
    num_prefix_tokens: int
    """Tokens before the patch tokens: class token, distillation token, registers."""
    num_layers: int
    num_heads: int
    readouts: tuple[Readout, ...]
    """Meaningful read-outs of this model, the default first."""
    labels: tuple[str, ...]
    processor: Processor
    parameters: int
    bytes: int
    license: str
    methods: tuple[str, ...] = ("attention",)
    temperature: float = 1.0
    """Divides the logits before the softmax; calibrated so that scores match accuracy."""
    threshold: float = 0.0
    """Below this top score the photo probably shows none of the classes."""
    pooling: Literal["class", "mean"] = "class"
    """Input of a linear probe: the class token, or the mean patch token where no class token was trained."""
    note: str = ""
    """Where the labels come from if the model itself has no classifier."""
    ready: bool = True
    """Whether the weights are on disk."""
    pickled: bool = False
    """Whether the weights are a pickled PyTorch file, loaded with `weights_only=True`."""
    reconstructs: bool = False
    """Whether it can reconstruct hidden patches: MAE with its decoder."""
    gated: str = ""
    """How to request access to a gated model; empty if it is not gated."""
    expected_classes: int = 0
    """Number of classes while the labels are not downloaded yet."""

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 without a classifier."""
        return len(self.labels) or self.expected_classes

    @property
    def is_dino_v1(self) -> bool:
        """Whether it is a checkpoint of DINO's first version as published; not one trained here, or converted to another name."""
        return self.source == "hub" and self.family == "DINO" and self.model_type == "vit"

    @property
    def link(self) -> str:
        """The page of a Hub model."""
        return f"https://huggingface.co/{self.name.partition('@')[0]}" if self.source == "hub" else ""

    @property
    def patch_grid(self) -> tuple[int, int]:
        """`(rows, columns)` of patches at the model's own input size."""
        return self.grid_of(*self.image_size)

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """`(rows, columns)` of an input of that many pixels: whole patches; a CNN, which pads, also has partial cells."""
        padding = 0 if self.readouts else self.patch_size - 1
        return (height + padding) // self.patch_size, (width + padding) // self.patch_size
