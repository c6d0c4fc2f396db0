"""Trainings of the page: who may start what, on which photos, and what becomes of them."""

from __future__ import annotations

import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from gradio.utils import get_upload_folder

from scripts.space import build as build_space
from tests.photos import files, in_folder, in_tar, in_zip
from vitdemo.errors import ImageError, InputError, OptionError, VitDemoError
from vitdemo.images.class_folders import read_files
from vitdemo.pipeline import Pipeline
from vitdemo.registry import forget_folder, get_spec, read_json
from vitdemo.settings import Settings
from vitdemo.training.config import STATE
from vitdemo.training.data import load_photos
from vitdemo.types import Photo
from vitdemo.ui.app import build
from vitdemo.ui.errors import Page
from vitdemo.ui.examples import examples, opened
from vitdemo.ui.link_check import understood
from vitdemo.ui.links import parse_link
from vitdemo.ui.train import TrainTab
from vitdemo.ui.train_data import CROPS, put_data, safe_name, tiny_set
from vitdemo.ui.train_log import UNDER_WAY, Run, TrainLog, fault
from vitdemo.ui.train_settings import RECIPES, TrainRequest, may_train, read_request
from vitdemo.ui.training_runs import TrainingRuns

MINE, THEIRS = "m" * 32, "t" * 32
REQUEST = TrainRequest("supervised", "scratch", "mini", 64, 0.05)
GIVEN = {"recipe": "supervised", "arch": "vit", "size": "mini", "resolution": "96", "minutes": "3"}
LIMIT = Settings().train_mb
EXAMPLES = {"kind": "examples"}


@pytest.fixture
def photo(pipeline: Pipeline) -> Photo:
    return opened(pipeline, examples()[0])


@pytest.fixture
def runs(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[TrainingRuns]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    found = TrainingRuns(replace(pipeline.settings, device="cpu"), pipeline.backend)
    yield found
    found.close()
    forget_folder("trained-1")


def ended(run: Run, seconds: float = 120) -> Run:
    until = time.monotonic() + seconds
    while run.state in UNDER_WAY and time.monotonic() < until:
        time.sleep(0.05)
    assert run.state not in UNDER_WAY
    return run


def uploaded_pieces(data: bytes, size: int) -> list[str]:
    """As Gradio stores what a page uploads."""
    paths = []
    for number, start in enumerate(range(0, len(data), size)):
        path = Path(get_upload_folder()) / f"upload-{number}" / "photos.part"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[start : start + size])
        paths.append(str(path))
    return paths


# Where there is one


def test_the_tab_is_there_by_default_and_not_on_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPACE_ID", "SPACES_ZERO_GPU"):
        monkeypatch.delenv(name, raising=False)
    assert may_train(Settings())
    assert not may_train(Settings(train=False))
    monkeypatch.setenv("SPACE_ID", "somebody/vitdemo")
    assert not may_train(Settings())
    assert may_train(Settings(train=True))
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert not may_train(Settings(train=True))


@pytest.mark.thorough
def test_the_page_of_a_space_has_no_training(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "somebody/vitdemo")
    page = build(pipeline)
    assert isinstance(page, Page)
    assert page.training is None
    assert not [block for block in page.blocks.values() if getattr(block, "elem_id", "") == "trainer"]
    (tab,) = [block for block in page.blocks.values() if isinstance(block, gr.Tab) and block.label == "Train"]
    assert not tab.visible


def test_the_folder_of_a_space_neither_switches_training_on_nor_installs_what_it_needs(tmp_path: Path) -> None:
    found = build_space(tmp_path / "space")
    assert "accelerate" not in (tmp_path / "space" / "requirements.txt").read_text(encoding="utf-8")
    app = (tmp_path / "space" / "app.py").read_text(encoding="utf-8")
    assert "VITDEMO_TRAIN" not in app
    # Another tab may show the strip there.
    assert tmp_path / "space" / "assets" / "strip.npz" in found


def test_a_link_to_the_tab_is_followed_where_it_is_and_named_where_it_is_not() -> None:
    query = {"tab": "train"}
    link, ignored = understood(parse_link(query), query, ["vit-mini"], "vit-mini")
    assert (link.tab, ignored) == ("train", [])
    link, ignored = understood(parse_link(query), query, ["vit-mini"], "vit-mini", ("train",))
    assert (link.tab, ignored) == ("", ["tab=train"])


def test_a_folder_is_offered_only_where_models_in_folders_may_be_added(pipeline: Pipeline) -> None:
    for policy, offered in (("any", True), ("listed", False), ("none", False)):
        other = Pipeline(replace(pipeline.settings, add_models=policy), pipeline.backend)
        with gr.Blocks():
            tab = TrainTab(other)
        assert tab.folders is offered
        assert tab.view.value["offered"]["folders"] is offered


# What is asked for


def test_what_the_page_offers_is_what_the_command_takes() -> None:
    for recipe, (_, archs) in RECIPES.items():
        for arch in archs:
            found = read_request({**GIVEN, "recipe": recipe, "arch": arch}, Settings())
            assert found.arguments[:4] == ["--recipe", recipe, "--arch", arch]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"minutes": "0"}, "Minutes must be above 0, and at most 60"),
        ({"minutes": "-1"}, "Minutes must be above 0"),
        ({"minutes": "61"}, "at most 60"),
        ({"minutes": "nan"}, "Minutes must be above 0"),
        ({"minutes": "inf"}, "at most 60"),
        ({"minutes": ["3"]}, "Minutes must be above 0"),
        ({"resolution": "100"}, "Choose an image size of 64, 96"),
        ({"recipe": "distill"}, "Unknown recipe"),
        ({"recipe": "dino", "arch": "deit"}, "The recipe dino takes the architectures vit"),
        ({"arch": "--out=/etc"}, "takes the architectures"),
        ({"size": "huge"}, "Unknown size. Choose from: mini, tiny"),
    ],
)
def test_what_is_not_offered_is_refused_in_words(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        read_request({**GIVEN, **changed}, Settings())


# Photos


def test_an_archive_in_pieces_is_joined_and_its_pieces_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    whole = in_tar(tmp_path / "photos.tar", files({"blue_sky": 3, "red": 3})).read_bytes()
    pieces = uploaded_pieces(whole, 4000)
    assert len(pieces) > 3
    given = {"kind": "upload", "name": "../my photos.tar", "pieces": pieces}
    assert put_data(given, tmp_path / "data", LIMIT, folders=False) == "data/my_photos.tar"
    assert (tmp_path / "data" / "my_photos.tar").read_bytes() == whole
    assert not any(Path(piece).exists() for piece in pieces)


def test_an_upload_that_is_no_piece_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    example = Path(get_upload_folder()) / "x" / "sunflower.jpg"
    example.parent.mkdir(parents=True)
    shutil.copy(examples()[0].path, example)
    put_data({"kind": "upload", "name": "x.zip", "pieces": [str(example)]}, tmp_path / "data", LIMIT, folders=False)
    assert example.exists()


def test_no_other_file_of_the_server_is_taken_for_an_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for path in (str(secret), f"{get_upload_folder()}/../secret", ""):
        with pytest.raises(ImageError, match="was not uploaded"):
            put_data({"kind": "upload", "name": "x", "pieces": [path]}, tmp_path / "data", LIMIT, folders=True)
    assert secret.exists()


@pytest.mark.parametrize(
    ("given", "folders", "words"),
    [
        ({}, True, "Choose an archive"),
        ({"kind": "upload", "pieces": []}, True, "Choose an archive"),
        ({"kind": "upload", "pieces": "/etc/passwd"}, True, "Choose an archive"),
        ({"kind": "folder", "folder": "/"}, False, "Choose an archive"),
        ({"kind": "folder", "folder": ""}, True, "There is no such folder"),
        ({"kind": "folder", "folder": "/no/such/place"}, True, "There is no such folder"),
    ],
)
def test_photos_that_are_not_given_or_not_allowed_are_refused(
    given: dict[str, Any], folders: bool, words: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=words):
        put_data(given, tmp_path / "data", LIMIT, folders)


def test_an_archive_over_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    pieces = uploaded_pieces(bytes(3_000_000), 1_000_000)
    given = {"kind": "upload", "name": "big.tar", "pieces": pieces}
    with pytest.raises(InputError, match=r"larger than 2\.5 MB, the limit of this page"):
        put_data(given, tmp_path / "data", 2.5, folders=False)


@pytest.mark.parametrize("name", ["--out=x", "../..", ".hidden", "a b\n.zip", "ü.tar", "", "x" * 300])
def test_a_file_name_becomes_neither_a_path_nor_an_option(name: str) -> None:
    found = safe_name(name)
    assert found
    assert not found.startswith(("-", "."))
    assert not set(found) & set("/\\ \n")
    assert len(found) <= 80


@pytest.mark.thorough
def test_the_tiny_set_has_crops_of_every_example(tmp_path: Path) -> None:
    tiny_set(tmp_path / "examples")
    photos = load_photos([tmp_path / "examples"])
    assert len(photos.classes) == len(examples())
    assert len(photos) == CROPS * len(examples())


def test_a_small_archive_that_holds_gigabytes_is_read_in_part(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/large.png", bytes(40_000_000))
    ((_, data),) = read_files(path)
    assert len(data) == 10_000_001  # one more than an image may have: it is refused for that


def test_photos_that_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    folder = in_folder(tmp_path / "photos", files({"blue_sky": 3, "red": 3}))
    assert len(load_photos([folder], most=100_000)) == 6
    with pytest.raises(InputError, match=r"more than the 0\.0 GB of memory"):
        load_photos([folder], most=30_000)


# One at a time, and whose it is


def test_a_second_training_is_refused_and_another_visitor_cannot_stop_the_first(
    runs: TrainingRuns, photo: Photo
) -> None:
    run = runs.start(MINE, REQUEST, EXAMPLES, photo, folders=False)
    for owner in (MINE, THEIRS):
        with pytest.raises(OptionError, match="one runs at a time"):
            runs.start(owner, REQUEST, EXAMPLES, photo, folders=False)
    with pytest.raises(OptionError, match="None of your trainings"):
        runs.stop(THEIRS)
    assert run.state == "running"
    assert runs.mine(THEIRS) is None
    runs.stop(MINE)
    ended(run)
    assert (run.state, run.said) == ("stopped", "Stopped before the first step.")
    with pytest.raises(OptionError, match="cannot be resumed"):
        runs.resume(MINE)
    with pytest.raises(OptionError, match="no trained model"):
        runs.archive(MINE, run.folder)


def test_a_page_without_a_secret_of_its_own_cannot_start_one(runs: TrainingRuns, photo: Photo) -> None:
    with pytest.raises(OptionError, match="reload"):
        runs.start("", REQUEST, EXAMPLES, photo, folders=False)


def test_photos_that_cannot_be_stored_leave_the_place_free(runs: TrainingRuns, photo: Photo) -> None:
    with pytest.raises(OptionError):
        runs.start(MINE, REQUEST, {"kind": "upload"}, photo, folders=False)
    assert runs.current is None
    run = runs.start(THEIRS, REQUEST, EXAMPLES, photo, folders=False)
    assert run.state == "running"


@pytest.mark.thorough
def test_the_end_of_the_server_ends_the_training_and_deletes_its_files(runs: TrainingRuns, photo: Photo) -> None:
    run = runs.start(MINE, REQUEST, EXAMPLES, photo, folders=False)
    process = run.process
    assert process is not None
    runs.close()
    assert process.poll() is not None
    assert not run.folder.exists()
    with pytest.raises(OptionError):
        runs.start(MINE, REQUEST, EXAMPLES, photo, folders=False)


@pytest.mark.thorough
def test_the_command_says_nothing_of_the_servers_folders(runs: TrainingRuns, photo: Photo) -> None:
    run = runs.start(MINE, REQUEST, EXAMPLES, photo, folders=False)
    command = run.command(cpu=True)
    assert not [part for part in command if os.sep in part and Path(part).is_absolute()]
    assert str(run.folder) not in " ".join(command)


@pytest.mark.thorough
def test_others_learn_only_that_a_training_runs(runs: TrainingRuns, photo: Photo, pipeline: Pipeline) -> None:
    with gr.Blocks():
        tab = TrainTab(pipeline)
    tab.runs = runs
    assert tab.progress(MINE) == {"run": 0}
    run = runs.start(MINE, REQUEST, EXAMPLES, photo, folders=False)
    assert tab.progress(THEIRS) == {"run": 0, "step": 0, "steps": 0, "under_way": True}
    own = tab.progress(MINE)
    assert (own["run"], own["state"], own["mine"]) == (run.number, "running", True)
    runs.stop(MINE)
    ended(run)
    assert tab.progress(THEIRS) == {"run": 0}


def test_a_question_that_makes_no_sense_is_answered_in_words(pipeline: Pipeline) -> None:
    with gr.Blocks():
        tab = TrainTab(pipeline)
    for query in (None, [], {}, {"token": 1}, {"token": "x", "action": "look", "run": "?"}):
        assert tab._answer(query) == {"error": "The question was not understood."}
    assert tab._answer({"token": MINE, "action": "stop"}) == {"error": "None of your trainings is running."}


def test_no_training_begins_without_a_photo_to_watch(pipeline: Pipeline) -> None:
    with gr.Blocks():
        tab = TrainTab(pipeline)
    event: Any = SimpleNamespace(settings=GIVEN, data=EXAMPLES, token=MINE)
    with pytest.raises(VitDemoError, match="Drop a photo"):
        tab.begin(None, event)


# What a run writes


def test_the_log_is_read_while_it_is_written(tmp_path: Path) -> None:
    log = TrainLog(tmp_path / "log.jsonl")
    log.read()
    assert (log.step, log.left) == (0, 0.0)
    line = '{"step": %d, "steps": 10, "loss": %s, "images_per_second": 5.0, "seconds": %d, "accuracy": 0.5}\n'
    text = line % (1, 3.0, 2) + line % (2, 2.0, 4)
    (tmp_path / "log.jsonl").write_text(text[:-10])
    log.read()
    assert log.step == 1
    (tmp_path / "log.jsonl").write_text(text + "{broken}\n" + line % (3, "NaN", 6))
    log.read()
    assert (log.step, log.steps, log.left) == (3, 10, 14.0)
    assert log.curves()["loss"] == [[1.0, 3.0], [2.0, 2.0]]


def test_a_long_curve_has_few_points_with_the_mean_of_all(tmp_path: Path) -> None:
    log = TrainLog(tmp_path / "log.jsonl", losses={step: float(step % 2) for step in range(1, 10_001)})
    points = log.curves()["loss"]
    assert len(points) <= 240
    assert all(0.45 < value < 0.55 for _, value in points)


def test_the_fault_of_a_command_is_its_own_words(tmp_path: Path) -> None:
    path = tmp_path / "errors.txt"
    path.write_text("reading photos ...\n 10%|##  \rvitdemo: Only 3 MB are free; a run needs 500 MB.\n")
    assert fault(path) == "Only 3 MB are free; a run needs 500 MB."
    assert fault(tmp_path / "absent") == ""


# Whole trainings: a process of its own each time, which takes some seconds


@pytest.mark.thorough
def test_a_training_ends_as_a_model_of_every_tab_is_downloaded_and_leaves_no_photos(
    runs: TrainingRuns, photo: Photo, tmp_path: Path
) -> None:
    run = ended(runs.start(MINE, REQUEST, EXAMPLES, photo, folders=False))
    assert (run.state, run.said) == ("done", "")
    assert run.model == get_spec("trained-1")
    assert len(run.model.labels) == 9
    assert not (run.folder / "data").exists()
    assert not (run.out / STATE).exists()
    assert not (run.out / "steps").exists()
    (tmp_path / "cache").mkdir()
    with zipfile.ZipFile(runs.archive(MINE, tmp_path / "cache")) as packed:
        names = packed.namelist()
        packed.extractall(tmp_path / "unpacked")
    assert "trained-1/model.safetensors" in names
    assert not [name for name in names if STATE in name]
    assert read_json(tmp_path / "unpacked" / "trained-1" / "config.json")["architectures"] == [
        "ViTForImageClassification"
    ]
    card = (tmp_path / "unpacked" / "trained-1" / "README.md").read_text(encoding="utf-8")
    assert str(tmp_path) not in card
    with pytest.raises(OptionError):
        runs.archive(THEIRS, tmp_path / "cache")


@pytest.mark.thorough
def test_a_training_that_is_stopped_has_a_model_and_can_be_resumed_to_its_end(runs: TrainingRuns, photo: Photo) -> None:
    run = runs.start(MINE, replace(REQUEST, minutes=0.3), EXAMPLES, photo, folders=False)
    until = time.monotonic() + 120
    while run.log.step < 2 and time.monotonic() < until:
        run.log.read()
        time.sleep(0.1)
    runs.stop(MINE)
    ended(run)
    assert run.state == "stopped"
    assert run.resumable
    assert run.model is not None
    before = run.log.step
    assert run.model.revision == f"step-{before}"
    with pytest.raises(OptionError):
        runs.resume(THEIRS)
    runs.resume(MINE)
    ended(run)
    assert run.state == "done"
    assert run.log.step == run.log.steps > before
    assert get_spec("trained-1").revision == f"step-{run.log.steps}"
    assert not run.resumable


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: in_zip(path, {}), "No photo was found"),
        (lambda path: in_zip(path, files({"cat": 3})), "At least two classes are needed"),
        (lambda path: in_zip(path, {"a/x.png": b"no", "b/y.png": b"no"}), "2 files were not readable"),
        (lambda path: in_zip(path, files({"cat": 3, "dog": 1})), "has one photo"),
        (lambda path: path.write_bytes(b"no archive"), "neither a folder nor a zip or tar archive"),
    ],
)
def test_photos_that_cannot_be_used_are_explained(
    make: Callable[[Path], object], words: str, runs: TrainingRuns, photo: Photo, tmp_path: Path
) -> None:
    make(tmp_path / "photos.zip")
    pieces = uploaded_pieces((tmp_path / "photos.zip").read_bytes(), 1_000_000)
    given = {"kind": "upload", "name": "photos.zip", "pieces": pieces}
    run = ended(runs.start(MINE, REQUEST, given, photo, folders=False))
    assert run.state == "failed"
    assert words in run.said
    assert str(tmp_path) not in run.said


@pytest.mark.thorough
def test_a_process_that_dies_is_worded(runs: TrainingRuns, photo: Photo) -> None:
    run = runs.start(MINE, REQUEST, EXAMPLES, photo, folders=False)
    assert run.process is not None
    run.process.kill()
    ended(run)
    assert (run.state, run.said) == ("failed", "Something went wrong on the server. It was logged; please try again.")
