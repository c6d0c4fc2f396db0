"""How alike patches are, by their features."""

from __future__ import annotations

from torch import Tensor, nn


def similarity(features: Tensor, query: int) -> Tensor:
    """Cosine of one patch's feature to every patch's, as in the demonstrations of DINO.

    Args:
        features: `[B, P, C]`.
        query: number of the patch, row by row from 0.

    Returns:
        `[B, P]`, -1 to 1; 1 at the query.
    """
    unit = nn.functional.normalize(features.float(), dim=-1)
    return (unit @ unit[:, query, :, None]).squeeze(-1)
