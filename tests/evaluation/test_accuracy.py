"""Figures on labelled photos are right by count, and a card holds them once."""

from __future__ import annotations

import io
import json
import math
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from vitdemo.errors import CheckpointError, InputError
from vitdemo.evaluation.accuracy import BACKGROUND, Evaluation, calibrate, calibration_error, evaluate, read_labelled
from vitdemo.evaluation.model_card import BEGIN, END, write_card
from vitdemo.pipeline import Pipeline
from vitdemo.registry import spec_from_folder
from vitdemo.settings import Settings
from vitdemo.types import ModelSpec, Photo

COUNTS = {"apple": 5, "easy_face": 9, "cup": 3, "sunflower": 1, BACKGROUND: 4, "unheard_of": 2}
LABELLED = 18


@pytest.fixture(scope="module")
def runs() -> Pipeline:
    return Pipeline(Settings(device="cpu"))


@pytest.fixture
def spec(tiny_spec: Callable[[str], ModelSpec]) -> ModelSpec:
    return tiny_spec("vit")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photo: Callable[..., Photo]) -> Path:
    """`test/CLASS/FILE.png`, with unreadable files in between."""
    root = tmp_path_factory.mktemp("labelled") / "test"
    seed = 0
    for name, count in COUNTS.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            seed += 1
            hue = Image.new("RGB", (40, 36), (seed * 37 % 256, seed * 91 % 256, seed * 53 % 256))
            Image.blend(photo(40, 36, seed).image, hue, 0.7).save(root / name / f"{index}.png")
    (root / "apple" / "notes.txt").write_text("not a photo")
    (root / "apple" / "cut.png").write_bytes((root / "apple" / "0.png").read_bytes()[:300])
    (root / "cup" / "empty.jpg").write_bytes(b"")
    (root / "README.md").write_text("not in a class folder")
    return root


@pytest.fixture(scope="module")
def archive(folder: Path) -> Path:
    path = folder.parent / "test.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(folder, "test")
    return path


def _by_hand(runs: Pipeline, spec: ModelSpec, items: list[tuple[str, Photo]]) -> dict[str, float]:
    """The figures, photo by photo."""
    outcomes = [(label, runs.classify([photo], spec)[0].labels) for label, photo in items]
    known = [(label, labels) for label, labels in outcomes if label in spec.labels]
    right = {label: [labels[0].label == truth for truth, labels in known if truth == label] for label, _ in known}
    held = [photo for label, photo in items if int(photo.digest, 16) % 2]
    kept = [runs.classify([photo], spec)[0] for label, photo in items if label in spec.labels and photo in held]
    background = [runs.classify([photo], spec)[0] for label, photo in items if label == BACKGROUND and photo in held]
    return {
        "photos": len(known),
        "top1": sum(map(sum, right.values())) / len(known),
        "top5": sum(truth in [label.label for label in labels] for truth, labels in known) / len(known),
        "mean_per_class": sum(sum(hits) / len(hits) for hits in right.values()) / len(right),
        "kept": sum(one.labels[0].score >= spec.threshold for one in kept) / len(kept),
        "refused": sum(one.labels[0].score < spec.threshold for one in background) / len(background),
        "auroc": float(
            np.mean(
                [np.heaviside(one.labels[0].score - other.labels[0].score, 0.5) for one in kept for other in background]
            )
        ),
    }


def test_labels_are_the_folder_names_and_unreadable_files_are_skipped(folder: Path, archive: Path) -> None:
    for path in (folder, archive):
        items = list(read_labelled(path))
        counted = {label: sum(1 for found, _ in items if found == label) for label, _ in items}
        assert counted == {name if name == BACKGROUND else name.replace("_", " "): n for name, n in COUNTS.items()}


def test_a_tar_and_a_folder_hold_the_same_photos(folder: Path, archive: Path) -> None:
    def content(path: Path) -> list[tuple[str, str]]:
        return sorted((label, photo.digest) for label, photo in read_labelled(path))

    assert content(folder) == content(archive)


@pytest.mark.thorough
@pytest.mark.parametrize("batch", [1, 7, 32])
def test_the_figures_equal_a_count_by_hand_for_every_batch_size(
    runs: Pipeline, spec: ModelSpec, folder: Path, batch: int
) -> None:
    items = list(read_labelled(folder))
    middle = float(np.median([runs.classify([photo], spec)[0].labels[0].score for _, photo in items]))
    spec = replace(spec, threshold=middle + 1e-4)
    found = evaluate(runs, spec, iter(items), batch)
    expected = _by_hand(runs, spec, items)
    assert expected["photos"] == LABELLED
    assert 0 < expected["top1"] < 1
    assert {name: getattr(found, name) for name in expected} == pytest.approx(expected)
    assert (found.model, found.threshold) == ("tiny-vit", spec.threshold)


def test_photos_in_folders_of_the_data_sets_names_count_for_the_everyday_class(
    runs: Pipeline, spec: ModelSpec, photo: Callable[..., Photo]
) -> None:
    everyday = replace(spec, labels=("car", "water lily", *spec.labels[2:]))
    items = [(label, photo(40, 36, seed)) for seed, label in enumerate(["car side", "water lilly", "car", "yak"] * 3)]
    assert evaluate(runs, everyday, iter(items)).photos == 9


def test_a_tar_and_a_folder_give_the_same_figures(runs: Pipeline, spec: ModelSpec, folder: Path, archive: Path) -> None:
    assert evaluate(runs, spec, read_labelled(folder)) == evaluate(runs, spec, read_labelled(archive))


def test_without_background_photos_the_share_below_the_threshold_is_nan(
    runs: Pipeline, spec: ModelSpec, folder: Path
) -> None:
    labelled = (item for item in read_labelled(folder) if item[0] != BACKGROUND)
    figures = evaluate(runs, spec, labelled)
    assert math.isnan(figures.refused)
    assert math.isnan(figures.auroc)


@pytest.mark.parametrize("name", ["gone.tar", "gone", "text.tar", "zip.tar", "empty.tar", "flat.tar", "hollow"])
def test_a_path_without_photos_is_rejected_by_name(tmp_path: Path, name: str, photo: Callable[..., Photo]) -> None:
    (tmp_path / "text.tar").write_text("not a tar")
    (tmp_path / "zip.tar").write_bytes(b"PK\x03\x04" + bytes(600))
    tarfile.open(tmp_path / "empty.tar", "w").close()
    data = io.BytesIO()
    photo().image.save(data, "PNG")
    with tarfile.open(tmp_path / "flat.tar", "w") as tar:  # a photo in no class
        member = tarfile.TarInfo("0.png")
        member.size = len(data.getvalue())
        tar.addfile(member, io.BytesIO(data.getvalue()))
    (tmp_path / "hollow" / "apple").mkdir(parents=True)
    with pytest.raises(InputError) as refusal:
        list(read_labelled(tmp_path / name))
    assert str(refusal.value).startswith(f"{name} ")
    assert str(tmp_path) not in str(refusal.value)


def test_a_model_without_classifier_cannot_be_evaluated(runs: Pipeline, spec: ModelSpec, folder: Path) -> None:
    with pytest.raises(InputError, match="no classifier to evaluate"):
        evaluate(runs, replace(spec, labels=()), read_labelled(folder))


def test_photos_of_other_classes_cannot_be_evaluated(runs: Pipeline, spec: ModelSpec, folder: Path) -> None:
    other = replace(spec, labels=tuple("abcdefg"))
    with pytest.raises(InputError, match="No photo has one of the 7 labels of tiny-vit"):
        evaluate(runs, other, read_labelled(folder))
    with pytest.raises(InputError, match="No photo has one of the 7 labels of tiny-vit"):
        calibrate(runs, other, read_labelled(folder))


@pytest.fixture
def mine(tiny_folder: Callable[[str], Path], tmp_path: Path) -> ModelSpec:
    """A model whose folder may be written to."""
    return spec_from_folder(Path(shutil.copytree(tiny_folder("vit"), tmp_path / "mine")))


def _loss(runs: Pipeline, spec: ModelSpec, folder: Path) -> float:
    """Negative log-likelihood of the labelled photos of the half that is fitted on."""
    losses = []
    for label, photo in read_labelled(folder):
        if label in spec.labels and int(photo.digest, 16) % 2 == 0:
            (found,) = runs.classify([photo], spec, top_k=len(spec.labels))
            losses.append(-math.log(next(one.score for one in found.labels if one.label == label)))
    return sum(losses) / len(losses)


def test_calibration_writes_the_likeliest_temperature_and_the_best_threshold(
    runs: Pipeline, mine: ModelSpec, folder: Path
) -> None:
    config = Path(mine.checkpoint) / "config.json"
    before = json.loads(config.read_text())
    fitted = calibrate(runs, mine, read_labelled(folder))
    assert fitted == replace(mine, temperature=fitted.temperature, threshold=fitted.threshold)
    assert spec_from_folder(Path(mine.checkpoint)) == fitted
    best = _loss(runs, fitted, folder)
    for factor in (0.8, 1.25):
        assert _loss(runs, replace(fitted, temperature=fitted.temperature * factor), folder) > best
    scores: dict[bool, list[float]] = {True: [], False: []}
    for label, photo in read_labelled(folder):
        if label in (*mine.labels, BACKGROUND) and int(photo.digest, 16) % 2 == 0:
            scores[label != BACKGROUND].append(runs.classify([photo], fitted)[0].labels[0].score)

    def errors(threshold: float) -> float:
        missed = sum(score < threshold for score in scores[True]) / len(scores[True])
        return missed + sum(score >= threshold for score in scores[False]) / len(scores[False])

    tolerated = 1 / min(len(scores[True]), len(scores[False]))  # the threshold is rounded
    most = np.percentile(scores[True], 25)
    assert fitted.threshold <= most + 1e-4
    if fitted.threshold < most - 1e-4:
        assert errors(fitted.threshold) <= min(map(errors, [*scores[True], *scores[False]])) + tolerated + 1e-9
    after = json.loads(config.read_text())
    assert after["vitdemo"].pop("threshold") == fitted.threshold
    assert after["vitdemo"].pop("temperature") == fitted.temperature
    assert after == before


def test_a_second_calibration_gives_the_same(runs: Pipeline, mine: ModelSpec, folder: Path) -> None:
    first = calibrate(runs, mine, read_labelled(folder))
    second = calibrate(runs, first, read_labelled(folder))
    assert second.temperature == pytest.approx(first.temperature, rel=1e-2)
    assert second.threshold == pytest.approx(first.threshold, abs=1e-2)


def test_scores_are_softmax_at_the_temperature(runs: Pipeline, spec: ModelSpec, photo: Callable[..., Photo]) -> None:
    plain, hot = (runs.classify([photo()], replace(spec, temperature=one), top_k=7)[0] for one in (1.0, 2.0))
    assert [one.index for one in plain.labels] == [one.index for one in hot.labels]
    roots = np.sqrt([one.score for one in plain.labels])
    np.testing.assert_allclose([one.score for one in hot.labels], roots / roots.sum(), rtol=1e-5)


def test_the_calibration_error_is_computed_over_bins() -> None:
    scores = np.array([0.05, 0.5, 0.51, 0.99, 1.0])
    right = np.array([False, True, False, True, True])
    expected = (abs(0 - 0.05) + 2 * abs(0.5 - 0.505) + 2 * abs(1 - 0.995)) / 5
    assert calibration_error(scores, right) == pytest.approx(expected)
    assert math.isnan(calibration_error(np.zeros(0), np.zeros(0, np.bool_)))


def test_an_invalid_temperature_is_rejected(mine: ModelSpec) -> None:
    path = Path(mine.checkpoint) / "config.json"
    config = json.loads(path.read_text())
    for wrong in (0, -1, float("nan"), float("inf")):
        path.write_text(json.dumps({**config, "vitdemo": {"temperature": wrong}}))
        with pytest.raises(CheckpointError, match="above 0"):
            spec_from_folder(Path(mine.checkpoint))


def _figures(**changes: float) -> Evaluation:
    fields = {
        "photos": 18,
        "top1": 0.5,
        "top5": 0.75,
        "mean_per_class": 0.4,
        "kept": 0.9,
        "refused": 0.25,
        "ece": 0.0625,
        "auroc": 0.875,
    }
    return Evaluation(model="mine", threshold=0.125, temperature=1.5, **{**fields, **changes})  # type: ignore[arg-type]


def _card(spec: ModelSpec) -> str:
    return (Path(spec.checkpoint) / "README.md").read_text(encoding="utf-8")


def test_a_card_gets_the_figures_and_writing_them_twice_changes_nothing(mine: ModelSpec) -> None:
    data = [Path("/data/test.tar"), Path("/data/more.tar")]
    write_card(mine, _figures(), data)
    first = _card(mine)
    for words in (
        "| top-1 | 50.0% |",
        "| top-5 | 75.0% |",
        "| mean per-class top-1 | 40.0% |",
        "| 90.0% |",
        "| 25.0% |",
        "| expected calibration error, temperature 1.50 | 0.062 |",
    ):
        assert first.count(words) == 1
    assert "18 photos of `test.tar` and `more.tar`" in first
    assert "/data" not in first
    write_card(mine, _figures(), data)
    assert _card(mine) == first


def test_new_figures_replace_the_old_ones_and_nothing_else(mine: ModelSpec) -> None:
    path = Path(mine.checkpoint) / "README.md"
    path.write_text(f"# Mine\n\nBefore.\n\n{BEGIN}\nold\n{END}\n\nAfter: été.\n", encoding="utf-8")
    write_card(mine, _figures(), [Path("test.tar")])
    write_card(mine, _figures(top1=0.625), [Path("test.tar")])
    text = _card(mine)
    assert text.startswith(f"# Mine\n\nBefore.\n\n{BEGIN}\n")
    assert text.endswith(f"{END}\n\nAfter: été.\n")
    assert "62.5%" in text
    assert "50.0%" not in text
    assert "\nold\n" not in text


@pytest.mark.parametrize("text", ["# Mine\n\nNo marks.\n", f"# Mine\n\n{BEGIN}\nno end\n", ""])
def test_a_card_without_both_marks_keeps_its_text_and_gets_the_figures_at_its_end(mine: ModelSpec, text: str) -> None:
    path = Path(mine.checkpoint) / "README.md"
    path.write_text(text, encoding="utf-8")
    for _ in range(2):
        write_card(mine, _figures(), [Path("test.tar")])
    assert _card(mine).startswith(text.replace(BEGIN + "\n", ""))
    assert _card(mine).count("| top-1 |") == 1


def test_photos_are_read_lazily(folder: Path) -> None:
    items: Iterator[tuple[str, Photo]] = read_labelled(folder)
    assert next(items)[0] in {BACKGROUND, *tiny.LABELS}
