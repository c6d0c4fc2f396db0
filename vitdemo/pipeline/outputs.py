"""From the engine's output to a prediction, a map and its description."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vitdemo.attribution import attention_map, describe, of_single_patches, patch_map, why_flat
from vitdemo.images.plain import LABELS_MEAN_NOTHING, is_plain
from vitdemo.options.targets import resolve_target
from vitdemo.pipeline.prepare import Prepared
from vitdemo.types import AttributionMap, Capture, Explanation, Label, ModelOutput, ModelSpec, Prediction

SINGLE_PATCHES = (
    "The highest values are single patches: probably tokens in which the network stores global information "
    "(Darcet et al. 2024), not objects."
)


def prediction_of(spec: ModelSpec, output: ModelOutput, top_k: int, plain: bool = False) -> Prediction:
    """The most probable labels, and how the model ran.

    Args:
        plain: whether what it saw is of one colour.
    """
    labels: tuple[Label, ...] = ()
    if output.logits is not None:
        labels = labels_of(spec, output.logits, top_k)
    notes = (*output.notes, *((LABELS_MEAN_NOTHING,) if plain and labels else ()))
    return Prediction(spec, labels, output.milliseconds, output.device, output.dtype, notes=notes, plain=plain)


def labels_of(spec: ModelSpec, logits: Tensor, top_k: int) -> tuple[Label, ...]:
    """The most probable labels of logits `[K]`, best first."""
    scores, indices = (logits / spec.temperature).softmax(dim=-1).topk(min(top_k, len(spec.labels)))
    return tuple(
        Label(spec.labels[index], score, index) for score, index in zip(scores.tolist(), indices.tolist(), strict=True)
    )


def explanation_of(
    prepared: Prepared, output: ModelOutput, wanted: Capture, top_k: int, from_cache: bool
) -> Explanation:
    """The prediction, the requested map and what it is to be read with.

    Args:
        wanted: which of the output's queries and features are handed on.
    """
    photo, spec = prepared.photo, prepared.spec
    rows = {name: to_patch_grid(values, spec, output.patch_grid) for name, values in output.rows.items()}
    attribution, notes = _map_of(prepared, output, rows), prepared.notes
    if attribution is None and spec.readouts:
        description = "no attention: it is off in this layer"
    elif attribution is None:
        description = "no attention: a convolutional network"
    elif attribution.method == "attention":
        description = describe(attribution, spec)
        if attribution.target is not None:
            notes += ("Attention does not depend on the target class.",)
    else:
        label = "" if output.target is None else spec.labels[output.target]
        description = describe(attribution, spec, label)
        flat = why_flat(attribution, label, spec.methods)
        notes += (flat,) if flat else ()
        if attribution.method != "similarity" and of_single_patches(attribution):
            notes += (SINGLE_PATCHES,)
    if spec.note:
        notes += (spec.note,)
    prediction = prediction_of(spec, output, top_k, is_plain(photo, prepared.view.crop))
    return Explanation(
        replace(prediction, from_cache=from_cache),
        attribution,
        rows,
        prepared.view,
        description,
        (*photo.notes, *notes, *prediction.notes),
        output.patch_grid,
        output.queries if wanted.queries else (),
        output.features if wanted.features else None,
    )


def _map_of(prepared: Prepared, output: ModelOutput, rows: dict[str, NDArray[np.float32]]) -> AttributionMap | None:
    resolved, request = prepared.request, prepared.request.request
    if output.values is not None:
        values: NDArray[np.float32] = output.values.numpy()
        values.flags.writeable = False
        query = divmod(prepared.patch, values.shape[1]) if request.method == "similarity" else None
        return AttributionMap(values, request.method, None, None, None, output.target, query, resolved.variant)
    if resolved.readout is None or len(prepared.silent) == prepared.spec.num_heads:
        return None
    # What a head attends to is of no consequence where it is off.
    off = prepared.silent
    if resolved.readout == "patch":
        found = patch_map(output.queries, output.patch_grid, prepared.patch, request.layer, request.head, off)
    else:
        found = attention_map(rows[resolved.readout], request.layer, request.head, resolved.readout, off)
    if request.target is None:
        return found
    return replace(found, target=resolve_target(request.target, prepared.spec, output))


def to_patch_grid(rows: Any, spec: ModelSpec, grid: tuple[int, int]) -> NDArray[np.float32]:
    """`[L, H, N]` to `[L, H, h, w]`: the prefix tokens are left out, what remains is not renormalised."""
    patches = rows[:, :, spec.num_prefix_tokens :]
    result: NDArray[np.float32] = patches.reshape(*patches.shape[:2], *grid).numpy()
    # It is the cache's own memory: writing to it would change the answers of others.
    result.flags.writeable = False
    return result


def covers(output: ModelOutput, capture: Capture) -> bool:
    """Whether a cached output has the large parts that are wanted now."""
    return (bool(output.queries) or not capture.queries) and (output.features is not None or not capture.features)
