"""Class-specific methods: pure functions of recorded tensors and the gradients of a class score with respect to them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def relevance(attentions: Sequence[Tensor], gradients: Sequence[Tensor], start: Tensor) -> Tensor:
    """Generic attention explainability: Chefer et al. 2021, arXiv:2103.15679, equations 5 and 6, for self-attention.

    `R <- R + mean_h(relu(dA * A)) R` from the identity, first layer first; only the read-out's row of R is computed, last
    layer first.

    Args:
        attentions: one `[B, H, N, N]` tensor per layer, first layer first.
        gradients: of the class score, with the same shapes.
        start: `[N]`, the weight of each final token in the read-out.

    Returns:
        `[B, N]`, at least 0, not normalised: the read-out's row of R without the initial identity.
    """
    first = row = start.to(attentions[0]).expand(attentions[0].shape[0], -1)
    for attention, gradient in zip(reversed(attentions), reversed(gradients), strict=True):
        row = row + torch.einsum("bi,bij->bj", row, _weighted(attention, gradient))
    return row - first


def grad_rollout(attentions: Sequence[Tensor], gradients: Sequence[Tensor], start: Tensor) -> Tensor:
    """Rollout of gradient-weighted attention: a simplified form of Chefer et al. 2021, arXiv:2012.09838.

    The paper weighs each layer's gradient by LRP relevance, propagated from the class through the whole network; attention
    itself takes its place here. As `relevance`, but each layer's matrix plus the identity is normalised to rows that sum to 1.

    Returns:
        `[B, N]`, rows sum to 1.
    """
    row = start.to(attentions[0]).expand(attentions[0].shape[0], -1)
    for attention, gradient in zip(reversed(attentions), reversed(gradients), strict=True):
        weighted = _weighted(attention, gradient)
        scaled = row / (1 + weighted.sum(dim=-1))
        row = scaled + torch.einsum("bi,bij->bj", scaled, weighted)
    return row


def legrad(gradients: Sequence[Tensor]) -> Tensor:
    """LeGrad: Bousselham et al. 2024, arXiv:2404.03214.

    Args:
        gradients: one `[B, H, N, N]` tensor for each layer that counts: of the class score that the classifier gives to *that
            layer's* tokens, with respect to that layer's attention.

    Returns:
        `[B, N]`: the positive part, averaged over heads, query tokens and layers.
    """
    return torch.stack([gradient.clamp(min=0).mean(dim=(1, 2)) for gradient in gradients]).mean(dim=0)


def grad_cam(features: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM: Selvaraju et al. 2017, arXiv:1610.02391.

    Args:
        features: `[B, P, C]`, channels per position.
        gradients: of the class score, with the same shape.

    Returns:
        `[B, P]`, at least 0.
    """
    weights = gradients.mean(dim=1, keepdim=True)
    return (features * weights).sum(dim=-1).clamp(min=0)


def _weighted(attention: Tensor, gradient: Tensor) -> Tensor:
    """`[B, N, N]`: mean over the heads of the positive contributions to the score."""
    return (attention * gradient).clamp(min=0).mean(dim=1)
