"""From what a network gave to what a user is given."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitdemo.types import Capture, Label, ModelOutput, ModelSpec, Prediction


def prediction_of(spec: ModelSpec, output: ModelOutput, top_k: int) -> Prediction:
    """The most probable labels, and how it ran."""
    labels: tuple[Label, ...] = ()
    if output.logits is not None:
        scores, indices = (output.logits / spec.temperature).softmax(dim=-1).topk(min(top_k, len(spec.labels)))
        labels = tuple(
            Label(spec.labels[index], score, index)
            for score, index in zip(scores.tolist(), indices.tolist(), strict=True)
        )
    return Prediction(spec, labels, output.milliseconds, output.device, output.dtype, notes=output.notes)


def on_grid(rows: Any, spec: ModelSpec, grid: tuple[int, int]) -> NDArray[np.float32]:
    """`[L, H, N]` to `[L, H, h, w]`: the prefix tokens are left out, what remains is not renormalised."""
    patches = rows[:, :, spec.num_prefix_tokens :]
    result: NDArray[np.float32] = patches.reshape(*patches.shape[:2], *grid).numpy()
    # It is the cache's own memory: who wrote to it would change the answers of others.
    result.flags.writeable = False
    return result


def holds(output: ModelOutput, capture: Capture) -> bool:
    """Whether what was remembered has the large parts that are asked for now."""
    return (bool(output.queries) or not capture.queries) and (output.features is not None or not capture.features)
