"""One forward pass of a loaded model: pixels and a request in, one output per image out. It holds no lock and keeps nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from vitdemo.engine.attribute import attribute, watching_features, watching_pooled
from vitdemo.engine.backend import Request
from vitdemo.engine.devices import short
from vitdemo.engine.lens import read_off
from vitdemo.engine.outputs import finite, split
from vitdemo.models.attention_tap import AttentionRecord, record_attention
from vitdemo.models.interventions import first_difference, intervening
from vitdemo.models.loading import Classifier
from vitdemo.types import Attribution, Capture, Lens, ModelOutput, ModelSpec, Reconstruct

Result = TypeVar("Result")


def forward(
    model: Classifier,
    spec: ModelSpec,
    pixel_values: Tensor,
    request: Request,
    device: torch.device,
    dtype: torch.dtype,
) -> list[ModelOutput]:
    """Run `[B, 3, H, W]` float32 pixels; one output per image, or per knock-out of a single one, on the CPU, in their order.

    Args:
        request: its knock-outs are resolved: see `vitdemo.engine.knockouts`.
        device, dtype: those of the model.

    Raises:
        InvalidScoresError: scores, features or a map are not finite.
        OptionError: of an `Attribution`, no such class or patch.
    """
    if isinstance(request, Capture):
        return _captured(model, spec, pixel_values.to(device, dtype), request)
    if isinstance(request, Attribution):
        return _attributed(model, spec, pixel_values.to(device, dtype), request)
    if isinstance(request, Lens):
        return _read_off(model, spec, pixel_values.to(device, dtype), request)
    # Not in the model's dtype: what is visible comes back as it was.
    return _reconstructed(model, spec, pixel_values.to(device), request, dtype)


def _captured(model: Classifier, spec: ModelSpec, pixels: Tensor, request: Capture) -> list[ModelOutput]:
    # Not `inference_mode`: transformers caches BEiT's position index for the process, and a model could never be trained with
    # an index made there.
    grid, own = spec.grid_of(pixels.shape[2], pixels.shape[3]), request.knockouts
    images = pixels.expand(max(len(pixels), len(own)), -1, -1, -1)
    # What is recorded of the layers that were run once would be of one image.
    alone = len(images) > len(pixels) and replace(request, knockouts=()) == Capture()
    fan_out = first_difference(own) if alone else None
    with (
        torch.no_grad(),
        intervening(model, grid, own, request.shuffle, fan_out),
        record_attention(request) as record,
        watching_features(model, request) as seen,
        watching_pooled(model, request) as pooled,
    ):
        given = images if fan_out is None else pixels
        logits, milliseconds = _timed(lambda: model(given), pixels.device)
    outputs = split(record, seen, logits, spec, images, milliseconds / len(images))
    if not pooled:
        return outputs
    vectors = finite(pooled[-1].float().cpu(), "features", spec, pixels.dtype)
    return [replace(output, pooled=vector.clone()) for output, vector in zip(outputs, vectors, strict=True)]


def _attributed(model: Classifier, spec: ModelSpec, pixels: Tensor, request: Attribution) -> list[ModelOutput]:
    with intervening(model, spec.grid_of(pixels.shape[2], pixels.shape[3]), request.knockouts):
        (logits, maps, targets), milliseconds = _timed(lambda: attribute(model, pixels, request), pixels.device)
    outputs = split(AttentionRecord(Capture()), [], logits, spec, pixels, milliseconds / len(pixels))
    maps = finite(maps.float().cpu(), "maps", spec, pixels.dtype)
    return [
        replace(
            output,
            values=maps[index].view(output.patch_grid).clone(),
            target=None if targets is None else targets[index],
        )
        for index, output in enumerate(outputs)
    ]


def _read_off(model: Classifier, spec: ModelSpec, pixels: Tensor, request: Lens) -> list[ModelOutput]:
    (logits, readings, targets), milliseconds = _timed(lambda: read_off(model, pixels, request), pixels.device)
    outputs = split(AttentionRecord(Capture()), [], logits, spec, pixels, milliseconds / len(pixels))
    return [
        replace(output, readings=reading, target=target)
        for output, reading, target in zip(outputs, readings, targets, strict=True)
    ]


def _reconstructed(
    model: Classifier, spec: ModelSpec, pixels: Tensor, request: Reconstruct, dtype: torch.dtype
) -> list[ModelOutput]:
    with torch.no_grad():
        filled, milliseconds = _timed(lambda: model.reconstruct(pixels, request.hidden), pixels.device)
    filled = finite(filled.cpu(), "pixels", spec, dtype)
    grid = (request.hidden.shape[1], request.hidden.shape[2])
    ran = ModelOutput(None, {}, grid, milliseconds / len(pixels), str(pixels.device), short(dtype))
    return [replace(ran, filled=image.clone()) for image in filled]


def _timed(run: Callable[[], Result], device: torch.device) -> tuple[Result, float]:
    """The result of a forward pass, and its milliseconds."""
    _synchronise(device)
    start = time.perf_counter()
    result = run()
    _synchronise(device)
    return result, (time.perf_counter() - start) * 1e3


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
