"""Similarity of patches by their features."""

from __future__ import annotations

from torch import Tensor, nn


def similarity(features: Tensor, query: int) -> Tensor:
    """Cosine similarity of one patch's feature to all patches'.

    Args:
        features: `[B, P, C]`.
        query: row-major index of the patch.

    Returns:
        `[B, P]`, -1 to 1; 1 at the query.
    """
    unit = nn.functional.normalize(features.float(), dim=-1)
    return (unit @ unit[:, query, :, None]).squeeze(-1)
