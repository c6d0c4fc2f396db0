"""The backend of a GPU that is lent for each call, with a stand-in for `spaces` that forks as the real one does."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.fakespaces import Spaces, standing_in
from vitdemo.engine import Backend, LocalBackend, ModelRun
from vitdemo.engine.gpu_time import LEAST, MOST, MULTIPLES, seconds_of
from vitdemo.engine.refusals import worded
from vitdemo.engine.wire import pack, unpack
from vitdemo.engine.zerogpu import ZeroGPUBackend
from vitdemo.errors import EngineError, NoGPUError, OptionError, TooLargeError
from vitdemo.models import loading
from vitdemo.models.parts import first_filters, position_table
from vitdemo.options.methods import METHODS
from vitdemo.registry import get_spec
from vitdemo.settings import Settings
from vitdemo.types import Attribution, Capture, Knockout, Lens, ModelOutput, ModelSpec, Reconstruct, Shuffle

CPU = torch.device("cpu")
SETTINGS = Settings(device="cpu", dtype="fp32")
EVERYTHING = Capture(tokens=(0,), mean=True, queries=True, features=True)


@pytest.fixture
def spaces(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spaces]:
    with standing_in(monkeypatch) as spaces:
        yield spaces


@pytest.fixture
def specs(tiny_spec: Callable[[str], ModelSpec]) -> list[ModelSpec]:
    return [tiny_spec(kind) for kind in ("vit", "beit", "resnet", "mae")]


@pytest.fixture
def backend(spaces: Spaces, specs: list[ModelSpec]) -> ZeroGPUBackend:
    return ZeroGPUBackend(SETTINGS, specs, device=CPU)


def _pixels(seed: int, batch: int = 1, side: int = 32) -> Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))


def _assert_same(found: ModelOutput, expected: ModelOutput) -> None:
    """All but the time; backward passes of a thread and of a process may round otherwise."""
    parts = [list(_parts(dataclasses.replace(one, milliseconds=0.0))) for one in (found, expected)]
    assert len(parts[0]) == len(parts[1])
    for one, other in zip(*parts, strict=True):
        if isinstance(one, Tensor):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
        else:
            assert one == other


def _parts(value: Any) -> Iterator[Any]:
    """Tensors and plain values of an output, in order."""
    if dataclasses.is_dataclass(value):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    if isinstance(value, Mapping):
        value = list(value.items())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _parts(part)
    else:
        yield value


def test_it_is_a_backend_of_one_decorated_function(spaces: Spaces, backend: ZeroGPUBackend) -> None:
    protocol: Backend = backend
    assert (protocol.where, protocol.borrowed, protocol.forwards, protocol.loaded()) == ("ZeroGPU", True, 0, {})
    assert spaces.decorated == 1


@pytest.mark.thorough
def test_one_call_carries_all_models_of_an_action_and_no_model_runs_outside_of_it(
    spaces: Spaces, backend: ZeroGPUBackend, specs: list[ModelSpec]
) -> None:
    vit, beit, resnet, mae = specs
    hidden = torch.zeros(1, 4, 4, dtype=torch.bool)
    hidden[0, 0] = True
    runs = [
        ModelRun(vit, _pixels(1), EVERYTHING),
        ModelRun(vit, _pixels(1), Attribution("relevance")),
        ModelRun(beit, _pixels(2, batch=11), Capture(mean=True)),
        ModelRun(resnet, _pixels(3), Attribution("grad-cam", target=2)),
        ModelRun(mae, _pixels(4), Reconstruct(hidden)),
    ]
    found = backend.run_many(runs)
    assert (len(spaces.durations), spaces.outside, backend.forwards) == (1, [], len(runs))
    expected = LocalBackend(SETTINGS).run_many(runs)
    for outputs, others in zip(found, expected, strict=True):
        assert len(outputs) == len(others)
        for output, other in zip(outputs, others, strict=True):
            _assert_same(output, other)


@pytest.mark.thorough
def test_knockouts_lens_and_shuffles_are_those_of_this_machine_in_one_call(
    spaces: Spaces, backend: ZeroGPUBackend, specs: list[ModelSpec]
) -> None:
    vit, beit, resnet, _ = specs
    one, many = (
        (Knockout(heads=((-1, 0),), patches=(3,)),),
        tuple(Knockout(heads=((1, head),)) for head in range(4)) * 5,
    )
    runs = [
        ModelRun(vit, _pixels(1, batch=3), dataclasses.replace(EVERYTHING, knockouts=one)),
        ModelRun(vit, _pixels(1), Capture(knockouts=many)),
        ModelRun(vit, _pixels(2, batch=20), Capture(tokens=(0,), knockouts=many)),
        ModelRun(vit, _pixels(1), Attribution("relevance", knockouts=(Knockout(mlp=(0,)),))),
        ModelRun(vit, _pixels(1), Capture()),
        ModelRun(beit, _pixels(3), Lens(target=2)),
        ModelRun(resnet, _pixels(3), Capture(knockouts=(Knockout(patches=(0,)),))),
        ModelRun(vit, _pixels(3), Capture(shuffle=Shuffle(tuple(range(15, -1, -1)), along=True))),
    ]
    found = backend.run_many(runs)
    assert (len(spaces.durations), spaces.outside) == (1, [])
    assert [len(outputs) for outputs in found] == [3, 20, 20, 1, 1, 1, 1, 1]
    for outputs, others in zip(found, LocalBackend(SETTINGS).run_many(runs), strict=True):
        for output, other in zip(outputs, others, strict=True):
            _assert_same(output, other)
    assert not torch.equal(found[1][0].logits, found[4][0].logits)


def test_a_knockout_that_a_model_cannot_have_is_refused_before_any_call(
    spaces: Spaces, backend: ZeroGPUBackend, specs: list[ModelSpec]
) -> None:
    with pytest.raises(OptionError, match="convolutional network: it has no heads"):
        backend.run(specs[2], _pixels(1), Capture(knockouts=(Knockout(heads=((0, 0),)),)))
    assert spaces.durations == []


def test_weights_are_looked_at_without_a_gpu(spaces: Spaces, backend: ZeroGPUBackend, specs: list[ModelSpec]) -> None:
    model = loading.load_model(specs[0], CPU, torch.float32)
    for at in (first_filters, lambda model: position_table(model)[0]):
        assert torch.equal(backend.look(specs[0], at), at(model))
    with pytest.raises(OptionError, match="no position embeddings"):
        backend.look(specs[1], position_table)
    assert (spaces.durations, spaces.outside, backend.forwards) == ([], [], 0)


@pytest.mark.thorough
def test_locks_that_are_held_at_the_fork_do_not_matter(
    spaces: Spaces, backend: ZeroGPUBackend, specs: list[ModelSpec]
) -> None:
    locks = (backend._guard, backend._cpu_turn, loading._LOAD_LOCK)
    held = threading.Event()

    def hold() -> None:
        with contextlib.ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            held.set()
            time.sleep(0.5)

    def held_by_another_thread() -> None:
        threading.Thread(target=hold).start()
        assert held.wait(10)

    spaces.before_fork = held_by_another_thread
    (output,) = backend.run(specs[0], _pixels(1), EVERYTHING)
    assert output.logits is not None


def test_a_process_of_the_worker_is_refused_so_none_is_started(spaces: Spaces, specs: list[ModelSpec]) -> None:
    """That the stand-in is daemonic, as the real worker is."""

    def child() -> str:
        multiprocessing.get_context("fork").Process(target=os.getpid).start()
        return "started"

    with pytest.raises(gr.Error, match="AssertionError"):
        spaces.GPU(child)()


def test_an_error_of_one_model_comes_back_in_its_own_words(backend: ZeroGPUBackend, specs: list[ModelSpec]) -> None:
    with pytest.raises(OptionError, match="There is no such class: this model has"):
        backend.run_many([ModelRun(specs[0], _pixels(1), Attribution("relevance", target=10**6))])


def test_a_full_memory_and_a_fault_of_the_worker_are_worded(
    spaces: Spaces, specs: list[ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = ZeroGPUBackend(SETTINGS, specs, device=CPU)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("vitdemo.engine.zerogpu.forward", full)
    with pytest.raises(TooLargeError, match=r"not enough memory .* lower resolution"):
        backend.run(specs[0], _pixels(1), EVERYTHING)
    monkeypatch.setattr("vitdemo.engine.zerogpu.forward", lambda *_: 1 / 0)
    with pytest.raises(EngineError, match="could not be run on the GPU"):
        backend.run(specs[0], _pixels(1), EVERYTHING)


def test_a_model_that_was_not_loaded_at_the_start_is_refused_before_any_call(
    spaces: Spaces, backend: ZeroGPUBackend, tiny_spec: Callable[[str], ModelSpec]
) -> None:
    with pytest.raises(OptionError, match=r"tiny-deit was not loaded .*Choose from: tiny-vit.*VITDEMO_MODELS"):
        backend.run(tiny_spec("deit"), _pixels(1), EVERYTHING)
    assert spaces.durations == []


def test_another_dtype_than_that_of_the_start_is_refused(backend: ZeroGPUBackend, specs: list[ModelSpec]) -> None:
    with pytest.raises(OptionError, match="run in fp32 here, not in bf16"):
        backend.run(specs[0], _pixels(1), EVERYTHING, "bf16")
    with pytest.raises(OptionError, match="Unknown dtype"):
        backend.run(specs[0], _pixels(1), EVERYTHING, "int4")


REFUSALS = [
    (
        "ZeroGPU quota exceeded",
        "You have exceeded your free ZeroGPU quota (60s requested vs. 12s left). Try again in 3:20:00. ",
        r"60 s are asked for, 12 s are left\. Try again in 3:20:00, or sign in",
    ),
    (
        "ZeroGPU quota exceeded",
        "You have exceeded your ZeroGPU runs limit. ",
        r"quota of this account is used up",
    ),
    (
        "ZeroGPU quota exceeded",
        "Space app has reached its GPU limit. Try re-running outside of examples if it happened after clicking one",
        "shared by all visitors who are not signed in is used up",
    ),
    ("ZeroGPU quota exceeded", "No GPU was available after 60s. Try re-running", "No GPU became free"),
    ("ZeroGPU queue timeout", "No GPU was available after 60s [Retry later]", "No GPU became free within a minute"),
    ("ZeroGPU client error", "No GPU was available", "No GPU became free within a minute"),
    ("ZeroGPU client error", "Expired ZeroGPU proxy token", r"has expired\. Reload the page\."),
    ("ZeroGPU illegal duration", "The requested GPU duration (90s) is larger than the maximum allowed", "fewer models"),
    ("ZeroGPU pending credits exceeded", "You have too many ZeroGPU credits allocated", "Wait until they have ended"),
    ("ZeroGPU worker error", "GPU task aborted", "taken back, or its process ended"),
    ("ZeroGPU worker error", "RuntimeError", "The GPU's process failed"),
]


@pytest.mark.parametrize(("title", "text", "said"), REFUSALS, ids=[said for _, _, said in REFUSALS])
def test_a_refusal_is_worded_and_offers_the_cpu(title: str, text: str, said: str) -> None:
    found = str(worded(gr.Error(text, title=title)))
    assert re.search(rf"{said}.* Or choose CPU under Run on", found)
    assert "None" not in found


def test_a_refused_call_is_raised_as_such_and_the_next_one_is_made(
    spaces: Spaces, backend: ZeroGPUBackend, specs: list[ModelSpec]
) -> None:
    title, text, said = REFUSALS[0]
    spaces.refuse = gr.Error(text, title=title, print_exception=False)
    with pytest.raises(NoGPUError, match=said):
        backend.run(specs[0], _pixels(1), EVERYTHING)
    assert backend.forwards == 0
    spaces.refuse = None
    assert backend.run(specs[0], _pixels(1), EVERYTHING)


def test_a_scheduler_that_does_not_answer_is_worded() -> None:
    assert "does not answer" in str(worded(RuntimeError("ZeroGPU API /schedule error: 500 (Internal Server Error)")))


def test_a_worker_that_dies_is_worded(spaces: Spaces, backend: ZeroGPUBackend, specs: list[ModelSpec]) -> None:
    spaces.dies = True
    with pytest.raises(NoGPUError, match="its process ended, before there was an answer"):
        backend.run(specs[0], _pixels(1), EVERYTHING)
    spaces.dies = False
    assert backend.run(specs[0], _pixels(1), EVERYTHING)


@pytest.fixture
def embedded(specs: list[ModelSpec]) -> list[ModelSpec]:
    return [dataclasses.replace(spec, source="embedded") for spec in specs]


@pytest.mark.thorough
def test_on_the_cpu_embedded_models_give_the_same_without_a_call_of_the_gpu(
    spaces: Spaces, embedded: list[ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = ZeroGPUBackend(SETTINGS, embedded, on_cpu=lambda: True, device=CPU)
    spaces.refuse = gr.Error("no quota", title="ZeroGPU quota exceeded")
    backward: list[int] = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: (backward.append(1), grad(*a, **k))[1])
    runs = [
        ModelRun(embedded[0], _pixels(1), EVERYTHING),
        ModelRun(embedded[0], _pixels(1), Attribution("legrad")),
        ModelRun(embedded[2], _pixels(1), Attribution("grad-cam")),
    ]
    found = backend.run_many(runs)
    # A backward pass of this process would leave later workers without gradients on their GPU.
    assert (spaces.durations, backward) == ([], [])
    for outputs, others in zip(found, LocalBackend(SETTINGS).run_many(runs), strict=True):
        _assert_same(outputs[0], others[0])
    with pytest.raises(OptionError, match="There is no such class"):
        backend.run(embedded[0], _pixels(1), Attribution("legrad", target=10**6))


def test_on_the_cpu_a_model_that_does_not_ship_with_vitdemo_is_refused_by_name(
    spaces: Spaces, specs: list[ModelSpec], embedded: list[ModelSpec]
) -> None:
    backend = ZeroGPUBackend(SETTINGS, [*embedded[1:], specs[0]], on_cpu=lambda: True, device=CPU)
    with pytest.raises(OptionError, match=r"tiny-vit runs on the GPU only.*Choose.*tiny-beit|On the CPU choose from"):
        backend.run(specs[0], _pixels(1), EVERYTHING)


def test_no_weight_is_a_mapping_of_its_file(spaces: Spaces, specs: list[ModelSpec]) -> None:
    """`spaces` deletes the files of the Hub's cache that packed weights are mappings of."""
    tensors = load_file(Path(specs[0].checkpoint) / "model.safetensors").values()
    assert any(_in_a_file(tensor.data_ptr()) for tensor in tensors), "mappings are not recognised here"
    backend = ZeroGPUBackend(SETTINGS, specs[:1], device=CPU)
    (model,) = backend._models.values()
    assert not any(_in_a_file(tensor.data_ptr()) for tensor in model.parameters())


def _in_a_file(address: int) -> bool:
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        start, _, end = line.split()[0].partition("-")
        if int(start, 16) <= address < int(end, 16):
            return "model.safetensors" in line
    return False


def test_the_real_package_lets_everything_run_in_place_where_there_is_no_zerogpu(
    specs: list[ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(
        "spaces", reason="the spaces package is not installed; a Space has it, and so has its rehearsal"
    )
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    runs = [ModelRun(spec, _pixels(1), EVERYTHING if spec.readouts else Capture()) for spec in specs]
    found = ZeroGPUBackend(SETTINGS, specs, device=CPU).run_many(runs)
    for outputs, others in zip(found, LocalBackend(SETTINGS).run_many(runs), strict=True):
        _assert_same(outputs[0], others[0])


def test_time_grows_with_models_resolution_and_method_within_its_limits() -> None:
    vit = dataclasses.replace(get_spec("vit-mini"), parameters=300_000_000)
    small, large = torch.zeros(1, 3, 224, 224), torch.zeros(1, 3, 480, 480)
    attention, relevance = Capture(), Attribution("relevance")
    assert seconds_of([]) == LEAST
    plain = seconds_of([(vit, large, attention)] * 5)
    assert LEAST < plain < seconds_of([(vit, large, relevance)] * 5)
    assert seconds_of([(vit, small, attention)] * 5) < plain < seconds_of([(vit, large, attention)] * 9)
    assert seconds_of([(vit, large, relevance)] * 999) == MOST


def test_every_method_has_its_time() -> None:
    assert MULTIPLES.keys() == {*METHODS, "convolution"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.bool, torch.int64])
def test_tensors_cross_a_process_as_arrays_of_the_same_values(dtype: torch.dtype) -> None:
    for tensor in (torch.randn(3, 4).to(dtype), torch.randn(4, 3).T.to(dtype), torch.ones((), dtype=dtype)):
        found = unpack(pack({"one": (tensor, None)}))["one"][0]
        assert found.dtype == dtype
        assert torch.equal(found, tensor)
        found.zero_()
