"""How long a model's forward pass takes, alone and in a batch, and what it holds in memory."""

from __future__ import annotations

import statistics
import time
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vitdemo.evaluation.choose.features import BATCH
from vitdemo.models.loading import Classifier
from vitdemo.pipeline import Pipeline
from vitdemo.types import Capture, ModelOutput, ModelSpec

ALONE, BATCHED = 7, 3
"""Repetitions, the first of which does not count."""

LONGEST = 2.0
"""Seconds after which no repetition is begun."""


def milliseconds(pipeline: Pipeline, spec: ModelSpec, dtype: str) -> tuple[float, float, str, str]:
    """Of the forward pass of one photo alone, and per photo in a batch of `BATCH`: medians; and device and dtype."""
    pixels = torch.randn(BATCH, 3, *spec.image_size, generator=torch.Generator().manual_seed(0))
    alone = _passes(pipeline, spec, dtype, pixels[:1], ALONE)
    batched = _passes(pipeline, spec, dtype, pixels, BATCHED)
    first, second = (statistics.median(one.milliseconds for one in some) for some in (alone, batched))
    return first, second, batched[-1].device, batched[-1].dtype


def _passes(pipeline: Pipeline, spec: ModelSpec, dtype: str, pixels: Tensor, repetitions: int) -> list[ModelOutput]:
    found: list[ModelOutput] = []
    end = time.perf_counter() + LONGEST
    while len(found) < repetitions and (len(found) < 2 or time.perf_counter() < end):
        found.append(pipeline.backend.run(spec, pixels, Capture(), dtype)[-1])
    return found[1:]


def memory(pipeline: Pipeline, spec: ModelSpec) -> int | None:
    """Bytes of the weights and of the most that one photo's forward pass holds beside them; None where a GPU is borrowed."""
    return None if pipeline.backend.borrowed else pipeline.backend.look(spec, _held)


def _held(model: Classifier) -> int:
    weight = next(model.parameters())
    pixels = torch.zeros(1, 3, *model.spec.image_size, device=weight.device, dtype=weight.dtype)
    weights = sum(part.numel() * part.element_size() for part in (*model.parameters(), *model.buffers()))
    if weight.is_cuda:
        torch.cuda.reset_peak_memory_stats(weight.device)
        before = int(torch.cuda.memory_allocated(weight.device))
        with torch.no_grad():
            model(pixels)
        return weights + int(torch.cuda.max_memory_allocated(weight.device)) - before
    watch = _Watch()
    with torch.no_grad(), watch:
        model(pixels)
    return weights + watch.most


class _Watch(TorchDispatchMode):
    """The most bytes that results of operations hold at one moment; what an operation needs inside of itself is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._held: dict[int, tuple[weakref.ref[torch.UntypedStorage], int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = {one.untyped_storage().data_ptr() for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        for one in tree_leaves(result):
            # A view holds nothing of its own.
            if isinstance(one, Tensor) and one.untyped_storage().data_ptr() not in inputs:
                storage = one.untyped_storage()
                self._held[storage.data_ptr()] = weakref.ref(storage), storage.nbytes()
        self._held = {key: held for key, held in self._held.items() if held[0]() is not None}
        self.most = max(self.most, sum(size for _, size in self._held.values()))
        return result
