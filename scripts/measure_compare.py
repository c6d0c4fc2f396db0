"""What comparing five models costs: `python -m scripts.measure_compare [ROUNDS]`.

Prints two ratios, each of runs that take turns in one process. The first is that of comparing the default models on a photo that
is new to the program to what a notebook does for each of them: open the file, run the processor, run the model with eager
attention and `output_attentions=True`. The second is the throughput of five users, each with photos of their own, to that of one.
"""

from __future__ import annotations

import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count

import numpy as np
import torch
import transformers
from PIL import Image

from vitdemo.engine.devices import pick_device
from vitdemo.models.loading import load_model, size_options
from vitdemo.pipeline import Pipeline
from vitdemo.registry import default_models
from vitdemo.settings import ASSETS, Settings
from vitdemo.types import Capture, ModelSpec

USERS, EACH = 5, 4
"""Users at once, and the photos that each of them compares."""

_number = count()


def new_photo() -> bytes:
    """A JPEG file that no cache knows: an example of 1,024 px with one other pixel."""
    paths = sorted((ASSETS / "examples").glob("*.jpg"))
    path = paths[next(_number) % len(paths)]
    with Image.open(path) as image:
        pixels = np.array(image.convert("RGB").resize((1024, 768)))
    pixels[0, 0] = np.frombuffer(next(_number).to_bytes(3, "big"), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def naive(specs: tuple[ModelSpec, ...], dtype: torch.dtype, device: torch.device) -> Callable[[bytes], None]:
    """What a notebook does, model by model; the hybrid, which transformers 5 has no class for, is this project's, run eagerly."""
    models = [load_model(spec, device, dtype) for spec in specs]
    processors = [transformers.ViTImageProcessorPil.from_pretrained(spec.checkpoint) for spec in specs]
    for model in models:
        model.network.base_model.config._attn_implementation = "eager"

    @torch.no_grad()
    def run(data: bytes) -> None:
        for model, processor in zip(models, processors, strict=True):
            image = Image.open(io.BytesIO(data)).convert("RGB")
            pixels = processor(image, return_tensors="pt")["pixel_values"].to(device, dtype)
            found = model.body(pixels, **size_options(model.network, pixels), output_attentions=True)
            logits = found.logits if model.probe is None else model.probe(model.pooled(found))
            assert found.attentions
            # As a list: on a GPU, nothing is done before somebody reads it.
            logits.float().softmax(-1).topk(5).indices.tolist()

    return run


def ours(pipeline: Pipeline, specs: tuple[ModelSpec, ...], dtype: str) -> Callable[[bytes], None]:
    """What the page does."""

    def run(data: bytes) -> None:
        pipeline.compare(pipeline.open(data), list(specs), capture=Capture(queries=True), dtype=dtype)

    return run


def main(rounds: str = "15") -> None:
    settings = Settings()
    pipeline, specs = Pipeline(settings), default_models(settings)
    device = pick_device(settings.device)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        found = list(ratios(ours(pipeline, specs, name), naive(specs, dtype, device), int(rounds)))
        print(f"five models compared / five naive runs, {name}: {_quartiles(found)}")
    run = ours(pipeline, specs, "fp32")
    found = [throughput(run, USERS) / throughput(run, 1) for _ in range(max(3, int(rounds) // 3))]
    print(f"throughput of {USERS} users / of one: {_quartiles(found)}")


def ratios(first: Callable[[bytes], None], second: Callable[[bytes], None], rounds: int) -> Iterator[float]:
    """Time of the one over that of the other, of runs that take turns on photos that are new to both."""

    def seconds(run: Callable[[bytes], None]) -> float:
        photos = [new_photo() for _ in range(3)]
        start = time.perf_counter()
        for photo in photos:
            run(photo)
        return time.perf_counter() - start

    seconds(first), seconds(second)
    for index in range(rounds):
        if index % 2:
            below, above = seconds(second), seconds(first)
        else:
            above, below = seconds(first), seconds(second)
        yield above / below


def throughput(run: Callable[[bytes], None], users: int) -> float:
    """Photos a second."""
    photos = [[new_photo() for _ in range(EACH)] for _ in range(users)]
    start = threading.Barrier(users + 1)

    def use(own: list[bytes]) -> None:
        start.wait()
        for photo in own:
            run(photo)

    threads = [threading.Thread(target=use, args=(own,)) for own in photos]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return users * EACH / (time.perf_counter() - began)


def _quartiles(values: list[float]) -> str:
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:.2f} ({low:.2f} to {high:.2f}, {len(values)} rounds)"


if __name__ == "__main__":
    main(*sys.argv[1:])
