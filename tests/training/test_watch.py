"""A training can be watched, and stopped in order."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.photos import files, in_tar
from tests.training.small import log_of, trainer, vit
from vitdemo.errors import OptionError, TrainingError
from vitdemo.interrupt import INTERRUPTED
from vitdemo.options.explain import ExplainRequest
from vitdemo.pipeline import Pipeline
from vitdemo.registry import spec_from_folder
from vitdemo.settings import ASSETS, ROOT, Settings
from vitdemo.training.config import LOG, STATE, TrainConfig, TrainJob
from vitdemo.training.recipes.supervised import Supervised
from vitdemo.training.run import Outcome, train
from vitdemo.training.strip import SHIPPED, STRIP, Strip, read_strip, shipped_strip, write_strip
from vitdemo.training.watch import PICTURE

CUP = ASSETS / "examples" / "cup.jpg"


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return in_tar(tmp_path_factory.mktemp("photos") / "photos.tar", files({"blue_sky": 8, "green": 8, "red": 8}))


def job_of(tar: Path, out: Path, arch: str = "scratch", **changes: object) -> TrainJob:
    config = TrainConfig(steps=0, batch=8, resolution=32)
    return TrainJob((tar,), "supervised", arch, out, epochs=3, cpu=True, watch=CUP, config=config, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(tar: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A training that was watched: its folder, and its figures."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, train(job_of(tar, folder))


@pytest.mark.thorough
def test_what_is_watched_is_what_the_product_shows_of_the_model_of_that_step(run: tuple[Path, Outcome]) -> None:
    folder, found = run
    strip = read_strip(folder / STRIP)
    assert strip.steps == (1, 2, 4, found.result.steps) == (1, 2, 4, 6)
    assert strip.rows.shape == (4, 8, 6, 2, 2)
    assert strip.photo == "cup.jpg"
    pipeline = Pipeline(Settings(device="cpu"))
    for index, model in ((0, "steps/0000001"), (2, "steps/0000004"), (3, "")):
        spec = replace(spec_from_folder(folder / model), name=f"step-{index}")
        explained = pipeline.explain(pipeline.open(CUP), spec, ExplainRequest(layer=-1, head="mean"))
        assert explained.map is not None
        shown = strip.rows[index, -1].astype(np.float32).mean(axis=0)
        np.testing.assert_allclose(shown, explained.map.values, atol=1e-3)
        assert strip.crop == explained.view.crop


def test_figures_of_a_strip_are_the_mean_loss_since_the_step_before_and_the_score_there(
    run: tuple[Path, Outcome],
) -> None:
    folder, found = run
    strip = read_strip(folder / STRIP)
    losses = [entry["loss"] for entry in log_of(folder)]
    expected = (losses[0], losses[1], sum(losses[2:4]) / 2, sum(losses[4:]) / 2)
    assert strip.losses == pytest.approx(expected, abs=1e-4)
    assert strip.scores[-1] == pytest.approx(found.result.score)


def test_the_picture_has_every_step(run: tuple[Path, Outcome]) -> None:
    with Image.open(run[0] / PICTURE) as picture:
        assert picture.width > 4 * 224


@pytest.mark.thorough
def test_a_watched_training_learns_the_same_as_one_that_nobody_watches(
    tar: Path, run: tuple[Path, Outcome], tmp_path: Path
) -> None:
    train(replace(job_of(tar, tmp_path / "alone"), watch=None))
    assert [entry["loss"] for entry in log_of(run[0])] == [entry["loss"] for entry in log_of(tmp_path / "alone")]
    assert not (tmp_path / "alone" / STRIP).exists()


@pytest.mark.thorough
@pytest.mark.parametrize("arch", ["deit", "beit"])
def test_other_families_are_watched_at_their_own_read_out(arch: str, tar: Path, tmp_path: Path) -> None:
    train(job_of(tar, tmp_path / "run", arch))
    strip = read_strip(tmp_path / "run" / STRIP)
    assert strip.rows.shape[1:] == (8, 6, 2, 2)
    assert np.isfinite(strip.rows.astype(np.float32)).all()


@pytest.mark.thorough
def test_an_mae_has_maps_and_no_score(tar: Path, tmp_path: Path) -> None:
    train(replace(job_of(tar, tmp_path / "run", "mae"), recipe="mim"))
    strip = read_strip(tmp_path / "run" / STRIP)
    assert strip.rows.shape[1:] == (8, 6, 2, 2)
    assert np.isnan(strip.scores).all()


def test_a_cnn_is_not_watched(tar: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no attention to watch"):
        train(job_of(tar, tmp_path / "run", "cnn"))


@pytest.mark.thorough
def test_a_stopped_run_leaves_a_model_and_resumes_to_the_weights_of_an_uninterrupted_one(
    tar: Path, run: tuple[Path, Outcome], tmp_path: Path
) -> None:
    folder, whole = run
    asked = itertools.count()
    stopped = train(job_of(tar, tmp_path / "parts"), stop=lambda: next(asked) >= 3)
    assert stopped.result.interrupted
    assert stopped.result.steps == 3
    assert 0 <= stopped.result.score <= 1
    assert spec_from_folder(tmp_path / "parts").revision == "step-3"
    resumed = train(job_of(tar, tmp_path / "parts", resume=True))
    assert (resumed.result.steps, resumed.result.interrupted) == (whole.result.steps, False)
    weights = [(one / "model.safetensors").read_bytes() for one in (folder, tmp_path / "parts")]
    assert weights[0] == weights[1]
    # The maps of the step at which it was stopped stay, among those of the powers of two.
    assert read_strip(tmp_path / "parts" / STRIP).steps == (1, 2, 3, 4, 6)


def test_stopping_does_not_count_as_an_evaluation(tmp_path: Path) -> None:
    run = trainer(tmp_path, Supervised(vit(), 3, 32), patience=1, evaluate_every=2)
    asked = itertools.count()
    run.stop = lambda: next(asked) >= 1
    assert run.run().interrupted
    assert run.evaluations_since_best == 0
    assert run.best == -float("inf")


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_in_order(kind: signal.Signals, tar: Path, tmp_path: Path) -> None:
    command = ["train", str(tar), "--resolution", "32", "--batch", "8", "--epochs", "100000", "--cpu", "--out", "run"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "vitdemo", *command], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    log = tmp_path / "run" / LOG
    until = time.monotonic() + 120
    while time.monotonic() < until and not (log.exists() and log.stat().st_size):
        time.sleep(0.1)
    process.send_signal(kind)
    _, said = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED
    assert "--resume continues" in said
    assert "Traceback" not in said
    assert (tmp_path / "run" / STATE).exists()
    assert spec_from_folder(tmp_path / "run").labels


# Files


def test_a_strip_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).random((2, 3, 4, 5, 6)).astype(np.float16)
    strip = Strip("a.jpg", (1, 2, 30, 40), (1, 2), (2.5, 1.25), (0.5, 0.75), rows, {"recipe": "supervised"})
    write_strip(strip, tmp_path / STRIP)
    found = read_strip(tmp_path / STRIP)
    assert replace(found, rows=rows) == replace(strip, rows=rows)
    assert np.array_equal(found.rows, rows)
    assert [path.name for path in tmp_path.iterdir()] == [STRIP]


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive"])
def test_a_damaged_strip_has_words(content: bytes, tmp_path: Path) -> None:
    (tmp_path / STRIP).write_bytes(content)
    with pytest.raises(TrainingError, match=r"watched\.npz is missing or damaged"):
        read_strip(tmp_path / STRIP)


def test_the_strip_that_ships_is_small_and_of_a_training_that_learned() -> None:
    strip = shipped_strip()
    assert SHIPPED.stat().st_size <= 100_000
    assert (ASSETS / "examples" / strip.photo).is_file()
    assert strip.steps[:5] == (1, 2, 4, 8, 16)
    assert len(strip.steps) == len(strip.losses) == len(strip.scores) == len(strip.rows)
    assert strip.losses[-1] < 0.9 * strip.losses[0]
    assert strip.scores[-1] > 0.15 > strip.scores[0]
    # Attention emerges: at first all patches get the same.
    spread = strip.rows.astype(np.float32).std(axis=(3, 4)).mean(axis=(1, 2))
    assert spread[-1] > 2 * spread[0]
    assert {"source", "license", "machine", "minutes", "resolution", "photos", "recipe", "size", "batch"} <= set(
        strip.about
    )
