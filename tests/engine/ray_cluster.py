"""A model service of its own for tests: a cluster in processes that end with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from vitdemo.cluster.addresses import Cluster
from vitdemo.settings import ROOT


@dataclass
class Service:
    """A `vitdemo serve` that runs."""

    process: subprocess.Popen[str]
    cluster: Cluster

    def kill(self) -> None:
        """Everything at once, as when a machine fails."""
        for one in self.processes():
            if one.is_running():
                one.kill()
        self.process.wait(10)

    def processes(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]


@contextmanager
def service(folder: Path, settings: Mapping[str, str]) -> Iterator[Service]:
    """With what it remembers of itself in a folder: `in_folder` lets this process find it."""
    environment = {**os.environ, "TMPDIR": str(folder), "VITDEMO_DEVICE": "cpu", "VITDEMO_RAY_ADDRESS": "", **settings}
    # As `python -m vitdemo serve`, which says where it is in JSON.
    process = subprocess.Popen(
        [sys.executable, "-m", "vitdemo", "serve", "--owned"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    line = next((line for line in process.stdout if line.startswith("{")), "")
    told = json.loads(line or '{"error": "it ended"}')
    if "error" in told:
        process.wait(20)
        raise RuntimeError(told["error"])
    running = Service(process, Cluster(**told))
    known = running.processes()
    try:
        yield running
    finally:
        if process.poll() is None:
            known = running.processes()
            process.stdin.close()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
        _, alive = psutil.wait_procs(known, 5)
        for one in alive:
            one.kill()


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """Processes that hang, as on a machine that swaps."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def until(true: object, seconds: float = 60.0) -> None:
    """Wait until a function returns something true."""
    assert callable(true)
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "It did not come true."
        time.sleep(0.1)
