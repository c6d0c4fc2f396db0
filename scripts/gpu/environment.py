"""Whether there is a GPU, and a Python that has what the suite needs: the given one, or one made over it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.gpu.results import ROOT

FOLDER = ROOT / ".venv-gpu"

TESTS = ("pytest", "pytest-timeout", "pytest-xdist")
"""What the checks need beside `requirements.txt`."""

OPTIONAL = ("gradio",)
"""What only one step needs, which says so where it is missing."""

_FACTS = """
import json, platform, sys, site, sysconfig
found = {"python": platform.python_version(), "prefix": sys.prefix, "paths": [p for p in sys.path if p.endswith("-packages")]}
try:
    import torch
    found.update(torch=torch.__version__, cuda=torch.version.cuda or "", gpu=torch.cuda.is_available())
    if found["gpu"]:
        found.update(device=torch.cuda.get_device_name(0), memory=torch.cuda.get_device_properties(0).total_memory)
except Exception as error:
    found["fault"] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""

_MISSING = """
import sys
from importlib import metadata
try:
    from packaging.requirements import Requirement
except ImportError:
    from pip._vendor.packaging.requirements import Requirement
for line in sys.argv[1:]:
    wanted = Requirement(line)
    try:
        have = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        print(line, "is not there", sep="\\t")
        continue
    if not wanted.specifier.contains(have, prereleases=True):
        print(line, f"is {have}", sep="\\t")
"""

Say = Callable[[str], None]


def facts(python: str) -> dict[str, Any]:
    """What a Python knows of torch and of the GPU; empty if it cannot be run."""
    done = subprocess.run([python, "-c", _FACTS], capture_output=True, text=True, check=False)
    try:
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {}
    return found


def listed_gpus() -> list[str]:
    """GPUs that NVIDIA's driver lists, in its words."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    done = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)
    return [line for line in done.stdout.splitlines() if line.startswith("GPU ")] if done.returncode == 0 else []


def driver() -> str:
    """Version of NVIDIA's driver, or "unknown"."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "unknown"
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout.strip() else "unknown"


def required(root: Path = ROOT) -> list[str]:
    """Requirements of the app and of the checks."""
    lines = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [*(line for line in lines if line and not line.startswith(("#", "-"))), *TESTS]


def missing(python: str, wanted: list[str]) -> list[tuple[str, str]]:
    """Requirements that an environment does not meet, and why."""
    done = subprocess.run([python, "-c", _MISSING, *wanted], capture_output=True, text=True, check=False)
    if done.returncode:
        return [(line, "could not be looked up") for line in wanted]
    return [(line.split("\t")[0], line.split("\t")[1]) for line in done.stdout.splitlines()]


def constraints(keep_torch: bool, root: Path = ROOT) -> str:
    """The tested versions; without torch's, where one that is there already is kept."""
    text = (root / "constraints.txt").read_text(encoding="utf-8")
    return re.sub(r"^torch==.*\n", "", text, flags=re.MULTILINE) if keep_torch else text


def prepared(python: str, known: dict[str, Any], say: Say, folder: Path = FOLDER) -> str | None:
    """A Python with everything that is required, on which torch sees the GPU; None, said why, if there is none.

    Args:
        python: the given one; its environment is never changed.
        known: `facts` of it.
        folder: where an environment over it is made if it lacks something. Its torch is kept if it sees the GPU.
    """
    wanted, keep = required(), bool(known.get("gpu"))
    lacks = missing(python, wanted)
    if keep and not lacks:
        return python
    own = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if not own.exists():
        say(f"Making {folder.name} ({'; '.join(f'{name} {why}' for name, why in lacks) or 'torch sees no GPU'}) ...")
        made = subprocess.run([python, "-m", "venv", str(folder)], capture_output=True, text=True, check=False)
        if made.returncode:
            say(f"{python} could not make an environment: {(made.stderr or made.stdout).strip()[-300:]}")
            return _with_what_is_there(python, keep, lacks, say)
        if keep:
            _see(own, known["paths"])
    lists = folder / "constraints.txt"
    lists.write_text(constraints(keep), encoding="utf-8")
    command = [str(own), "-m", "pip", "install", "--quiet", "--retries", "1", "--constraint", str(lists), *wanted]
    installed = subprocess.run(command, capture_output=True, text=True, check=False)
    if installed.returncode:
        say(f"pip could not install what is missing: {installed.stderr.strip()[-300:]}")
        return _with_what_is_there(python, keep, lacks, say)
    now = facts(str(own))
    if not now.get("gpu"):
        which = f"{now.get('torch', now.get('fault', 'none'))}, CUDA {now.get('cuda') or 'none'}"
        say(
            f"The torch in {folder.name} ({which}) does not see the GPU; the driver is {driver()}. "
            "Name a Python whose torch does: make gpu PYTHON=/path/to/python"
        )
        return None
    return str(own)


def _with_what_is_there(python: str, gpu: bool, lacks: list[tuple[str, str]], say: Say) -> str | None:
    """The given Python nevertheless, if all that it lacks can be done without."""
    names = [re.split(r"[<>=!\[; ]", name)[0] for name, _ in lacks]
    if gpu and all(name in OPTIONAL for name in names):
        say(f"Going on without {', '.join(names)}.")
        return python
    say("Missing: " + "; ".join(f"{name} {why}" for name, why in lacks) + ".")
    return None


def _see(own: Path, paths: list[str]) -> None:
    """Let an environment find the packages of another: those of the one itself come first.

    Not `--system-site-packages`: made from an environment, that shows the packages of the Python below it instead.
    """
    where = subprocess.run(
        [str(own), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    Path(where, "given.pth").write_text("\n".join(paths) + "\n", encoding="utf-8")
