"""How far a network looks: mean attention distance, Dosovitskiy et al. 2021, arXiv:2010.11929, figure 7 (right), and the
theoretical receptive field of convolutions, Araujo et al. 2019, https://distill.pub/2019/computing-receptive-fields."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def attention_distance(rows: Tensor, patch_size: int) -> Tensor:
    """`[H]`: mean distance in pixels between a patch and what it attends to, by head.

    Distances between patch centres are weighted by attention among patches, and averaged over all query patches; attention to
    prefix tokens, which are nowhere, is left out.

    Args:
        rows: `[H, h * w, h, w]`: attention of each patch to all patches, not renormalised.
        patch_size: side of a patch in pixels.
    """
    height, width = rows.shape[2:]
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width)).view(-1, 2).float() * patch_size
    weights = rows.flatten(2)
    far = (weights * torch.cdist(places, places)).sum(dim=-1) / weights.sum(dim=-1)
    return far.mean(dim=-1)


def receptive_field(layers: Sequence[tuple[int, int, int]]) -> tuple[int, ...]:
    """Side, in pixels of the input, of the square that a cell can depend on, after each layer.

    Args:
        layers: `(kernel, stride, dilation)` of convolutions and poolings, in the order in which they follow each other.

    >>> receptive_field([(7, 2, 1), (3, 2, 1), (3, 1, 1)])
    (7, 11, 19)
    """
    field, step, found = 1, 1, []
    for kernel, stride, dilation in layers:
        field += (kernel - 1) * dilation * step
        step *= stride
        found.append(field)
    return tuple(found)
