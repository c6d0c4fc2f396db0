"""The memory of the device is really full: idle models leave it, jobs go to the CPU and say so, and come back later."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from scripts.gpu.rig import Rig
from tests.gpu.conftest import Keep
from vitdemo.engine import LocalBackend
from vitdemo.models.loading import load_model
from vitdemo.registry import get_spec
from vitdemo.settings import Settings
from vitdemo.types import Capture, ModelOutput, ModelSpec

ROWS = Capture(tokens=(0,))


def note(rig: Rig) -> str:
    return f"The memory of {rig.device} was too full: this ran on the CPU."


@pytest.fixture(scope="module")
def large(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    """86 M parameters, unless this is a rehearsal."""
    return rig.vit(tmp_path_factory.mktemp("large"))


def _photo(spec: ModelSpec, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, *spec.image_size, generator=torch.Generator().manual_seed(3))


@contextmanager
def full(rig: Rig, left: int) -> Iterator[list[torch.Tensor]]:
    """All memory of the GPU is taken but `left` bytes, or up to 16 MiB more: for less, torch takes 20 MB at a time."""
    gc.collect()
    torch.cuda.empty_cache()
    taken: list[torch.Tensor] = []
    size = 1 << 30
    try:
        while size >= 16 << 20:
            free = torch.cuda.mem_get_info(rig.device)[0]
            if free - size < left:
                size //= 2
                continue
            try:
                taken.append(torch.empty(size, dtype=torch.uint8, device=rig.device))
            except torch.OutOfMemoryError:
                size //= 2
        yield taken
    finally:
        taken.clear()
        gc.collect()
        torch.cuda.empty_cache()


def test_in_a_rehearsal_a_model_for_which_there_is_no_room_takes_that_of_an_idle_one(
    rig: Rig, large: ModelSpec
) -> None:
    if rig.cuda:
        pytest.skip("it rehearses what the others do with real memory")
    small, refused = get_spec("vit-mini"), []

    def load(spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> Any:
        if spec == large and backend.loaded():
            refused.append(spec)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return load_model(spec, device, dtype)

    backend = LocalBackend(Settings(device="cpu", dtype="fp32"), load=load)
    backend.run(small, _photo(small), ROWS)
    (output,) = backend.run(large, _photo(large), ROWS)
    assert (refused, output.notes) == ([large], ())
    assert list(backend.loaded()) == [large.checkpoint]


def test_a_model_for_which_there_is_no_room_takes_that_of_an_idle_one(cuda: Rig, keep: Keep, large: ModelSpec) -> None:
    # The idle one is as large, and has another name.
    idle = replace(large, revision="idle")
    backend = cuda.backend(memory_gb=1000.0, dtype="bf16")
    expected = cuda.backend(dtype="bf16").run(large, _photo(large), ROWS)[0]
    backend.run(idle, _photo(idle), ROWS)
    size = 2 * large.parameters
    with full(cuda, left=size // 4) as taken:
        held = sum(one.numel() for one in taken)
        before = torch.cuda.mem_get_info(cuda.device)[0]
        (output,) = backend.run(large, _photo(large), ROWS)
        keys = [key for cache in backend._caches.values() for key, _ in cache.held()]
    keep(filled_gb=held / 1e9, free_mb=before / 1e6, model_mb=size / 1e6)
    assert before < size
    assert (output.notes, output.device) == ((), expected.device)
    assert [key[1] for key in keys] == [large.revision], "the idle one has left"
    _same(output, expected)


def test_where_nothing_can_leave_a_job_runs_on_the_cpu_says_so_and_comes_back(
    cuda: Rig, keep: Keep, large: ModelSpec
) -> None:
    backend = cuda.backend(memory_gb=1000.0)
    expected = cuda.backend().run(large, _photo(large), ROWS, "fp32")[0]
    with full(cuda, left=16 << 20) as taken:
        (output,) = backend.run(large, _photo(large), ROWS, "fp32")
        assert output.device == "cpu"
        assert output.notes == (note(cuda),)
        _same(output, expected)
        taken.clear()
        torch.cuda.empty_cache()
        (again,) = backend.run(large, _photo(large), ROWS, "fp32")
    keep(words=output.notes[0])
    assert again.device.startswith("cuda")
    assert again.notes == ()
    _same(again, expected)


def test_a_picture_for_which_a_loaded_model_has_no_room_runs_on_the_cpu(cuda: Rig, large: ModelSpec) -> None:
    backend = cuda.backend(memory_gb=1000.0, dtype="fp32", max_batch=16)
    many = _photo(large, batch=16)
    backend.run(large, many[:1], ROWS)
    with full(cuda, left=8 << 20):
        outputs = backend.run(large, many, ROWS)
    assert {output.device for output in outputs} == {"cpu"}
    assert {output.notes for output in outputs} == {(note(cuda),)}
    assert backend.run(large, many[:1], ROWS)[0].device.startswith("cuda")


def test_jobs_of_many_users_are_all_answered_while_memory_comes_and_goes(
    cuda: Rig, keep: Keep, large: ModelSpec
) -> None:
    specs = [large, get_spec("vit-mini"), get_spec("deit-mini")]
    backend = cuda.backend(memory_gb=1000.0, dtype="fp32")
    alone = {spec.name: cuda.backend(dtype="fp32").run(spec, _photo(spec), ROWS)[0] for spec in specs}
    end = threading.Event()

    def crowd() -> int:
        times = 0
        while not end.is_set():
            with full(cuda, left=64 << 20):
                end.wait(0.3)
            end.wait(0.3)
            times += 1
        return times

    with ThreadPoolExecutor(9) as pool:
        filler = pool.submit(crowd)
        try:
            jobs = [
                pool.submit(backend.run, specs[number % 3], _photo(specs[number % 3]), ROWS) for number in range(60)
            ]
            found = [job.result(100)[0] for job in jobs]
        finally:
            end.set()
        times = filler.result(60)
    moved = sum(output.device == "cpu" for output in found)
    keep(jobs=len(found), on_the_cpu=moved, times_full=times)
    for number, output in enumerate(found):
        assert output.notes == ((note(cuda),) if output.device == "cpu" else ())
        _same(output, alone[specs[number % 3].name])


def test_the_budget_is_a_share_of_what_is_free(cuda: Rig, large: ModelSpec) -> None:
    from vitdemo.engine.devices import GPU_SHARE, memory_budget

    free = torch.cuda.mem_get_info(cuda.device)[0]
    assert memory_budget(cuda.device, 0.0) == pytest.approx(GPU_SHARE * free, rel=0.02)
    backend = cuda.backend(memory_gb=2 * large.parameters / 1e9 * 1.5, dtype="bf16")
    for revision in ("one", "two", "three"):
        backend.run(replace(large, revision=revision), _photo(large), ROWS)
        assert len([key for cache in backend._caches.values() for key, _ in cache.held()]) == 1


def _same(found: ModelOutput, expected: ModelOutput) -> None:
    """As far as CPU and GPU agree (`test_precision`)."""
    rows, own = found.rows["class"], expected.rows["class"]
    assert ((rows - own).abs().max() / own.abs().max()).item() <= 0.1
