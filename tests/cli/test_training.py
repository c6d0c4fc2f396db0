"""`train`, and `evaluate` and `probe` on its result."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import Done, refused, run, run_apart, run_json
from tests.photos import CLASSES, FOLDERS, files, in_folder, in_tar
from vitdemo.registry import PROBE_FILE, spec_from_folder

COUNTS = dict.fromkeys(FOLDERS, 12)
SMALL = ("--resolution", "32", "--batch", "10", "--cpu")
SETTINGS = (*SMALL, "--epochs", "4", "--average", "0.9")
"""11 photos of each of three classes to train on, in batches of 10: 12 steps."""
ONE_STEP = (*SMALL, "--epochs", "0.2")


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory) -> str:
    """36 photos of three classes, and two unreadable files."""
    broken = {"red/cut.png": files(COUNTS)["red/000.png"][:-60], "green/notes.txt": b"no photo"}
    return str(in_tar(tmp_path_factory.mktemp("photos") / "photos.tar", {**files(COUNTS), **broken}))


@pytest.fixture(scope="module")
def trained(tar: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """The folder of a short run, in a process of its own, and its output."""
    out = tmp_path_factory.mktemp("runs") / "mini"
    return out, run_apart("train", tar, "--out", str(out), *SETTINGS, "--license", "CC0-1.0", "--json")


def train(*arguments: str) -> Any:
    """The figures of a run; unlike other commands, it draws its progress bar into files too."""
    done = run("train", *arguments, "--json")
    assert done.status == 0, done.error
    return json.loads(done.out)


# A run


@pytest.mark.thorough
def test_train_prints_its_figures_as_json_alone(trained: tuple[Path, Done]) -> None:
    out, done = trained
    assert done.status == 0, done.error
    figures = json.loads(done.out)
    assert list(figures) == [
        "model",
        "steps",
        "score",
        "seconds",
        "images_per_second",
        "bare_images_per_second",
        "efficiency",
        "stopped_early",
        "interrupted",
        "skipped",
    ]
    assert figures["model"] == str(out)
    assert (figures["steps"], figures["stopped_early"], figures["skipped"]) == (12, False, 2)
    assert 0 <= figures["score"] <= 1
    assert figures["images_per_second"] > 0
    ratio = figures["images_per_second"] / figures["bare_images_per_second"]
    assert figures["efficiency"] == pytest.approx(ratio, rel=1e-2)


@pytest.mark.thorough
def test_unreadable_photos_are_listed_on_stderr(trained: tuple[Path, Done]) -> None:
    _, done = trained
    skipped = [line for line in done.error.splitlines() if line.startswith("skipped: ")]
    assert skipped == [
        "skipped: red/cut.png: The image is cut off. Some of its data is missing or damaged: save or send it again.",
        "skipped: green/notes.txt: Not a readable image. Use JPEG, PNG, WebP, GIF, BMP or TIFF.",
    ]
    assert "Traceback" not in done.error
    assert "Warning" not in done.error


@pytest.mark.thorough
def test_the_run_leaves_a_model_its_state_its_log_and_snapshots(trained: tuple[Path, Done]) -> None:
    out, done = trained
    model = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    assert {path.name for path in out.iterdir()} == model | {"log.jsonl", "state.pt", "steps"}
    steps = sorted((out / "steps").iterdir())
    assert [int(path.name) for path in steps] == [1, 2, 4, 8]
    for path in steps:
        assert {file.name for file in path.iterdir()} == model
    spec = spec_from_folder(steps[-1])
    assert (spec.labels, spec.revision) == (CLASSES, "step-8")
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert all(math.isfinite(line["loss"]) and 0 < line["rate"] <= 5e-4 for line in lines)
    scores = {line["step"]: line["score"] for line in lines if "score" in line}
    assert list(scores) == [3, 6, 9, 12]
    assert json.loads(done.out)["score"] == pytest.approx(scores[12], abs=1e-4)


@pytest.mark.thorough
def test_the_card_has_the_command_the_data_and_the_curve(trained: tuple[Path, Done]) -> None:
    out, _ = trained
    card = (out / "README.md").read_text(encoding="utf-8")
    assert f"--out {out} --resolution 32" in card
    for fact in ("license: cc0-1.0", "Data: photos.tar; 33 photos.", "Steps: 12.", "| 3 | ", "| 12 | ", "on CPU"):
        assert fact in card, fact


@pytest.mark.thorough
def test_evaluate_and_probe_take_the_folder_of_the_run(trained: tuple[Path, Done], tar: str) -> None:
    out, _ = trained
    (entry,) = run_json("evaluate", tar, "--model", str(out))
    assert (entry["model"], entry["photos"], entry["top5"]) == ("mini", 36, 1.0)
    assert 0 <= entry["top1"] <= 1
    figures = run_json("probe", tar, "--model", str(out))
    assert list(figures) == ["model", "linear_probe", "nearest_neighbours", "photos", "test_photos"]
    assert (figures["model"], figures["photos"], figures["test_photos"]) == ("mini", 33, 3)
    error = refused("probe", tar, "--model", str(out), "--save", status=2)
    assert "mini has a classifier" in error
    assert not (out / PROBE_FILE).exists()


@pytest.mark.thorough
def test_a_finished_run_that_is_resumed_keeps_its_steps_score_and_weights(tar: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("train", tar, "--out", str(out), *ONE_STEP)
    done = run(*options)
    assert done.status == 0, done.error
    assert "reading photos" in done.error
    figures = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert (figures["model"], figures["steps"], figures["skipped"]) == (str(out), "1", "2")
    weights = (out / "model.safetensors").read_bytes()
    with (out / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"step": 3, "lo')  # cut off by an interruption
    again = train(*options[1:], "--resume")
    assert {name: str(again[name]) for name in ("steps", "score", "skipped")} == {
        name: figures[name] for name in ("steps", "score", "skipped")
    }
    assert (out / "model.safetensors").read_bytes() == weights
    assert "nan" not in (out / "README.md").read_text(encoding="utf-8")


@pytest.mark.thorough
def test_a_trained_model_can_be_a_teacher_and_initialise_another_run(
    trained: tuple[Path, Done], tar: str, tmp_path: Path
) -> None:
    teacher = str(trained[0])
    distill = ("train", tar, "--recipe", "distill", "--teacher", teacher, *ONE_STEP)
    train(*distill[1:], "--arch", "deit", "--out", str(tmp_path / "deit"))
    assert spec_from_folder(tmp_path / "deit").model_type == "deit"
    train(tar, "--init", teacher, "--out", str(tmp_path / "init"), *ONE_STEP)


@pytest.mark.thorough
def test_skipped_files_of_the_test_set_are_listed_too(tar: str, tmp_path: Path) -> None:
    test = in_folder(tmp_path / "test", {**files(dict.fromkeys(FOLDERS, 2)), "red/gone.png": b"", "blu/0.png": b""})
    (test / "blu" / "0.png").write_bytes((test / "red" / "000.png").read_bytes())
    done = run("train", tar, "--test", str(test), "--out", str(tmp_path / "run"), *ONE_STEP, "--json")
    assert done.status == 0, done.error
    assert "skipped: red/gone.png: Not a readable image" in done.error
    assert "skipped: class 'blu' is not one of the model's" in done.error
    assert json.loads(done.out)["skipped"] == 4


@pytest.mark.thorough
def test_an_encoder_without_a_classifier_gets_one_by_probe(tar: str, tmp_path: Path) -> None:
    out = str(tmp_path / "mae")
    train(tar, "--recipe", "mim", "--arch", "mae", "--out", out, *ONE_STEP)
    assert spec_from_folder(tmp_path / "mae").labels == ()
    assert "mae has no classifier to evaluate" in run("evaluate", tar, "--model", out, "--json").error
    assert run_json("probe", tar, "--model", out, "--save")["linear_probe"] > 0.6
    assert run_json("evaluate", tar, "--model", out)[0]["top1"] > 0.6


# Errors


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--recipe", "osmosis"], "choose from 'supervised', 'distill', 'mim', 'dino'"),
        (["--arch", "rnn"], "choose from 'vit', 'deit', 'beit', 'mae', 'hybrid', 'cnn', 'scratch'"),
        (["--recipe", "distill"], "needs a teacher: name a model"),
        (["--recipe", "distill", "--teacher", "vit-maxi"], "Unknown model 'vit-maxi'. Choose from: vit-mini"),
        (["--recipe", "distill", "--teacher", "vit-mini"], "classes, which are not those of the photos"),
        (["--recipe", "supervised", "--teacher", "vit-mini"], "takes no teacher: use distill"),
        (["--recipe", "supervised", "--arch", "mae"], "mae has no classifier: train it with the recipe mim"),
        (["--average", "2"], "not between 0 and 1"),
        (["--recipe", "mim", "--arch", "cnn"], "takes the architectures vit, deit, beit and mae"),
        (["--recipe", "dino", "--arch", "deit"], "dino takes the architecture vit"),
        (["--resolution", "40"], "must be a multiple of the patch size: 16 pixels"),
        (["--resolution", "-32"], "not a whole number above 0"),
        (["--epochs", "1", "--minutes", "1"], "not allowed with"),
        (["--epochs", "0"], "not a number above 0"),
        (["--minutes", "soon"], "not a number above 0"),
        (["--rate", "nan"], "not a number above 0"),
        (["--average", "1"], "not between 0 and 1"),
        (["--seed", "-1"], "not a whole number from 0"),
        (["--patience", "-1"], "not a whole number from 0"),
        (["--batch", "0"], "not a whole number above 0"),
    ],
)
def test_wrong_usage_ends_with_2(options: list[str], words: str, tar: str, tmp_path: Path) -> None:
    length = [] if {"--epochs", "--minutes"} & set(options) else ["--epochs", "1"]
    assert words in refused("train", tar, "--out", str(tmp_path / "run"), *SMALL, *length, *options, status=2)
    assert not (tmp_path / "run").exists()


def test_photos_that_cannot_be_used_end_with_1(tar: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.tar").write_text("no archive")
    cases = {
        in_tar(tmp_path / "single.tar", files({"blue_sky": 3, "green": 1})): "Class 'green' has one photo",
        in_tar(tmp_path / "one.tar", files({"green": 3})): "At least two classes are needed",
        tmp_path / "empty": "No photo was found in empty",
        tmp_path / "gone.zip": "gone.zip is missing, damaged",
        tmp_path / "text.tar": "text.tar is missing, damaged",
    }
    out = ("--out", str(tmp_path / "run"), *SMALL)
    for path, words in cases.items():
        for command in (("train", str(path), *out), ("probe", str(path), "--model", "dino-mini")):
            error = refused(*command, status=1)
            assert words in error
            assert str(tmp_path) not in error
    other = str(in_tar(tmp_path / "other.tar", files({"cat": 2, "dog": 2})))
    error = refused("train", tar, "--test", other, *out, status=1)
    assert "No photo in other.tar belongs to one of the 3 classes" in error
    error = refused("train", tar, "--init", str(tmp_path / "gone"), *out, status=1)
    assert "gone holds no weights to initialise from" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.thorough
def test_a_run_is_neither_overwritten_nor_invented(trained: tuple[Path, Done], tar: str) -> None:
    out, _ = trained
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = ("train", tar, "--out", str(out), *SETTINGS)
    assert "mini already holds a run: resume it, or choose another folder" in refused(*again, status=1)
    error = refused(*again, "--average", "0.8", "--resume", status=1)
    assert "started with other settings: ema_decay 0.9 (now 0.8)" in error
    error = refused("train", tar, "--out", str(out.parent / "new"), *SMALL, "--resume", status=1)
    assert "There is no run to resume in new" in error
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04" + bytes(200)])
def test_a_run_with_a_damaged_state_is_not_resumed(damage: bytes, tar: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state.pt").write_bytes(damage)
    error = refused("train", tar, "--out", str(tmp_path / "run"), *SMALL, "--resume", status=1)
    assert "The state in run is damaged" in error
