"""Interpolation of position embeddings to any patch grid.

transformers assumes a square grid, so that checkpoints trained on oblong images fail, and its BEiT swaps rows and columns of the
relative position bias. Here the trained grid is read from the configuration. On square grids the results equal transformers':
bicubic for embeddings (Touvron et al. 2021, arXiv:2012.12877), antialiased for DINOv2 with registers only, bilinear for BEiT's
relative position bias; all in float32. Checkpoints of DINO's first version are interpolated as by its own code, which adds 0.1
to the size of the grid (https://github.com/facebookresearch/dino, `vision_transformer.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.beit.modeling_beit import BeitRelativePositionBias
from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import Dinov2WithRegistersEmbeddings

from vitdemo.types import Grid

DINO_OFFSET = 0.1
"""What DINO's own code adds to the number of rows and columns, so that rounding never loses one; embeddings move by a little."""


def resize_positions(table: Tensor, trained: Grid, grid: Grid, antialias: bool = False, offset: float = 0.0) -> Tensor:
    """Position embeddings `[1, P + h * w, D]` interpolated to another grid; those of the P prefix tokens are kept.

    Args:
        antialias: not together with an offset.
        offset: added to the size of the grid when positions are computed.
    """
    if trained == grid:
        return table
    prefix = table.shape[1] - trained[0] * trained[1]
    cells = table[:, prefix:].unflatten(1, trained).permute(0, 3, 1, 2)
    if offset:
        scale = tuple((new + offset) / old for new, old in zip(grid, trained, strict=True))
        resized = nn.functional.interpolate(cells.float(), scale_factor=scale, mode="bicubic")
    else:
        resized = nn.functional.interpolate(cells.float(), size=grid, mode="bicubic", antialias=antialias)
    return torch.cat([table[:, :prefix], resized.to(table.dtype).flatten(2).transpose(1, 2)], dim=1)


def resize_bias(table: Tensor, trained: Grid, grid: Grid) -> Tensor:
    """BEiT's table `[(2h - 1)(2w - 1) + 3, H]` interpolated to another grid; the last three, the class token's, are kept."""
    if trained == grid:
        return table
    cells = table[:-3].unflatten(0, (2 * trained[0] - 1, 2 * trained[1] - 1)).permute(2, 0, 1)[None]
    resized = nn.functional.interpolate(cells.float(), size=(2 * grid[0] - 1, 2 * grid[1] - 1), mode="bilinear")
    return torch.cat([resized.to(table.dtype)[0].permute(1, 2, 0).flatten(0, 1), table[-3:]])


def accept_any_grid(network: PreTrainedModel, as_dino: bool = False) -> None:
    """Replace transformers' interpolation in a network; the weights are not changed.

    Args:
        as_dino: interpolate as DINO's own code does.
    """
    for module in network.modules():
        if isinstance(module, BeitRelativePositionBias):
            override_class(module, _AnyBias)
        elif isinstance(getattr(module, "position_embeddings", None), nn.Parameter):
            override_class(module, _DinoPositions if as_dino else _AnyPositions)


def override_class(module: Any, overriding: type) -> None:
    """Make a module an instance of its class mixed with `overriding`, whose methods take precedence.

    Bound methods set on the module would be a reference cycle, which delays the release of its weights.
    """
    if isinstance(module, overriding):
        return
    bases = (overriding, type(module))
    module.__class__ = _MIXED.setdefault(bases, type(bases[1].__name__, bases, {}))


_MIXED: dict[tuple[type, type], type] = {}


class _AnyPositions:
    grid_offset = 0.0

    def interpolate_pos_encoding(self: Any, embeddings: Tensor, height: int, width: int) -> Tensor:
        known = self if hasattr(self, "image_size") else self.patch_embeddings
        trained, (rows, columns) = _pair(known.image_size), _pair(self.patch_size)
        return resize_positions(
            self.position_embeddings,
            (trained[0] // rows, trained[1] // columns),
            (height // rows, width // columns),
            antialias=isinstance(self, Dinov2WithRegistersEmbeddings),
            offset=self.grid_offset,
        )


class _DinoPositions(_AnyPositions):
    grid_offset = DINO_OFFSET


class _AnyBias:
    def forward(
        self: Any, window_size: Grid, interpolate_pos_encoding: bool = False, dim_size: int | None = None
    ) -> Tensor:
        rows, columns = window_size
        table = resize_bias(self.relative_position_bias_table, self.window_size, (rows, columns))
        index = self.generate_relative_position_index((rows, columns))
        tokens = rows * columns + 1
        bias: Tensor = table[index.flatten()].unflatten(0, (tokens, tokens))
        return bias.permute(2, 0, 1).contiguous()[None]


def _pair(size: Any) -> Grid:
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))
