"""The backend of one process: who waits shares a forward, and nobody notices but the clock."""

from __future__ import annotations

import gc
import random
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from tests.models.test_loading import transformers_globals
from vitdemo.engine import Backend, LocalBackend, devices
from vitdemo.engine import local as local_module
from vitdemo.engine.devices import LARGE, pick_device, pick_dtype
from vitdemo.errors import CheckpointError, InvalidScoresError, OptionError, TooLargeError
from vitdemo.models.loading import load_model
from vitdemo.registry import get_spec
from vitdemo.settings import Settings
from vitdemo.types import Capture, ModelOutput, ModelSpec, Reconstruct

CPU = torch.device("cpu")
ROWS = Capture(tokens=(0,))
SETTINGS = Settings(device="cpu")


def filled_in(
    backend: LocalBackend, spec: ModelSpec, pixels: Tensor, hidden: Tensor, dtype: str = "auto"
) -> tuple[Tensor, ModelOutput]:
    """`[B, 3, H, W]` with the hidden patches filled in, and how the first image ran."""
    outputs = backend.run(spec, pixels, Reconstruct(hidden), dtype)
    return torch.stack([output.filled for output in outputs if output.filled is not None]), outputs[0]


class Gated(nn.Module):
    """A real model that counts its forwards, and holds the next one back while it is closed."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.batches: list[int] = []
        self.open, self.entered = threading.Event(), threading.Event()
        self.open.set()

    def forward(self, pixel_values: Tensor) -> Any:
        self.batches.append(len(pixel_values))
        self.entered.set()
        assert self.open.wait(timeout=60)
        return self.model(pixel_values)


class Loader:
    """Loads real models, counts, and keeps hold of what it gave out."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, torch.dtype]] = []
        self.models: list[Gated] = []

    def __call__(self, spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> Any:
        self.asked.append((spec.name, dtype))
        self.models.append(Gated(load_model(spec, device, dtype)))
        return self.models[-1]


@pytest.fixture(autouse=True, scope="module")
def quick_collections() -> Iterator[None]:
    """Without this, each time that memory is full, a second would go by over what other tests have imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def backend(loader: Loader) -> LocalBackend:
    return LocalBackend(SETTINGS, load=loader)


@pytest.fixture
def spec(tiny_spec: Callable[[str], ModelSpec]) -> ModelSpec:
    return tiny_spec("vit")


def _pixels(seed: int, batch: int = 1, side: int = 32) -> Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))


@contextmanager
def _queue(
    backend: LocalBackend, loader: Loader, spec: ModelSpec, jobs: list[tuple[Tensor, Capture]]
) -> Iterator[list[Future[list[ModelOutput]]]]:
    """The jobs, each of its own thread, wait while one forward before them is held back; on leaving, all run."""
    backend.run(spec, _pixels(99), Capture())
    (model,) = loader.models
    (cache,) = backend._caches.values()
    ((key, _),) = cache.held()
    queue = cache._held[key].value
    assert queue is not None
    with ThreadPoolExecutor(len(jobs) + 1) as pool:
        model.open.clear()
        model.entered.clear()
        first = pool.submit(backend.run, spec, _pixels(98), Capture())
        assert model.entered.wait(timeout=60)
        model.batches.clear()
        futures = []
        for pixels, capture in jobs:
            waiting = len(queue.waiting)
            futures.append(pool.submit(backend.run, spec, pixels, capture))
            while len(queue.waiting) == waiting:  # so that they wait in this order
                threading.Event().wait(0.001)
        model.open.set()
        first.result(timeout=60)
        yield futures
        for future in futures:
            future.exception(timeout=60)


def _assert_same(found: ModelOutput, expected: ModelOutput) -> None:
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=1e-5)
    assert found.rows.keys() == expected.rows.keys()
    for name, rows in expected.rows.items():
        torch.testing.assert_close(found.rows[name], rows, atol=1e-5, rtol=0)


def test_the_local_backend_is_a_backend(backend: LocalBackend) -> None:
    protocol: Backend = backend
    assert protocol.forwards == 0


def test_an_output_has_the_logits_of_the_model_and_what_was_asked_for(backend: LocalBackend, spec: ModelSpec) -> None:
    pixels = _pixels(1, batch=3)
    outputs = backend.run(spec, pixels, Capture(tokens=(0,), mean=True))
    with torch.no_grad():
        logits = load_model(spec, CPU, torch.float32)(pixels)
    assert len(outputs) == 3
    for index, output in enumerate(outputs):
        torch.testing.assert_close(output.logits, logits[index], atol=1e-5, rtol=1e-5)
        assert {name: tuple(rows.shape) for name, rows in output.rows.items()} == {
            "class": (3, 4, 17),
            "mean": (3, 4, 17),
        }
        assert output.patch_grid == (4, 4)
        assert output.milliseconds > 0
        assert (output.device, output.dtype) == ("cpu", "fp32")


def test_the_grid_is_that_of_the_pixels_rows_first(backend: LocalBackend, spec: ModelSpec) -> None:
    (output,) = backend.run(spec, torch.randn(1, 3, 16, 40), ROWS)
    assert output.patch_grid == (2, 5)
    assert output.rows["class"].shape == (3, 4, 1 + 2 * 5)


def test_a_model_without_classifier_gives_rows_and_no_logits(tiny_spec: Callable[[str], ModelSpec]) -> None:
    (output,) = LocalBackend(SETTINGS).run(tiny_spec("dino"), _pixels(1), ROWS)
    assert output.logits is None
    assert output.rows["class"].shape == (3, 4, 17)


def test_outputs_share_no_memory(backend: LocalBackend, spec: ModelSpec) -> None:
    first, second = backend.run(spec, _pixels(1, batch=2), ROWS)
    expected, rows = second.logits.clone(), second.rows["class"].clone()
    first.logits.zero_()
    first.rows["class"].zero_()
    assert torch.equal(second.logits, expected)
    assert torch.equal(second.rows["class"], rows)
    assert first.rows["class"].untyped_storage().nbytes() == first.rows["class"].numel() * 4


def test_many_threads_load_a_model_once(backend: LocalBackend, loader: Loader, spec: ModelSpec) -> None:
    gate = threading.Barrier(12)

    def run(seed: int) -> list[ModelOutput]:
        gate.wait()
        return backend.run(spec, _pixels(seed), ROWS)

    with ThreadPoolExecutor(12) as pool:
        outputs = list(pool.map(run, range(12)))
    assert loader.asked == [("tiny-vit", torch.float32)]
    alone = LocalBackend(SETTINGS)
    for seed, (output,) in enumerate(outputs):
        _assert_same(output, alone.run(spec, _pixels(seed), ROWS)[0])


def test_each_dtype_and_each_model_is_loaded_for_itself(
    backend: LocalBackend, loader: Loader, tiny_spec: Callable[[str], ModelSpec]
) -> None:
    for kind, dtype in (("vit", "auto"), ("vit", "fp32"), ("vit", "bf16"), ("deit", "fp32"), ("vit", "bf16")):
        (output,) = backend.run(tiny_spec(kind), _pixels(1), ROWS, dtype)
        assert output.dtype == ("bf16" if dtype == "bf16" else "fp32")
        assert output.logits.dtype == output.rows["class"].dtype == torch.float32
    assert loader.asked == [
        ("tiny-vit", torch.float32),
        ("tiny-vit", torch.bfloat16),
        ("tiny-deit", torch.float32),
    ]


def test_a_failed_load_is_each_callers_error_and_the_next_call_tries_again(spec: ModelSpec, loader: Loader) -> None:
    faults = [CheckpointError("damaged"), CheckpointError("damaged")]

    def load(*arguments: Any) -> Any:
        if faults:
            raise faults.pop()
        return loader(*arguments)

    backend = LocalBackend(SETTINGS, load=load)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="damaged"):
            backend.run(spec, _pixels(1), ROWS)
    assert len(backend.run(spec, _pixels(1), ROWS)) == 1


def test_callers_that_wait_share_a_forward_and_each_gets_its_own_result(
    backend: LocalBackend, loader: Loader, spec: ModelSpec
) -> None:
    jobs = [(_pixels(seed, batch=1 + seed % 2), ROWS) for seed in range(4)]
    before = backend.forwards
    with _queue(backend, loader, spec, jobs) as futures:
        shared = [future.result(timeout=60) for future in futures]
    assert loader.models[0].batches == [6]
    assert backend.forwards == before + 3
    alone = LocalBackend(SETTINGS)
    for (pixels, capture), outputs in zip(jobs, shared, strict=True):
        expected = alone.run(spec, pixels, capture)
        assert len(outputs) == len(expected) == len(pixels)
        for output, own in zip(outputs, expected, strict=True):
            _assert_same(output, own)
    assert not torch.allclose(shared[0][0].logits, shared[2][0].logits, atol=1e-3)


def test_a_shared_forward_is_no_larger_than_the_limit(spec: ModelSpec, loader: Loader) -> None:
    backend = LocalBackend(Settings(device="cpu", max_batch=3), load=loader)
    with _queue(backend, loader, spec, [(_pixels(seed, batch=2), ROWS) for seed in (1, 2)] + [(_pixels(3), ROWS)]):
        pass
    # The third fits beside the first, the second does not.
    assert loader.models[0].batches == [3, 2]


def test_a_job_above_the_limit_runs_in_parts_of_that_size(spec: ModelSpec, loader: Loader) -> None:
    backend = LocalBackend(Settings(device="cpu", max_batch=2), load=loader)
    with _queue(backend, loader, spec, [(_pixels(1, batch=5), ROWS), (_pixels(2), ROWS)]) as futures:
        sizes = [len(future.result(timeout=60)) for future in futures]
    assert sizes == [5, 1]
    assert loader.models[0].batches == [2, 2, 2]


def test_jobs_of_another_capture_or_shape_are_not_merged(
    backend: LocalBackend, loader: Loader, spec: ModelSpec
) -> None:
    jobs = [
        (_pixels(1), ROWS),
        (_pixels(2), Capture(mean=True)),
        (_pixels(3, side=48), ROWS),
        (_pixels(4), ROWS),
        (_pixels(5, side=48), ROWS),
    ]
    with _queue(backend, loader, spec, jobs) as futures:
        outputs = [future.result(timeout=60)[0] for future in futures]
    assert sorted(loader.models[0].batches) == [1, 2, 2]
    assert [set(output.rows) for output in outputs] == [{"class"}, {"mean"}, {"class"}, {"class"}, {"class"}]
    assert [output.patch_grid for output in outputs] == [(4, 4), (4, 4), (6, 6), (4, 4), (6, 6)]


def test_a_photo_that_gives_no_numbers_is_an_error_for_its_caller_alone(
    backend: LocalBackend, loader: Loader, spec: ModelSpec
) -> None:
    poison = _pixels(2)
    poison[0, 0, 0, 0] = float("nan")
    jobs = [(_pixels(1), ROWS), (poison, ROWS), (_pixels(3), ROWS)]
    with _queue(backend, loader, spec, jobs) as futures:
        with pytest.raises(InvalidScoresError, match=r"tiny-vit gave invalid scores.*in fp32.*another dtype or photo"):
            futures[1].result(timeout=60)
        alone = LocalBackend(SETTINGS)
        for index in (0, 2):
            _assert_same(futures[index].result(timeout=60)[0], alone.run(spec, jobs[index][0], ROWS)[0])
    assert loader.models[0].batches == [3, 1, 1, 1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_are_refused(backend: LocalBackend, spec: ModelSpec, value: float) -> None:
    pixels = _pixels(1)
    pixels[0, 1, 3, 3] = value
    with pytest.raises(InvalidScoresError):
        backend.run(spec, pixels, ROWS)
    assert len(backend.run(spec, _pixels(1), ROWS)) == 1


def test_infinite_scores_are_refused_too(backend: LocalBackend, loader: Loader, spec: ModelSpec) -> None:
    backend.run(spec, _pixels(1), ROWS)
    with torch.no_grad():
        loader.models[0].model.network.classifier.bias[2] = float("inf")
    with pytest.raises(InvalidScoresError):
        backend.run(spec, _pixels(1), ROWS)


def test_a_job_that_fails_does_not_spoil_those_beside_it(
    backend: LocalBackend, loader: Loader, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Gated.forward

    def picky(self: Gated, pixel_values: Tensor) -> Any:
        if (pixel_values[:, 0, 0, 0] == 1234).any():
            raise RuntimeError("cannot take this one")
        return forward(self, pixel_values)

    monkeypatch.setattr(Gated, "forward", picky)
    odd = _pixels(2)
    odd[0, 0, 0, 0] = 1234
    with _queue(backend, loader, spec, [(_pixels(1), ROWS), (odd, ROWS), (_pixels(3), ROWS)]) as futures:
        with pytest.raises(RuntimeError, match="cannot take this one"):
            futures[1].result(timeout=60)
        assert [len(futures[index].result(timeout=60)) for index in (0, 2)] == [1, 1]
    assert len(backend.run(spec, _pixels(4), ROWS)) == 1


def test_forwards_are_counted_without_the_one_that_warms_up(backend: LocalBackend, spec: ModelSpec) -> None:
    assert backend.forwards == 0
    backend.run(spec, _pixels(1, batch=3), ROWS)
    assert backend.forwards == 1
    backend.run(spec, _pixels(1), Capture())
    assert backend.forwards == 2


def test_the_input_is_left_as_it_was(backend: LocalBackend, spec: ModelSpec) -> None:
    pixels = _pixels(1)
    before = pixels.clone()
    backend.run(spec, pixels, ROWS, "bf16")
    assert torch.equal(pixels, before)
    assert pixels.dtype == torch.float32


def test_the_settings_choose_the_dtype_where_the_caller_does_not(spec: ModelSpec) -> None:
    backend = LocalBackend(Settings(device="cpu", dtype="bf16"))
    assert backend.run(spec, _pixels(1), ROWS)[0].dtype == "bf16"
    assert backend.run(spec, _pixels(1), ROWS, "fp32")[0].dtype == "fp32"


def test_an_unknown_dtype_is_refused_before_anything_is_loaded(
    backend: LocalBackend, loader: Loader, spec: ModelSpec
) -> None:
    with pytest.raises(OptionError, match=r"Unknown dtype 'int8'\. Choose from: auto, fp32, bf16, fp16\."):
        backend.run(spec, _pixels(1), ROWS, "int8")
    assert loader.asked == []


@pytest.mark.parametrize("name", ["", "gpu", "meta", "cuda:99", "hpu", "xla", "privateuseone"])
def test_a_device_that_does_not_exist_is_refused_with_those_that_may(name: str) -> None:
    with pytest.raises(OptionError, match=r"not available here\. Use auto, cpu, cuda or mps") as refusal:
        pick_device(name)
    assert repr(name) in str(refusal.value)


def test_the_cpu_can_be_named() -> None:
    assert pick_device("cpu") == CPU


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_prefers_cuda_then_mps_then_the_cpu(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device("auto").type == expected


@pytest.mark.parametrize(
    ("device", "parameters", "has_bf16", "expected"),
    [
        ("cuda", 1, False, torch.bfloat16),
        ("mps", LARGE, True, torch.float32),
        ("cpu", LARGE - 1, True, torch.float32),
        ("cpu", LARGE, True, torch.bfloat16),
        ("cpu", LARGE, False, torch.float32),
    ],
)
def test_auto_is_bf16_on_cuda_and_for_large_models_on_a_cpu_that_has_it(
    monkeypatch: pytest.MonkeyPatch, device: str, parameters: int, has_bf16: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(devices, "_cpu_has_bf16", lambda: has_bf16)
    assert pick_dtype("auto", torch.device(device), parameters) == expected


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_a_dtype_can_be_named(name: str, dtype: torch.dtype) -> None:
    assert pick_dtype(name, CPU, 10**9) == dtype


def test_a_model_that_ran_here_can_still_be_trained() -> None:
    """transformers caches BEiT's position index: an inference tensor in that cache would break every later gradient."""
    spec = get_spec("beit-mini")
    pixels = torch.zeros(1, 3, 128, 96)  # a grid that no other test has put into the cache
    LocalBackend(Settings(device="cpu")).run(spec, pixels, Capture())
    model = load_model(spec, torch.device("cpu"), torch.float32)
    logits = model(pixels)
    assert logits is not None
    logits.sum().backward()


def _room_for(*specs: ModelSpec) -> Settings:
    """Settings with a budget for these in float32, and not a byte more."""
    return Settings(device="cpu", memory_gb=(sum(4 * spec.parameters for spec in specs) + 0.5) / 1e9)


class Weighed:
    """Loads real models, and knows how many bytes of them are in memory: held by anybody, whatever the books say."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.asked: Counter[str] = Counter()
        self.loading: Counter[str] = Counter()
        self.models: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self.weights: weakref.WeakSet[Tensor] = weakref.WeakSet()
        self.guard = threading.Lock()

    def __call__(self, spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> Any:
        with self.guard:
            self.asked[spec.name] += 1
            self.loading[spec.name] += 1
            assert self.loading[spec.name] == 1, "loaded twice at once"
        model = load_model(spec, device, dtype)
        with self.guard:
            self.loading[spec.name] -= 1
            self.models.add(model)
            self.weights.update(model.state_dict(keep_vars=True).values())
            # Who just left may be about to let go.
            end = time.monotonic() + 10
            while self._bytes() > self.budget:
                assert time.monotonic() < end, "weights that left are still in memory"
                time.sleep(0.001)
        return model

    def _bytes(self) -> int:
        return sum(weights.nbytes for weights in self.weights)


def test_twenty_threads_with_three_models_and_room_for_two_get_the_answers_of_single_runs(
    tiny_spec: Callable[[str], ModelSpec],
) -> None:
    specs = [tiny_spec(kind) for kind in ("vit", "dinov2-head", "beit")]
    settings = _room_for(*sorted(specs, key=lambda spec: spec.parameters)[1:])
    expected = {
        (spec.name, seed): LocalBackend(SETTINGS).run(spec, _pixels(seed), ROWS)[0] for spec in specs for seed in (1, 2)
    }
    before = transformers_globals()
    loader = Weighed(int(settings.memory_gb * 1e9))
    backend = LocalBackend(settings, load=loader)
    gate, end = threading.Barrier(20), threading.Event()
    over: list[int] = []

    def watch() -> None:
        while not end.wait(0.001):
            over.extend(used.used for used in list(backend._caches.values()) if used.used > loader.budget)

    def work(number: int) -> None:
        dice = random.Random(number)
        gate.wait(60)
        for _ in range(3):
            spec, seed = dice.choice(specs), dice.choice((1, 2))
            (output,) = backend.run(spec, _pixels(seed), ROWS)
            _assert_same(output, expected[spec.name, seed])
            assert output.notes == ()

    watcher = threading.Thread(target=watch)
    watcher.start()
    gc.disable()  # what leaves has to go by itself: memory is needed at once
    try:
        with ThreadPoolExecutor(20) as pool:
            for future in [pool.submit(work, number) for number in range(20)]:
                future.result(60)
    finally:
        gc.enable()
        end.set()
        watcher.join()
    assert over == []
    assert set(loader.asked) == {spec.name for spec in specs}
    assert loader.asked.total() > 3, "room for two of three: some were loaded again"
    assert transformers_globals() == before
    (cache,) = backend._caches.values()
    assert not cache._waiting
    assert sum(backend.loaded().values()) == cache.used <= loader.budget


def test_with_room_for_all_of_them_each_is_loaded_once(tiny_spec: Callable[[str], ModelSpec]) -> None:
    specs = [tiny_spec(kind) for kind in ("vit", "dinov2-head", "beit")]
    settings = _room_for(*specs)
    loader = Weighed(int(settings.memory_gb * 1e9))
    backend = LocalBackend(settings, load=loader)
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda number: backend.run(specs[number % 3], _pixels(number), ROWS), range(20)))
    assert loader.asked == {spec.name: 1 for spec in specs}


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [*tiny.KINDS, "resnet"])
def test_a_model_that_leaves_is_out_of_memory_at_once(tiny_spec: Callable[[str], ModelSpec], kind: str) -> None:
    loader = Weighed(1 << 40)
    spec = tiny_spec(kind)
    backend = LocalBackend(SETTINGS, load=loader)
    backend.run(spec, torch.zeros(1, 3, *spec.image_size), Capture())
    gc.collect()
    gc.disable()
    try:
        (cache,) = backend._caches.values()
        assert cache.evict() == 4 * spec.parameters
        assert list(loader.models) == []
        assert list(loader.weights) == []
    finally:
        gc.enable()


def test_a_model_beyond_the_budget_is_refused_with_both_numbers(spec: ModelSpec, loader: Loader) -> None:
    backend = LocalBackend(Settings(device="cpu", memory_gb=1.0), load=loader)
    large = replace(spec, parameters=1_250_000_000)
    with pytest.raises(TooLargeError, match=r"tiny-vit takes 5\.00 GB.*may use 1\.00 GB here.*VITDEMO_MEMORY_GB"):
        backend.run(large, _pixels(1), ROWS, "fp32")
    assert loader.asked == []
    assert backend.run(spec, _pixels(1), ROWS)[0].notes == ()


def test_what_is_loaded_is_told_and_can_be_unloaded(
    backend: LocalBackend, loader: Loader, spec: ModelSpec, tiny_spec: Callable[[str], ModelSpec]
) -> None:
    deit = tiny_spec("deit")
    assert backend.loaded() == {}
    backend.unload(spec)
    for model, dtype in ((spec, "fp32"), (spec, "bf16"), (deit, "fp32")):
        backend.run(model, _pixels(1), ROWS, dtype)
    assert backend.loaded() == {spec.checkpoint: 6 * spec.parameters, deit.checkpoint: 4 * deit.parameters}
    backend.unload(spec)
    assert backend.loaded() == {deit.checkpoint: 4 * deit.parameters}
    backend.run(spec, _pixels(1), ROWS)
    assert [name for name, _ in loader.asked] == ["tiny-vit", "tiny-vit", "tiny-deit", "tiny-vit"]


def test_a_model_that_is_unloaded_while_it_runs_answers_first(
    backend: LocalBackend, loader: Loader, spec: ModelSpec
) -> None:
    with _queue(backend, loader, spec, [(_pixels(1), ROWS)]) as futures:
        backend.unload(spec)
        assert futures[0].result(60)[0].logits is not None
    assert backend.loaded() == {}


def test_a_model_that_is_unloaded_while_it_is_loaded_leaves_too(spec: ModelSpec) -> None:
    begun, go = threading.Event(), threading.Event()

    def load(*arguments: Any) -> Any:
        begun.set()
        assert go.wait(60)
        return load_model(*arguments)

    backend = LocalBackend(SETTINGS, load=load)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(backend.run, spec, _pixels(1), ROWS)
        assert begun.wait(60)
        backend.unload(spec)
        go.set()
        assert len(future.result(60)) == 1
    assert backend.loaded() == {}


class Crowded(nn.Module):
    """A real model, where there is no room for a forward, of all but the one that warms up, while `full` says so."""

    def __init__(self, model: nn.Module, full: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.model, self.full = model, full
        self.warm = False
        self.left: list[weakref.ref[Tensor]] = []

    def forward(self, pixel_values: Tensor) -> Any:
        if self.warm and self.full(pixel_values):
            activations = pixel_values * 2
            self.left.append(weakref.ref(activations))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        self.warm = True
        return None if pixel_values.is_meta else self.model(pixel_values)

    def reconstruct(self, pixel_values: Tensor, hidden: Tensor) -> Tensor:
        self.forward(pixel_values)
        return self.model.reconstruct(pixel_values, hidden)  # type: ignore[no-any-return, operator]


class CrowdedLoader:
    """Loads such models; `loads` has the device of each, and those that came before and are still in memory."""

    def __init__(self, full: Callable[[Tensor], bool]) -> None:
        self.full = full
        self.loads: list[tuple[str, str]] = []
        self.models: weakref.WeakSet[Crowded] = weakref.WeakSet()
        self.beside: list[int] = []

    def __call__(self, spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> Any:
        self.loads.append((spec.name, device.type))
        self.beside.append(len(self.models))
        # A device that holds nothing is as full as can be.
        model = Crowded(load_model(spec, torch.device("cpu"), dtype).to(device), self.full)
        self.models.add(model)
        return model


def _times(count: int) -> Callable[[Tensor], bool]:
    """True so many times."""
    left = iter([True] * count)
    return lambda pixels: next(left, False)


def _crowded(full: Callable[[Tensor], bool], device: str = "cpu") -> tuple[LocalBackend, CrowdedLoader]:
    loader = CrowdedLoader(full)
    backend = LocalBackend(SETTINGS, load=loader)
    backend.device = torch.device(device)
    return backend, loader


def test_where_memory_is_full_idle_models_leave_it_and_the_job_is_tried_again(
    spec: ModelSpec, tiny_spec: Callable[[str], ModelSpec]
) -> None:
    faults = iter([False, True])  # the first forward is that of the other model
    backend, loader = _crowded(lambda pixels: next(faults, False))
    deit = tiny_spec("deit")
    backend.run(deit, _pixels(1), ROWS)
    (output,) = backend.run(spec, _pixels(1), ROWS)
    _assert_same(output, LocalBackend(SETTINGS).run(spec, _pixels(1), ROWS)[0])
    assert (output.notes, output.device) == ((), "cpu")
    assert list(backend.loaded()) == [spec.checkpoint]
    assert loader.loads == [("tiny-deit", "cpu"), ("tiny-vit", "cpu"), ("tiny-vit", "cpu")]


def test_nothing_of_a_failed_forward_is_in_memory_when_it_is_tried_again(spec: ModelSpec) -> None:
    left: list[weakref.ref[Tensor]] = []
    alive: list[bool] = []
    faults = iter([True])

    def full(pixels: Tensor) -> bool:
        alive.extend(ref() is not None for ref in left)
        found = next(faults, False)
        if found:
            (model,) = loader.models
            left.extend([weakref.ref(pixels), weakref.ref(next(model.parameters()))])
            model.left = left
        return found

    backend, loader = _crowded(full)
    backend.run(spec, _pixels(1), ROWS)
    assert len(left) == 3
    assert alive == [False, False, False], "the input, a weight, what the forward had made"
    assert loader.beside == [0, 0], "the model was not loaded beside itself"


def test_what_finds_no_room_on_the_device_runs_on_the_cpu_and_says_so(spec: ModelSpec) -> None:
    backend, loader = _crowded(lambda pixels: pixels.is_meta, "meta")
    outputs = backend.run(spec, _pixels(1, batch=3), ROWS)
    for output, expected in zip(outputs, LocalBackend(SETTINGS).run(spec, _pixels(1, batch=3), ROWS), strict=True):
        _assert_same(output, expected)
        assert output.device == "cpu"
        assert output.notes == ("The memory of meta was too full: this ran on the CPU.",)
    assert loader.loads == [("tiny-vit", "meta"), ("tiny-vit", "meta"), ("tiny-vit", "cpu")]
    assert loader.beside == [0, 0, 0]


def test_what_is_larger_than_the_budget_of_the_device_runs_on_the_cpu_and_says_so(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_module, "memory_budget", lambda device, _: 10 if device.type == "meta" else 10**9)
    backend, loader = _crowded(lambda pixels: False, "meta")
    (output,) = backend.run(spec, _pixels(1), ROWS)
    assert (output.device, len(output.notes)) == ("cpu", 1)
    assert loader.loads == [("tiny-vit", "cpu")]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_without_room_anywhere_the_refusal_names_the_model_and_the_way_out(spec: ModelSpec, device: str) -> None:
    backend, loader = _crowded(lambda pixels: True, device)
    with pytest.raises(TooLargeError, match=r"not enough free memory to run tiny-vit.*smaller model or resolution"):
        backend.run(spec, _pixels(1), ROWS)
    assert [place for _, place in loader.loads] == ["meta", "meta", "cpu", "cpu"][-2 if device == "cpu" else 0 :]
    assert backend.loaded() == {}
    assert all(cache.used == 0 and not cache._waiting for cache in backend._caches.values())


def test_a_shared_forward_without_room_is_run_picture_by_picture(
    backend: LocalBackend, loader: Loader, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, left = Gated.forward, []

    def small(self: Gated, pixel_values: Tensor) -> Any:
        answer = forward(self, pixel_values)
        if len(pixel_values) > 1:
            left.append(weakref.ref(answer))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        assert not any(ref() is not None for ref in left), "what the shared one made takes the room of these"
        return answer

    monkeypatch.setattr(Gated, "forward", small)
    jobs = [(_pixels(seed), ROWS) for seed in range(4)]
    with _queue(backend, loader, spec, jobs) as futures:
        outputs = [future.result(60)[0] for future in futures]
    assert loader.models[0].batches == [4, 1, 1, 1, 1]
    assert len(loader.asked) == 1
    for (pixels, _), output in zip(jobs, outputs, strict=True):
        _assert_same(output, LocalBackend(SETTINGS).run(spec, pixels, ROWS)[0])
        assert output.notes == ()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()], ids=repr)
@pytest.mark.parametrize("faults", [1, 2])
def test_a_load_without_room_is_tried_again_and_then_refused(spec: ModelSpec, error: Exception, faults: int) -> None:
    left = [error] * faults

    def load(*arguments: Any) -> Any:
        if left:
            raise left.pop()
        return load_model(*arguments)

    backend = LocalBackend(SETTINGS, load=load)
    if faults == 2:
        with pytest.raises(TooLargeError, match="not enough free memory"):
            backend.run(spec, _pixels(1), ROWS)
        assert backend.loaded() == {}
    assert backend.run(spec, _pixels(1), ROWS)[0].notes == ()


def test_a_first_forward_without_room_counts_as_a_load_without_room(spec: ModelSpec) -> None:
    faults = _times(1)

    class Cold(nn.Module):
        def forward(self, pixel_values: Tensor) -> Any:
            if faults(pixel_values):
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return torch.zeros(len(pixel_values), 7)

    backend = LocalBackend(SETTINGS, load=lambda *_: Cold())
    assert backend.run(spec, _pixels(1), Capture())[0].notes == ()


def test_other_errors_are_not_tried_again(spec: ModelSpec) -> None:
    def full(pixels: Tensor) -> bool:
        raise RuntimeError("an index is out of range")

    backend, loader = _crowded(full)
    with pytest.raises(RuntimeError, match="out of range"):
        backend.run(spec, _pixels(1), ROWS)
    assert len(loader.loads) == 1
    assert list(backend.loaded()) == [spec.checkpoint]


def test_a_reconstruction_without_room_is_tried_again_and_then_runs_on_the_cpu(
    tiny_spec: Callable[[str], ModelSpec],
) -> None:
    mae = tiny_spec("mae")
    hidden = torch.zeros(1, 4, 4, dtype=torch.bool)
    hidden[0, 1, 2] = True
    expected, _ = filled_in(LocalBackend(SETTINGS), mae, _pixels(1), hidden)
    again, _ = _crowded(_times(1))
    elsewhere, _ = _crowded(lambda pixels: pixels.is_meta, "meta")
    for backend, notes in ((again, 0), (elsewhere, 1)):
        filled, output = filled_in(backend, mae, _pixels(1), hidden)
        torch.testing.assert_close(filled, expected, atol=1e-5, rtol=1e-5)
        assert (output.device, len(output.notes)) == ("cpu", notes)


@pytest.mark.thorough
def test_threads_whose_memory_is_full_now_and_then_all_get_their_answers(
    tiny_spec: Callable[[str], ModelSpec],
) -> None:
    specs = [tiny_spec(kind) for kind in ("vit", "deit")]
    guard, failed = threading.Lock(), set[int]()

    def full(pixels: Tensor) -> bool:
        # Once for every third picture: twice would be refused.
        with guard:
            found = {int(number) for number in pixels[:, 0, 0, 0] if number % 3 == 0} - failed
            failed.update(found)
            return bool(found)

    backend, _ = _crowded(full)
    alone = LocalBackend(SETTINGS)

    def marked(number: int) -> Tensor:
        pixels = _pixels(number)
        pixels[0, 0, 0, 0] = number
        return pixels

    def work(number: int) -> None:
        (output,) = backend.run(specs[number % 2], marked(number), ROWS)
        _assert_same(output, alone.run(specs[number % 2], marked(number), ROWS)[0])

    with ThreadPoolExecutor(12) as pool:
        for future in [pool.submit(work, number) for number in range(48)]:
            future.result(60)
    assert failed == set(range(0, 48, 3))
    (cache,) = backend._caches.values()
    assert not cache._waiting
    assert all(entry.users == 0 for entry in cache._held.values())
