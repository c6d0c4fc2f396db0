"""One benchmark in a process of its own: `python -m scripts.gpu.step NAME --out FOLDER`; `__main__` starts them."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from scripts.gpu import serving, speed
from scripts.gpu.results import DONE, FAILED, Result
from scripts.gpu.rig import Rig

STEPS: dict[str, Callable[[Rig], speed.Figures]] = {
    "throughput": speed.throughput,
    "tap": serving.tap,
    "compare": speed.compare,
    "methods": speed.methods,
    "users": serving.users,
    "live": serving.live,
    "transfers": serving.transfers,
    "ratios": speed.ratios,
}
"""Those that matter most first: time may run out."""


def run(name: str, rig: Rig, folder: Path, identity: dict[str, str]) -> Result:
    """Measure, and write each figure at once."""
    result = Result(name, identity=identity)
    start = time.monotonic()
    try:
        for key, value in STEPS[name](rig):
            result.figures[key] = value
            result.seconds = time.monotonic() - start
            result.write(folder)
        result.state = DONE
    except Exception:
        traceback.print_exc()
        result.state, result.error = FAILED, traceback.format_exc()[-1500:]
    result.seconds = time.monotonic() - start
    result.write(folder)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=STEPS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--identity", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()
    identity = dict(entry.partition("=")[::2] for entry in options.identity)
    return 0 if run(options.name, Rig.of_environment(), options.out, identity).state == DONE else 1


if __name__ == "__main__":
    sys.exit(main())
