"""A cache within a budget of memory, and the size of what a model answers."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from vitdemo.types import ModelOutput


class LRUCache:
    """Values by key, within `limit` bytes; the least recently used ones leave first. Safe to use from many threads."""

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
        """Keep a value of `size` bytes; one larger than the limit is not kept."""
        with self._guard:
            self._used += size - self._values.pop(key, (None, 0))[1]
            self._values[key] = (value, size)
            while self._used > self._limit:
                self._used -= self._values.popitem(last=False)[1][1]

    def discard(self, unwanted: Callable[[Any], bool]) -> None:
        """Forget the values of some keys."""
        with self._guard:
            for key in [key for key in self._values if unwanted(key)]:
                self._used -= self._values.pop(key)[1]


def bytes_of(output: ModelOutput) -> int:
    """What an output takes in memory, its small parts counted roughly."""
    tensors = [output.logits, output.values, *output.rows.values()]
    tensors += [part for layer in output.queries for part in (layer.query, layer.key, layer.mask)]
    tensors += [] if output.features is None else [output.features.values, output.features.norms, output.features.keys]
    return 2000 + sum(tensor.nbytes for tensor in tensors if tensor is not None)
