"""How OpenMP is told to wait: by every entry point, before torch, and never against the user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vitdemo.settings import ROOT
from vitdemo.threads import NUMBER, WAITING, prepare_threads

UNLIMITED = Path("/nowhere")


@pytest.mark.parametrize("variable", WAITING)
def test_a_user_who_says_how_threads_wait_is_obeyed(variable: str) -> None:
    environment = {variable: "theirs"}
    prepare_threads(environment, UNLIMITED)
    assert environment == {variable: "theirs"}


def test_without_a_limit_on_cores_their_number_is_left_to_torch() -> None:
    environment: dict[str, str] = {}
    prepare_threads(environment, UNLIMITED)
    assert environment == {"OMP_WAIT_POLICY": "PASSIVE"}


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
@pytest.mark.parametrize(
    ("limit", "given", "threads"),
    [
        ("200000 100000", {}, "2"),
        ("150000 100000", {}, "2"),
        ("20000 100000", {}, "1"),
        ("800000 100000", {}, None),
        ("max 100000", {}, None),
        ("", {}, None),
        ("200000 100000", {NUMBER: "3"}, "3"),
    ],
)
def test_a_container_gets_as_many_threads_as_it_may_use_cores(
    limit: str, given: dict[str, str], threads: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    file = tmp_path / "cpu.max"
    file.write_text(limit, encoding="ascii")
    environment = dict(given)
    prepare_threads(environment, file)
    assert environment.get(NUMBER) == threads


def test_once_torch_is_loaded_the_environment_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", object())
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    prepare_threads()
    assert "OMP_WAIT_POLICY" not in os.environ


PROBE = """
import json, os, runpy, sys

class Found(Exception):
    pass

class Watch:
    # Asked before a module is found: what the environment says at that moment is what OpenMP would read.
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise Found

def policy(start):
    for name in [name for name in sys.modules if name.split(".")[0] in ("vitdemo", "tests")]:
        del sys.modules[name]
    os.environ.clear()
    os.environ.update(before)
    try:
        start()
    except Found:
        return os.environ.get("OMP_WAIT_POLICY")
    except SystemExit as end:
        raise AssertionError(f"it ended with {end.code} and had no need of torch")

def run(start, *arguments):
    sys.argv = list(arguments)
    return start()

sys.meta_path.insert(0, Watch())
sys.path.insert(0, os.getcwd())
before = dict(os.environ)
import importlib
print(json.dumps({
    "app.py": policy(lambda: run(lambda: runpy.run_path("app.py", run_name="__main__"), "app.py")),
    "vitdemo app": policy(lambda: importlib.import_module("vitdemo.cli").main(["app"])),
    "vitdemo classify": policy(
        lambda: run(lambda: runpy.run_module("vitdemo", run_name="__main__"), "vitdemo", "classify", "cup.jpg")),
    "vitdemo train": policy(lambda: importlib.import_module("vitdemo.cli").main(["train", "photos"])),
    "tests": policy(lambda: importlib.import_module("tests.served")),
    "import vitdemo": policy(lambda: importlib.import_module("vitdemo").load()),
}))
"""


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("theirs", "expected", "imported"), [({}, "PASSIVE", None), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE", "ACTIVE")]
)
def test_every_entry_point_says_how_to_wait_before_it_imports_torch(
    theirs: dict[str, str], expected: str, imported: str | None
) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in WAITING} | theirs
    done = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("import vitdemo") == imported
    assert found == dict.fromkeys(["app.py", "vitdemo app", "vitdemo classify", "vitdemo train", "tests"], expected)
