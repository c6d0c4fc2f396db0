"""Data augmentation: random views of a photo, and mixup or CutMix within a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitdemo.types import IMAGENET_MEAN, IMAGENET_STD

MEAN, STD = IMAGENET_MEAN, IMAGENET_STD
"""Of the pixels that networks are trained on."""


@dataclass(frozen=True)
class Augmentation:
    """Random resized crop, flip and colour jitter of a view."""

    size: int
    """Side of the view in pixels."""
    scale: tuple[float, float] = (0.3, 1.0)
    """Area of the crop as a share of the photo's."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    colour: float = 0.3
    """Largest relative change of brightness, contrast and saturation."""
    grey: float = 0.0
    """Share of greyscale views."""
    blur: float = 0.0
    """Share of blurred views."""


def evaluation_view(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The largest centre crop at `size` pixels: `[size, size, 3]`."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(image[top : top + side, left : left + side], size)


def random_view(image: NDArray[np.uint8], augmentation: Augmentation, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A random resized crop (Szegedy et al. 2015, arXiv:1409.4842), flipped and colour-jittered: `[size, size, 3]`."""
    top, left, down, across = crop_box(image.shape[0], image.shape[1], augmentation, rng)
    view = resize(image[top : top + down, left : left + across], augmentation.size)
    if augmentation.flip and rng.random() < 0.5:
        view = view[:, ::-1]
    if augmentation.colour:
        view = _jitter_colour(view, augmentation.colour, rng)
    if augmentation.grey and rng.random() < augmentation.grey:
        view = np.repeat(cv2.cvtColor(np.ascontiguousarray(view), cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2).astype(
            np.uint8
        )
    if augmentation.blur and rng.random() < augmentation.blur:
        sigma = float(rng.uniform(0.1, 2.0)) * augmentation.size / 224
        view = cv2.GaussianBlur(np.ascontiguousarray(view), (0, 0), max(sigma, 0.1)).astype(np.uint8)
    return np.ascontiguousarray(view)


def crop_box(
    height: int, width: int, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A random resized crop of a photo of this height and width: its top, left, height and width in pixels."""
    for _ in range(10):
        area = height * width * rng.uniform(*augmentation.scale)
        ratio = math.exp(rng.uniform(math.log(augmentation.ratio[0]), math.log(augmentation.ratio[1])))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            top, left = rng.integers(0, height - down + 1), rng.integers(0, width - across + 1)
            return int(top), int(left), down, across
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def resize(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """`[size, size, 3]`."""
    # AREA averages pixels when shrinking, but would repeat them when enlarging.
    interpolation = cv2.INTER_AREA if min(image.shape[:2]) >= size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size, size), interpolation=interpolation), np.uint8)


def _jitter_colour(view: NDArray[np.uint8], strength: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Brightness, contrast and saturation as one matrix: one pass over the pixels instead of three."""
    brightness, contrast, saturation = 1 + rng.uniform(-strength, strength, 3)
    weights = np.array([0.299, 0.587, 0.114])
    matrix = (saturation * np.eye(3) + (1 - saturation) * np.tile(weights, (3, 1))) * contrast
    grey = float(view.mean())
    shift = np.full((3, 1), (1 - contrast) * grey)
    full = np.hstack([matrix, shift]) * brightness
    return np.asarray(cv2.transform(np.ascontiguousarray(view), full), np.uint8)


def normalised(pixels: Tensor) -> Tensor:
    """`[B, 3, H, W]` uint8 to the floats that the networks expect."""
    mean = torch.tensor(MEAN, device=pixels.device).view(1, 3, 1, 1) * 255
    std = torch.tensor(STD, device=pixels.device).view(1, 3, 1, 1) * 255
    return (pixels.float() - mean) / std


@dataclass(frozen=True)
class Mixing:
    """Mixup (Zhang et al. 2018, arXiv:1710.09412) or CutMix (Yun et al. 2019, arXiv:1905.04899), drawn per batch."""

    mixup: float = 0.0
    """Alpha of the Beta distribution; 0 switches it off. Likewise for CutMix."""
    cutmix: float = 0.0

    def __call__(self, pixels: Tensor, targets: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Mix each photo with another one of the batch, and their targets in the same proportion.

        Args:
            pixels: `[B, 3, S, S]`.
            targets: `[B, K]` probabilities.
        """
        chosen = [name for name in ("mixup", "cutmix") if getattr(self, name) > 0]
        if not chosen or len(pixels) < 2:
            return pixels, targets
        name = chosen[int(rng.integers(len(chosen)))]
        share = float(rng.beta(getattr(self, name), getattr(self, name)))
        other = torch.from_numpy(rng.permutation(len(pixels))).to(pixels.device)
        if name == "mixup":
            mixed = pixels * share + pixels[other] * (1 - share)
        else:
            mixed, share = _cutmix(pixels, pixels[other], share, rng)
        return mixed, targets * share + targets[other] * (1 - share)


DEFAULT_MIXING = Mixing(mixup=0.2, cutmix=1.0)


def _cutmix(pixels: Tensor, other: Tensor, share: float, rng: np.random.Generator) -> tuple[Tensor, float]:
    height, width = pixels.shape[2:]
    side = math.sqrt(1 - share)
    down, across = round(height * side), round(width * side)
    middle_y, middle_x = int(rng.integers(height)), int(rng.integers(width))
    top, bottom = max(0, middle_y - down // 2), min(height, middle_y + down // 2)
    left, right = max(0, middle_x - across // 2), min(width, middle_x + across // 2)
    mixed = pixels.clone()
    mixed[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)
