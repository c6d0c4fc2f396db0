"""`train`, and `evaluate` and `probe` on what it leaves behind. One run is a process of its own; the rest is quicker here."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.photos import CLASSES, FOLDERS, files, in_folder, in_tar
from vitdemo.cli import main
from vitdemo.registry import PROBE_FILE, spec_from_folder
from vitdemo.settings import ROOT

COUNTS = dict.fromkeys(FOLDERS, 24)
SMALL = ("--resolution", "32", "--batch", "16", "--cpu")
EPOCHS = ("--epochs", "4")
"""Of 22 photos of each of three classes, in batches of 16: 16 steps."""
JSON = "--json"

Said = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 photos of three classes, and two files that are none."""
    broken = {"red/cut.png": files(COUNTS)["red/000.png"][:-60], "green/notes.txt": b"no photo"}
    return in_tar(tmp_path_factory.mktemp("photos") / "photos.tar", {**files(COUNTS), **broken})


@pytest.fixture(scope="module")
def trained(tar: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of a short run, and what the command said."""
    out = tmp_path_factory.mktemp("runs") / "mini"
    options = [*SMALL, *EPOCHS, "--average", "0.9", "--license", "CC0-1.0", JSON]
    command = [sys.executable, "-m", "vitdemo", "train", str(tar), "--out", str(out), *options]
    return out, subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str]) -> Said:
    """Runs a command in this process: exit status, stdout, stderr."""

    def command(*arguments: str | Path) -> tuple[int, str, str]:
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse's own
            status = int(end.code or 0)
        output = capsys.readouterr()
        return status, output.out, output.err

    return command


# A run


def test_train_ends_with_its_figures_as_json_alone(trained: tuple[Path, Any]) -> None:
    out, done = trained
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert list(figures) == [
        "model",
        "steps",
        "score",
        "seconds",
        "images_per_second",
        "bare_images_per_second",
        "efficiency",
        "stopped_early",
        "skipped",
    ]
    assert figures["model"] == str(out)
    assert (figures["steps"], figures["stopped_early"], figures["skipped"]) == (16, False, 2)
    assert 0 <= figures["score"] <= 1
    assert figures["images_per_second"] > 0
    ratio = figures["images_per_second"] / figures["bare_images_per_second"]
    assert figures["efficiency"] == pytest.approx(ratio, rel=1e-2)


def test_unreadable_photos_are_listed_on_stderr_and_the_rest_is_trained_on(trained: tuple[Path, Any]) -> None:
    _, done = trained
    skipped = [line for line in done.stderr.splitlines() if line.startswith("skipped: ")]
    assert skipped == [
        "skipped: red/cut.png: The image is cut off. Some of its data is missing or damaged: save or send it again.",
        "skipped: green/notes.txt: Not a readable image. Use JPEG, PNG, WebP, GIF, BMP or TIFF.",
    ]
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr


def test_the_run_leaves_a_model_its_state_its_log_and_its_past(trained: tuple[Path, Any]) -> None:
    out, _ = trained
    model = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    assert {path.name for path in out.iterdir()} == model | {"log.jsonl", "state.pt", "steps"}
    steps = sorted((out / "steps").iterdir())
    assert [int(path.name) for path in steps] == [1, 2, 4, 8, 16]
    for path in steps:
        assert {file.name for file in path.iterdir()} == model
        spec = spec_from_folder(path)
        assert (spec.labels, spec.revision) == (CLASSES, f"step-{int(path.name)}")
    assert (steps[-1] / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_every_line_of_the_log_tells_how_a_step_went(trained: tuple[Path, Any]) -> None:
    out, done = trained
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 17))
    for line in lines:
        assert {"loss", "rate", "images_per_second", "seconds", "epoch", "accuracy"} <= set(line)
        assert math.isfinite(line["loss"])
        assert 0 < line["rate"] <= 5e-4
        assert line["images_per_second"] > 0
    judged = {line["step"]: line["score"] for line in lines if "score" in line}
    assert list(judged) == [4, 8, 12, 16]
    assert json.loads(done.stdout)["score"] == pytest.approx(judged[16], abs=1e-4)


def test_the_card_has_the_command_the_data_and_the_curve(trained: tuple[Path, Any]) -> None:
    out, _ = trained
    card = (out / "README.md").read_text(encoding="utf-8")
    assert f"--out {out} --resolution 32" in card
    for fact in ("license: cc0-1.0", "Data: photos.tar; 66 photos.", "Steps: 16.", "| 4 | ", "| 16 | ", "on CPU"):
        assert fact in card, fact


def test_evaluate_takes_the_folder_of_the_run(trained: tuple[Path, Any], tar: Path, says: Said) -> None:
    out, _ = trained
    status, printed, error = says("evaluate", tar, "--model", out, JSON)
    assert status == 0, error
    (entry,) = json.loads(printed)
    assert (entry["model"], entry["photos"]) == ("mini", 72)
    assert entry["top5"] == 1.0, "three classes"
    assert 1 / 3 - 0.1 < entry["top1"] <= 1


def test_probe_judges_the_features_of_the_run(trained: tuple[Path, Any], tar: Path, says: Said) -> None:
    out, _ = trained
    status, printed, error = says("probe", tar, "--model", out, JSON)
    assert status == 0, error
    figures = json.loads(printed)
    assert list(figures) == ["model", "linear_probe", "nearest_neighbours", "photos", "test_photos"]
    assert (figures["model"], figures["photos"], figures["test_photos"]) == ("mini", 66, 6)
    assert figures["linear_probe"] > 0.6


def test_a_probe_is_not_kept_with_a_model_that_has_a_classifier(
    trained: tuple[Path, Any], tar: Path, says: Said
) -> None:
    out, _ = trained
    status, printed, error = says("probe", tar, "--model", out, "--save")
    assert (status, printed) == (2, "")
    assert "mini has a classifier" in error
    assert not (out / PROBE_FILE).exists()


def test_people_get_words_instead_of_json(tar: Path, tmp_path: Path, says: Said) -> None:
    status, printed, error = says("train", tar, "--out", tmp_path / "run", *SMALL, "--epochs", "0.25")
    assert status == 0
    assert "reading photos" in error
    figures = dict(line.split(maxsplit=1) for line in printed.splitlines())
    assert figures["steps"] == "1"
    assert figures["model"] == str(tmp_path / "run")
    assert 0 <= float(figures["score"]) <= 1


def test_a_finished_run_that_is_resumed_keeps_its_steps_its_score_and_its_weights(
    tar: Path, tmp_path: Path, says: Said
) -> None:
    options = ["train", tar, "--out", tmp_path / "run", *SMALL, "--epochs", "0.5", JSON]
    status, printed, _ = says(*options)
    assert status == 0
    weights = (tmp_path / "run" / "model.safetensors").read_bytes()
    status, again, error = says(*options, "--resume")
    assert status == 0, error
    for figure in ("steps", "score", "skipped"):
        assert json.loads(again)[figure] == json.loads(printed)[figure]
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == weights
    assert "nan" not in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")


def test_the_folder_of_a_run_can_teach_and_begin_another_one(
    trained: tuple[Path, Any], tar: Path, tmp_path: Path, says: Said
) -> None:
    out, _ = trained
    options = [*SMALL, "--epochs", "0.25", JSON]
    taught = ["--recipe", "distill", "--arch", "deit", "--teacher", out]
    status, _, error = says("train", tar, *taught, "--out", tmp_path / "pupil", *options)
    assert status == 0, error
    assert spec_from_folder(tmp_path / "pupil").model_type == "deit"
    status, _, error = says("train", tar, "--init", out, "--out", tmp_path / "heir", *options)
    assert status == 0, error


def test_a_bank_is_filled_once_and_teaches_run_after_run(
    trained: tuple[Path, Any], tar: Path, tmp_path: Path, says: Said
) -> None:
    out, _ = trained
    options = [*SMALL, "--epochs", "0.25", "--optimiser", "muon", JSON]
    taught = ["--recipe", "distill", "--teacher", out, "--bank", tmp_path / "bank", "--views", "2"]
    status, _, error = says("train", tar, *taught, "--out", tmp_path / "first", *options)
    assert status == 0, error
    assert "teacher: view 2 of 2" in error
    status, _, error = says("train", tar, *taught, "--arch", "beit", "--out", tmp_path / "second", *options)
    assert status == 0, error
    assert "teacher:" not in error
    assert spec_from_folder(tmp_path / "second").model_type == "beit"


def test_skipped_files_of_the_test_set_are_listed_too(tar: Path, tmp_path: Path, says: Said) -> None:
    test = in_folder(tmp_path / "test", {**files(dict.fromkeys(FOLDERS, 2)), "red/gone.png": b"", "blu/0.png": b""})
    (test / "blu" / "0.png").write_bytes((test / "red" / "000.png").read_bytes())
    status, printed, error = says(
        "train", tar, "--test", test, "--out", tmp_path / "run", *SMALL, "--epochs", "0.2", JSON
    )
    assert status == 0
    assert "skipped: red/gone.png: Not a readable image" in error
    assert "skipped: class 'blu' is not one of the model's" in error
    assert json.loads(printed)["skipped"] == 4


def test_an_encoder_without_a_classifier_is_given_one_by_probe(tar: Path, tmp_path: Path, says: Said) -> None:
    out = tmp_path / "painter"
    options = ["--recipe", "mim", "--arch", "mae", "--out", out, *SMALL, "--epochs", "0.5", JSON]
    status, _, error = says("train", tar, *options)
    assert status == 0, error
    assert spec_from_folder(out).labels == ()
    status, _, error = says("evaluate", tar, "--model", out, JSON)
    assert status == 1
    assert "painter has no classifier to evaluate" in error
    status, printed, error = says("probe", tar, "--model", out, "--save", JSON)
    assert status == 0, error
    assert json.loads(printed)["linear_probe"] > 0.6
    status, printed, error = says("evaluate", tar, "--model", out, JSON)
    assert status == 0, error
    assert json.loads(printed)[0]["top1"] > 0.6


# Refusals


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--recipe", "osmosis"], "choose from 'supervised', 'distill', 'mim', 'dino'"),
        (["--arch", "rnn"], "choose from 'vit', 'deit', 'beit', 'mae', 'hybrid', 'cnn', 'scratch'"),
        (["--recipe", "distill"], "needs a teacher: name a model"),
        (["--recipe", "distill", "--teacher", "vit-maxi"], "Unknown model 'vit-maxi'. Choose from: vit-mini"),
        (["--recipe", "distill", "--teacher", "vit-mini"], "classes that are not those of the photos"),
        (["--recipe", "supervised", "--teacher", "vit-mini"], "takes no teacher: use distill"),
        (["--recipe", "supervised", "--arch", "mae"], "mae has no classifier: train it with the recipe mim"),
        (["--recipe", "mim", "--bank", "bank"], "A bank of views is for the recipe distill"),
        (["--mix", "2"], "not a share from 0 to 1"),
        (["--keep", "most"], "not a share from 0 to 1"),
        (["--views", "0"], "not a whole number above 0"),
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
def test_wrong_usage_is_said_and_ends_with_2(
    options: list[str], words: str, tar: Path, tmp_path: Path, says: Said
) -> None:
    length = [] if {"--epochs", "--minutes"} & set(options) else ["--epochs", "1"]
    status, printed, error = says("train", tar, "--out", tmp_path / "run", *SMALL, *length, *options)
    assert status == 2, error
    assert words in error
    assert not printed
    assert not (tmp_path / "run").exists()


def test_photos_that_cannot_be_used_are_said_and_end_with_1(tar: Path, tmp_path: Path, says: Said) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.tar").write_text("no archive")
    cases = {
        in_tar(tmp_path / "single.tar", files({"blue_sky": 3, "green": 1})): "Class 'green' has one photo",
        in_tar(tmp_path / "one.tar", files({"green": 3})): "At least two classes are needed",
        tmp_path / "empty": "No photo was found in empty",
        tmp_path / "gone.zip": "gone.zip is missing, damaged",
        tmp_path / "text.tar": "text.tar is missing, damaged",
    }
    for path, words in cases.items():
        for command in (["train", path, "--out", tmp_path / "run", *SMALL], ["probe", path, "--model", "dino-mini"]):
            status, printed, error = says(*command, JSON)
            assert (status, printed) == (1, ""), words
            assert words in error
            assert str(tmp_path) not in error
    other = in_tar(tmp_path / "other.tar", files({"cat": 2, "dog": 2}))
    status, _, error = says("train", tar, "--test", other, "--out", tmp_path / "run", *SMALL)
    assert status == 1
    assert "No photo in other.tar is of one of the 3 classes" in error
    assert not (tmp_path / "run").exists()


def test_a_run_is_neither_overwritten_nor_made_up(trained: tuple[Path, Any], tar: Path, says: Said) -> None:
    out, _ = trained
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    status, printed, error = says("train", tar, "--out", out, *SMALL, *EPOCHS, "--average", "0.9")
    assert (status, printed) == (1, "")
    assert "There is a run in mini already: resume it, or choose another folder" in error
    status, _, error = says("train", tar, "--out", out, *SMALL, *EPOCHS, "--average", "0.8", "--resume")
    assert status == 1
    assert "begun with other settings: average 0.9 (now 0.8)" in error
    status, _, error = says("train", tar, "--out", out.parent / "new", *SMALL, "--resume")
    assert status == 1
    assert "There is no run to resume in new" in error
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.parametrize("damage", [b"", b"no state", b"PK\x03\x04" + bytes(200)])
def test_a_run_with_a_damaged_state_is_not_resumed(damage: bytes, tar: Path, tmp_path: Path, says: Said) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state.pt").write_bytes(damage)
    status, _, error = says("train", tar, "--out", tmp_path / "run", *SMALL, "--resume")
    assert status == 1
    assert "The state in run is damaged" in error


def test_a_log_whose_last_line_was_cut_off_does_not_cost_the_model(tar: Path, tmp_path: Path, says: Said) -> None:
    options = ["train", tar, "--out", tmp_path / "run", *SMALL, "--epochs", "0.5", JSON]
    assert says(*options)[0] == 0
    with (tmp_path / "run" / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"step": 3, "lo')
    status, _, error = says(*options, "--resume")
    assert status == 0, error


def test_weights_to_begin_with_that_do_not_exist_are_said(tar: Path, tmp_path: Path, says: Said) -> None:
    status, _, error = says("train", tar, "--init", tmp_path / "gone", "--out", tmp_path / "run", *SMALL)
    assert status == 1
    assert "There are no weights to begin with in gone" in error


def test_the_choices_of_the_command_are_those_of_the_training_room() -> None:
    """They stand twice, since `--help` must not load torch."""
    from vitdemo.cli import training as command
    from vitdemo.training import architectures, config, optimisers

    assert command.RECIPES == config.RECIPES
    assert command.OPTIMISERS == optimisers.OPTIMISERS
    assert command.ARCHITECTURES == architectures.ARCHITECTURES
