"""The newest results, within a budget of memory: what models answered, never a photo."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from vitdemo.types import ModelOutput


class Remembered:
    """Values under keys; those unused for longest are forgotten."""

    def __init__(self, limit: int) -> None:
        self._limit, self._used = limit, 0
        self._values: OrderedDict[Any, tuple[Any, int]] = OrderedDict()
        self._guard = threading.Lock()

    def get(self, key: Any) -> Any:
        with self._guard:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Any, value: Any, size: int) -> None:
        with self._guard:
            self._used += size - self._values.pop(key, (None, 0))[1]
            self._values[key] = (value, size)
            while self._used > self._limit:
                self._used -= self._values.popitem(last=False)[1][1]


def bytes_of(output: ModelOutput) -> int:
    """What an answer takes in memory, its small parts counted roughly."""
    tensors = [output.logits, output.values, *output.rows.values()]
    tensors += [part for layer in output.queries for part in (layer.query, layer.key, layer.mask)]
    tensors += [] if output.features is None else [output.features.values, output.features.norms, output.features.keys]
    return 2000 + sum(tensor.nbytes for tensor in tensors if tensor is not None)
