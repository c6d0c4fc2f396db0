"""Filters of a first layer as pictures: Dosovitskiy et al. 2021, arXiv:2010.11929, figure 7 (left)."""

from __future__ import annotations

import torch
from torch import Tensor

from vitdemo.errors import OptionError


def filter_pictures(weight: Tensor) -> Tensor:
    """Filters `[D, 3, h, w]` as RGB pictures `[D, h, w, 3]` in 0..1: 0.5 is a weight of 0, and each one has its own contrast."""
    filters = weight.float().permute(0, 2, 3, 1)
    largest = filters.abs().amax(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)
    return filters / largest / 2 + 0.5


def principal_filters(weight: Tensor, count: int = 28) -> Tensor:
    """The first principal components of filters `[D, 3, h, w]`, as the paper shows them: `[count, h, w, 3]` in 0..1.

    Raises:
        OptionError: there are not so many.
    """
    rows = weight.float().flatten(1)
    limit = min(rows.shape)
    if not 1 <= count <= limit:
        raise OptionError(f"These filters have 1 to {limit} principal components, not {count}.")
    _, _, components = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False)
    return filter_pictures(components[:count].view(count, *weight.shape[1:]))
