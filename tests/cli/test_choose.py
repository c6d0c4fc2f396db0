"""`choose`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.command import refused, run, run_json
from tests.photos import FOLDERS, files, in_folder, in_tar
from vitdemo.settings import ROOT

FolderOf = Callable[[str], Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tar(tmp_path: Path) -> str:
    content = files(dict.fromkeys(FOLDERS, 8))
    return str(in_tar(tmp_path / "photos.tar", {**content, "red/cut.png": content["red/000.png"][:-60]}))


def test_choose_prints_a_table_and_a_verdict_and_writes_files(tar: str, tmp_path: Path, tiny_folder: FolderOf) -> None:
    models = f"{tiny_folder('vit')},{tiny_folder('dino')}"
    out = tmp_path / "out"
    done = run(
        "choose", tar, "--models", models, "--folds", "2", "--out", str(out), "--probe", "tiny-dino", str(out / "probe")
    )
    assert done.status == 0, done.error
    assert "| tiny-vit" in done.out
    assert "24 photos, each answered by a linear probe" in done.out
    assert "skipped: red/cut.png: The image is cut off." in done.error
    assert {path.name for path in out.iterdir()} == {"report.html", "choice.json", "models.csv", "photos.csv", "probe"}
    assert json.loads((out / "choice.json").read_text())["photos"] == 24
    photo = in_folder(tmp_path / "one", {"a/x.png": files({"red": 1})["red/000.png"]}) / "a" / "x.png"
    answers = run_json("classify", str(photo), "--model", str(out / "probe"))
    assert {label["label"] for label in answers[0]["results"][0]["labels"]} == {"blue sky", "green", "red"}


def test_choose_prints_json_alone(tar: str, tiny_folder: FolderOf) -> None:
    found = run_json("choose", tar, "--model", str(tiny_folder("vit")), "--no-labels", "--clusters", "3")
    assert found["classes"] == []
    assert found["unlabelled"]["clusters"]["tiny-vit"]["number"] == 3
    again = run_json("choose", tar, "--model", str(tiny_folder("vit")), "--folds", "2")
    assert again["classes"] == ["blue sky", "green", "red"]
    assert again["forward_seconds"] == 0, "its features were kept"


def test_wrong_use_is_refused_in_words(tar: str, tmp_path: Path, tiny_folder: FolderOf) -> None:
    model = ("--model", str(tiny_folder("vit")))
    assert "folds must be from 2 to 20" in refused("choose", tar, *model, "--folds", "1", status=2)
    assert "is missing, damaged" in refused("choose", str(tmp_path / "gone.tar"), *model, status=1)
    assert "cannot be read" in refused("choose", tar, *model, "--labels", str(tmp_path / "gone.csv"), status=1)
    assert "cannot be read" in refused("choose", tar, *model, "--boxes", str(tmp_path / "gone.json"), status=1)


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
def test_ctrl_c_keeps_what_is_done_and_the_next_run_goes_on(tmp_path: Path, tiny_folder: FolderOf) -> None:
    data = in_tar(tmp_path / "photos.tar", files(dict.fromkeys(FOLDERS, 700)))
    command = [sys.executable, "-m", "vitdemo", "choose", str(data), "--model", str(tiny_folder("hybrid")), "--json"]
    # A job in the background is started with Ctrl-C switched off.
    quiet = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **quiet) as process:  # type: ignore[call-overload]
        for line in process.stderr:
            if "features" in line:
                break
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), said
    assert "What is done is kept: the same call goes on from there." in said
    assert "Traceback" not in said
