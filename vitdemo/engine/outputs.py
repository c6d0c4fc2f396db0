"""From the tensors of one forward pass to one output per image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vitdemo.engine.devices import short
from vitdemo.errors import InvalidScoresError
from vitdemo.models.attention_tap import AttentionRecord
from vitdemo.types import LayerQueries, ModelOutput, ModelSpec, PatchFeatures


def split(
    record: AttentionRecord,
    seen: Sequence[Tensor],
    logits: Tensor | None,
    spec: ModelSpec,
    pixels: Tensor,
    milliseconds: float,
) -> list[ModelOutput]:
    """One output per image, on the CPU; the outputs of a batch share no memory that a caller could see change.

    Args:
        seen: tokens `[B, N, D]` before and after the last normalisation; empty unless features are wanted.
        pixels: `[B, 3, H, W]`, on the device and in the dtype of the forward pass.
        milliseconds: of one image.

    Raises:
        InvalidScoresError: scores or features are not finite.
    """
    if logits is not None:
        logits = finite(logits.float().cpu(), "scores", spec, pixels.dtype)
    rows = {name: torch.stack(layers, dim=1).cpu() for name, layers in record.rows.items()}
    patches = [tokens[:, spec.num_prefix_tokens :].float() for tokens in seen]
    features = None
    if patches:
        before, after = patches
        keys = after[..., :0]
        if record.key is not None:
            keys = record.key[:, :, spec.num_prefix_tokens :].float().transpose(1, 2).flatten(2)
        features = (finite(after.cpu(), "features", spec, pixels.dtype), before.norm(dim=-1).cpu(), keys.cpu())
    return [
        ModelOutput(
            logits=None if logits is None else logits[index].clone(),
            rows={name: layers[index].clone() for name, layers in rows.items()},
            patch_grid=spec.grid_of(pixels.shape[2], pixels.shape[3]),
            milliseconds=milliseconds,
            device=str(pixels.device),
            dtype=short(pixels.dtype),
            queries=tuple(_one(layer, index) for layer in record.queries),
            features=None if features is None else PatchFeatures(*(part[index].clone() for part in features)),
        )
        for index in range(len(pixels))
    ]


def finite(values: Tensor, what: str, spec: ModelSpec, dtype: torch.dtype) -> Tensor:
    """The values.

    Raises:
        InvalidScoresError: they are not all finite.
    """
    if not torch.isfinite(values).all():
        raise InvalidScoresError(
            f"{spec.name} gave invalid {what} (not finite numbers) in {short(dtype)}. Try another dtype or photo."
        )
    return values


def _one(layer: LayerQueries, index: int) -> LayerQueries:
    """One image's part of a batch, in memory of its own."""

    def part(values: Tensor) -> Tensor:
        chosen = values[index : index + 1] if len(values) > 1 else values
        return chosen.to("cpu", copy=True, memory_format=torch.contiguous_format)

    mask = None if layer.mask is None else part(layer.mask)
    value = None if layer.value is None else part(layer.value)
    return LayerQueries(part(layer.query), part(layer.key), mask, layer.scaling, value)
