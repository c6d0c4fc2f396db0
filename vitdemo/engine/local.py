"""The backend of one process: loads each model once, within a budget, and batches the jobs of waiting callers."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from vitdemo.engine.attribute import attribute, watching_features
from vitdemo.engine.backend import Request
from vitdemo.engine.devices import is_out_of_memory, memory_budget, pick_device, pick_dtype, short
from vitdemo.engine.left import stop_if_left
from vitdemo.engine.lens import read_off
from vitdemo.engine.model_cache import ModelCache
from vitdemo.engine.outputs import finite, split
from vitdemo.errors import TooLargeError
from vitdemo.models.attention_tap import AttentionRecord, record_attention
from vitdemo.models.interventions import first_difference, intervening
from vitdemo.models.loading import Classifier, load_model
from vitdemo.options.knockout import resolve_knockout
from vitdemo.settings import Settings
from vitdemo.types import Attribution, Capture, Knockout, Lens, ModelOutput, ModelSpec, Reconstruct

_Key = tuple[str, str, torch.dtype]
Result = TypeVar("Result")


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

    @property
    def forwards(self) -> int:
        return self._forwards

    def run(self, spec: ModelSpec, pixel_values: Tensor, request: Request, dtype: str = "auto") -> list[ModelOutput]:
        def work(queue: _ModelQueue) -> list[ModelOutput]:
            if isinstance(request, Capture):
                return self._batched(queue, pixel_values, request)
            if isinstance(request, Attribution):
                return self._attributed(queue, pixel_values, request)
            if isinstance(request, Lens):
                return self._read_off(queue, pixel_values, request)
            return self._reconstructed(queue, pixel_values, request)

        stop_if_left()
        if isinstance(request, Capture | Attribution) and request.knockouts:
            grid = spec.grid_of(pixel_values.shape[2], pixel_values.shape[3])
            request = replace(request, knockouts=tuple(resolve_knockout(one, spec, grid) for one in request.knockouts))
        return self._with_room(spec, dtype, work)

    def look(self, spec: ModelSpec, at: Callable[[Classifier], Result]) -> Result:
        with self._queue(spec, "auto", self.device) as queue:
            return at(queue.model)

    def loaded(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for cache in list(self._caches.values()):
            for (checkpoint, _, _), size in cache.held():
                found[checkpoint] = found.get(checkpoint, 0) + size
        return found

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
            return _ModelQueue(model, spec, device, chosen)

        size = spec.parameters * chosen.itemsize
        with self._cache_of(device).use((spec.checkpoint, spec.revision, chosen), size, load, spec.name) as queue:
            yield queue

    def _cache_of(self, device: torch.device) -> ModelCache[_Key, _ModelQueue]:
        with self._guard:
            if str(device) not in self._caches:
                self._caches[str(device)] = ModelCache(memory_budget(device, self._settings.memory_gb))
            return self._caches[str(device)]

    def _attributed(self, queue: _ModelQueue, pixel_values: Tensor, request: Attribution) -> list[ModelOutput]:
        pixels = pixel_values.to(queue.device, queue.dtype)
        grid = queue.spec.grid_of(pixels.shape[2], pixels.shape[3])
        with queue.turn, intervening(queue.model, grid, request.knockouts):
            (logits, maps, targets), milliseconds = self._timed(
                lambda: attribute(queue.model, pixels, request), queue.device
            )
        outputs = split(AttentionRecord(Capture()), [], logits, queue.spec, pixels, milliseconds / len(pixels))
        maps = finite(maps.float().cpu(), "maps", queue.spec, queue.dtype)
        return [
            replace(
                output,
                values=maps[index].view(output.patch_grid).clone(),
                target=None if targets is None else targets[index],
            )
            for index, output in enumerate(outputs)
        ]

    def _read_off(self, queue: _ModelQueue, pixel_values: Tensor, request: Lens) -> list[ModelOutput]:
        pixels = pixel_values.to(queue.device, queue.dtype)
        with queue.turn:
            (logits, readings, targets), milliseconds = self._timed(
                lambda: read_off(queue.model, pixels, request), queue.device
            )
        outputs = split(AttentionRecord(Capture()), [], logits, queue.spec, pixels, milliseconds / len(pixels))
        return [
            replace(output, readings=reading, target=target)
            for output, reading, target in zip(outputs, readings, targets, strict=True)
        ]

    def _reconstructed(self, queue: _ModelQueue, pixel_values: Tensor, request: Reconstruct) -> list[ModelOutput]:
        # Not in the model's dtype: what is visible comes back as it was.
        pixels = pixel_values.to(queue.device)
        with queue.turn, torch.no_grad():
            filled, milliseconds = self._timed(lambda: queue.model.reconstruct(pixels, request.hidden), queue.device)
        filled = finite(filled.cpu(), "pixels", queue.spec, queue.dtype)
        grid = (request.hidden.shape[1], request.hidden.shape[2])
        ran = ModelOutput(None, {}, grid, milliseconds / len(pixels), str(queue.device), short(queue.dtype))
        return [replace(ran, filled=image.clone()) for image in filled]

    def _batched(self, queue: _ModelQueue, pixel_values: Tensor, capture: Capture) -> list[ModelOutput]:
        own = capture.knockouts or (Knockout(),)
        own = own * len(pixel_values) if len(own) == 1 else own
        if len(pixel_values) not in (1, len(own)):
            raise ValueError(f"{len(own)} knock-outs for {len(pixel_values)} images")
        size, capture = self._settings.max_batch, replace(capture, knockouts=())
        jobs = [
            _Job(pixel_values[start : start + size] if len(pixel_values) > 1 else pixel_values, capture, part)
            for start in range(0, len(own), size)
            if (part := own[start : start + size])
        ]
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
            self._forward(queue, jobs)
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

    def _forward(self, queue: _ModelQueue, jobs: list[_Job]) -> None:
        pixels = torch.cat([job.pixel_values for job in jobs]).to(queue.device, queue.dtype)
        # Not `inference_mode`: transformers caches BEiT's position index for the process, and a model could never be trained with
        # an index made there.
        capture, knockouts = jobs[0].capture, [one for job in jobs for one in job.knockouts]
        grid = queue.spec.grid_of(pixels.shape[2], pixels.shape[3])
        # What is recorded of the layers that were run once would be of one image.
        fan_out = first_difference(knockouts) if jobs[0].fans_out and capture == Capture() else None
        images = pixels.expand(len(knockouts), -1, -1, -1)
        with (
            torch.no_grad(),
            intervening(queue.model, grid, knockouts, capture.shuffle, fan_out),
            record_attention(capture) as record,
            watching_features(queue.model, capture) as seen,
        ):
            given = images if fan_out is None else pixels
            logits, milliseconds = self._timed(lambda: queue.model(given), queue.device)
        outputs = split(record, seen, logits, queue.spec, images, milliseconds / len(images))
        for job in jobs:
            job.outputs, outputs = outputs[: len(job.knockouts)], outputs[len(job.knockouts) :]

    def _timed(self, forward: Callable[[], Result], device: torch.device) -> tuple[Result, float]:
        """The result of a forward pass, and its milliseconds."""
        with self._guard:
            self._forwards += 1
        _synchronise(device)
        start = time.perf_counter()
        result = forward()
        _synchronise(device)
        return result, (time.perf_counter() - start) * 1e3

    def _empty_cache(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
