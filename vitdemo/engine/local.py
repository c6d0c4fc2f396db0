"""The backend of one process: loads each model once, within a budget, and batches the jobs of waiting callers."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from vitdemo.engine.backend import ModelRun, Request
from vitdemo.engine.counts import Counts
from vitdemo.engine.devices import is_out_of_memory, memory_budget, pick_device, pick_dtype, sent
from vitdemo.engine.forward import forward
from vitdemo.engine.knockouts import batches, resolved
from vitdemo.engine.left import stop_if_left
from vitdemo.engine.model_cache import ModelCache
from vitdemo.errors import TooLargeError
from vitdemo.models.loading import Classifier, load_model
from vitdemo.settings import Settings
from vitdemo.types import Capture, Knockout, ModelOutput, ModelSpec

_Key = tuple[str, str, torch.dtype]
Seen = TypeVar("Seen")


@dataclass
class _Job:
    pixel_values: Tensor
    capture: Capture
    """Without knock-outs: images that share a forward pass have their own."""
    knockouts: tuple[Knockout, ...]
    """One for each image, or several for one."""
    done: threading.Event = field(default_factory=threading.Event)
    outputs: list[ModelOutput] = field(default_factory=list)
    error: BaseException | None = None

    @property
    def fans_out(self) -> bool:
        return len(self.knockouts) > len(self.pixel_values)


class _ModelQueue:
    """One loaded model and the jobs that wait for it."""

    def __init__(self, model: Classifier, spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> None:
        self.model, self.spec, self.device, self.dtype = model, spec, device, dtype
        self.turn = threading.Lock()
        self.waiting: list[_Job] = []
        self.guard = threading.Lock()

    def take(self, limit: int) -> list[_Job]:
        """The oldest waiting job, and the jobs like it that fit into the same batch."""
        with self.guard:
            if not self.waiting:
                return []
            first = self.waiting[0]
            batch, rest, images = [], [], 0
            for job in self.waiting:
                alike = job.capture == first.capture and job.pixel_values.shape[1:] == first.pixel_values.shape[1:]
                alike = alike and not (job.fans_out or first.fans_out)
                if job is first or (alike and images + len(job.pixel_values) <= limit):
                    batch.append(job)
                    images += len(job.pixel_values)
                else:
                    rest.append(job)
            self.waiting = rest
            return batch


class LocalBackend:
    """Runs models in this process.

    There are no worker threads. A caller puts its job into the model's queue and waits for its turn; whoever has the turn runs
    all jobs like the oldest one in a single forward pass. A job that fails in a batch is run again alone, so that one caller's
    image never spoils another's. Where a GPU is out of memory, idle models are unloaded and the job is tried again; if that
    does not help, it runs on the CPU, with a note.
    """

    def __init__(self, settings: Settings, load: Callable[..., Classifier] = load_model) -> None:
        self.device = pick_device(settings.device)
        self._settings = settings
        self._load = load
        self._caches: dict[str, ModelCache[_Key, _ModelQueue]] = {}
        self._guard = threading.Lock()
        self._forwards = 0
        self.counts = Counts()

    @property
    def where(self) -> str:
        if self.device.type == "cuda":
            return f"CUDA ({torch.cuda.get_device_name(self.device)})"
        return self.device.type.upper()

    @property
    def borrowed(self) -> bool:
        return False

    @property
    def forwards(self) -> int:
        return self._forwards

    def run(self, spec: ModelSpec, pixel_values: Tensor, request: Request, dtype: str = "auto") -> list[ModelOutput]:
        def work(queue: _ModelQueue) -> list[ModelOutput]:
            if isinstance(request, Capture):
                return self._batched(queue, pixel_values, request)
            with queue.turn:
                return self._forward(queue, pixel_values, request)

        stop_if_left()
        request = resolved(request, spec, pixel_values)
        with self.counts.job(spec.name):
            return self._with_room(spec, dtype, work)

    def run_many(self, runs: Sequence[ModelRun]) -> list[list[ModelOutput]]:
        # One after the other: each takes what cores there are.
        return [self.run(one.spec, one.pixel_values, one.request, one.dtype) for one in runs]

    def look(self, spec: ModelSpec, at: Callable[[Classifier], Seen]) -> Seen:
        with self._queue(spec, "auto", self.device) as queue:
            return at(queue.model)

    def loaded(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for cache in list(self._caches.values()):
            for (checkpoint, _, _), size in cache.held():
                found[checkpoint] = found.get(checkpoint, 0) + size
        return found

    def holds(self) -> int:
        """How many parameters all models together may have on the device, in the precision of small ones."""
        chosen = pick_dtype(self._settings.dtype, self.device, 0)
        return self._cache_of(self.device).budget // chosen.itemsize

    def unload(self, spec: ModelSpec) -> None:
        for cache in list(self._caches.values()):
            cache.evict(lambda key: key[0] == spec.checkpoint)
        self._empty_cache()

    def _with_room(
        self, spec: ModelSpec, dtype: str, work: Callable[[_ModelQueue], list[ModelOutput]]
    ) -> list[ModelOutput]:
        """Twice on the device, the second time after idle models were unloaded; then on the CPU."""
        devices = [self.device] if self.device.type == "cpu" else [self.device, torch.device("cpu")]
        notes: tuple[str, ...] = ()
        for device in devices:
            for _ in range(2):
                try:
                    found = self._once(spec, dtype, device, work)
                    return [replace(output, notes=notes) for output in found] if notes else found
                except TooLargeError:
                    if device is devices[-1]:
                        raise
                    break
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                # Not in the handler: there, the error would still hold the tensors of the failed pass.
                self._cache_of(device).evict()
                self._empty_cache()
            notes = (f"The memory of {device} was too full: this ran on the CPU.",)
        raise TooLargeError(
            f"There is not enough free memory to run {spec.name} on this picture. Choose a smaller model or resolution."
        )

    def _once(
        self, spec: ModelSpec, dtype: str, device: torch.device, work: Callable[[_ModelQueue], list[ModelOutput]]
    ) -> list[ModelOutput]:
        # A function of its own, so that nothing of a failed attempt stays in memory during the next one.
        with self._queue(spec, dtype, device) as queue:
            return work(queue)

    @contextmanager
    def _queue(self, spec: ModelSpec, dtype: str, device: torch.device) -> Iterator[_ModelQueue]:
        chosen = pick_dtype(dtype if dtype != "auto" else self._settings.dtype, device, spec.parameters)

        def load() -> _ModelQueue:
            # Gradients are taken with respect to attention and pixels, never to weights.
            model = self._load(spec, device, chosen).requires_grad_(False)
            # The first forward pass of a process is slow for reasons that are not the model's.
            with torch.no_grad():
                model(torch.zeros(1, 3, *spec.image_size, device=device, dtype=chosen))
            self.counts.add(spec.name, loads=1)
            return _ModelQueue(model, spec, device, chosen)

        size = spec.parameters * chosen.itemsize
        with self._cache_of(device).use((spec.checkpoint, spec.revision, chosen), size, load, spec.name) as queue:
            yield queue

    def _cache_of(self, device: torch.device) -> ModelCache[_Key, _ModelQueue]:
        with self._guard:
            if str(device) not in self._caches:
                budget = memory_budget(device, self._settings.memory_gb)
                self._caches[str(device)] = ModelCache(
                    budget, lambda queue: self.counts.add(queue.spec.name, evictions=1)
                )
            return self._caches[str(device)]

    def _batched(self, queue: _ModelQueue, pixel_values: Tensor, capture: Capture) -> list[ModelOutput]:
        parts = batches(pixel_values, capture, self._settings.max_batch)
        jobs = [_Job(pixels, replace(capture, knockouts=()), own) for pixels, own in parts]
        # Before its turn, beside the forward pass of whoever has it; the later parts, of which there may be many, only then.
        for job in jobs[:1]:
            job.pixel_values = sent(job.pixel_values, queue.device, queue.dtype)
        with queue.guard:
            queue.waiting += jobs
        for job in jobs:
            while not job.done.is_set():
                with queue.turn:
                    if not job.done.is_set():
                        self._serve(queue, queue.take(self._settings.max_batch))
        for job in jobs:
            if job.error is not None:
                raise job.error
        return [output for job in jobs for output in job.outputs]

    def _serve(self, queue: _ModelQueue, jobs: list[_Job]) -> None:
        failed: BaseException | None = None
        try:
            self._share(queue, jobs)
        except BaseException as error:
            # Without the frames of the forward pass, which hold its tensors.
            failed = error.with_traceback(None) if is_out_of_memory(error) else error
        if failed is not None and len(jobs) > 1:
            for job in jobs:
                self._serve(queue, [job])
            return
        for job in jobs:
            job.error = failed
            job.done.set()

    def _share(self, queue: _ModelQueue, jobs: list[_Job]) -> None:
        own = tuple(one for job in jobs for one in job.knockouts)
        capture = replace(jobs[0].capture, knockouts=own if any(own) else ())
        pixels = torch.cat([sent(job.pixel_values, queue.device, queue.dtype) for job in jobs])
        outputs = self._forward(queue, pixels, capture)
        for job in jobs:
            job.outputs, outputs = outputs[: len(job.knockouts)], outputs[len(job.knockouts) :]

    def _forward(self, queue: _ModelQueue, pixel_values: Tensor, request: Request) -> list[ModelOutput]:
        with self._guard:
            self._forwards += 1
        found = forward(queue.model, queue.spec, pixel_values, request, queue.device, queue.dtype)
        self.counts.forward(queue.spec.name, len(found), sum(one.milliseconds for one in found))
        return found

    def _empty_cache(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
