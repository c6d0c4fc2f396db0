"""The Dockerfile. There is no engine in the tests: what it copies and runs is read, and run stage by stage."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Step:
    """One instruction."""

    name: str
    text: str


def steps() -> list[Step]:
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [Step(*line.split(maxsplit=1)) for line in lines]


def said(name: str) -> list[str]:
    return [step.text for step in steps() if step.name == name]


def copied() -> list[tuple[list[str], str]]:
    """Sources in the repository and target, of each COPY that is not from another stage."""
    found = [text.split() for text in said("COPY") if not text.startswith("--from")]
    return [(words[:-1], words[-1]) for words in found]


def test_instructions_are_known_and_stages_end_without_rights() -> None:
    known = {"FROM", "ARG", "COPY", "RUN", "WORKDIR", "USER", "ENV", "EXPOSE", "HEALTHCHECK", "STOPSIGNAL", "CMD"}
    assert {step.name for step in steps()} <= known
    names = [step.name for step in steps()]
    last = len(names) - 1 - names[::-1].index("FROM")
    assert "USER" in names[last:]
    assert said("USER")[-1] not in ("root", "0")
    assert all("slim" in text for text in said("FROM"))
    stages = {text.split(" AS ")[1] for text in said("FROM") if " AS " in text}
    assert {text.split()[0].removeprefix("--from=") for text in said("COPY") if text.startswith("--from")} == stages


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    ignored = [
        line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line and line[0] != "#"
    ]
    assert ignored[0] == "*"
    for sources, _ in copied():
        for source in sources:
            assert (ROOT / source).exists(), source
            assert any(fnmatch.fnmatch(source.split("/")[0], line[1:]) for line in ignored if line[0] == "!"), source
            assert source not in ignored


def test_the_health_check_asks_where_the_app_listens() -> None:
    environment = dict(word.split("=", 1) for word in " ".join(said("ENV")).split())
    assert environment["GRADIO_SERVER_PORT"] == said("EXPOSE")[0]
    command = json.loads(said("HEALTHCHECK")[0].split("CMD ", 1)[1])
    compile(command[2], "HEALTHCHECK", "exec")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Nobody listens there: unhealthy.
    done = subprocess.run(
        [sys.executable, *command[1:]],
        env={**os.environ, "GRADIO_SERVER_PORT": str(port)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1


def test_the_cuda_build_is_one_that_exists_for_the_pinned_torch() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert said("ARG") == ["TORCH=cpu"]
    assert "download.pytorch.org/whl/${TORCH}" in text


@pytest.mark.thorough
@pytest.mark.timeout(280)
def test_what_is_copied_starts_is_healthy_and_ends_on_its_signal(tmp_path: Path) -> None:
    """The last stage in a folder: its files, its commands, its environment; the packages are those of the tests."""
    app = tmp_path / "app"
    for sources, target in copied():
        if target.startswith("/build"):
            continue
        for source in sources:
            into = app / target
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, into, ignore=shutil.ignore_patterns("__pycache__", "*.pyi"))
            else:
                into.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, into)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = dict(word.split("=", 1) for word in " ".join(said("ENV")).split())
    environment |= {
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "HF_HOME": str(tmp_path / "hub"),
    }
    environment |= {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GRADIO_TEMP_DIR": str(tmp_path / "gradio")}
    for text in said("RUN"):
        if "compileall" in text:
            command = text.replace("/venv/bin/python", sys.executable)
            assert subprocess.run(command, shell=True, cwd=app, env=environment, check=False).returncode == 0
    assert list((app / "vitdemo").rglob("*.pyc"))
    health = json.loads(said("HEALTHCHECK")[0].split("CMD ", 1)[1])
    start = json.loads(said("CMD")[0])
    running = subprocess.Popen([sys.executable, *start[1:]], cwd=app, env=environment)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            asked = subprocess.run([sys.executable, *health[1:]], env=environment, capture_output=True, check=False)
            if asked.returncode == 0:
                break
            assert running.poll() is None
            time.sleep(1)
        assert asked.returncode == 0
        running.send_signal(getattr(signal, said("STOPSIGNAL")[0]))
        assert running.wait(30) == 0
    finally:
        running.kill()
