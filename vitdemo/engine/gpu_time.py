"""How long a GPU is asked for, where it is lent for each call: a visitor's quota must cover it, and less of it waits less.

The operations of a pass are counted (`python -m scripts.measure_gpu_work`, torch's FlopCounterMode). `MULTIPLES` has them by
method and number of patches, as multiples of 2 x parameters x patches, the largest of a ViT, a BEiT and a CNN. That they are
done at `SPEED` is an estimate, far below what any GPU since 2018 does with a batch of one: no GPU was at hand. `FACTOR` is
on top.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from vitdemo.engine.backend import Request
from vitdemo.types import Attribution, ModelSpec

BRACKETS = (256, 1024, 4096)
"""Patches up to which a column of `MULTIPLES` holds; more count as the last one."""

MULTIPLES: dict[str, tuple[float, float, float]] = {
    "attention": (1.1, 1.4, 2.7),
    "rollout": (1.1, 1.4, 2.7),
    "grad-rollout": (2.5, 4.3, 4.3),
    "relevance": (2.5, 4.3, 4.3),
    "legrad": (1.4, 2.1, 2.1),
    "grad-cam": (1.1, 1.1, 1.1),
    "similarity": (1.0, 1.0, 1.0),
    "convolution": (5.0, 5.0, 5.0),
}
"""By method; "attention" is a pass that records everything, "convolution" anything of a network without attention."""

SPEED = 1e12
"""Floating-point operations per second."""

PASS = 0.05
"""Seconds of one pass that no operation explains: launching kernels, copying results of up to 100 MB."""

START = 3.0
"""Seconds of a call before its first pass: a process is forked, CUDA starts, the weights are copied."""

FACTOR = 1.4
"""Of the estimate that is asked for."""

LEAST, MOST = 5, 60
"""Seconds: less gains nothing, more is refused to visitors who have not signed in."""


def seconds_of(passes: Sequence[tuple[ModelSpec, Tensor, Request]]) -> int:
    """Seconds to ask for: model, pixels `[B, 3, H, W]` and request of each pass of a call."""
    estimate = START + sum(_pass(spec, pixels, request) for spec, pixels, request in passes)
    return min(max(math.ceil(FACTOR * estimate), LEAST), MOST)


def _pass(spec: ModelSpec, pixels: Tensor, request: Request) -> float:
    images, patches = len(pixels), math.prod(spec.grid_of(pixels.shape[2], pixels.shape[3]))
    method = request.method if isinstance(request, Attribution) else "attention"
    method = method if spec.readouts else "convolution"
    bracket = next((index for index, most in enumerate(BRACKETS) if patches <= most), len(BRACKETS) - 1)
    operations = 2 * spec.parameters * patches * MULTIPLES[method][bracket]
    return images * (PASS + operations / SPEED)
