"""`python -m scripts.gpu check bench`: what only a GPU can show, each step in a process of its own, within ten minutes a phase.

Exit status: 0 also where there is no GPU, or where time ran out (the next call goes on); 1 if a step failed.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from scripts.gpu import environment, report
from scripts.gpu.results import DONE, FAILED, LATE, ROOT, Result, code_digest, read

CHECKS = ("precision", "memory", "users", "transfers", "determinism", "tap", "live")
"""`tests/gpu/test_NAME.py`."""

BENCHES = ("throughput", "tap", "compare", "methods", "users", "live", "transfers", "ratios")
"""Steps of `scripts.gpu.step`."""

LIMITS = {"check": 200.0, "bench": 150.0}
"""Seconds of one step."""

LEAST = 20.0
"""Seconds that must be left for a step to start."""

NO_GPU = (
    "There is no NVIDIA GPU here, as far as torch and nvidia-smi can tell: nothing was run, and no page was written. "
    "Run it again on a machine that has one."
)


@dataclass(frozen=True)
class Plan:
    """How a call runs its steps."""

    python: str
    device: str
    tiny: bool
    out: Path
    identity: dict[str, str]
    fresh: bool
    only: tuple[str, ...] = ()

    def steps(self, phase: str) -> list[str]:
        names = [f"{phase}-{name}" for name in (CHECKS if phase == "check" else BENCHES)]
        return [name for name in names if not self.only or name in self.only]

    def command(self, step: str) -> list[str]:
        phase, name = step.split("-", 1)
        if phase == "check":
            file = f"tests/gpu/test_{name}.py"
            return [
                self.python,
                "-m",
                "pytest",
                "-n",
                "0",
                "-m",
                "gpu",
                "-q",
                "--durations=0",
                "-p",
                "no:cacheprovider",
                file,
            ]
        words = [self.python, "-m", "scripts.gpu.step", name, "--out", str(self.out / "bench")]
        return [*words, *(f"--identity={key}={value}" for key, value in self.identity.items())]

    @property
    def variables(self) -> dict[str, str]:
        own = {"VITDEMO_GPU_DEVICE": self.device, "VITDEMO_GPU_OUT": str(self.out / "check"), "PYTHONUNBUFFERED": "1"}
        # As the entry points of the package do (vitdemo/threads.py).
        return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, **own, **({"VITDEMO_GPU_TINY": "1"} if self.tiny else {})}


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts.gpu", description=__doc__)
    parser.add_argument("phases", nargs="+", choices=["check", "bench", "report"])
    parser.add_argument("--device", default="cuda", help="cpu rehearses the steps")
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that the steps run")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu", help="folder of the results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks-gpu.md")
    parser.add_argument("--seconds", type=float, default=540.0, help="of one phase (default: 540)")
    parser.add_argument("--only", action="append", default=[], metavar="PHASE-NAME", help="may be repeated")
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured already")
    options = parser.parse_args()

    def say(words: str) -> None:
        print(words, file=sys.stderr, flush=True)

    phases = [phase for phase in options.phases if phase != "report"]
    unknown = set(options.only) - {f"check-{name}" for name in CHECKS} - {f"bench-{name}" for name in BENCHES}
    if unknown:
        parser.error(f"no such step: {', '.join(sorted(unknown))}")
    failed = False
    if phases:
        python = sys.executable
        if options.device.startswith("cuda"):
            known = environment.facts(python)
            if not known.get("gpu") and not environment.listed_gpus():
                say(NO_GPU)
                return 0
            found = environment.prepared(python, known, say)
            if found is None:
                return 1
            python = found
        identity = _identity(python, options.device, options.tiny)
        plan = Plan(python, options.device, options.tiny, options.out, identity, options.fresh, tuple(options.only))
        for phase in phases:
            failed |= not run_phase(plan, phase, options.seconds, say)
    results = [found for phase in ("check", "bench") for found in _results(options.out, phase)]
    if not results:
        say(f"There are no results in {options.out}.")
        return 1
    options.page.write_text(report.page(results), encoding="utf-8")
    say(f"Wrote {options.page}.")
    return int(failed)


def run_phase(plan: Plan, phase: str, seconds: float, say: Callable[[str], None]) -> bool:
    """Run the steps of a phase that are not done yet, as far as time allows; False if one failed."""
    end = time.monotonic() + seconds
    fine, waiting = True, []
    for step in plan.steps(phase):
        name, folder = step.split("-", 1)[1], plan.out / phase
        before = read(folder, name)
        if before and before.state == DONE and _same(before.identity, plan.identity) and not plan.fresh:
            say(f"{step}: done before")
            continue
        left = end - time.monotonic()
        if left < LEAST:
            waiting.append(step)
            continue
        (folder / f"{name}.json").unlink(missing_ok=True)
        start = time.monotonic()
        status, words = _run(plan.command(step), plan.variables, min(LIMITS[phase], left))
        result = read(folder, name) or Result(name)
        result.identity, result.seconds = plan.identity, time.monotonic() - start
        if status == 0:
            result.state = DONE
        else:
            result.state, result.error = (LATE if status is None else FAILED), result.error or words[-1500:]
        result.write(folder)
        say(f"{step}: {result.state}, {result.seconds:.0f} s")
        if result.state != DONE:
            say(words[-1500:])
        fine &= result.state == DONE
    if waiting:
        say(f"No time left for {', '.join(waiting)}: the same command goes on there.")
    return fine


def _run(command: list[str], variables: dict[str, str], limit: float) -> tuple[int | None, str]:
    """Exit status, None if it took too long, and what it wrote. It leads a group, which ends with it."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        words, _ = process.communicate(timeout=limit)
        return process.returncode, words
    except subprocess.TimeoutExpired:
        return None, _ended(process)
    except BaseException:
        _ended(process)
        raise


def _ended(process: subprocess.Popen[str]) -> str:
    os.killpg(process.pid, signal.SIGKILL)
    words, _ = process.communicate()
    return words


def _identity(python: str, device: str, tiny: bool) -> dict[str, str]:
    known = environment.facts(python)
    cuda = device.startswith("cuda")
    return {
        "device": str(known.get("device", device)) if cuda else f"{device} ({platform.machine()})",
        "memory": f"{known.get('memory', 0) / 1e9:.0f} GB" if cuda else "",
        "driver": environment.driver() if cuda else "none",
        "torch": str(known.get("torch", "none")),
        "cuda": str(known.get("cuda", "")),
        "python": str(known.get("python", "")),
        "sizes": "tiny" if tiny else "full",
        "code": code_digest(),
        "date": datetime.date.today().isoformat(),
    }


def _same(first: dict[str, str], second: dict[str, str]) -> bool:
    """Whether they are of one machine and one state of the code, on whichever day."""
    return {**first, "date": ""} == {**second, "date": ""}


def _results(out: Path, phase: str) -> list[tuple[str, Result]]:
    names = CHECKS if phase == "check" else BENCHES
    return [(phase, found) for name in names if (found := read(out / phase, name))]


if __name__ == "__main__":
    sys.exit(main())
