"""The backend of one process: picks device and dtype, loads each model once, and lets waiting callers share a forward."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vitdemo.capture import AttentionRecord, record_attention
from vitdemo.errors import InvalidScoresError, OptionError
from vitdemo.loading import Classifier, load_model
from vitdemo.settings import Settings
from vitdemo.types import Capture, ModelOutput, ModelSpec

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

LARGE = 50_000_000
"""Parameters from which bf16 pays on a CPU that has it."""


@dataclass
class _Job:
    pixel_values: Tensor
    capture: Capture
    done: threading.Event = field(default_factory=threading.Event)
    outputs: list[ModelOutput] = field(default_factory=list)
    error: BaseException | None = None


class _Lane:
    """One loaded model and the jobs that wait for it."""

    def __init__(self, model: Classifier, spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> None:
        self.model, self.spec, self.device, self.dtype = model, spec, device, dtype
        self.turn = threading.Lock()
        self.waiting: list[_Job] = []
        self.guard = threading.Lock()

    def take(self, limit: int) -> list[_Job]:
        """The oldest waiting job, and those like it that fit into the same batch."""
        with self.guard:
            if not self.waiting:
                return []
            first = self.waiting[0]
            batch, rest, pictures = [], [], 0
            for job in self.waiting:
                alike = job.capture == first.capture and job.pixel_values.shape[1:] == first.pixel_values.shape[1:]
                if job is first or (alike and pictures + len(job.pixel_values) <= limit):
                    batch.append(job)
                    pictures += len(job.pixel_values)
                else:
                    rest.append(job)
            self.waiting = rest
            return batch


class LocalBackend:
    """Runs models in this process.

    There are no worker threads. A caller puts its job into the lane of the model and waits for its turn there; whoever has the
    turn runs every job that is like the oldest one in a single forward. A job that fails beside others is run again alone, so
    that one caller's picture never spoils another's.
    """

    def __init__(self, settings: Settings, load: Callable[..., Classifier] = load_model) -> None:
        self.device = pick_device(settings.device)
        self._default_dtype = settings.dtype
        self._max_batch = settings.max_batch
        self._load = load
        self._lanes: dict[tuple[str, str, torch.dtype], _Lane] = {}
        self._loading = threading.Lock()
        self._count_guard = threading.Lock()
        self._forwards = 0

    @property
    def forwards(self) -> int:
        return self._forwards

    def run(self, spec: ModelSpec, pixel_values: Tensor, capture: Capture, dtype: str = "auto") -> list[ModelOutput]:
        lane = self._lane(
            spec, pick_dtype(dtype if dtype != "auto" else self._default_dtype, self.device, spec.parameters)
        )
        job = _Job(pixel_values, capture)
        with lane.guard:
            lane.waiting.append(job)
        while not job.done.is_set():
            with lane.turn:
                if not job.done.is_set():
                    self._serve(lane, lane.take(self._max_batch))
        if job.error is not None:
            raise job.error
        return job.outputs

    def _lane(self, spec: ModelSpec, dtype: torch.dtype) -> _Lane:
        key = (spec.checkpoint, spec.revision, dtype)
        with self._loading:
            if key not in self._lanes:
                model = self._load(spec, self.device, dtype)
                # The first forward of a process is slow for reasons that are not the model's.
                with torch.no_grad():
                    model(torch.zeros(1, 3, *spec.image_size, device=self.device, dtype=dtype))
                self._lanes[key] = _Lane(model, spec, self.device, dtype)
            return self._lanes[key]

    def _serve(self, lane: _Lane, jobs: list[_Job]) -> None:
        try:
            self._forward(lane, jobs)
        except BaseException as error:
            if len(jobs) == 1:
                jobs[0].error = error
            else:
                for job in jobs:
                    self._serve(lane, [job])
        finally:
            for job in jobs:
                job.done.set()

    def _forward(self, lane: _Lane, jobs: list[_Job]) -> None:
        pixels = torch.cat([job.pixel_values for job in jobs]).to(self.device, lane.dtype)
        with self._count_guard:
            self._forwards += 1
        # Not `inference_mode`: transformers caches BEiT's position index for the process, and one that was made there could
        # never again be trained with.
        with torch.no_grad(), record_attention(jobs[0].capture) as record:
            self._synchronise()
            start = time.perf_counter()
            logits = lane.model(pixels)
            self._synchronise()
            milliseconds = (time.perf_counter() - start) * 1e3 / len(pixels)
        outputs = _split(record, logits, lane, pixels, milliseconds)
        for job in jobs:
            job.outputs, outputs = outputs[: len(job.pixel_values)], outputs[len(job.pixel_values) :]

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()


def _split(
    record: AttentionRecord, logits: Tensor | None, lane: _Lane, pixels: Tensor, milliseconds: float
) -> list[ModelOutput]:
    """One output a picture, on the CPU; the pictures of a batch share no memory that a caller could see change."""
    if logits is not None:
        logits = logits.float().cpu()
        if not torch.isfinite(logits).all():
            raise InvalidScoresError(
                f"{lane.spec.name} gave invalid scores (not finite numbers) in {_short(lane.dtype)}. Try another dtype or photo."
            )
    rows = {name: torch.stack(layers, dim=1).cpu() for name, layers in record.rows.items()}
    grid = (pixels.shape[2] // lane.spec.patch_size, pixels.shape[3] // lane.spec.patch_size)
    return [
        ModelOutput(
            logits=None if logits is None else logits[index].clone(),
            rows={name: layers[index].clone() for name, layers in rows.items()},
            patch_grid=grid,
            milliseconds=milliseconds,
            device=str(lane.device),
            dtype=_short(lane.dtype),
        )
        for index in range(len(pixels))
    ]


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA, else MPS, else the CPU.

    Raises:
        OptionError: the device does not exist here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError("not a device that runs models here, such as meta")
    except (RuntimeError, AssertionError, ImportError):
        raise OptionError(f"Device {name!r} is not available here. Use auto, cpu, cuda or mps.") from None
    return device


def pick_dtype(name: str, device: torch.device, parameters: int) -> torch.dtype:
    """`auto` is bf16 on CUDA, fp32 on MPS, and on the CPU fp32 unless the model is large and the CPU has bf16.

    Raises:
        OptionError: an unknown name.
    """
    if name == "auto":
        if device.type == "cuda":
            return torch.bfloat16
        large = device.type == "cpu" and parameters >= LARGE and _cpu_has_bf16()
        return torch.bfloat16 if large else torch.float32
    if name not in DTYPES:
        raise OptionError(f"Unknown dtype {name!r}. Choose from: auto, {', '.join(DTYPES)}.")
    return DTYPES[name]


def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def _short(dtype: torch.dtype) -> str:
    return next(name for name, value in DTYPES.items() if value == dtype)
