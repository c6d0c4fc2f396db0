"""Models of the Hub and of folders on the command line. The Hub is a fake one on loopback."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests import tiny
from tests.cli.command import refused, run, run_json
from tests.fakehub import FakeHub
from vitdemo.registry import OFFICIAL, hub_cache
from vitdemo.settings import ROOT

CUP = str(ROOT / "assets" / "examples" / "cup.jpg")
LISTED, GATED = "google/vit-base-patch16-224", "facebook/dinov3-vits16-pretrain-lvd1689m"
OWN, SWIN, WEIGHTS = "someone/flowers", "someone/swin", "model.safetensors"
CONTRACT = ["name", "family", "source", "parameters", "image_size", "patch_size", "classes", "bytes", "offline"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Callable[[str], Path]) -> Iterator[FakeHub]:
    """A fake Hub, and a cache that holds nothing."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        for name, kind in ((LISTED, "vit"), (OWN, "deit"), (GATED, "dinov3")):
            hub.add(name, tiny_folder(kind), gated=name == GATED)
        swin = tmp_path / "swin"
        swin.mkdir()
        (swin / "config.json").write_text('{"model_type": "swin"}')
        (swin / "preprocessor_config.json").write_text("{}")
        (swin / WEIGHTS).write_bytes(bytes(1000))
        hub.add(SWIN, swin)
        yield hub


def test_models_lists_those_that_are_here_and_those_that_can_be_fetched(hub: FakeHub) -> None:
    run("download", OWN)
    entries = {entry["name"]: entry for entry in run_json("models")}
    assert entries.keys() >= {*OFFICIAL, OWN, "vit-mini"}
    assert all(list(entry)[: len(CONTRACT)] == CONTRACT for entry in entries.values())
    assert all(set(entry) >= {"license", "revision", "link", "gated", "methods"} for entry in entries.values())
    assert {name for name, entry in entries.items() if entry["source"] == "hub" and entry["offline"]} == {OWN}
    assert entries[OWN]["revision"] == hub.commit(OWN)
    assert {name for name, entry in entries.items() if entry["gated"]} == {
        name for name in OFFICIAL if "dinov3" in name
    }

    words = run("models")
    lines = {line.split()[0]: line for line in words.out.splitlines()}
    assert lines.keys() == entries.keys()
    assert lines["vit-mini"].endswith("embedded")
    assert lines[OWN].endswith("on this machine")
    assert lines[GATED].endswith("to download, gated")
    assert "download NAME" in words.error


def test_download_goes_on_after_one_that_fails(hub: FakeHub) -> None:
    missing, fetched = run_json("download", "someone/nothing", LISTED, status=1)
    assert missing == {"name": "someone/nothing", "error": missing["error"]}
    assert (fetched["name"], fetched["offline"], fetched["revision"]) == (LISTED, True, hub.commit(LISTED))
    done = run("download", GATED, LISTED, SWIN)
    assert done.status == 1
    assert done.out.startswith(f"{LISTED}  revision {hub.commit(LISTED)[:12]}")
    assert f"{GATED}: {GATED} is gated or private. Accept the licence" in done.error
    assert f"{SWIN} is of type 'swin', which cannot be loaded: it attends within windows" in done.error
    assert not hub.bytes_sent(WEIGHTS) > len(hub.repos[LISTED].revisions["main"][1][WEIGHTS].data)


@pytest.mark.thorough
def test_a_terminal_gets_a_bar(hub: FakeHub) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [sys.executable, "-m", "vitdemo", "download", LISTED, "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs, timeout=60, check=True)
    os.close(theirs)
    assert b"100%|" in os.read(ours, 100_000)
    os.close(ours)
    assert json.loads(done.stdout)[0]["name"] == LISTED


def test_remove_frees_the_disk_and_says_what_was_not_here(hub: FakeHub) -> None:
    run("download", LISTED)
    done = run("remove", LISTED)
    assert (done.status, done.out.split()[0]) == (0, LISTED)
    assert "MB freed" in done.out
    assert not hub_cache.folder(LISTED).exists()
    again = run("remove", LISTED)
    assert (again.status, again.out) == (1, f"{LISTED} is not on this machine\n")
    assert "not the name of a model on the Hub" in refused("remove", "../..", status=2)


def test_a_model_is_fetched_when_it_is_first_named_and_then_runs_without_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    (entry,) = run_json("classify", CUP, "--model", LISTED)
    assert entry["results"][0]["model"] == LISTED
    assert {label["label"] for label in entry["results"][0]["labels"]} <= set(tiny.LABELS)
    hub.down()
    png = tmp_path / "map.png"
    explained = run_json("explain", CUP, "--model", LISTED, "--out", str(png))
    assert (explained["grid"], explained["revision"]) == ([4, 4], hub.commit(LISTED))
    assert png.exists()
    compared = run_json("compare", CUP, "--models", f"{LISTED},vit-mini")
    assert [result["model"] for result in compared["results"]] == [LISTED, "vit-mini"]
    assert compared["agreement"][0]["prediction"] == "different vocabularies"
    assert "the Hub cannot be reached" in refused("classify", CUP, "--model", OWN, status=1)


def test_a_folder_is_a_model(hub: FakeHub, tiny_folder: Callable[[str], Path]) -> None:
    (entry,) = run_json("classify", CUP, "--model", str(tiny_folder("beit")))
    assert entry["results"][0]["model"] == "tiny-beit"
    relative = os.path.relpath(tiny_folder("beit"), ROOT)
    assert run_json("explain", CUP, "--model", relative)["model"] == "tiny-beit"
    assert hub.requests == []


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        (SWIN, 1, "it attends within windows"),
        (GATED, 1, "is gated or private. Accept the licence"),
        ("someone/nothing", 1, "There is no model someone/nothing on the Hub"),
        ("./nowhere", 2, "Unknown model './nowhere'. Choose from: vit-mini"),
        ("unheard-of", 2, "or a model on the Hub, as organisation/model"),
    ],
)
def test_a_model_that_cannot_be_had_is_refused_in_words(hub: FakeHub, name: str, status: int, words: str) -> None:
    assert words in refused("classify", CUP, "--model", name, status=status)


def test_offline_nothing_is_asked_and_what_is_here_works(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    run("download", LISTED)
    asked = len(hub.requests)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run_json("classify", CUP, "--model", LISTED)
    assert "HF_HUB_OFFLINE forbids downloads" in refused("classify", CUP, "--model", OWN, status=1)
    assert "HF_HUB_OFFLINE" in refused("download", OWN, status=1)
    assert len(hub.requests) == asked


def test_a_masked_autoencoder_reconstructs(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    png = tmp_path / "rebuilt.png"
    options = ["--model", str(tiny_folder("mae")), "--ratio", "0.5", "--seed", "3"]
    entry = run_json("reconstruct", CUP, *options, "--out", str(png))
    assert (entry["model"], entry["ratio"], entry["seed"]) == ("tiny-mae", 0.5, 3)
    assert (entry["grid"], entry["patches"], entry["hidden"]) == ([4, 4], 16, 8)
    with Image.open(png) as picture:
        assert picture.format == "PNG"
        assert picture.width > 2 * picture.height
    words = run("reconstruct", CUP, *options[:2])
    assert "tiny-mae  12 of 16 patches hidden" in words.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "vit-mini"], "vit-mini does not reconstruct. A masked autoencoder does"),
        (["--model", "MAE", "--ratio", "1"], "above 0, below 1"),
        (["--model", "MAE", "--ratio", "nan"], "above 0, below 1"),
        (["--model", "MAE,vit-mini"], "takes one model"),
        (["--model", "MAE", "--out", "/nowhere/x.png"], "cannot be written"),
    ],
)
def test_what_cannot_be_reconstructed_ends_with_2(
    options: list[str], words: str, tiny_folder: Callable[[str], Path]
) -> None:
    mae = str(tiny_folder("mae"))
    assert words in refused("reconstruct", CUP, *(option.replace("MAE", mae) for option in options), status=2)


def test_a_broken_photo_is_said_in_json_too(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    entry = run_json("reconstruct", str(tmp_path / "broken.jpg"), "--model", str(tiny_folder("mae")), status=1)
    assert "error" in entry
