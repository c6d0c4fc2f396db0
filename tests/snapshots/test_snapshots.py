"""What the public faces answer is what they answered when it was stored: commands, Python functions and HTTP endpoints."""

from __future__ import annotations

import csv
import inspect
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

import vitdemo
from tests.fakehub import FakeHub
from tests.photos import FOLDERS, files, in_tar
from tests.served import App
from tests.snapshots.stored import UPDATE, check
from vitdemo.cli import main

EXAMPLES = Path(__file__).parents[2] / "assets" / "examples"

same_argparse = pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="argparse words help and usage differently in other versions of Python"
)


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with photos whose names are short, under the settings of a fresh installation."""
    for name in ("cup", "kangaroo"):
        shutil.copy(EXAMPLES / f"{name}.jpg", tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    monkeypatch.chdir(tmp_path)
    in_tar(tmp_path / "photos.tar", files(dict.fromkeys(FOLDERS, 4)))
    for name in [name for name in os.environ if name.startswith("VITDEMO_") and name != UPDATE]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VITDEMO_DEVICE", "cpu")
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = main(arguments)
        except SystemExit as end:  # argparse's own
            status = int(end.code or 0)
    return status, out.getvalue(), err.getvalue()


def run_json(*arguments: str) -> dict[str, Any]:
    """Everything that a program sees, without what is never the same."""
    status, out, err = run(*arguments, "--json")
    return {"status": status, "stdout": timeless(json.loads(out)), "stderr": err.splitlines()}


def timeless(value: Any) -> Any:
    """Without milliseconds."""
    if isinstance(value, dict):
        return {key: "ms" if key == "ms" and item > 0 else timeless(item) for key, item in value.items()}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def shape(value: Any) -> Any:
    """Keys and types alone."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else type(value).__name__


# Help

COMMANDS = (
    *(
        "serve",
        "models",
        "download",
        "remove",
        "classify",
        "explain",
        "reconstruct",
        "compare",
        "ablate",
        "lens",
        "segment",
    ),
    *("evaluate", "sanity", "bench", "train", "probe", "rebuild"),
)


@same_argparse
@pytest.mark.parametrize("command", ["", *COMMANDS], ids=lambda command: command or "vitdemo")
def test_help_is_unchanged(command: str) -> None:
    status, out, err = run(*command.split(), "--help")
    assert (status, err) == (0, "")
    check(f"help/{command or 'vitdemo'}.txt", out)


# Answers

ANSWERS = {
    "models": "models",
    "classify": "classify cup.jpg kangaroo.jpg --models vit-mini,dino-mini --top-k 3",
    "classify-one-fails": "classify cup.jpg broken.jpg gone.jpg --model cnn-mini --top-k 1",
    "classify-without-classifier": "classify cup.jpg --model mae-mini",
    "explain-attention": "explain cup.jpg --model deit-mini --layer 2 --head 1 --readout distillation --out map.png",
    "explain-defaults": "explain cup.jpg",
    "explain-rollout": "explain cup.jpg --model beit-mini --method rollout --discard 0.5 --head max --resolution 320",
    "explain-relevance": "explain kangaroo.jpg --method relevance --target top:2 --raw map.npz",
    "explain-similarity": "explain cup.jpg --model dino-mini --method similarity --point 300,200",
    "explain-patch": "explain cup.jpg --readout patch --point 300,200 --head min",
    "explain-faithfulness": "explain cup.jpg --model cnn-mini --method grad-cam --faithfulness",
    "compare": "compare cup.jpg --models vit-mini,dino-mini,cnn-mini --out figure.png",
    "compare-several": "compare cup.jpg broken.jpg --models vit-mini,hybrid-mini --method legrad --target cup",
    "reconstruct": "reconstruct cup.jpg --ratio 0.5 --seed 3 --out figure.png",
    "segment-attention": "segment cup.jpg --out-dir out --method attention --head all --threshold 0.3 --resolution 224",
    "segment-foreground": "segment cup.jpg gone.jpg --out-dir out --objects 2 --refine --resolution 224",
    "segment-parts": "segment cup.jpg --out-dir out --method parts --parts 3 --tau 0.3 --whole --resolution 224",
    "segment-pca": "segment cup.jpg --out-dir out --method pca --clip-outliers --resolution 224",
    "segment-similarity": (
        "segment cup.jpg kangaroo.jpg --out-dir out --method similarity --point 300,200 --matches 2 --resolution 224"
    ),
    "evaluate": "evaluate labelled.tar --models vit-mini,cnn-mini",
    "evaluate-faithfulness": "evaluate labelled.tar --model vit-mini --faithfulness --method rollout --photos 2 --steps 4",
    "sanity": "sanity cup.jpg --model vit-mini --method attention",
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", ANSWERS)
def test_the_answer_to_a_command_is_unchanged(name: str, workplace: Path) -> None:
    photos = {f"{label}/{label}.jpg": (EXAMPLES / f"{label}.jpg").read_bytes() for label in ("cup", "panda", "crab")}
    in_tar(workplace / "labelled.tar", {**photos, "cup/other.jpg": photos["panda/panda.jpg"]})
    before = {*workplace.rglob("*")}
    found = run_json(*ANSWERS[name].split())
    if name == "models":
        # Folders that were added belong to the process, not to the installation.
        found["stdout"] = [entry for entry in found["stdout"] if entry["source"] != "local"]
    written = sorted(str(path.relative_to(workplace)) for path in {*workplace.rglob("*")} - before if path.is_file())
    check(f"answers/{name}.json", {"command": ANSWERS[name], **found, "files": written})


def test_the_table_of_several_photos_is_unchanged(workplace: Path) -> None:
    assert run("compare", "cup.jpg", "broken.jpg", "--models", "vit-mini,dino-mini", "--csv", "table.csv")[0] == 1
    with (workplace / "table.csv").open(encoding="utf-8", newline="") as table:
        # What is not in quotes is a number.
        header, *lines = csv.reader(table, quoting=csv.QUOTE_NONNUMERIC)
    time = header.index("ms")
    for line in lines:
        line[time] = line[time] and "ms"
    check("answers/compare-csv.json", [header, *lines])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Callable[[str], Path]) -> Iterator[FakeHub]:
    """One with one model, and an empty cache."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.add("someone/flowers", tiny_folder("vit"))
        yield hub


def test_what_is_said_of_models_that_come_and_go_is_unchanged(hub: FakeHub) -> None:
    fetched = run_json("download", "someone/flowers", "someone/nothing")
    for number in ("bytes", "parameters"):
        assert fetched["stdout"][0].pop(number) > 0
    assert fetched["stdout"][0].pop("revision") == hub.commit("someone/flowers")
    assert not any("%|" in line for line in fetched["stderr"])
    status, out, err = run("remove", "someone/flowers", "someone/nothing")
    removed = {"status": status, "stdout": out.splitlines(), "stderr": err.splitlines()}
    check("answers/download-remove.json", {"download": fetched, "remove": removed})


TRAINED = {
    "train": "train photos.tar --out run --resolution 32 --batch 4 --epochs 0.25 --cpu",
    "probe": "probe photos.tar --model vit-mini",
    "bench": "bench --model tiny --pairs 1 --resolution 64 --no-memory",
    "calibrate": "evaluate photos.tar --model tiny --calibrate",
}
"""Their figures depend on time, or on what is drawn by chance."""


@pytest.mark.thorough
@pytest.mark.parametrize("name", TRAINED)
def test_the_keys_of_a_measured_answer_are_unchanged(
    name: str, workplace: Path, tiny_folder: Callable[[str], Path]
) -> None:
    shutil.copytree(tiny_folder("vit"), workplace / "tiny")
    if name == "calibrate":
        in_tar(workplace / "photos.tar", files(dict.fromkeys(("apple", "cup", "sunflower"), 4)))
    status, out, _ = run(*TRAINED[name].split(), "--json")
    assert status == 0
    check(f"answers/{name}.json", {"command": TRAINED[name], "stdout": shape(json.loads(out))})


def test_the_list_of_models_in_words_is_unchanged() -> None:
    status, out, err = run("models")
    lines = [line for line in out.splitlines() if not line.endswith("local")]
    check("answers/models-in-words.json", {"status": status, "stdout": lines, "stderr": err.splitlines()})


# Refusals

REFUSALS = {
    "unknown-model": "classify cup.jpg --model resnet-9000",
    "unknown-folder": "classify cup.jpg --model ./nowhere",
    "missing-file": "explain gone.jpg",
    "not-an-image": "classify broken.jpg",
    "not-an-image-json": "explain broken.jpg --json",
    "unknown-device": "classify cup.jpg --device abacus",
    "unknown-method": "explain cup.jpg --method magic",
    "method-without-attention": "explain cup.jpg --model cnn-mini --method rollout",
    "layer-out-of-range": "explain cup.jpg --layer 8",
    "layer-no-number": "explain cup.jpg --layer top",
    "head-out-of-range": "explain cup.jpg --head 6",
    "head-unknown": "explain cup.jpg --head median",
    "readout-absent": "explain cup.jpg --readout distillation",
    "readout-unknown": "compare cup.jpg --readout nose",
    "class-unknown": "explain cup.jpg --method relevance --target unicorn",
    "discard-too-much": "explain cup.jpg --method rollout --discard 1",
    "point-no-numbers": "explain cup.jpg --method similarity --point left",
    "point-outside": "explain cup.jpg --method similarity --point 9999,1",
    "resolution-too-small": "explain cup.jpg --resolution 8",
    "not-writable": "explain cup.jpg --out nowhere/map.png",
    "explain-two-models": "explain cup.jpg --models vit-mini,beit-mini",
    "compare-out-of-two": "compare cup.jpg kangaroo.jpg --out figure.png",
    "reconstruct-wrong-model": "reconstruct cup.jpg --model vit-mini",
    "reconstruct-everything": "reconstruct cup.jpg --ratio 1",
    "segment-method": "segment cup.jpg --out-dir out --method magic",
    "segment-threshold": "segment cup.jpg --out-dir out --method attention --threshold 2",
    "segment-objects": "segment cup.jpg --out-dir out --objects 0",
    "segment-without-patches": "segment cup.jpg --out-dir out --model cnn-mini",
    "evaluate-missing-archive": "evaluate gone.tar --model vit-mini",
    "evaluate-two-archives": "evaluate one.tar two.tar --segmentation",
    "sanity-unknown-method": "sanity cup.jpg --model vit-mini --method magic",
    "bench-unknown-variant": "bench --model vit-mini --variant magic",
    "bench-random": "bench --random google/vit-base-patch16-224",
    "remove-no-name": "remove ../..",
    "download-no-name": "download vit-mini",
    "train-without-teacher": "train photos.tar --recipe distill --out run",
    "train-wrong-architecture": "train photos.tar --recipe dino --arch deit --out run",
    "rebuild-unknown": "rebuild vit photos.tar --out run",
    "probe-missing-archive": "probe gone.tar --model dino-mini",
}

MISUSES = {
    "no-command": "",
    "unknown-command": "paint cup.jpg",
    "unknown-option": "classify cup.jpg --colour red",
    "no-image": "classify",
    "no-out-dir": "segment cup.jpg",
    "top-k-zero": "classify cup.jpg --top-k 0",
    "unknown-recipe": "train photos.tar --recipe osmosis",
    "both-lengths": "train photos.tar --epochs 1 --minutes 1",
    "no-share": "train photos.tar --average 2",
}
"""Those that the parser of arguments refuses by itself."""


def refused(name: str, command: str) -> None:
    status, out, err = run(*command.split())
    check(
        f"refusals/{name}.txt", f"$ {f'vitdemo {command}'.strip()}\nstatus {status}\n--- stdout\n{out}--- stderr\n{err}"
    )


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_done_is_said_in_the_same_words(name: str) -> None:
    refused(name, REFUSALS[name])


@same_argparse
@pytest.mark.parametrize("name", MISUSES)
def test_wrong_usage_is_said_in_the_same_words(name: str) -> None:
    refused(name, MISUSES[name])


def test_a_wrong_setting_is_said_in_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITDEMO_MAX_SIDE", "wide")
    refused("setting", "classify cup.jpg")


# Python


def test_the_public_functions_take_the_same_arguments() -> None:
    functions = {name: inspect.signature(getattr(vitdemo, name)).parameters for name in sorted(vitdemo.__all__)}
    check(
        "python.json", {name: [str(one).split(":")[0] for one in takes.values()] for name, takes in functions.items()}
    )


EXPLAINED: dict[str, Any] = {
    "method": "rollout",
    "layer": -1,
    "head": "mean",
    "readout": None,
    "target": None,
    "resolution": None,
    "discard": 0.2,
    "point": None,
    "top_k": 2,
    "dtype": "fp32",
}
SEGMENTED: dict[str, Any] = {
    "method": "parts",
    "threshold": 0.6,
    "head": "mean",
    "point": None,
    "objects": 1,
    "parts": 2,
    "tau": 0.3,
    "matches": 2,
    "refine": False,
    "clip": False,
    "within": True,
    "resolution": 96,
}


def test_the_public_functions_take_every_documented_option() -> None:
    assert len(vitdemo.classify("cup.jpg", "vit-mini", top_k=2, dtype="fp32").labels) == 2
    assert vitdemo.explain("cup.jpg", "vit-mini", **EXPLAINED).map.values.shape == (14, 14)
    compared = vitdemo.compare("cup.jpg", ["vit-mini", "dino-mini"], **EXPLAINED)
    assert (len(compared.explanations), len(compared.agreement)) == (2, 1)
    assert vitdemo.reconstruct("cup.jpg", "mae-mini", ratio=0.5, seed=1, dtype="fp32").hidden.sum() == 98
    found = vitdemo.segment(["cup.jpg"], "dino-mini", **SEGMENTED)
    assert found[0].names == ("part 1", "part 2")
    assert not vitdemo.load("vit-mini", device="cpu", dtype="fp32").training


# HTTP


def test_the_endpoints_are_unchanged(app: App, tmp_path: Path) -> None:
    from gradio_client import Client

    client = Client(app.url, verbose=False, download_files=tmp_path)
    found = client.view_api(return_format="dict", print_info=False)
    client.close()
    assert found["unnamed_endpoints"] == {}
    for endpoint in found["named_endpoints"].values():
        for part in (*endpoint["parameters"], *endpoint["returns"]):
            # Gradio's own: an example, and what it says of files.
            part.pop("example_input", None)
            part["type"] = part["type"].get("title", part["type"])
    check("endpoints.json", found["named_endpoints"])
