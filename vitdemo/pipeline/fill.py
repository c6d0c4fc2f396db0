"""Hidden patches of a model's input, filled in by a masked autoencoder: "erase and ask again"."""

from __future__ import annotations

from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from vitdemo.engine import Backend
from vitdemo.errors import OptionError
from vitdemo.models.interventions import pixel_mask
from vitdemo.models.masking import to_image
from vitdemo.models.preprocess import preprocess
from vitdemo.pipeline.prepare import Prepared
from vitdemo.registry import reconstructing_model
from vitdemo.types import Box, Grid, Knockout, ModelSpec, Processor, Reconstruct

TOUCH = 0.02
"""Share of a patch's side by which a hidden patch must reach into it to hide it as well: crops are rounded to pixels."""


def filled_in(backend: Backend, prepared: Prepared, pixels: Tensor, dtype: str) -> tuple[Tensor, Knockout]:
    """Pixels `[1, 3, H, W]`, and what is left for the forward pass to do: what a masked autoencoder fills in is in the pixels.

    Raises:
        OptionError: the autoencoder does not see a hidden patch, or would see none.
    """
    knockout = prepared.knockout
    if not knockout.patches or knockout.fill != "mae":
        return pixels, knockout
    mae = reconstructing_model()
    batch = preprocess([prepared.photo], mae.processor)
    hidden = _hidden_from(mae, batch.views[0].crop, prepared)
    (output,) = backend.run(mae, batch.pixel_values, Reconstruct(hidden[None]), dtype)
    assert output.filled is not None
    made = _resampled(output.filled, batch.views[0].crop, prepared.view.crop, (pixels.shape[2], pixels.shape[3]))
    made = _renormalised(made, mae.processor, prepared.processor)
    return torch.where(_mask(prepared, pixels), made[None], pixels), replace(knockout, patches=(), fill="grey")


def seen(prepared: Prepared, pixels: Tensor) -> Image.Image:
    """What a model is shown, from its pixels `[1, 3, H, W]` after `filled_in`: hidden patches are grey or filled in."""
    if prepared.knockout.fill != "mae":
        pixels = pixels.masked_fill(_mask(prepared, pixels), 0.0)
    return to_image(pixels[0], prepared.processor)


def _mask(prepared: Prepared, pixels: Tensor) -> Tensor:
    """`[1, 1, H, W]`: hidden pixels."""
    hidden = torch.zeros(1, prepared.grid[0] * prepared.grid[1], dtype=torch.bool)
    hidden[0, list(prepared.knockout.patches)] = True
    return pixel_mask(hidden, prepared.grid, prepared.spec.patch_size, pixels.shape[2:])


def _hidden_from(mae: ModelSpec, crop: Box, prepared: Prepared) -> Tensor:
    """`[h, w]`: the autoencoder's patches that a hidden patch reaches into."""
    hidden = torch.zeros(mae.patch_grid, dtype=torch.bool)
    for patch in prepared.knockout.patches:
        row, column = divmod(patch, prepared.grid[1])
        # In patches of the autoencoder; crops are `(left, top, right, bottom)` in pixels of the photo.
        top, bottom = (_place(row + end, prepared, crop, mae.patch_grid, 0) for end in (0, 1))
        left, right = (_place(column + end, prepared, crop, mae.patch_grid, 1) for end in (0, 1))
        if not prepared.spec.readouts:  # a CNN's last cells reach over the edge
            bottom, right = min(bottom, max(top, mae.patch_grid[0])), min(right, max(left, mae.patch_grid[1]))
        edge = min(top, left, mae.patch_grid[0] - bottom, mae.patch_grid[1] - right)
        if edge < -TOUCH * 4 or bottom <= top or right <= left:
            raise OptionError(
                f"{mae.name} does not see patch {patch} of {prepared.spec.name}, so it cannot fill it in: "
                "it sees the middle of the photo. Choose other patches, or fill with grey or mean."
            )
        rows = slice(max(0, int(top + TOUCH)), int(-(-(bottom - TOUCH) // 1)))
        hidden[rows, max(0, int(left + TOUCH)) : int(-(-(right - TOUCH) // 1))] = True
    if hidden.all():
        raise OptionError(f"All patches of {mae.name} would be hidden. Leave more visible, or fill with grey or mean.")
    return hidden


def _place(number: float, prepared: Prepared, crop: Box, grid: Grid, axis: int) -> float:
    """The edge before a model's patch `number`, by row (axis 0) or column, in patches of another with that crop and grid."""
    own = prepared.view.crop
    low, high = (1, 3) if axis == 0 else (0, 2)
    photo = own[low] + (own[high] - own[low]) * number / prepared.grid[axis]
    return (photo - crop[low]) / (crop[high] - crop[low]) * grid[axis]


def _resampled(image: Tensor, shown: Box, wanted: Box, size: tuple[int, int]) -> Tensor:
    """`[3, h, w]` that shows one part of a photo, as `[3, *size]` that shows another: bilinear, the same where they are equal."""
    places = []
    for axis, count in ((0, size[1]), (1, size[0])):
        centres = wanted[axis] + (wanted[axis + 2] - wanted[axis]) * (torch.arange(count) + 0.5) / count
        places.append((centres - shown[axis]) / (shown[axis + 2] - shown[axis]) * 2 - 1)
    grid = torch.stack(torch.meshgrid(*places, indexing="xy"), dim=-1)
    sampled: Tensor = torch.nn.functional.grid_sample(
        image[None].float(), grid[None], mode="bilinear", padding_mode="border", align_corners=False
    )[0]
    return sampled


def _renormalised(image: Tensor, given: Processor, wanted: Processor) -> Tensor:
    """Normalised pixels `[3, H, W]` of one processor as those of another."""

    def column(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values)[:, None, None]

    values = (image * column(given.std) + column(given.mean)) / given.rescale
    return (values * wanted.rescale - column(wanted.mean)) / column(wanted.std)
