"""Commands, run in the tests' own process: torch alone takes seconds to import."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import pytest

from vitdemo.cli import main
from vitdemo.settings import ROOT


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    status: int
    out: str
    error: str


def run(*arguments: str, stdin: bytes = b"") -> Done:
    """What `python -m vitdemo ARGUMENTS` does, without a process of its own."""
    out, error = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(error), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        try:
            status = main(arguments)
        except SystemExit as end:
            status = int(end.code or 0)
    return Done(status, out.getvalue(), error.getvalue())


def run_apart(*arguments: str, stdin: bytes = b"") -> Done:
    """As people run it. Few tests need to: what the process alone shows is what it prints at all, and its exit status."""
    command = [sys.executable, "-m", "vitdemo", *arguments]
    done = subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, timeout=100, check=False)
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def run_json(*arguments: str, status: int = 0, stdin: bytes = b"") -> Any:
    """Nothing but JSON is on stdout, and no bar where there is no terminal."""
    done = run(*arguments, "--json", stdin=stdin)
    assert done.status == status, done.error
    assert "%|" not in done.error
    return json.loads(done.out)


def refused(*arguments: str, status: int) -> str:
    """The words of a refusal: in one place, and nothing else."""
    done = run(*arguments)
    assert (done.status, done.out) == (status, "")
    assert "Traceback" not in done.error
    return done.error
