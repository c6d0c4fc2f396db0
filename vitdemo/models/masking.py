"""Hidden patches of a masked autoencoder: their choice and display."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitdemo.errors import OptionError
from vitdemo.types import Processor

GREY = 128


def hidden_patches(grid: tuple[int, int], ratio: float, seed: int) -> Tensor:
    """A random mask `[h, w]`, bool, True where hidden.

    Raises:
        OptionError: at this ratio no patch, or every patch, is hidden.
    """
    cells = grid[0] * grid[1]
    count = round(cells * ratio) if 0 < ratio < 1 else 0
    if not 0 < count < cells:
        raise OptionError(
            f"The share of hidden patches must hide at least one of {cells} and leave one: above 0, below 1."
        )
    mask = torch.zeros(cells, dtype=torch.bool)
    mask[torch.randperm(cells, generator=torch.Generator().manual_seed(seed))[:count]] = True
    return mask.view(grid)


def to_image(pixels: Tensor, processor: Processor) -> Image.Image:
    """Normalised pixels `[3, H, W]` back to an image."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.mean, processor.std))
    values = (pixels.float() * std + mean) / processor.rescale
    return Image.fromarray(values.round().clamp(0, 255).byte().permute(1, 2, 0).numpy())


def grey_out(image: Image.Image, hidden: Tensor) -> Image.Image:
    """The image with its hidden patches `[h, w]` in grey."""
    pixels = np.asarray(image).copy()
    rows, columns = hidden.shape
    side = (pixels.shape[0] // rows, pixels.shape[1] // columns)
    pixels[np.repeat(np.repeat(hidden.numpy(), side[0], axis=0), side[1], axis=1)] = GREY
    return Image.fromarray(pixels)
