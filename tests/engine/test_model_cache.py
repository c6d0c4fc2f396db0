"""What is loaded stays within its budget, whoever comes at once, and nobody waits for ever."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from vitdemo.engine import devices
from vitdemo.engine.devices import CPU_SHARE, GPU_SHARE, free_memory, is_out_of_memory, memory_budget
from vitdemo.engine.model_cache import ModelCache
from vitdemo.errors import TooLargeError

WAIT = 30.0
"""Seconds after which a test gives up on what must happen."""


class Shelf:
    """ModelCache that load strings, and a watch over them: what is loading or in use, how often each key was loaded."""

    def __init__(self, budget: int) -> None:
        self.residents: ModelCache[str, str] = ModelCache(budget)
        self.loads: Counter[str] = Counter()
        self.order: list[str] = []
        self.loading: Counter[str] = Counter()
        self.guard = threading.Lock()

    @contextmanager
    def use(self, key: str, size: int = 1, pause: float = 0.0) -> Iterator[str]:
        with self.residents.use(key, size, lambda: self._load(key, pause), f"model {key}") as value:
            with self.guard:
                self.order.append(key)
            yield value

    def _load(self, key: str, pause: float) -> str:
        with self.guard:
            self.loading[key] += 1
            assert self.loading[key] == 1, "loaded twice at once"
            self.loads[key] += 1
        time.sleep(pause)
        with self.guard:
            self.loading[key] -= 1
        return f"value of {key}"

    def touch(self, key: str, size: int = 1) -> None:
        with self.use(key, size):
            pass

    def keys(self) -> list[str]:
        return [key for key, _ in self.residents.held()]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


def _until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.001)


def _queued(shelf: Shelf, pool: ThreadPoolExecutor, key: str, size: int = 1) -> Future[None]:
    """A thread that asks for a key, and stands in the line."""
    before = len(shelf.residents._waiting)
    future = pool.submit(shelf.touch, key, size)
    _until(lambda: len(shelf.residents._waiting) > before)
    return future


def _assert_at_rest(residents: ModelCache[Any, Any]) -> None:
    assert not residents._waiting
    assert all(resident.users == 0 for resident in residents._held.values())
    assert residents.used == sum(size for _, size in residents.held()) <= residents.budget


def test_a_value_is_loaded_once_and_kept() -> None:
    shelf = Shelf(2)
    for _ in range(3):
        with shelf.use("a") as value:
            assert value == "value of a"
    assert shelf.loads == {"a": 1}
    assert shelf.residents.held() == [("a", 1)]


def test_the_least_recently_used_leaves_first() -> None:
    shelf = Shelf(3)
    for key in "abcad":
        shelf.touch(key)
    assert shelf.keys() == ["c", "a", "d"]
    shelf.touch("e", 2)
    assert shelf.keys() == ["d", "e"]
    assert shelf.loads == dict.fromkeys("abcde", 1)


def test_one_that_is_in_use_never_leaves(pool: ThreadPoolExecutor) -> None:
    shelf = Shelf(2)
    with shelf.use("a"):
        for key in "bcdb":
            shelf.touch(key)
        assert shelf.residents.evict() == 1
        assert shelf.keys() == ["a"]
        waiting = _queued(shelf, pool, "large", 2)
        assert shelf.keys() == ["a"]
    waiting.result(WAIT)
    assert shelf.keys() == ["large"]
    assert shelf.loads["a"] == 1
    _assert_at_rest(shelf.residents)


def test_who_needs_the_same_value_at_once_waits_for_one_load(pool: ThreadPoolExecutor) -> None:
    shelf, gate = Shelf(1), threading.Barrier(20)

    def ask() -> str:
        gate.wait(WAIT)
        with shelf.use("a", pause=0.05) as value:
            return value

    assert {future.result(WAIT) for future in [pool.submit(ask) for _ in range(20)]} == {"value of a"}
    assert shelf.loads == {"a": 1}
    _assert_at_rest(shelf.residents)


def test_a_load_counts_before_it_is_done(pool: ThreadPoolExecutor) -> None:
    residents: ModelCache[str, int] = ModelCache(3)
    begun, go = threading.Event(), threading.Event()

    def load() -> int:
        begun.set()
        go.wait(WAIT)
        return 1

    def ask() -> None:
        with residents.use("a", 2, load, "a"):
            pass

    future = pool.submit(ask)
    assert begun.wait(WAIT)
    assert (residents.used, residents.held()) == (2, [])
    with residents.use("b", 1, lambda: 2, "b") as value:
        assert value == 2, "others go on meanwhile"
    go.set()
    future.result(WAIT)
    assert sorted(residents.held()) == [("a", 2), ("b", 1)]


def test_a_failed_load_is_its_callers_error_and_those_who_waited_try_again(pool: ThreadPoolExecutor) -> None:
    residents: ModelCache[str, int] = ModelCache(1)
    faults, gate = [ValueError("first"), ValueError("second")], threading.Barrier(8)
    attempts = []

    def load() -> int:
        attempts.append(1)
        time.sleep(0.02)
        if faults:
            raise faults.pop(0)
        return 7

    def ask() -> int:
        gate.wait(WAIT)
        with residents.use("a", 1, load, "a") as value:
            return value

    futures = [pool.submit(ask) for _ in range(8)]
    errors = [future.exception(WAIT) for future in futures]
    assert sorted(str(error) for error in errors if error) == ["first", "second"]
    assert [future.result() for future, error in zip(futures, errors, strict=True) if not error] == [7] * 6
    assert len(attempts) == 3
    _assert_at_rest(residents)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_load_leaves_nothing_behind(error: type[BaseException]) -> None:
    residents: ModelCache[str, int] = ModelCache(1)

    def fail() -> int:
        raise error

    with pytest.raises(error), residents.use("a", 1, fail, "a"):
        pass
    assert (residents.used, residents.held()) == (0, [])
    _assert_at_rest(residents)


def test_an_error_in_the_block_is_its_own_and_the_value_stays() -> None:
    shelf = Shelf(1)
    with pytest.raises(ZeroDivisionError), shelf.use("a"):
        raise ZeroDivisionError
    assert shelf.keys() == ["a"]
    _assert_at_rest(shelf.residents)


def test_what_is_larger_than_the_budget_is_refused_with_both_numbers_and_the_way_out() -> None:
    residents: ModelCache[str, int] = ModelCache(1_500_000_000)
    with residents.use("small", 1, lambda: 1, "small"):
        pass
    with (
        pytest.raises(TooLargeError) as refusal,
        residents.use("a", 2_340_000_000, lambda: pytest.fail("loaded"), "google/vit-huge"),
    ):
        pass
    words = str(refusal.value)
    assert words.startswith("google/vit-huge takes 2.34 GB of memory, and models may use 1.50 GB here.")
    assert "VITDEMO_MEMORY_GB" in words
    assert residents.held() == [("small", 1)], "nothing has left for it"


def test_what_takes_the_whole_budget_fits() -> None:
    shelf = Shelf(5)
    shelf.touch("a", 5)
    assert shelf.keys() == ["a"]


def test_who_waits_for_room_is_not_kept_out_by_a_stream_of_users_of_what_is_held(pool: ThreadPoolExecutor) -> None:
    shelf, end = Shelf(2), threading.Event()
    passed = Counter[str]()

    def stream(key: str) -> None:
        while not end.is_set():
            with shelf.use(key):
                passed[key] += 1
                time.sleep(0.001)

    streams = [pool.submit(stream, "ab"[index % 2]) for index in range(8)]
    try:
        _until(lambda: passed["a"] > 5 and passed["b"] > 5)
        for _ in range(5):
            pool.submit(shelf.touch, "large", 2).result(WAIT)
    finally:
        end.set()
    for future in streams:
        future.result(WAIT)
    assert shelf.loads["large"] >= 1


@pytest.mark.parametrize("attempt", range(5))
def test_all_who_wait_are_served_in_the_order_in_which_they_came(pool: ThreadPoolExecutor, attempt: int) -> None:
    shelf = Shelf(10)
    with shelf.use("held", 6):
        asked = ["b", "large", "c", "held", "d"]
        waiting = [_queued(shelf, pool, key, 10 if key == "large" else 6) for key in asked]
    for future in waiting:
        future.result(WAIT)
    assert shelf.order == ["held", *asked]
    _assert_at_rest(shelf.residents)


def test_who_waits_for_a_load_does_not_hold_up_those_behind(pool: ThreadPoolExecutor) -> None:
    residents: ModelCache[str, int] = ModelCache(2)
    go = threading.Event()

    def slow() -> int:
        go.wait(WAIT)
        return 1

    def ask(key: str, load: Callable[[], int]) -> int:
        with residents.use(key, 1, load, key) as value:
            return value

    ask("ready", lambda: 2)
    loads = [pool.submit(ask, "slow", slow) for _ in range(2)]
    _until(lambda: residents.used == 2 and len(residents._waiting) == 1)
    assert pool.submit(ask, "ready", lambda: 2).result(WAIT) == 2
    assert not any(future.done() for future in loads)
    go.set()
    assert [future.result(WAIT) for future in loads] == [1, 1]


def test_evicting_one_that_is_in_use_lets_it_leave_with_its_last_user() -> None:
    shelf = Shelf(2)
    shelf.touch("b")
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(shelf.use("a"))
        second.enter_context(shelf.use("a"))
        assert shelf.residents.evict(lambda key: key == "a") == 0
        first.close()
        assert shelf.keys() == ["b", "a"]
    assert shelf.keys() == ["b"]
    shelf.touch("a")
    assert shelf.loads["a"] == 2
    assert shelf.keys() == ["b", "a"], "the wish has gone with the one it was for"


def test_evicting_one_that_is_being_loaded_lets_it_leave_with_its_last_user(pool: ThreadPoolExecutor) -> None:
    shelf = Shelf(2)

    def ask() -> str:
        with shelf.use("a", pause=0.05) as value:
            return value

    future = pool.submit(ask)
    _until(lambda: shelf.residents.used == 1)
    assert shelf.residents.evict(lambda key: True) == 0
    assert future.result(WAIT) == "value of a"
    assert shelf.keys() == []


def test_evicting_frees_what_nobody_uses_and_tells_how_much() -> None:
    shelf = Shelf(10)
    for key, size in (("a", 2), ("b", 3), ("c", 4)):
        shelf.touch(key, size)
    with shelf.use("b", 3):
        assert shelf.residents.evict(lambda key: key == "gone") == 0
        assert shelf.residents.evict(lambda key: key == "a") == 2
        assert shelf.residents.evict() == 4
        assert shelf.keys() == ["b"]
    assert shelf.keys() == ["b"], "evicting everything idle is no wish against what is in use"


def test_evicting_wakes_who_waits_for_room(pool: ThreadPoolExecutor) -> None:
    shelf = Shelf(2)
    with shelf.use("a"):
        shelf.touch("b")
        with shelf.use("b"):
            waiting = _queued(shelf, pool, "c")
        waiting.result(WAIT)
    assert shelf.keys() == ["a", "c"]


def test_the_budget_holds_at_all_times_with_twenty_threads_and_room_for_two_of_three() -> None:
    sizes = {"a": 4, "b": 5, "c": 6}
    residents: ModelCache[str, str] = ModelCache(11)
    guard, end = threading.Lock(), threading.Event()
    live: Counter[str] = Counter()
    over: list[int] = []
    known = [ValueError]

    def watch() -> None:
        while not end.wait(0.0005):
            if residents.used > 11:
                over.append(residents.used)

    def load(key: str, dice: random.Random) -> str:
        with guard:
            live[key] += 1
            assert live[key] == 1, "two of one key are being loaded"
        time.sleep(dice.random() * 0.002)
        with guard:
            live[key] -= 1
        if dice.random() < 0.2:
            raise ValueError("the load failed")
        return key

    def work(seed: int) -> int:
        dice, done = random.Random(seed), 0
        for _ in range(40):
            key = dice.choice("abc")
            try:
                with residents.use(key, sizes[key], lambda key=key: load(key, dice), key) as value:
                    assert value == key
                    assert residents.used <= 11
                    assert key in [name for name, _ in residents.held()], "it left while in use"
                    time.sleep(dice.random() * 0.001)
                    if dice.random() < 0.1:
                        raise ValueError("the block failed")
                    done += 1
            except tuple(known):
                pass
            if dice.random() < 0.1:
                residents.evict(dice.choice([None, lambda name, key=key: name == key]))
        return done

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(20) as pool:
            done = [future.result(WAIT) for future in [pool.submit(work, seed) for seed in range(20)]]
    finally:
        end.set()
        watcher.join()
    assert over == []
    assert min(done) > 0
    _assert_at_rest(residents)


def test_the_setting_is_the_budget_in_billions_of_bytes() -> None:
    assert memory_budget(torch.device("cpu"), 1.5) == 1_500_000_000


def test_without_a_setting_the_budget_is_a_share_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "free_memory", lambda: 1000)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2000, 5000))
    assert memory_budget(torch.device("cpu"), 0.0) == 1000 * CPU_SHARE == 500
    assert memory_budget(torch.device("cuda"), 0.0) == 2000 * GPU_SHARE == 1400


def _machine(root: Path, available: int, limit: str = "", current: int = 0, files: int = 0) -> Path:
    """The files in which Linux tells of its memory."""
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(
        f"MemTotal:  9999999 kB\nMemFree:  1 kB\nMemAvailable:  {available // 1024} kB\n"
    )
    group = root / "sys/fs/cgroup"
    group.mkdir(parents=True)
    if limit:
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{current}\n")
        (group / "memory.stat").write_text(f"anon 5\nactive_file {files // 4}\ninactive_file {files - files // 4}\n")
    return root


@pytest.mark.parametrize(
    ("machine", "free"),
    [
        ({"available": 8 << 30}, 8 << 30),
        ({"available": 8 << 30, "limit": "max"}, 8 << 30),
        ({"available": 8 << 30, "limit": str(4 << 30), "current": 1 << 30}, 3 << 30),
        ({"available": 8 << 30, "limit": str(64 << 30), "current": 1 << 30}, 8 << 30),
        ({"available": 8 << 30, "limit": str(4 << 30), "current": 4 << 30, "files": 3 << 30}, 3 << 30),
        ({"available": 8 << 30, "limit": str(1 << 30), "current": 2 << 30}, 0),
    ],
    ids=["no container", "no limit", "limit", "limit above", "full of copies of files", "above its limit"],
)
def test_free_memory_is_what_the_machine_and_the_container_leave(
    tmp_path: Path, machine: dict[str, Any], free: int
) -> None:
    assert free_memory(_machine(tmp_path, **machine)) == free


def test_some_memory_is_free_here_and_where_nothing_tells_how_much(tmp_path: Path) -> None:
    assert free_memory() > 0
    assert free_memory(tmp_path) > 0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), True),
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (ValueError("out of memory"), False),
    ],
    ids=str,
)
def test_a_device_without_room_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_the_cpus_own_allocator_is_understood() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(error.value)
