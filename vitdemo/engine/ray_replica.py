"""A replica of the model service: a local backend in a process of its own, behind Ray Serve.

Bytes come in and go out, see `vitdemo.engine.wire`: the page's bridge to the cluster hands them on without torch. Errors are
answers, since Ray would wrap them. Whoever may call a replica may run code in it, as anyone in a Ray cluster may.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from vitdemo.cluster.placement import Report
from vitdemo.engine.left import stop_if_left, working_for
from vitdemo.engine.local import LocalBackend
from vitdemo.engine.wire import pack, unpack
from vitdemo.errors import CheckpointError, EngineError, ServiceError, VitDemoError
from vitdemo.registry import get_spec, obtain
from vitdemo.settings import VERSION, Settings
from vitdemo.types import ModelSpec

logger = logging.getLogger("vitdemo")

Result = TypeVar("Result")

Answer = tuple[list[bytes], Report]
"""One packed answer for each piece of work, up to the first error; and what the replica tells of itself."""


class Replica:
    """What Ray Serve runs.

    Args:
        places: jobs that it takes at once: each waits in a thread of its own, so that jobs of one model share a forward pass.
        cores: threads of torch; None leaves their number to torch.
    """

    def __init__(self, settings: Settings, places: int, cores: int | None = None) -> None:
        from ray import serve

        if cores:
            torch.set_num_threads(cores)
        self._settings = settings
        self._id = serve.get_replica_context().replica_id.unique_id
        self._backend = LocalBackend(settings)
        self._threads = ThreadPoolExecutor(places, "job")
        self._asked: dict[str, str] = {}
        """Checkpoints as the page calls them, by what they are called here."""
        self._since: dict[int, float] = {}
        """When each job under way began."""
        self._ray_counts = RayCounts(self._id)

    async def run(self, version: str, works: Sequence[bytes], pixels: Sequence[bytes], replica: str = "") -> Answer:
        """Forward passes, one after the other, until one fails.

        Args:
            works: each a packed spec, request, dtype, and which of the pixels it is for.
            replica: for the router.
        """

        def work(packed: bytes) -> Any:
            spec, request, dtype, which = unpack(packed)
            return self._backend.run(self._here(spec), unpack(pixels[which]), request, dtype)

        return await self._in_thread(version, works, work)

    async def look(
        self, version: str, works: Sequence[bytes], pixels: Sequence[bytes] = (), replica: str = ""
    ) -> Answer:
        """What packed functions of models return, of models that are packed with them."""

        def look(packed: bytes) -> Any:
            spec, at = unpack(packed)
            return self._backend.look(self._here(spec), at)

        return await self._in_thread(version, works, look)

    async def unload(self, packed: bytes) -> Report:
        self._backend.unload(unpack(packed))
        return self._report()

    async def tell(self) -> Report:
        return self._report()

    def check_health(self) -> None:
        """Raises RuntimeError where a job hangs: Serve then replaces the replica."""
        limit = time.monotonic() - 2 * self._settings.ray_timeout
        if any(since < limit for since in list(self._since.values())):
            raise RuntimeError("A job takes more than twice as long as it may.")

    async def _in_thread(self, version: str, works: Sequence[bytes], work: Callable[[bytes], Any]) -> Answer:
        if version != VERSION:
            return [
                pack(ServiceError(f"The model service runs vitdemo {VERSION}, and this is {version}. Use one version."))
            ], (self._report())
        left = threading.Event()

        def one_after_the_other() -> list[bytes]:
            key = threading.get_ident()
            self._since[key] = time.monotonic()
            answers: list[bytes] = []
            try:
                with working_for(left.is_set):
                    for packed in works:
                        answer = _answer(work, packed)
                        answers.append(pack(answer))
                        if isinstance(answer, VitDemoError):
                            break
            finally:
                del self._since[key]
            return answers

        try:
            answers = await asyncio.get_running_loop().run_in_executor(self._threads, one_after_the_other)
        except asyncio.CancelledError:
            left.set()
            raise
        return answers, self._report()

    def _here(self, spec: ModelSpec) -> ModelSpec:
        """The model as it lies on this machine, which need not be the page's.

        Raises:
            CheckpointError: it is in a folder of the page's machine.
            DownloadError: it is not in the Hub's cache here, and cannot be fetched.
        """
        if Path(spec.checkpoint).is_dir():
            return spec
        if spec.source == "local":
            raise CheckpointError(
                f"{spec.name} is in a folder that the replicas do not see. Put it where every machine of the cluster finds it."
            )
        found = get_spec(spec.name) if spec.source == "embedded" else obtain(spec.name)
        self._asked[found.checkpoint] = spec.checkpoint
        return replace(spec, checkpoint=found.checkpoint)

    def _report(self) -> Report:
        loaded = {self._asked.get(one, one): size for one, size in self._backend.loaded().items()}
        counts = self._backend.counts.shown()
        self._ray_counts.follow(counts)
        return Report(
            replica=self._id,
            pid=os.getpid(),
            version=VERSION,
            where=self._backend.where,
            holds=self._backend.holds(),
            loaded=loaded,
            forwards=self._backend.forwards,
            counts=counts,
        )


def _answer(work: Callable[[bytes], Any], packed: bytes) -> Any:
    try:
        stop_if_left()
        return work(packed)
    except VitDemoError as error:
        return error
    except Exception:
        logger.exception("A job of a replica failed")
        return EngineError(
            "Something went wrong on a replica of the model service. It was logged there; please try again."
        )


class RayCounts:
    """The counts as metrics of Ray, beside Serve's own (requests, latency, queue)."""

    def __init__(self, replica: str) -> None:
        from ray.util.metrics import Counter

        tags = {"replica": replica}
        self._known: dict[tuple[str, str], float] = {}
        self._counters = {
            name: Counter(f"vitdemo_{name}", text, tag_keys=("model", "replica"))
            for name, text in (
                ("jobs", "Jobs that were accepted"),
                ("forwards", "Forward passes"),
                ("milliseconds", "Milliseconds in forward passes"),
                ("loads", "Models that were loaded"),
                ("evictions", "Models that were evicted"),
            )
        }
        for counter in self._counters.values():
            counter.set_default_tags(tags)
        self._guard = threading.Lock()

    def follow(self, counts: dict[str, dict[str, float]]) -> None:
        with self._guard:
            for name, counter in self._counters.items():
                for model, value in counts[name].items():
                    if (more := value - self._known.get((name, model), 0)) > 0:
                        counter.inc(more, {"model": model})
                        self._known[name, model] = value
