"""Attention of one head for one token, step by step: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vitdemo.errors import OptionError
from vitdemo.types import LayerQueries


@dataclass(frozen=True)
class HeadSteps:
    """What one head computes for one query token, float32. N tokens, prefix tokens first; D is the width of a head."""

    query: Tensor
    """`[D]`."""
    keys: Tensor
    """`[N, D]`."""
    products: Tensor
    """`[N]`: dot products of the query with each key."""
    scores: Tensor
    """`[N]`: the same, scaled, and with the position bias where there is one."""
    weights: Tensor
    """`[N]`: their softmax; sums to 1."""
    values: Tensor
    """`[N, D]`."""
    weighted: Tensor
    """`[N, D]`: each value times its weight."""
    output: Tensor
    """`[D]`: the sum of these, which the output projection takes up."""


def head_steps(layer: LayerQueries, head: int, token: int) -> HeadSteps:
    """The steps of one head for one token of one image.

    Args:
        layer: of a batch of one, recorded with its values.
        token: the query, prefix tokens counted.

    Raises:
        OptionError: there is no such head or token.
    """
    assert layer.value is not None, "record values: Capture(values=True)"
    _, heads, tokens, _ = layer.query.shape
    if not (0 <= head < heads and 0 <= token < tokens):
        raise OptionError(
            f"There is no head {head} with a token {token}: heads are 0 to {heads - 1}, tokens 0 to {tokens - 1}."
        )
    query, keys = layer.query[0, head, token].float(), layer.key[0, head].float()
    values = layer.value[0, head].float()
    products = keys @ query
    scores = products * layer.scaling
    if layer.mask is not None:
        full = layer.mask.expand(1, heads, layer.mask.shape[-2], tokens)[0, head]
        row = full[token if len(full) > 1 else 0]
        scores = scores + row.float()
    weights = scores.softmax(dim=0)
    weighted = weights[:, None] * values
    return HeadSteps(query, keys, products, scores, weights, values, weighted, weighted.sum(dim=0))
