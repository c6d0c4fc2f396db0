"""The optimisers of the loop: Adam, AdamW and Muon."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from vitdemo.errors import TrainingError
from vitdemo.training.precision import quick_bf16

OPTIMISERS = ("adam", "adamw", "muon")


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal: Jordan et al. 2024, kellerjordan.github.io/posts/muon.

    Groups with `matrices` true take it; the others take AdamW. The size of a step is that of AdamW (Liu et al. 2025,
    arXiv:2502.16982, section 2.2), so that one learning rate serves both.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, momentum: float = 0.95) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "matrices": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move the parameters; a closure is called first, as PyTorch's own optimisers do."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moving: list[Tensor] = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not moving:
                continue
            torch._foreach_mul_(moving, 1 - group["lr"] * group["weight_decay"])
            (self._matrices if group["matrices"] else self._others)(moving, group)
        return loss

    def _matrices(self, moving: list[Tensor], group: dict[str, Any]) -> None:
        by_shape: dict[torch.Size, list[Tensor]] = {}
        for parameter in moving:
            by_shape.setdefault(parameter.shape, []).append(parameter)
        for shape, some in by_shape.items():
            for parameter in some:
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                assert parameter.grad is not None
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
            # Nesterov's look ahead; matrices of one shape are made orthogonal together.
            ahead = [p.grad.lerp(self.state[p]["momentum"], group["momentum"]) for p in some if p.grad is not None]
            # A filter is a matrix from all that it reads to its channels.
            moves = orthogonal(torch.stack(ahead).flatten(2))
            moves = moves * (-0.2 * group["lr"] * math.sqrt(max(moves.shape[1:])))
            torch._foreach_add_(some, list(moves.to(some[0].dtype).unflatten(2, shape[1:]).unbind()))

    def _others(self, moving: list[Tensor], group: dict[str, Any], betas: tuple[float, float] = (0.9, 0.999)) -> None:
        for parameter in moving:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["first"], state["second"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            state["step"] += 1
            count = float(state["step"])
            assert parameter.grad is not None
            state["first"].lerp_(parameter.grad, 1 - betas[0])
            state["second"].mul_(betas[1]).addcmul_(parameter.grad, parameter.grad, value=1 - betas[1])
            spread = (state["second"] / (1 - betas[1] ** count)).sqrt_().add_(1e-8)
            parameter.addcdiv_(state["first"], spread, value=-group["lr"] / (1 - betas[0] ** count))


def orthogonal(matrices: Tensor, rounds: int = 5) -> Tensor:
    """The nearest matrices with singular values near 1, `[B, m, n]`, by Newton's and Schulz's iteration.

    It is computed in bf16 where that is quick, as Jordan does.
    The factors are Jordan's: they leave singular values between about 0.7 and 1.2, which is near enough, in few rounds.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = (matrices.mT if tall else matrices).to(
        torch.bfloat16 if quick_bf16(matrices.device.type == "cpu") else torch.float32
    )
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


def make_optimiser(
    name: str, parameters: Iterable[tuple[str, nn.Parameter]], rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Vectors (biases, norms, tokens) and position embeddings do not decay.

    Of Muon, the matrices and filters inside of layers are its own; patch projections, position tables and heads are AdamW's.

    Raises:
        TrainingError: unknown name.
    """
    inner: list[Tensor] = []
    decaying: list[Tensor] = []
    free: list[Tensor] = []
    for key, parameter in parameters:
        if parameter.requires_grad:
            if parameter.ndim < 2 or "position" in key or key.endswith("_token"):
                free.append(parameter)
            elif name == "muon" and parameter.ndim in (2, 4) and "layer" in key:
                inner.append(parameter)
            else:
                decaying.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decaying, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    if name == "adam":
        return torch.optim.Adam(groups, lr=rate, betas=(0.9, 0.999), foreach=True)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.999), foreach=True)
    if name == "muon":
        return Muon([*groups, {"params": inner, "weight_decay": weight_decay, "matrices": True}], lr=rate)
    raise TrainingError(f"Unknown optimiser {name!r}. Choose from: {', '.join(OPTIMISERS)}.")
