"""Importing the package and asking for help is cheap: no torch, no gradio, no transformers. Seen in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys

from vitdemo.settings import ROOT

PROBE = """
import contextlib, io, json, runpy, sys

def command(*arguments):
    sys.argv = ["vitdemo", *arguments]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            runpy.run_module("vitdemo", run_name="__main__")
        except SystemExit as end:
            assert not end.code, end.code
        else:
            raise AssertionError("it did not exit")

def available_models():
    import vitdemo
    assert vitdemo.available_models()

def preprocess():
    from vitdemo.models.preprocess import preprocess

steps = {
    "import": lambda: __import__("vitdemo"),
    "available_models": available_models,
    **{words: lambda words=words: command(*words.split()) for words in WORDS},
    "what is loaded is seen": preprocess,
}
loaded = {}
for name, step in steps.items():
    step()
    loaded[name] = [package for package in ("torch", "gradio", "transformers", "ray") if package in sys.modules]
print(json.dumps(loaded))
"""
WORDS = ["--help", "explain --help", "segment --help", "app --help", "models --json"]


def test_nothing_heavy_is_loaded_before_a_model_is_needed() -> None:
    code = PROBE.replace("WORDS", repr(WORDS))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert loaded.pop("what is loaded is seen") == ["torch"]
    assert loaded == {step: [] for step in ("import", "available_models", *WORDS)}
