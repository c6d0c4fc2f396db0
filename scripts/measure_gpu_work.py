"""What attribution methods cost, in floating-point operations: the table in `vitdemo/engine/gpu_time.py`.

`python -m scripts.measure_gpu_work` counts them on the CPU, which gives the same numbers anywhere, and prints for each method and
bracket of patches the largest multiple of 2 x parameters x patches among the models, and at fewer patches.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import accumulate

import torch
from torch.utils.flop_counter import FlopCounterMode

from vitdemo.engine.backend import Request
from vitdemo.engine.forward import forward
from vitdemo.engine.gpu_time import BRACKETS
from vitdemo.models.loading import load_model
from vitdemo.pipeline.prepare import MAX_GRADIENT_TOKENS
from vitdemo.registry import get_spec
from vitdemo.types import Attribution, Capture, ModelSpec

MODELS = ("vit-mini", "beit-mini", "cnn-mini")
EVERYTHING = Capture(tokens=(0,), mean=True, queries=True, features=True)


def requests(spec: ModelSpec, patches: int) -> Iterator[tuple[str, Request]]:
    """What may be asked of a model at a resolution."""
    yield "attention", EVERYTHING if spec.readouts else Capture()
    for method in spec.methods:
        light = method == "similarity" or (method == "rollout" and spec.model_type != "beit")
        if method != "attention" and (light or patches <= MAX_GRADIENT_TOKENS):
            yield method, Attribution(method)


def measured(names: tuple[str, ...] = MODELS, brackets: tuple[int, ...] = BRACKETS) -> dict[str, list[float]]:
    """By method, for each bracket, the largest multiple; 0 where no model takes so many patches."""
    found: dict[str, list[float]] = {}
    for spec in map(get_spec, names):
        model = load_model(spec, torch.device("cpu"), torch.float32).requires_grad_(False)
        # So many patches take minutes on a CPU; one model shows how the share of attention grows.
        for index, most in enumerate(brackets if spec.name == names[0] else brackets[:2]):
            side = int(most**0.5) * spec.patch_size
            rows, columns = spec.grid_of(side, side)
            for method, request in requests(spec, rows * columns):
                with FlopCounterMode(display=False) as counter:
                    forward(model, spec, torch.zeros(1, 3, side, side), request, torch.device("cpu"), torch.float32)
                multiple = counter.get_total_flops() / (2 * spec.parameters * rows * columns)
                row = found.setdefault(method if spec.readouts else "convolution", [0.0] * len(brackets))
                row[index] = max(row[index], multiple)
    return found


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(f"patches up to: {BRACKETS}")
    for method, multiples in measured().items():
        print(f'    "{method}": ({", ".join(f"{value:.1f}" for value in accumulate(multiples, max))}),')


if __name__ == "__main__":
    main()
