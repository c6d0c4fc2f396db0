"""Examples of the documentation: where they stand, and how each kind is run."""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vitdemo.settings import ASSETS, ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]

HOST = "http://127.0.0.1:7860"
"""Where examples expect the app: the tests serve it elsewhere."""

_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Example:
    """One fenced block."""

    page: str
    line: int
    language: str
    code: str
    mark: str
    """What the comment right before it says: `slow`, `not run: REASON`, or nothing."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def served(self) -> bool:
        """Whether it talks to the running app."""
        return HOST in self.code


def examples() -> Iterator[Example]:
    """Every fenced block of every page."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in _BLOCK.finditer(text):
            line = text.count("\n", 0, found.start("language")) + 1
            yield Example(
                str(page.relative_to(ROOT)), line, found["language"], found["code"], (found["mark"] or "").strip()
            )


def furnish(folder: Path) -> None:
    """Put the files that examples name into a folder: two photos, an album of them, labelled photos as folders and as a tar."""
    for name in ("sunflower", "crocodile"):
        path = ASSETS / "examples" / f"{name}.jpg"
        (folder / path.name).symlink_to(path)
        labelled = folder / "photos" / name
        labelled.mkdir(parents=True)
        with Image.open(path) as photo:
            small = photo.convert("RGB").resize((96, 96))
        for turn in range(4):
            small.rotate(5 * turn).save(labelled / f"{turn}.jpg")
    (folder / "album").mkdir()
    for name in ("sunflower", "crocodile"):
        (folder / "album" / f"{name}.jpg").symlink_to(folder / "photos" / name / "0.jpg")
    with tarfile.open(folder / "test.tar", "w") as archive:
        archive.add(folder / "photos", arcname="photos")


def run_python(code: str) -> None:
    """A program, or a session with its answers."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    try:
        if code.startswith(">>>"):
            session = doctest.DocTestParser().get_doctest(code, namespace, "example", None, None)
            runner, report = doctest.DocTestRunner(verbose=False), io.StringIO()
            runner.run(session, out=report.write, clear_globs=False)
            assert not runner.failures, report.getvalue()
        else:
            exec(compile(code, "example", "exec"), namespace)
    finally:
        for value in namespace.values():
            if type(value).__name__ == "Client":
                value.close()


def run_shell(code: str) -> None:
    """Commands of `python -m vitdemo` one by one in this process, targets of make by name only, anything else by bash."""
    if code.startswith("HOST="):
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", code], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("data: "), done.stdout
        return
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            assert all(re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE) for target in words[1:]), line
        elif words[:3] == ["python", "-m", "vitdemo"]:
            run_command(words[3:])
        elif words:
            raise AssertionError(f"{line!r}: this test does not run it. Say why with <!-- not run: REASON -->.")


def run_command(words: list[str]) -> None:
    """One command line; what it reads from a file with `<` is its standard input."""
    from vitdemo.cli import main

    source = words[words.index("<") + 1] if "<" in words else None
    arguments = words[: words.index("<")] if source else words
    out, errors = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        if source:
            patch.setattr(sys, "stdin", io.TextIOWrapper(stack.enter_context(open(source, "rb"))))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(errors))
        status = main(arguments)
    assert status == 0, errors.getvalue()
    if "--json" in arguments:
        json.loads(out.getvalue())
    for option in ("--out", "--raw", "--csv", "--out-dir"):
        if option in arguments:
            assert Path(arguments[arguments.index(option) + 1]).exists(), f"{option} wrote nothing"
