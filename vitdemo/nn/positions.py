"""Position embeddings for any grid of patches.

transformers takes the square root of the number of positions, so that a checkpoint that was trained on oblong pictures fails, and
its BEiT swaps rows and columns of such a bias. Here the trained grid is read from the configuration. On square grids the numbers
are those of transformers: bicubic for embeddings (Touvron et al. 2021, arXiv:2012.12877, section 4.1 of DINO's code alike),
bilinear for BEiT's table of relative positions; both are computed in float32.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.beit.modeling_beit import BeitRelativePositionBias

Grid = tuple[int, int]


def resize_positions(table: Tensor, trained: Grid, grid: Grid) -> Tensor:
    """Embeddings `[1, P + h * w, D]` of a trained grid as those of another; the P prefix tokens' stay as they are."""
    if trained == grid:
        return table
    prefix = table.shape[1] - trained[0] * trained[1]
    cells = table[:, prefix:].unflatten(1, trained).permute(0, 3, 1, 2)
    resized = nn.functional.interpolate(cells.float(), size=grid, mode="bicubic", align_corners=False)
    return torch.cat([table[:, :prefix], resized.to(table.dtype).flatten(2).transpose(1, 2)], dim=1)


def resize_bias(table: Tensor, trained: Grid, grid: Grid) -> Tensor:
    """BEiT's table `[(2h - 1)(2w - 1) + 3, H]` of a trained grid as that of another; the last three, the class token's, stay."""
    if trained == grid:
        return table
    cells = table[:-3].unflatten(0, (2 * trained[0] - 1, 2 * trained[1] - 1)).permute(2, 0, 1)[None]
    resized = nn.functional.interpolate(cells.float(), size=(2 * grid[0] - 1, 2 * grid[1] - 1), mode="bilinear")
    return torch.cat([resized.to(table.dtype)[0].permute(1, 2, 0).flatten(0, 1), table[-3:]])


def take_any_grid(network: PreTrainedModel) -> None:
    """Give a network these computations instead of transformers' own; its weights stay as they are."""
    module: Any
    for module in network.modules():
        if isinstance(module, BeitRelativePositionBias):
            module.__dict__["forward"] = MethodType(_bias, module)
        elif isinstance(getattr(module, "position_embeddings", None), nn.Parameter):
            module.interpolate_pos_encoding = MethodType(_positions, module)
            module.trained_grid = _trained_grid(module)


def _trained_grid(embeddings: Any) -> Grid:
    known = embeddings if hasattr(embeddings, "image_size") else embeddings.patch_embeddings
    height, width = _pair(known.image_size)
    rows, columns = _pair(embeddings.patch_size)
    return height // rows, width // columns


def _positions(self: Any, embeddings: Tensor, height: int, width: int) -> Tensor:
    rows, columns = _pair(self.patch_size)
    return resize_positions(self.position_embeddings, self.trained_grid, (height // rows, width // columns))


def _bias(self: Any, window_size: Grid, interpolate_pos_encoding: bool = False, dim_size: int | None = None) -> Tensor:
    rows, columns = window_size
    table = resize_bias(self.relative_position_bias_table, self.window_size, (rows, columns))
    index = self.generate_relative_position_index((rows, columns))
    tokens = rows * columns + 1
    bias: Tensor = table[index.flatten()].unflatten(0, (tokens, tokens))
    return bias.permute(2, 0, 1).contiguous()[None]


def _pair(size: Any) -> Grid:
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))
