"""Random views of a photo, and mixing of photos within a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet, in 0..1: what the families' processors use."""


@dataclass(frozen=True)
class Augmentation:
    """How a view is cut and coloured."""

    size: int
    """Pixels a side of the view."""
    scale: tuple[float, float] = (0.3, 1.0)
    """Share of the photo's area that is cut out."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    colour: float = 0.3
    """Largest relative change of brightness, contrast and saturation."""
    grey: float = 0.0
    """Share of views without colour."""
    blur: float = 0.0
    """Share of views that are blurred."""


def evaluation_view(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Shorter side to `size`, centre crop: `[size, size, 3]`."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return _resized(image[top : top + side, left : left + side], size)


def random_view(image: NDArray[np.uint8], how: Augmentation, random: np.random.Generator) -> NDArray[np.uint8]:
    """A random resized crop (Szegedy et al. 2015, arXiv:1409.4842), flipped and coloured at random: `[size, size, 3]`."""
    view = _resized(_crop(image, how, random), how.size)
    if how.flip and random.random() < 0.5:
        view = view[:, ::-1]
    if how.colour:
        view = _coloured(view, how.colour, random)
    if how.grey and random.random() < how.grey:
        view = np.repeat(cv2.cvtColor(np.ascontiguousarray(view), cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2).astype(
            np.uint8
        )
    if how.blur and random.random() < how.blur:
        sigma = float(random.uniform(0.1, 2.0)) * how.size / 224
        view = cv2.GaussianBlur(np.ascontiguousarray(view), (0, 0), max(sigma, 0.1)).astype(np.uint8)
    return np.ascontiguousarray(view)


def _crop(image: NDArray[np.uint8], how: Augmentation, random: np.random.Generator) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    top, left, down, across = crop_box(height, width, how, random)
    return image[top : top + down, left : left + across]


def crop_box(height: int, width: int, how: Augmentation, random: np.random.Generator) -> tuple[int, int, int, int]:
    """Where a random resized crop is cut from a photo of that many pixels: top, left, height, width."""
    for _ in range(10):
        area = height * width * random.uniform(*how.scale)
        ratio = math.exp(random.uniform(math.log(how.ratio[0]), math.log(how.ratio[1])))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            top, left = random.integers(0, height - down + 1), random.integers(0, width - across + 1)
            return int(top), int(left), down, across
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def _resized(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    # AREA averages where the picture shrinks, and would repeat pixels where it grows.
    interpolation = cv2.INTER_AREA if min(image.shape[:2]) >= size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size, size), interpolation=interpolation), np.uint8)


def _coloured(view: NDArray[np.uint8], strength: float, random: np.random.Generator) -> NDArray[np.uint8]:
    """Brightness, contrast and saturation in one matrix: three passes over the pixels would cost three times as much."""
    brightness, contrast, saturation = 1 + random.uniform(-strength, strength, 3)
    weights = np.array([0.299, 0.587, 0.114])
    matrix = (saturation * np.eye(3) + (1 - saturation) * np.tile(weights, (3, 1))) * contrast
    grey = float(view.mean())
    shift = np.full((3, 1), (1 - contrast) * grey)
    full = np.hstack([matrix, shift]) * brightness
    return np.asarray(cv2.transform(np.ascontiguousarray(view), full), np.uint8)


def normalised(pixels: Tensor) -> Tensor:
    """`[B, 3, H, W]` bytes to floats as the networks take them."""
    mean = torch.tensor(MEAN, device=pixels.device).view(1, 3, 1, 1) * 255
    std = torch.tensor(STD, device=pixels.device).view(1, 3, 1, 1) * 255
    return (pixels.float() - mean) / std


@dataclass(frozen=True)
class Mixing:
    """Mixup (Zhang et al. 2018, arXiv:1710.09412) or CutMix (Yun et al. 2019, arXiv:1905.04899), drawn batch by batch."""

    mixup: float = 0.0
    """Alpha of the Beta distribution; 0 switches it off."""
    cutmix: float = 0.0

    def __call__(self, pixels: Tensor, targets: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Mix each photo with another one of the batch, and its target in the same proportion.

        Args:
            pixels: `[B, 3, S, S]`.
            targets: `[B, K]` probabilities.
        """
        chosen = [name for name in ("mixup", "cutmix") if getattr(self, name) > 0]
        if not chosen or len(pixels) < 2:
            return pixels, targets
        name = chosen[int(random.integers(len(chosen)))]
        share = float(random.beta(getattr(self, name), getattr(self, name)))
        other = torch.from_numpy(random.permutation(len(pixels))).to(pixels.device)
        if name == "mixup":
            mixed = pixels * share + pixels[other] * (1 - share)
        else:
            mixed, share = _cut(pixels, pixels[other], share, random)
        return mixed, targets * share + targets[other] * (1 - share)


def _cut(pixels: Tensor, other: Tensor, share: float, random: np.random.Generator) -> tuple[Tensor, float]:
    height, width = pixels.shape[2:]
    side = math.sqrt(1 - share)
    down, across = round(height * side), round(width * side)
    middle_y, middle_x = int(random.integers(height)), int(random.integers(width))
    top, bottom = max(0, middle_y - down // 2), min(height, middle_y + down // 2)
    left, right = max(0, middle_x - across // 2), min(width, middle_x + across // 2)
    mixed = pixels.clone()
    mixed[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)
