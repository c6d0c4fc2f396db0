"""Steps: how fast a ViT-B/16 is, five models compared, every attribution method, and `vitdemo bench`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from scripts import measure_compare
from scripts.gpu.flops import by_hand, counted, mfu, peak_of
from scripts.gpu.rig import Rig, spread
from vitdemo.engine.devices import DTYPES
from vitdemo.evaluation.bench import bench, implementation
from vitdemo.models.loading import load_model
from vitdemo.models.preprocess import preprocess
from vitdemo.registry import embedded_models
from vitdemo.types import Attribution, Capture, ModelSpec

Figures = Iterator[tuple[str, Any]]


def throughput(rig: Rig) -> Figures:
    """Images per second of a ViT-B/16 in bf16, and the share of the device's peak; at batch 256 with `torch.compile` too."""
    largest, dtype = rig.choose(256, 4), torch.bfloat16
    with tempfile.TemporaryDirectory() as folder:
        spec = rig.vit(Path(folder))
        model = load_model(spec, torch.device("cpu"), torch.float32).requires_grad_(False)
        operations = counted(model, torch.zeros(1, 3, *spec.image_size))
        yield "operations", {"counted": operations, "by hand": by_hand(model.network.config, spec.image_size[0])}
        model = load_model(spec, rig.device, dtype).requires_grad_(False)
    peak = peak_of(rig.name)
    yield "peak", {"device": rig.name, "tflops": peak and peak.tflops, "source": peak and peak.source}
    yield "product", _product(rig, dtype)
    pixels = torch.randn(largest, 3, *spec.image_size, device=rig.device, dtype=dtype)

    def measured(run: Any, batch: int) -> dict[str, Any]:
        part = pixels[:batch]
        rate = batch / spread(rig.seconds(lambda: run(part), 20))["median"]
        share = mfu(operations, rate, peak.tflops) if peak else None
        return {"batch": batch, "images per second": rate, "ms": 1e3 * batch / rate, "mfu": share}

    # As any program would run it: SDPA, without the attention tap.
    with torch.no_grad(), implementation(model, "sdpa"):
        for batch in rig.choose((1, 8, 64, 256), (1, 4)):
            yield f"plain {batch}", measured(model, batch)
        compiled = torch.compile(model)
        start = time.perf_counter()
        try:
            compiled(pixels)
            rig.wait()
        except Exception as error:  # no compiler, or one that does not know this GPU
            yield "compiled", {"fault": f"{type(error).__name__}: {str(error).strip()[:300]}"}
            return
        took = time.perf_counter() - start
        difference = (compiled(pixels).float() - model(pixels).float()).abs().max().item()
        found = measured(compiled, largest)
        yield "compiled", {**found, "seconds to compile": took, "largest difference of a logit": difference}


def _product(rig: Rig, dtype: torch.dtype) -> dict[str, float]:
    """What one large matrix product reaches: no network does better. Of random numbers, since zeros take less power."""
    side = rig.choose(8192, 64)
    first, second = (torch.randn(side, side, device=rig.device, dtype=dtype) for _ in range(2))
    median = spread(rig.seconds(lambda: first @ second, 10))["median"]
    return {"side": side, "tflops": 2 * side**3 / median / 1e12}


def compare(rig: Rig) -> Figures:
    """Five models compared against five naive pipelines, and five users against one (`scripts/measure_compare`)."""
    specs = tuple(rig.models())
    for name in rig.choose(("bf16", "fp32"), ("fp32",)):
        ours = measure_compare.ours(rig.pipeline, specs, name)
        naive = measure_compare.naive(specs, DTYPES[name], rig.device)
        yield name, spread(list(measure_compare.ratios(ours, naive, rig.choose(15, 1))))
        yield (
            f"{name}, ms",
            {
                kind: 1e3 * spread(_seconds(run, rig.choose(10, 2)))["median"]
                for kind, run in (("compared", ours), ("naive", naive))
            },
        )
    ours = measure_compare.ours(rig.pipeline, specs, rig.half)
    users = measure_compare.USERS
    yield (
        "users",
        spread(
            [
                measure_compare.throughput(ours, users) / measure_compare.throughput(ours, 1)
                for _ in range(rig.choose(3, 1))
            ]
        ),
    )


def _seconds(run: Any, rounds: int) -> list[float]:
    """Results are on the CPU when a run ends: nothing is to be waited for."""
    found = []
    for _ in range(rounds):
        photo = measure_compare.new_photo()
        start = time.perf_counter()
        run(photo)
        found.append(time.perf_counter() - start)
    return found


def methods(rig: Rig) -> Figures:
    """Milliseconds of each attribution method: on the device, and from pixels to the map in main memory."""
    with tempfile.TemporaryDirectory() as folder:
        base = rig.vit(Path(folder))
        for spec in [*rig.models(), base]:
            yield spec.name, {"dtype": rig.half, "ms": {name: _method(rig, spec, name) for name in spec.methods}}


def _method(rig: Rig, spec: ModelSpec, name: str) -> dict[str, float]:
    pixels = preprocess(rig.photos(1), spec.processor).pixel_values
    request = Capture(tokens=(0,)) if name == "attention" else Attribution(name)
    on_device: list[float] = []

    def run() -> None:
        on_device.append(rig.pipeline.backend.run(spec, pixels, request)[0].milliseconds)

    whole = rig.seconds(run, 15)
    return {"device": spread(on_device[-len(whole) :])["median"], "whole": 1e3 * spread(whole)["median"]}


def ratios(rig: Rig) -> Figures:
    """`vitdemo bench` of each embedded model, without memory."""
    specs = embedded_models() if not rig.tiny else tuple(rig.models())
    for spec in specs:
        yield spec.name, bench(spec, rig.settings, rig.choose(7, 1), "auto")
