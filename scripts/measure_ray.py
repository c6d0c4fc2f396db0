"""The model service beside the local backend: `python -m scripts.measure_ray [throughput] [scaling] [killing] [--seconds S]`.

`throughput`: users who compare a new photo with five models, one after the other, on the local backend and on one replica with as
many cores, in turns. `scaling`: the same on one and on two replicas with one core each. `killing`: on two replicas, of which one
is killed every ten seconds; counts what was answered, refused and lost.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median

import psutil
import torch
from PIL import Image

from vitdemo.engine import LocalBackend
from vitdemo.engine.ray_backend import RayBackend
from vitdemo.errors import VitDemoError
from vitdemo.options.explain import ExplainRequest
from vitdemo.pipeline import Pipeline
from vitdemo.registry import default_models
from vitdemo.settings import ASSETS, Settings

USERS = 20
ROUNDS = 3
EVERY = 10.0
"""Seconds between two replicas that are killed."""


@dataclass
class Load:
    """What users got."""

    answered: int = 0
    refused: int = 0
    lost: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    """Seconds of all cores, in this process and all that it started."""
    words: str = ""

    @property
    def rate(self) -> float:
        return self.answered / self.seconds

    @property
    def cost(self) -> float:
        """Milliseconds of a core for each: where cores are the limit, and others use them too, steadier than the rate."""
        return 1e3 * self.cpu / self.answered


def load(pipeline: Pipeline, seconds: float, users: int = USERS) -> Load:
    """Comparisons of photos that no cache has seen."""
    specs, found, guard = default_models(pipeline.settings), Load(), threading.Lock()
    with Image.open(ASSETS / "examples" / "cup.jpg") as opened:
        small = opened.convert("RGB").resize((320, 320))
    start, spent = time.monotonic(), cpu_seconds()

    def use(number: int) -> None:
        numbers = random.Random(number)
        while time.monotonic() - start < seconds:
            image = small.copy()
            image.putpixel((numbers.randrange(320), numbers.randrange(320)), tuple(numbers.choices(range(256), k=3)))
            try:
                pipeline.compare(pipeline.open(image), specs, ExplainRequest(), remember=False)
            except VitDemoError as error:
                with guard:
                    busy = type(error).__name__ == "BusyError"
                    found.refused, found.lost = found.refused + busy, found.lost + (not busy)
                    found.words = str(error)
                continue
            with guard:
                found.answered += 1

    with ThreadPoolExecutor(users) as threads:
        list(threads.map(use, range(users)))
    found.seconds, found.cpu = time.monotonic() - start, cpu_seconds() - spent
    return found


def cpu_seconds() -> float:
    """What this process and those that it started have used, Ray's among them."""
    total = 0.0
    for one in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(one.cpu_times()[:2])
    return total


def service(replicas: int, cores: float) -> RayBackend:
    """A service of its own, whose models are loaded."""
    settings = Settings(
        backend="ray", device="cpu", ray_replicas=replicas, ray_cpus=cores, max_queue=64, ray_timeout=600
    )
    backend = RayBackend(settings)
    load(Pipeline(settings, backend), 5)
    return backend


def throughput(seconds: float) -> None:
    local = Pipeline(Settings(device="cpu"), LocalBackend(Settings(device="cpu")))
    load(local, 2)
    backend = service(1, os.cpu_count() or 1)
    ray = Pipeline(Settings(device="cpu"), backend)
    loads: dict[str, list[Load]] = {"local": [], "one replica": []}
    for _ in range(ROUNDS):
        loads["local"].append(load(local, seconds))
        loads["one replica"].append(load(ray, seconds))
    backend.close()
    for name, found in loads.items():
        print(f"{name}: {shown(found)}")
    pairs = list(zip(loads["local"], loads["one replica"], strict=True))
    print(f"one replica / local, comparisons per second: {median(other.rate / own.rate for own, other in pairs):.2f}")
    print(
        f"local / one replica, cores' time for each: {median(own.cost / other.cost for own, other in pairs):.2f}",
        flush=True,
    )


def shown(found: list[Load]) -> str:
    rates, costs = ", ".join(f"{one.rate:.2f}" for one in found), ", ".join(f"{one.cost:.0f}" for one in found)
    return f"{median(one.rate for one in found):.2f} comparisons per second ({rates}), {costs} ms of a core for each"


def scaling(seconds: float) -> None:
    torch.set_num_threads(1)
    rates = {}
    for replicas in (1, 2):
        backend = service(replicas, 1)
        found = [load(Pipeline(Settings(device="cpu"), backend), seconds) for _ in range(ROUNDS)]
        backend.close()
        rates[replicas] = median(one.rate for one in found)
        print(f"{replicas} x 1 core: {shown(found)}", flush=True)
    print(f"two replicas / one: {rates[2] / rates[1]:.2f}", flush=True)


def killing(seconds: float) -> None:
    backend = service(2, 1)
    killed: list[int] = []
    told = threading.Event()

    def kill() -> None:
        while not told.wait(EVERY):
            running = [report.pid for report in backend._told() if psutil.pid_exists(report.pid)]
            if running:
                killed.append(random.choice(running))
                os.kill(killed[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    found = load(Pipeline(Settings(device="cpu"), backend), seconds, users=4)
    told.set()
    killer.join()
    backend.close()
    print(
        f"{len(killed)} replicas killed in {found.seconds:.0f} s: {found.answered} comparisons answered, {found.refused} refused "
        f"as busy, {found.lost} lost. {found.words}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts.measure_ray", description="The model service beside the local backend."
    )
    parts = {"throughput": throughput, "scaling": scaling, "killing": killing}
    parser.add_argument("parts", nargs="*", choices=[*parts, []], metavar="PART", help=", ".join(parts))
    parser.add_argument("--seconds", type=float, default=15.0, help="of each round; of killing, in all")
    options = parser.parse_args()
    for name in options.parts or parts:
        parts[name](options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
