"""Steps: what users get (batches across users, Live), what transfers cost, and the attention tap under flash attention."""

from __future__ import annotations

import base64
import io
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image, ImageChops
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from scripts.gpu.rig import Rig, percentile, spread
from vitdemo.engine import LocalBackend
from vitdemo.engine.devices import DTYPES, sent
from vitdemo.evaluation.bench import implementation
from vitdemo.models.attention_tap import record_attention
from vitdemo.models.loading import load_model, size_options
from vitdemo.registry import get_spec
from vitdemo.settings import ASSETS
from vitdemo.types import Capture, ModelSpec

Figures = Iterator[tuple[str, Any]]
Span = tuple[float, float]
"""Start and end."""

ROWS = Capture(tokens=(0,))


def tap(rig: Rig) -> Figures:
    """Time and memory of class-token rows of all layers beside flash attention, and of eager attention with all matrices."""
    sizes = rig.choose(((16, False, 224, 64), (8, True, 480, 4)), ((8, True, 32, 2),))
    for patch, small, side, batch in sizes:
        with tempfile.TemporaryDirectory() as folder:
            spec = rig.vit(Path(folder), patch, small)
            model = load_model(spec, rig.device, DTYPES["bf16"]).requires_grad_(False)
        pixels = torch.randn(batch, 3, side, side, device=rig.device, dtype=DTYPES["bf16"])

        @torch.no_grad()
        def plain(model: Any = model, pixels: Any = pixels) -> None:
            with implementation(model, "sdpa"), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                model(pixels)

        @torch.no_grad()
        def recorded(request: Capture, model: Any = model, pixels: Any = pixels) -> None:
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION), record_attention(request):
                model(pixels)

        @torch.no_grad()
        def eager(model: Any = model, pixels: Any = pixels) -> None:
            with implementation(model, "eager"):
                model.body(pixels, **size_options(model.network, pixels), output_attentions=True)

        runs: dict[str, Callable[[], None]] = {
            "rows of the class token": lambda: recorded(ROWS),
            "queries and keys": lambda: recorded(Capture(queries=True)),
            "eager, all matrices": eager,
        }
        name = f"ViT-{'S' if small else 'B'}/{patch}, {side} px, batch {batch}"
        figures: dict[str, Any] = {
            "plain": {"ms": 1e3 * spread(rig.seconds(plain, 10))["median"], "mb": rig.peak_mb(plain)}
        }
        for variant, run in runs.items():
            figures[variant] = {"ratio": _paired(rig, run, plain), "mb": rig.peak_mb(run)}
        yield name, figures


def _paired(rig: Rig, first: Callable[[], None], second: Callable[[], None]) -> dict[str, float]:
    """Quartiles of the ratio of two runs that take turns."""
    found = []
    for number in range(rig.choose(11, 2)):
        runs = (first, second) if number % 2 else (second, first)
        times = {run: spread(rig.seconds(run, 3, warm=1))["median"] for run in runs}
        found.append(times[first] / times[second])
    return spread(found)


def users(rig: Rig) -> Figures:
    """Images per second of 1, 5 and 20 users that each wait for their answer, and how many share a forward pass."""
    with tempfile.TemporaryDirectory() as folder:
        for spec in (get_spec("vit-mini"), rig.vit(Path(folder))):
            backend = rig.backend()
            backend.run(spec, torch.zeros(1, 3, *spec.image_size), ROWS)
            for number in rig.choose((1, 5, 20), (1, 3)):
                yield f"{spec.name}, {number}", _served(backend, spec, number, rig.choose(40, 2))


def _served(backend: LocalBackend, spec: ModelSpec, users: int, each: int) -> dict[str, float]:
    before, start = backend.forwards, time.perf_counter()
    took = _users(lambda: backend.run(spec, torch.randn(1, 3, *spec.image_size), ROWS), users, each)
    seconds = time.perf_counter() - start
    return {
        "images per second": len(took) / seconds,
        "images per forward pass": len(took) / (backend.forwards - before),
        "p50 ms": percentile(took, 0.5),
        "p95 ms": percentile(took, 0.95),
    }


def _users(act: Callable[[], Any], number: int, each: int) -> list[float]:
    """Milliseconds of each act of so many threads."""
    took: list[float] = []
    start = threading.Barrier(number)

    def live() -> None:
        start.wait()
        for _ in range(each):
            begun = time.perf_counter()
            act()
            took.append(1e3 * (time.perf_counter() - begun))

    threads = [threading.Thread(target=live) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(took) < number * each:
        raise RuntimeError(f"{number * each - len(took)} of {number * each} jobs have no answer.")
    return took


def transfers(rig: Rig) -> Figures:
    """Copies to the device and back: how fast, how long beside the forward passes of eight users, and how much of it overlaps."""
    pixels = torch.randn(rig.choose(64, 2), 3, 224, 224)
    size = pixels.numel() * 2 / 1e9
    plain = spread(rig.seconds(lambda: pixels.to(rig.device, torch.bfloat16), 10))["median"]
    own = spread(rig.seconds(lambda: sent(pixels, rig.device, torch.bfloat16), 10))["median"]
    yield "copy", {"plain GB/s": size / plain, "sent GB/s": size / own, "mb": 1e3 * size}
    with tempfile.TemporaryDirectory() as folder:
        spec = rig.vit(Path(folder))
        backend = rig.backend()
        for name, request in (("rows", ROWS), ("queries", Capture(tokens=(0,), queries=True))):
            job = partial(backend.run, spec, torch.randn(8, 3, *spec.image_size), request)
            job()
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if rig.cuda else [])]
            with profile(activities=activities) as seen:
                start = time.perf_counter()
                _users(job, rig.choose(8, 2), rig.choose(5, 1))
                whole = 1e3 * (time.perf_counter() - start)
            yield name, {"whole ms": whole, **_spans(seen)}


def _spans(seen: Any) -> dict[str, float]:
    """Milliseconds of the device's copies and kernels in a profile, each counted once where several run."""
    kernels, up, down = [], [], []
    for event in seen.events():
        if not str(event.device_type).endswith("CUDA"):
            continue
        span = (event.time_range.start, event.time_range.end)
        name = event.name.lower()
        (up if "memcpy htod" in name else down if "memcpy dtoh" in name else kernels).append(span)
    return {
        "kernels ms": length(kernels) / 1e3,
        "to the device ms": length(up) / 1e3,
        "of which beside kernels ms": shared(up, kernels) / 1e3,
        "from the device ms": length(down) / 1e3,
    }


def union(spans: Sequence[Span]) -> list[Span]:
    """The same time in spans that do not meet, in order.

    >>> union([(4, 6), (0, 2), (1, 3)])
    [(0, 3), (4, 6)]
    """
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def length(spans: Sequence[Span]) -> float:
    """Of all of them together."""
    return sum(end - start for start, end in union(spans))


def shared(first: Sequence[Span], second: Sequence[Span]) -> float:
    """How long at least one of each runs.

    >>> shared([(0, 4)], [(1, 2), (3, 9)])
    2
    """
    return length(first) + length(second) - length([*first, *second])


def live(rig: Rig) -> Figures:
    """Frames per second and latency of one and of four cameras that send a frame when the last one is answered.

    From a JPEG as the browser sends it to the answer that it gets back; browser and network are not in it.
    """
    import gradio as gr

    from vitdemo.ui.live import PLACES, LiveTab

    frames = camera(rig.choose(30, 3))
    for spec in rig.models():
        with gr.Blocks():
            tab = LiveTab(rig.pipeline, spec.name)
        for cameras in (1, PLACES):
            yield f"{spec.name}, {cameras}", _watched(tab.on_frame, spec.name, frames, cameras, rig.choose(100, 2))


def _watched(
    answer: Callable[..., dict[str, Any]], name: str, frames: list[str], cameras: int, each: int
) -> dict[str, float]:
    turn, in_model = count(), []

    def frame() -> None:
        number = next(turn)
        found = answer(name, SimpleNamespace(image=frames[number % len(frames)], number=number))
        if "error" in found:
            raise RuntimeError(found["error"])
        in_model.append(found["ms"])

    frame()
    start = time.perf_counter()
    took = _users(frame, cameras, each)
    seconds = time.perf_counter() - start
    return {
        "frames per second": len(took) / seconds,
        "p50 ms": percentile(took, 0.5),
        "p95 ms": percentile(took, 0.95),
        "model p50 ms": percentile(in_model, 0.5),
    }


def camera(number: int) -> list[str]:
    """Frames of 640 x 480 px as JPEG data URLs, no two alike: an example that moves."""
    with Image.open(ASSETS / "examples" / "sunflower.jpg") as picture:
        still = picture.convert("RGB").resize((640, 480))
    found = []
    for place in range(number):
        buffer = io.BytesIO()
        ImageChops.offset(still, 7 * place, 0).save(buffer, "JPEG", quality=80)
        found.append(f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}")
    return found
