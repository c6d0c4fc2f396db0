"""Times as ratios: both sides of a pair run one after the other in this process, so that a busy machine slows both."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers

from vitdemo.capture import record_attention
from vitdemo.engine.devices import DTYPES
from vitdemo.loading import load_model
from vitdemo.pipeline import Pipeline
from vitdemo.preprocess import preprocess
from vitdemo.settings import Settings
from vitdemo.types import Capture, ModelSpec, Photo

LOOPS = 5
"""Runs that make up one side of a pair: a single one is too short to time."""


def bench(spec: ModelSpec, settings: Settings, pairs: int, dtype: str) -> dict[str, Any]:
    """Median and quartiles of each ratio over `pairs` interleaved pairs."""
    pipeline = Pipeline(settings)
    photo = _noise_photo(pipeline)
    measured = pipeline.classify([photo], spec, dtype=dtype)[0]
    model = load_model(spec, torch.device(measured.device), DTYPES[measured.dtype])
    pixels = preprocess([photo], spec.processor).pixel_values.to(measured.device, DTYPES[measured.dtype])

    def plain() -> None:
        with torch.no_grad():
            model(pixels)

    def tapped() -> None:
        with torch.no_grad(), record_attention(Capture(tokens=(0,))):
            model(pixels)

    ratios = {"capturing all class-token rows / plain forward": _ratio(tapped, plain, measured.device, pairs)}
    stock = _stock_pipeline(spec, measured.device, DTYPES[measured.dtype])
    if stock is not None:
        ratios["classify / transformers image-classification"] = _ratio(
            lambda: pipeline.classify([photo], spec, dtype=dtype),
            lambda: stock(photo.image, top_k=5),
            measured.device,
            pairs,
        )
    return {
        "model": spec.name,
        "device": measured.device,
        "dtype": measured.dtype,
        "threads": torch.get_num_threads(),
        "pairs": pairs,
        "ratios": ratios,
    }


def _stock_pipeline(spec: ModelSpec, device: str, dtype: torch.dtype) -> Callable[..., Any] | None:
    """The reference; None for models that transformers cannot run as they are."""
    if spec.model_type == "vit-hybrid" or spec.note:
        return None
    processor = transformers.ViTImageProcessorPil.from_pretrained(spec.checkpoint)
    stock: Callable[..., Any] = transformers.pipeline(
        "image-classification", model=spec.checkpoint, image_processor=processor, device=device, dtype=dtype
    )
    return stock


def _noise_photo(pipeline: Pipeline) -> Photo:
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    return pipeline.open(pixels)


def _ratio(first: Callable[[], Any], second: Callable[[], Any], device: str, pairs: int) -> dict[str, float]:
    def seconds(run: Callable[[], Any]) -> float:
        start = time.perf_counter()
        for _ in range(LOOPS):
            run()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - start

    seconds(first), seconds(second)
    values = []
    for index in range(pairs):
        # Who goes first changes, so that neither always finds the caches warm.
        if index % 2:
            below, above = seconds(second), seconds(first)
        else:
            above, below = seconds(first), seconds(second)
        values.append(above / below)
    q1, median, q3 = np.percentile(values, (25, 50, 75))
    return {"median": float(median), "q1": float(q1), "q3": float(q3)}
