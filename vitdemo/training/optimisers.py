"""The optimisers of the training loop: Adam, AdamW, and Muon beside AdamW."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from vitdemo.errors import TrainingError
from vitdemo.training.config import OPTIMISERS
from vitdemo.training.precision import quick_bf16


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates of matrices: Jordan et al. 2024, kellerjordan.github.io/posts/muon.

    Updates are scaled to the size of AdamW's (Liu et al. 2025, arXiv:2502.16982, section 2.2), so that one learning rate serves
    both. `torch.optim.Muon` gives the same losses, but always works in bf16: on a CPU with AVX2 its step takes 12 to 34 times as
    long. It also refuses the filters of convolutions; here each counts as the matrix `[out, in * h * w]`, as in Jordan's own.
    """

    def __init__(self, matrices: Iterable[Tensor], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                # Matrices of one shape are orthogonalised together.
                momenta = torch.stack([self._nesterov(one, group["momentum"]) for one in parameters]).flatten(2)
                scaled = orthogonalise(momenta) * (-0.2 * group["lr"] * math.sqrt(max(momenta.shape[1:])))
                updates = scaled.to(parameters[0].dtype).unflatten(2, shape[1:])
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(parameters, list(updates.unbind()))

    def _nesterov(self, parameter: Tensor, momentum: float) -> Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(state["momentum"], momentum)


def orthogonalise(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Approximate the nearest orthogonal matrices, `[B, m, n]`, by Newton-Schulz iteration, in bf16 where that is quick.

    Jordan's coefficients leave singular values between about 0.7 and 1.2 after few iterations, which is close enough.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.mT if tall else matrices
    x = x.to(torch.bfloat16 if quick_bf16(x.device.type) else torch.float32)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    if x.dtype == torch.float32 and x.shape[-1] >= 2 * x.shape[-2]:
        # All iterations are polynomials in the smaller `x @ x.mT`; only in bf16 its rounding errors would add up.
        identity = torch.eye(x.shape[-2], device=x.device)
        gram, product = x @ x.mT, identity
        for _ in range(iterations):
            factor = a * identity + b * gram + c * gram @ gram
            product = factor @ product
            gram = factor @ gram @ factor
        x = product @ x
    else:
        for _ in range(iterations):
            square = x @ x.mT
            x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


def make_optimisers(
    name: str, parameters: Iterable[tuple[str, nn.Parameter]], learning_rate: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """The optimisers that together train the parameters that require gradients; all of them step in every training step.

    Vectors (biases, norms, tokens) and position embeddings have no weight decay. Muon trains the matrices and filters inside the
    layers, AdamW the rest, patch projection and heads included.

    Raises:
        TrainingError: unknown name.
    """
    if name not in OPTIMISERS:
        raise TrainingError(f"Unknown optimiser {name!r}. Choose from: {', '.join(OPTIMISERS)}.")
    matrices: list[Tensor] = []
    decayed: list[Tensor] = []
    not_decayed: list[Tensor] = []
    for key, parameter in parameters:
        if parameter.requires_grad:
            if parameter.ndim < 2 or "position" in key or key.endswith("_token"):
                not_decayed.append(parameter)
            elif name == "muon" and parameter.ndim in (2, 4) and "layer" in key:
                matrices.append(parameter)
            else:
                decayed.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": not_decayed, "weight_decay": 0.0},
    ]
    if name == "adam":
        return [torch.optim.Adam(groups, lr=learning_rate, foreach=True)]
    adamw = torch.optim.AdamW(groups, lr=learning_rate, foreach=True)
    return [Muon(matrices, learning_rate, weight_decay), adamw] if matrices else [adamw]
