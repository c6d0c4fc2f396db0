"""How torch's threads on the CPU wait for each other, and how many there are: told to OpenMP before torch is loaded.

By default OpenMP's threads spin between the parts of an operator. Beside anything else that runs (a browser, the server's own
threads, another test process) they spin while the thread that they wait for has no core, and a forward takes many times as long.
docs/benchmarks.md has what was measured.

The entry points call `prepare_threads`: the command line, which starts the page and training too, and the tests. `import vitdemo`
does not: how the threads of somebody else's program wait, and of what it starts, is for that program to say.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""Variables by which a user says how threads wait: OpenMP's own, GNU's, and two of LLVM and Intel."""
NUMBER = "OMP_NUM_THREADS"

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
"""What a container may use of its machine's cores (Linux, control groups of version 2): microseconds, and of how many."""


def prepare_threads(environment: MutableMapping[str, str] | None = None, cpu_max: Path = CPU_MAX) -> None:
    """Let threads sleep while they wait, and start no more of them than this process may run. What a user has set stays.

    Nothing is done once torch is loaded: OpenMP has read its variables by then.

    >>> variables = {"OMP_NUM_THREADS": "3"}
    >>> prepare_threads(variables)
    >>> variables
    {'OMP_NUM_THREADS': '3', 'OMP_WAIT_POLICY': 'PASSIVE'}
    """
    if environment is None:
        if "torch" in sys.modules:
            return
        environment = os.environ
    if not any(name in environment for name in WAITING):
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    quota = _quota(cpu_max)
    if NUMBER not in environment and quota is not None:
        environment[NUMBER] = str(quota)


def _quota(cpu_max: Path) -> int | None:
    """Cores that a container may use, rounded up; None if that is no limit.

    torch starts a thread for each core that the process may run on, and does not know how much of their time it is given.
    """
    if sys.platform != "linux":
        return None
    try:
        limit, period = cpu_max.read_text(encoding="ascii").split()
        quota = max(1, math.ceil(int(limit) / int(period)))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return None
    return quota if quota < len(os.sched_getaffinity(0)) else None
