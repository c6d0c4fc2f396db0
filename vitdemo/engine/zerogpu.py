"""The backend of a Hugging Face Space whose GPU is lent for each call (ZeroGPU).

As the `spaces` package has it (0.51, `spaces/zero/wrappers.py`): a decorated function runs in a forked process to which a GPU is
attached. Threads of this process do not exist there, and locks that they held stay held; what it changes, or puts into a cache,
does not come back. So all that runs there is `forward`, on models that were moved to the GPU before the page was launched, with
bytes in and bytes out. What is remembered, is remembered here.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from vitdemo.engine.backend import ModelRun, Request
from vitdemo.engine.counts import Counts
from vitdemo.engine.devices import DTYPES, is_out_of_memory, pick_dtype, short
from vitdemo.engine.fork import in_fork
from vitdemo.engine.forward import forward
from vitdemo.engine.gpu_time import seconds_of
from vitdemo.engine.knockouts import batches, resolved
from vitdemo.engine.refusals import worded
from vitdemo.engine.wire import pack, unpack
from vitdemo.errors import EngineError, OptionError, TooLargeError, VitDemoError
from vitdemo.models.loading import Classifier, load_model
from vitdemo.settings import Settings
from vitdemo.types import Attribution, Capture, ModelOutput, ModelSpec

logger = logging.getLogger("vitdemo")

Seen = TypeVar("Seen")

GPU, CPU = torch.device("cuda"), torch.device("cpu")


class ZeroGPUBackend:
    """A fixed set of models on a GPU that is lent for each call; the embedded ones on the CPU too, for those without quota.

    Make it in the main thread, before the page is launched: `spaces` packs at that moment what is on the GPU.

    Args:
        specs: the models; all that there will be.
        on_cpu: whether the visitor who asks now wants the CPU.
        device: for tests.
    """

    def __init__(
        self,
        settings: Settings,
        specs: Sequence[ModelSpec],
        on_cpu: Callable[[], bool] = lambda: False,
        load: Callable[..., Classifier] = load_model,
        device: torch.device = GPU,
    ) -> None:
        import spaces

        # Only what is decorated here may use a GPU: handlers of the page are not to be wrapped.
        spaces.disable_gradio_auto_wrap()
        self.on_cpu = on_cpu
        self._settings, self._load, self._device = settings, load, device
        self._dtype = pick_dtype(settings.dtype, GPU, 0)
        self._specs = {_key(spec): spec for spec in specs}
        self._models = {key: self._preloaded(spec) for key, spec in self._specs.items()}
        self._cpu_models: dict[tuple[str, str], Classifier] = {}
        self._cpu_turn = threading.Lock()
        self._looked: dict[tuple[str, str], Classifier] = {}
        self._look_turn = threading.Lock()
        self._guard = threading.Lock()
        self._forwards = 0
        self.counts = Counts()

        def run_on_gpu(work: bytes, seconds: int) -> bytes:
            return self._work(work)

        self._run_on_gpu: Callable[[bytes, int], bytes] = spaces.GPU(duration=_asked)(run_on_gpu)

    @property
    def where(self) -> str:
        return "ZeroGPU"

    @property
    def borrowed(self) -> bool:
        return True

    @property
    def forwards(self) -> int:
        return self._forwards

    def run(self, spec: ModelSpec, pixel_values: Tensor, request: Request, dtype: str = "auto") -> list[ModelOutput]:
        (found,) = self.run_many([ModelRun(spec, pixel_values, request, dtype)])
        return found

    def run_many(self, runs: Sequence[ModelRun]) -> list[list[ModelOutput]]:
        """As `Backend.run_many`: one call of the GPU, however many models there are.

        Raises:
            NoGPUError: no quota, or no GPU; the message offers the CPU.
        """
        runs = [replace(run, request=resolved(run.request, run.spec, run.pixel_values)) for run in runs]
        answers = self._on_cpu(runs) if self.on_cpu() else self._on_gpu(runs)
        with self._guard:
            self._forwards += len(runs)
        for run, answer in zip(runs, answers, strict=True):
            self.counts.add(run.spec.name, jobs=1)
            if isinstance(answer, VitDemoError):
                raise answer
            self.counts.forward(run.spec.name, len(answer), sum(one.milliseconds for one in answer))
        return answers

    def look(self, spec: ModelSpec, at: Callable[[Classifier], Seen]) -> Seen:
        # What was packed for the GPU has no numbers here: they are read once more from the file, and the last ones are kept.
        key = _key(spec)
        with self._look_turn:
            model = self._cpu_models.get(key) or self._looked.get(key)
            if model is None:
                model = self._load(spec, CPU, torch.float32).requires_grad_(False)
                self._looked = {key: model}
        return at(model)

    def loaded(self) -> dict[str, int]:
        """Nothing: what is packed for the GPU takes no memory here, and cannot be unloaded."""
        return {}

    def unload(self, spec: ModelSpec) -> None:
        """Nothing: the set is fixed."""

    def _preloaded(self, spec: ModelSpec) -> Classifier:
        model = self._load(spec, CPU, self._dtype).requires_grad_(False)
        # Copies: after packing, `spaces` deletes the files of the Hub's cache of which a tensor is still a mapping.
        for tensor in itertools.chain(model.parameters(), model.buffers()):
            tensor.data = tensor.data.clone()
        return model.to(self._device)

    def _on_gpu(self, runs: list[ModelRun]) -> list[Any]:
        work = [(self._known(run), run.pixel_values, run.request) for run in runs]
        seconds = seconds_of([(run.spec, run.pixel_values, run.request) for run in runs])
        try:
            answer = self._run_on_gpu(pack(work), seconds)
        except Exception as error:
            logger.warning("No answer of a GPU: %s", error)
            refusal = worded(error)
        else:
            found: list[Any] = unpack(answer)
            return found
        raise refusal

    def _known(self, run: ModelRun) -> tuple[str, str]:
        """The key of a model that was there at the start.

        Raises:
            OptionError: it was not, or another dtype is asked for.
        """
        if _key(run.spec) not in self._specs:
            names = ", ".join(spec.name for spec in self._specs.values())
            raise OptionError(
                f"{run.spec.name} was not loaded when this Space started, and cannot be loaded now. Choose from: {names}; "
                "or duplicate the Space with this model in VITDEMO_MODELS."
            )
        if run.dtype not in ("auto", short(self._dtype)) and run.dtype in DTYPES:
            raise OptionError(f"Models run in {short(self._dtype)} here, not in {run.dtype}. Choose auto.")
        pick_dtype(run.dtype, GPU, 0)
        return _key(run.spec)

    def _work(self, work: bytes) -> bytes:
        """In the forked process. An error is an answer: `spaces` would hand on nothing but the name of its class."""
        answers: list[Any] = []
        for key, pixels, request in unpack(work):
            try:
                spec, model = self._specs[key], self._models[key]
                answers.append(
                    [
                        one
                        for part, own in self._parts(pixels, request)
                        for one in forward(model, spec, part, own, self._device, self._dtype)
                    ]
                )
            except VitDemoError as error:
                answers.append(error)
            except Exception as error:
                answers.append(_said(error, self._specs[key]))
        return pack(answers)

    def _parts(self, pixels: Tensor, request: Request) -> list[tuple[Tensor, Request]]:
        if not isinstance(request, Capture):
            return [(pixels, request)]
        parts = batches(pixels, request, self._settings.max_batch)
        return [(some, replace(request, knockouts=own if any(own) else ())) for some, own in parts]

    def _on_cpu(self, runs: list[ModelRun]) -> list[Any]:
        for run in runs:
            if run.spec.source != "embedded":
                names = ", ".join(spec.name for spec in self._specs.values() if spec.source == "embedded")
                raise OptionError(
                    f"{run.spec.name} runs on the GPU only. On the CPU choose from: {names}; or choose GPU under Run on."
                )
        # One after the other: each takes what cores there are.
        with self._cpu_turn:
            return [self._one_on_cpu(run) for run in runs]

    def _one_on_cpu(self, run: ModelRun) -> list[ModelOutput]:
        key, dtype = _key(run.spec), pick_dtype(run.dtype, CPU, 0)
        if key not in self._cpu_models:
            self._cpu_models[key] = self._load(run.spec, CPU, torch.float32).requires_grad_(False)
        model = self._cpu_models[key]
        if dtype != torch.float32:
            raise OptionError(f"On the CPU, models run in fp32 here, not in {run.dtype}. Choose auto.")

        def passed() -> list[ModelOutput]:
            return forward(model, run.spec, run.pixel_values, run.request, CPU, dtype)

        # torch's autograd looks for GPUs once, at the first backward pass of a process, and tells its children: after one in this
        # process, where none is attached, no forked process could have gradients on its GPU
        # (https://github.com/pytorch/pytorch/blob/main/torch/csrc/autograd/engine.cpp, `start_device_threads`).
        return in_fork(passed) if isinstance(run.request, Attribution) else passed()


def _asked(work: bytes, seconds: int) -> int:
    """How long the GPU is asked for, of the arguments of a call."""
    return seconds


def _key(spec: ModelSpec) -> tuple[str, str]:
    return spec.checkpoint, spec.revision


def _said(error: Exception, spec: ModelSpec) -> VitDemoError:
    if is_out_of_memory(error):
        return TooLargeError(
            f"The GPU has not enough memory to run {spec.name} on this picture. Choose a lower resolution."
        )
    logger.exception("A forward pass failed")
    return EngineError(f"{spec.name} could not be run on the GPU. It was logged; please try again.")
