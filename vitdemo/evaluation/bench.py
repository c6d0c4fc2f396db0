"""Time ratios of interleaved pairs in one process, which a busy machine slows alike; peak memory in a process per variant."""

from __future__ import annotations

import contextlib
import gc
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from vitdemo.attribution import rank_correlation
from vitdemo.engine.attribute import attribute
from vitdemo.engine.devices import DTYPES
from vitdemo.errors import EngineError, OptionError
from vitdemo.models.attention_tap import TAP, record_attention
from vitdemo.models.loading import Classifier, load_model, size_options
from vitdemo.models.preprocess import at_resolution, preprocess
from vitdemo.options.methods import METHODS
from vitdemo.pipeline import Pipeline
from vitdemo.pipeline.prepare import MAX_GRADIENT_TOKENS, MAX_TOKENS
from vitdemo.registry import OFFICIAL, spec_from_folder, write_json
from vitdemo.settings import ASSETS, Settings
from vitdemo.types import Attribution, Capture, ModelSpec, Photo

PLAIN, TAPPED, EAGER = "plain forward (SDPA)", "SDPA + class-token rows of all layers", "eager with output_attentions"

Runs = Mapping[str, Callable[[], Any]]


def bench(
    spec: ModelSpec, settings: Settings, pairs: int, dtype: str, resolution: int | None = None, batch: int = 1
) -> dict[str, Any]:
    """Time of everything that the model can do relative to its plain forward pass: quartiles of `pairs` interleaved pairs."""
    pipeline = Pipeline(settings)
    photo = _noise_photo(pipeline)
    measured = pipeline.classify([photo], spec, dtype=dtype)[0]
    model, pixels = _prepared(spec, measured.device, measured.dtype, photo, resolution, batch)
    runs = _variants(model, pixels)
    ratios = {name: _ratio(run, runs[PLAIN], measured.device, pairs) for name, run in runs.items() if name != PLAIN}
    stock = None if resolution or batch > 1 else _stock_pipeline(spec, measured.device, DTYPES[measured.dtype])
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
        "batch": batch,
        "input": list(pixels.shape[2:]),
        "tokens": math.prod(spec.grid_of(pixels.shape[2], pixels.shape[3])) + spec.num_prefix_tokens,
        "ratios": ratios,
        "bf16": compare_dtypes(spec, settings, pairs) if not resolution and batch == 1 else None,
    }


def peak_memory(
    spec: ModelSpec, settings: Settings, dtype: str, variant: str, resolution: int | None, batch: int
) -> int:
    """Peak bytes that a variant takes beside the model and its input. To be called in a process of its own."""
    pipeline = Pipeline(settings)
    device = str(pipeline.backend.device) if hasattr(pipeline.backend, "device") else "cpu"
    precision = dtype if dtype != "auto" else "bf16" if device.startswith("cuda") else "fp32"
    model, pixels = _prepared(spec, device, precision, _noise_photo(pipeline), resolution, batch)
    runs = _variants(model, pixels)
    if variant not in runs:
        raise OptionError(f"Unknown variant {variant!r}. Choose from: {', '.join(runs)}.")
    run = runs[variant]
    # Warm up: one-time allocations of a process are not the variant's.
    with torch.no_grad():
        model(pixels[:1, :, : 4 * spec.patch_size, : 4 * spec.patch_size].contiguous())
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    gc.collect()
    with contextlib.suppress(OSError):
        # Reset the peak: loading the model may have taken more memory than running it does.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _memory("VmRSS")
    run()
    return max(0, _memory("VmHWM") - before)


def memory_table(arguments: list[str], variants: list[str]) -> dict[str, float]:
    """Peak memory of each variant in 10^6 bytes, one process each; `arguments` are those of `bench`."""
    found = {}
    for variant in variants:
        command = [sys.executable, "-m", "vitdemo", "bench", *arguments, "--variant", variant]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise EngineError(f"Measuring the memory of {variant!r} failed: {done.stderr.strip()[-300:]}")
        found[variant] = json.loads(done.stdout)["bytes"] / 1e6
    return found


def compared(entry: dict[str, Any]) -> list[str]:
    """Names of the variants that a result compares with the plain forward pass."""
    return [name for name in entry["ratios"] if not name.startswith("classify")]


def variants_of(spec: ModelSpec) -> list[str]:
    """Names of the variants of a model."""
    attention = [TAPPED, EAGER] if spec.readouts else []
    return [PLAIN, *attention, *(name for name in spec.methods if name != "attention")]


def compare_dtypes(spec: ModelSpec, settings: Settings, pairs: int) -> dict[str, Any]:
    """bf16 against fp32 on the example photos: time, agreement of the top-1 class, rank correlation of the maps."""
    pipeline = Pipeline(settings)
    photos = [pipeline.open(path) for path in sorted((ASSETS / "examples").glob("*.jpg"))]
    same, correlations = [], []
    for photo in photos:
        full, half = (pipeline.explain(photo, spec, dtype=dtype) for dtype in ("fp32", "bf16"))
        if full.prediction.labels:
            same.append(full.prediction.labels[0].index == half.prediction.labels[0].index)
        if full.map is not None and half.map is not None:
            correlations.append(rank_correlation(full.map, full.view, half.map, half.view))
    times = _ratio(
        lambda: pipeline.classify(photos[:1], spec, dtype="bf16"),
        lambda: pipeline.classify(photos[:1], spec, dtype="fp32"),
        "cpu",
        pairs,
    )
    known = [value for value in correlations if value is not None]
    return {
        "photos": len(photos),
        "time": times,
        "same_top1": float(np.mean(same)) if same else None,
        "map_rank_correlation": float(np.mean(known)) if known else None,
    }


def random_checkpoint(name: str, folder: Path) -> ModelSpec:
    """An official ViT encoder with random weights: time and memory do not depend on them.

    Raises:
        OptionError: there is no such encoder.
    """
    known = OFFICIAL.get(name)
    if known is None or known.model_type != "vit" or known.num_classes:
        choices = ", ".join(
            spec.name for spec in OFFICIAL.values() if spec.model_type == "vit" and not spec.num_classes
        )
        raise OptionError(f"Random weights are available for: {choices}.")
    config = transformers.ViTConfig(
        hidden_size=64 * known.num_heads,
        num_hidden_layers=known.num_layers,
        num_attention_heads=known.num_heads,
        intermediate_size=256 * known.num_heads,
        image_size=known.image_size[0],
        patch_size=known.patch_size,
    )
    target = folder / name.split("/")[1]
    transformers.logging.disable_progress_bar()
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(target)
    write_json(target / "preprocessor_config.json", {"size": 224, "image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    return spec_from_folder(target)


def _prepared(
    spec: ModelSpec, device: str, dtype: str, photo: Photo, resolution: int | None, batch: int
) -> tuple[Classifier, Tensor]:
    model = load_model(spec, torch.device(device), DTYPES[dtype]).requires_grad_(False)
    processor, _ = at_resolution(spec, photo.size, resolution, MAX_TOKENS)
    pixels = preprocess([photo] * batch, processor).pixel_values
    return model, pixels.to(device, DTYPES[dtype])


def _variants(model: Classifier, pixels: Tensor) -> Runs:
    spec = model.spec

    @torch.no_grad()
    def plain() -> None:
        with implementation(model, "sdpa"):
            model(pixels)

    @torch.no_grad()
    def tapped() -> None:
        with record_attention(Capture(tokens=(0,))):
            model(pixels)

    @torch.no_grad()
    def eager() -> None:
        with implementation(model, "eager"):
            model.body(pixels, **size_options(model.network, pixels), output_attentions=True)

    def method(name: str) -> Callable[[], None]:
        return lambda: (attribute(model, pixels, Attribution(name)), None)[1]

    patches = math.prod(spec.grid_of(pixels.shape[2], pixels.shape[3]))
    runs: dict[str, Callable[[], Any]] = {PLAIN: plain, TAPPED: tapped, EAGER: eager}
    for name in variants_of(spec):
        if name not in runs and (METHODS[name].needs != "gradients" or patches <= MAX_GRADIENT_TOKENS):
            runs[name] = method(name)
    return runs if spec.readouts else {name: run for name, run in runs.items() if name not in (TAPPED, EAGER)}


@contextmanager
def implementation(model: Classifier, name: str) -> Iterator[None]:
    """One of transformers' own attention implementations, instead of the attention tap, in this block; not for a shared model."""
    if not model.spec.readouts:
        yield
        return
    # `set_attn_implementation` would fail for the hybrid, whose convolutional part has no attention.
    config: Any = model.network.base_model.config
    try:
        config._attn_implementation = name
        yield
    finally:
        config._attn_implementation = TAP


def _stock_pipeline(spec: ModelSpec, device: str, dtype: torch.dtype) -> Callable[..., Any] | None:
    """The reference; None for models that plain transformers cannot run."""
    if spec.model_type == "vit-hybrid" or spec.note or not spec.labels:
        return None
    processor = transformers.ViTImageProcessorPil.from_pretrained(spec.checkpoint)
    stock: Callable[..., Any] = transformers.pipeline(
        "image-classification", model=spec.checkpoint, image_processor=processor, device=device, dtype=dtype
    )
    return stock


def _noise_photo(pipeline: Pipeline) -> Photo:
    return pipeline.open(np.random.default_rng(0).integers(0, 256, (480, 480, 3), dtype=np.uint8))


def _memory(field: str) -> int:
    """A field of this process's `/proc/self/status`, in bytes."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        raise EngineError("Peak memory is measured on Linux and CUDA only; use --no-memory.") from None
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


def _ratio(first: Callable[[], Any], second: Callable[[], Any], device: str, pairs: int) -> dict[str, float]:
    def seconds(run: Callable[[], Any]) -> float:
        start = time.perf_counter()
        for _ in range(loops):
            run()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - start

    loops = 1
    # A single run of a small model is too short to time.
    seconds(first), seconds(second)
    loops = max(1, min(5, round(0.5 / max(seconds(second), 1e-3))))
    values = []
    for index in range(pairs):
        # The order alternates, so that neither always finds warm caches.
        if index % 2:
            below, above = seconds(second), seconds(first)
        else:
            above, below = seconds(first), seconds(second)
        values.append(above / below)
    q1, median, q3 = np.percentile(values, (25, 50, 75))
    return {"median": float(median), "q1": float(q1), "q3": float(q3)}
