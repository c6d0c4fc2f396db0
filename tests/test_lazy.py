"""Importing the package and asking for help is cheap: no torch, no gradio, no transformers. Seen in fresh processes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from vitdemo.settings import ROOT

HEAVY = ("torch", "gradio", "transformers")


def _heavy_after(code: str) -> list[str]:
    """Which of the heavy packages a fresh process has loaded after `code`."""
    report = f"import sys, json; sys.stderr.write(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded: list[str] = json.loads(done.stderr.splitlines()[-1])
    return loaded


def _command(*arguments: str) -> str:
    """Code that runs `python -m vitdemo ARGUMENTS` and goes on after it."""
    return (
        f"import runpy, sys\nsys.argv = ['vitdemo', *{arguments!r}]\n"
        "try:\n    runpy.run_module('vitdemo', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\nelse:\n    raise AssertionError('it did not exit')"
    )


@pytest.mark.parametrize(
    "code",
    [
        "import vitdemo",
        "import vitdemo; assert vitdemo.available_models()",
        _command("--help"),
        _command("explain", "--help"),
        _command("segment", "--help"),
        _command("app", "--help"),
        _command("models", "--json"),
    ],
    ids=["import", "available_models", "--help", "explain --help", "segment --help", "app --help", "models --json"],
)
def test_nothing_heavy_is_loaded_by(code: str) -> None:
    assert _heavy_after(code) == []


def test_what_is_loaded_is_seen() -> None:
    assert _heavy_after("from vitdemo.models.preprocess import preprocess") == ["torch"]
