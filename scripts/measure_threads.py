"""What the waiting of OpenMP's threads and their number cost: `python -m scripts.measure_threads [ROUNDS]`.

The policy is read when torch is loaded, so each setting is a process of its own; and so is each task, since libgomp spins less in
a process that has more OpenMP threads than the machine has cores, as training does. All are started and warmed first, and then
asked in turn, in another order each round, alone and beside a process that keeps a core busy; those not asked sleep. With each
measurement goes how many of the cores anything else used meanwhile. Prints tables in Markdown.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

CHOICES: dict[str, dict[str, str]] = {
    "unset": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "1,000 spins": {"GOMP_SPINCOUNT": "1000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
VARIABLES = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
REFERENCE = "passive"
CONDITIONS = ("alone", "beside a busy process")
QUIET = 0.3
"""Cores that others may use in a measurement that is counted as alone."""
TASKS = ("compare", "training")


def main(rounds: str = "15") -> None:
    workers = {(task, name): Worker(task, variables) for task in TASKS for name, variables in CHOICES.items()}
    with spinning() as busy:
        found = [one for number in range(int(rounds)) for one in _round(number, workers, busy)]
    for worker in workers.values():
        worker.end()
    for task in TASKS:
        print(_table(task, [one for one in found if one["task"] == task]))


def _round(
    number: int, workers: dict[tuple[str, str], Worker], busy: subprocess.Popen[bytes]
) -> Iterator[dict[str, Any]]:
    _wait_for_quiet()
    for condition in random.sample(CONDITIONS, 2):
        busy.send_signal(signal.SIGCONT if condition != "alone" else signal.SIGSTOP)
        time.sleep(0.1)
        for task, name in random.sample(list(workers), len(workers)):
            one = {"round": number, "condition": condition, "task": task, "name": name, **workers[task, name].run()}
            print(json.dumps(one), file=sys.stderr, flush=True)
            yield one


def _wait_for_quiet(patience: float = 60.0) -> None:
    """Until others leave the machine alone for half a second, or for so many seconds."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        before = _used()
        time.sleep(0.5)
        if (_used() - before) / 0.5 < QUIET:
            return


def _table(task: str, found: list[dict[str, Any]]) -> str:
    """Times over those of the reference in the same round, alone: median and quartiles; and milliseconds."""
    lines = [
        f"\n{task}, times over '{REFERENCE}' alone\n",
        f"| setting | {' | '.join(CONDITIONS)} | ms alone | ms beside |",
    ]
    lines.append("|---|---|---|---|---|")
    base = {one["round"]: one["ms"] for one in found if (one["name"], one["condition"]) == (REFERENCE, "alone")}
    for name in CHOICES:
        cells, times = [], []
        for condition in CONDITIONS:
            mine = [one for one in found if (one["name"], one["condition"]) == (name, condition)]
            ratios = [one["ms"] / base[one["round"]] for one in mine]
            low, middle, high = quantiles(ratios, n=4)
            cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f}, worst {max(ratios):.1f})")
            times.append(f"{median(one['ms'] for one in mine):,.0f}")
        lines.append(f"| {name} | {' | '.join([*cells, *times])} |")
    for condition in CONDITIONS:
        others = [one["others"] for one in found if one["condition"] == condition]
        lines.append(
            f"\n{condition}: cores used by other processes, median {median(others):.2f}, most {max(others):.2f}"
        )
    return "\n".join(lines)


class Worker:
    """A process with one setting and one task."""

    def __init__(self, task: str, variables: dict[str, str]) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scripts.measure_threads", "worker", task],
            env={**environment, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.run()

    def run(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def work(task: str) -> None:
    """Do the task once for each line of standard input, and answer how long it took."""
    run = _compare() if task == "compare" else _training()
    for _ in sys.stdin:
        all_before, mine_before, begun = _used(), time.process_time(), time.perf_counter()
        run()
        took = time.perf_counter() - begun
        others = max(0.0, _used() - all_before - (time.process_time() - mine_before)) / took
        print(json.dumps({"ms": round(took * 1000, 1), "others": round(others, 2)}), flush=True)


def _used() -> float:
    """Seconds of all cores that were worked, since the machine started."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return time.process_time()
    user, nice, system, _, _, irq, softirq = map(int, stat.read_text().split(maxsplit=8)[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _compare() -> Callable[[], Any]:
    """Five models on a photo, nothing remembered."""
    from vitdemo.pipeline import Pipeline
    from vitdemo.registry import default_models
    from vitdemo.settings import ASSETS, Settings

    pipeline = Pipeline(Settings(device="cpu", cache_mb=1e-9))
    photo, specs = pipeline.open(ASSETS / "examples" / "cup.jpg"), default_models(pipeline.settings)
    return lambda: pipeline.compare(photo, specs)


def _training(batch: int = 32, size: int = 96, photos: int = 128) -> Callable[[], Any]:
    """Two optimiser steps of a ViT from labels, photos cut beside it by the loader's own thread."""
    import numpy as np

    from vitdemo.training.augment import normalised
    from vitdemo.training.config import Job
    from vitdemo.training.data import PhotoSet
    from vitdemo.training.loop import Plan
    from vitdemo.training.optimisers import make_optimiser
    from vitdemo.training.recipes.base import Moment
    from vitdemo.training.run import make_recipe

    numbers = np.random.default_rng(0)
    images = tuple(numbers.integers(0, 256, (160, 200, 3), dtype=np.uint8) for _ in range(photos))
    classes = tuple(f"class {number}" for number in range(10))
    photo_set = PhotoSet(images, np.arange(photos) % len(classes), classes)
    plan = Plan(steps=0, size=size)
    recipe = make_recipe(Job((), "supervised", "vit", Path("unused"), cpu=True, plan=plan), classes)
    optimiser = make_optimiser("adamw", recipe.named_parameters(), 1e-4, 0.05)
    batches = iter(recipe.batches(photo_set, batch, size, 0))

    def run() -> None:
        for step in range(2):
            one = next(batches)
            loss, _ = recipe([normalised(view) for view in one.views], one.labels, Moment(step, 0.5, 0))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    return run


@contextmanager
def spinning() -> Iterator[subprocess.Popen[bytes]]:
    """A process that keeps one core busy whenever it is let."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    process.send_signal(signal.SIGSTOP)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    work(sys.argv[2]) if sys.argv[1:2] == ["worker"] else main(*sys.argv[1:])
