"""What was run, in numbers, by model: jobs, batches, loads, evictions, milliseconds."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

SUMS = ("jobs", "under_way", "forwards", "milliseconds", "loads", "evictions", "batches")
"""What is counted: jobs that were accepted, and those of them that wait or run now; forward passes, and their milliseconds;
models that were loaded and evicted. Only `batches` is not by model: it is by the number of images that shared a pass."""

Shown = Mapping[str, Mapping[str, float]]
"""By what is counted, then by the model's name, or by the size of a batch."""


class Counts:
    """Sums since the start. Safe to use from many threads."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, float]] = {name: {} for name in SUMS}
        self._guard = threading.Lock()

    def add(self, model: str, **values: float) -> None:
        """To what is counted of a model, by the names in `SUMS`."""
        with self._guard:
            for name, value in values.items():
                self._sums[name][model] = self._sums[name].get(model, 0) + value

    def forward(self, model: str, images: int, milliseconds: float) -> None:
        """One forward pass."""
        self.add(model, forwards=1, milliseconds=milliseconds)
        self.add(str(images), batches=1)

    @contextmanager
    def job(self, model: str) -> Iterator[None]:
        """A job, for as long as it waits and runs."""
        self.add(model, jobs=1, under_way=1)
        try:
            yield
        finally:
            self.add(model, under_way=-1)

    def shown(self) -> dict[str, dict[str, float]]:
        with self._guard:
            return {name: dict(values) for name, values in self._sums.items()}


def added(several: Iterable[Shown]) -> dict[str, dict[str, float]]:
    """The sums of several: of replicas.

    >>> added([{"jobs": {"a": 1}}, {"jobs": {"a": 2, "b": 1}}])["jobs"]
    {'a': 3, 'b': 1}
    """
    found: dict[str, dict[str, float]] = {name: {} for name in SUMS}
    for one in several:
        for name, values in one.items():
            for model, value in values.items():
                found[name][model] = found[name].get(model, 0) + value
    return found
