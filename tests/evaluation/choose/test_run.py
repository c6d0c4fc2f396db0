"""A choice from photos to verdict: what it measures, keeps, resumes, and says where something is missing."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA

from tests.evaluation.choose.small import COUNTS, chosen, photos, pipeline
from tests.photos import CLASSES, files, in_folder, in_tar, in_zip
from vitdemo.errors import ChoiceStoppedError, EngineError, InputError, OptionError
from vitdemo.evaluation.choose import (
    Choice,
    Progress,
    cluster_agreement,
    clusters,
    confusions,
    coordinates,
    disagreements,
    labels_of,
    near_duplicates,
    neighbours,
    opened,
    outliers,
    relabelled,
    similarity,
)
from vitdemo.evaluation.choose.store import FILE, FeatureStore
from vitdemo.models.parts import image_features
from vitdemo.models.preprocess import preprocess
from vitdemo.settings import ROOT, Settings
from vitdemo.types import ModelSpec

Spec = Callable[[str], ModelSpec]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def choice(data: Path, tmp_path_factory: pytest.TempPathFactory, tiny_spec: Spec) -> Choice:
    """Three models on 28 photos of three classes."""
    return chosen([tiny_spec(kind) for kind in ("vit", "dino", "resnet")], data, tmp_path_factory.mktemp("store"))


def test_every_model_has_every_figure(choice: Choice) -> None:
    assert (len(choice.photos), choice.classes, choice.skipped, choice.notes) == (28, CLASSES, (), ())
    assert np.bincount(choice.labels).tolist() == list(COUNTS.values())
    for row in choice.candidates:
        assert row.error == ""
        for found in (row.probe, row.knn):
            assert found is not None
            assert found.photos == 28
            assert 0 <= found.low <= found.value <= found.high <= 1
        assert len(row.fold_accuracies) == 3
        assert row.ece is not None
        assert 0 <= row.ece <= 1
        assert row.ms_alone is not None
        assert row.ms_alone > 0
        assert row.ms_batched is not None
        assert row.memory is not None
        assert row.memory > 4 * row.parameters
        assert (row.own, row.own_classes) == (None, 0), "no class of these photos is in their vocabulary"
    probe = choice.candidates[0].probe
    assert probe is not None
    assert probe.value > 0.8, "colours that any network tells apart"
    assert any(row.pareto for row in choice.candidates)
    assert choice.verdict.best in choice.features
    assert "28 photos only" in choice.verdict.sentence
    assert "28 photos, each answered by a linear probe" in choice.verdict.rests_on
    assert "3 stratified folds" in choice.verdict.rests_on


def test_features_are_those_of_the_model(choice: Choice) -> None:
    own = pipeline()
    for spec in choice.specs:
        photo = opened(choice, 5)
        pixels = preprocess([photo], spec.processor).pixel_values
        expected = own.backend.look(spec, lambda model, pixels=pixels: image_features(model, pixels))  # type: ignore[misc]
        np.testing.assert_allclose(choice.features[spec.name][5], expected[0].numpy(), atol=1e-4, rtol=1e-4)


def test_a_map_is_scikit_learns_pca(choice: Choice) -> None:
    features = choice.features["tiny-vit"]
    expected = PCA(2).fit_transform(features / np.linalg.norm(features, axis=1, keepdims=True))
    found = coordinates(choice, "tiny-vit")
    assert found.shape == (28, 2)
    assert np.abs(found).max() == pytest.approx(1)
    for axis in (0, 1):
        assert abs(np.corrcoef(found[:, axis], expected[:, axis])[0, 1]) == pytest.approx(1, abs=1e-3)
    assert coordinates(choice, "tiny-vit") is found, "made once"
    assert coordinates(choice, "tiny-vit", "t-sne").shape == (28, 2)
    with pytest.raises(OptionError, match="Choose pca or t-sne"):
        coordinates(choice, "tiny-vit", "umap")  # type: ignore[arg-type]


def test_without_scikit_learn_a_t_sne_map_says_what_to_install(choice: Choice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(OptionError, match="pip install scikit-learn"):
        coordinates(choice, "tiny-dino", "t-sne")
    assert coordinates(choice, "tiny-dino").shape == (28, 2)


def test_what_shows_why_agrees_with_the_answers(choice: Choice) -> None:
    answers = choice.answers["tiny-resnet"].probe
    wrong = int((answers != choice.labels).sum())
    assert sum(len(one.photos) for one in confusions(choice, "tiny-resnet")) == wrong
    for one in confusions(choice, "tiny-resnet"):
        for photo in one.photos:
            assert choice.classes[choice.labels[photo]] == one.truth
            assert choice.classes[answers[photo]] == one.answer
    near = neighbours(choice, "tiny-vit", 3, number=4)
    assert len(near) == 4
    assert 3 not in [one.photo for one in near]
    assert [one.cosine for one in near] == sorted((one.cosine for one in near), reverse=True)
    found = disagreements(choice, ["tiny-vit", "tiny-dino"], number=5)
    first, second = (choice.answers[name].probabilities for name in ("tiny-vit", "tiny-dino"))
    distance = np.abs(first - second).sum(axis=1) / 2
    assert [one.photo for one in found] == np.argsort(-distance, kind="stable")[:5].tolist()
    assert set(found[0].answers) == {"tiny-vit", "tiny-dino"}
    names, cka = similarity(choice)
    assert names == ("tiny-vit", "tiny-dino", "tiny-resnet")
    assert np.allclose(cka, cka.T)
    assert opened(choice, 0).name == choice.photos[0].name.split("/")[1]
    assert choice.thumbnails(0).startswith(b"\xff\xd8")


def test_names_that_are_none_of_the_models_are_refused_in_words(choice: Choice) -> None:
    with pytest.raises(OptionError, match="Choose from: tiny-vit, tiny-dino, tiny-resnet"):
        coordinates(choice, "other")
    with pytest.raises(OptionError, match="Two models"):
        disagreements(choice, ["tiny-vit"])
    with pytest.raises(OptionError, match="from 0 to 27"):
        neighbours(choice, "tiny-vit", 28)


def test_the_own_classifier_counts_where_the_vocabulary_fits(tiny_spec: Spec, tmp_path: Path) -> None:
    given = {
        name.replace("red/", "cup/"): content for name, content in files(dict.fromkeys(("red", "green"), 6)).items()
    }
    found = chosen([tiny_spec("vit")], in_folder(tmp_path / "photos", given), tmp_path)
    (row,) = found.candidates
    assert row.own is not None
    assert (row.own.photos, row.own_classes) == (6, 1)
    own = pipeline()
    right = [
        own.classify([opened(found, photo)], tiny_spec("vit"), top_k=1)[0].labels[0].label == "cup"
        for photo in np.flatnonzero(found.labels == found.classes.index("cup"))
    ]
    assert row.own.value == pytest.approx(np.mean(right))


# What is kept


@pytest.mark.thorough
def test_a_second_run_computes_nothing_and_gives_the_same(data: Path, tiny_spec: Spec, tmp_path: Path) -> None:
    specs = [tiny_spec("vit"), tiny_spec("resnet")]
    first = chosen(specs, data, tmp_path)
    again = chosen(specs, in_tar(tmp_path / "photos.tar", files(COUNTS)), tmp_path)
    assert first.forward_seconds > 0
    assert again.forward_seconds == 0
    for name in first.features:
        # An archive has another order of files.
        order = [[one.name for one in again.photos].index(photo.name) for photo in first.photos]
        np.testing.assert_array_equal(first.features[name], again.features[name][order])
    third = chosen([*specs, tiny_spec("dino")], data, tmp_path)
    assert third.forward_seconds > 0
    assert [row.probe for row in third.candidates[:2]] == [row.probe for row in first.candidates]


def test_a_stopped_run_says_so_and_goes_on_where_it_was(data: Path, tiny_spec: Spec, tmp_path: Path) -> None:
    specs, seen = [tiny_spec("vit"), tiny_spec("dino")], list[Progress]()
    own = pipeline()
    with pytest.raises(ChoiceStoppedError, match=r"Stopped after 0 of 28 photos. What is done is kept"):
        chosen(specs, data, tmp_path, own, report=seen.append, stopped=lambda: len(seen) > 2)
    assert [one.stage for one in seen] == ["reading", "features", "features"]
    before = own.backend.forwards
    chosen(specs, data, tmp_path, own)
    # Two batches of eight were kept of the first model: 12 of 28 photos are left in two, of the second all in four.
    timing = 2 * (7 + 3)
    assert own.backend.forwards - before == 2 + 4 + timing


def test_a_run_can_be_stopped_while_models_are_timed_or_probed(data: Path, tiny_spec: Spec, tmp_path: Path) -> None:
    for stage in ("timing", "probes"):
        seen = list[Progress]()
        with pytest.raises(ChoiceStoppedError, match="after all photos were seen"):
            chosen(
                [tiny_spec("vit"), tiny_spec("dino")],
                data,
                tmp_path,
                report=seen.append,
                stopped=lambda seen=seen, stage=stage: any(one.stage == stage for one in seen),
            )


def test_progress_rises_to_the_end_by_model_and_photo(data: Path, tiny_spec: Spec, tmp_path: Path) -> None:
    seen = list[Progress]()
    chosen([tiny_spec("vit"), tiny_spec("dino")], data, tmp_path, report=seen.append)
    shares = [one.share for one in seen]
    assert shares == sorted(shares)
    assert {one.stage for one in seen} == {"reading", "features", "timing", "probes"}
    last = {one.model: one for one in seen if one.stage == "features"}
    assert {name: (one.done, one.total) for name, one in last.items()} == {
        "tiny-vit": (28, 28),
        "tiny-dino": (28, 28),
    }
    assert all(one.seconds_left is not None and one.seconds_left >= 0 for one in last.values())


def test_other_weights_in_the_same_folder_have_features_of_their_own(data: Path, tmp_path: Path) -> None:
    from tests import tiny
    from vitdemo.registry import spec_from_folder

    folder = tiny.save(tmp_path / "model", "vit")
    first = chosen([spec_from_folder(folder)], data, tmp_path)
    tiny.save(folder, "vit", hidden_size=32)
    second = chosen([spec_from_folder(folder)], data, tmp_path)
    assert (first.features["model"].shape[1], second.features["model"].shape[1]) == (24, 32)


def test_a_full_disk_ends_what_is_kept_and_not_the_run(data: Path, tiny_spec: Spec, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, 10**8)
    store._base.execute("PRAGMA max_page_count = 12")
    from vitdemo.evaluation.choose import ChooseRequest, choose

    found = choose(pipeline(), [tiny_spec("vit")], ChooseRequest((data,), folds=3), store=store)
    assert found.candidates[0].probe is not None
    (note,) = found.notes
    assert "no longer kept on the disk: database or disk is full" in note
    assert "This result is whole" in note
    assert found.thumbnails(20).startswith(b"\xff\xd8"), "made once more"


def test_the_oldest_features_leave_for_new_ones(data: Path, tiny_spec: Spec, tmp_path: Path) -> None:
    found = chosen([tiny_spec("vit"), tiny_spec("dino")], data, tmp_path, limit=28_000)
    assert found.candidates[0].probe is not None
    assert any("VITDEMO_FEATURES_MB" in note for note in found.notes)
    assert FeatureStore(tmp_path, 28_000).size <= 40_000


def test_a_damaged_store_is_made_anew(data: Path, tiny_spec: Spec, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database at all" * 500)
    assert chosen([tiny_spec("vit")], data, tmp_path).candidates[0].error == ""
    with sqlite3.connect(tmp_path / FILE) as base:
        assert base.execute("SELECT count(*) FROM features").fetchone() == (28,)


# Without labels


@pytest.mark.thorough
def test_photos_without_labels_have_clusters_duplicates_and_outliers(tiny_spec: Spec, tmp_path: Path) -> None:
    flat = {name.replace("/", "-"): content for name, content in files(COUNTS).items()}
    flat["twin.png"] = flat["red-003.png"]
    found = chosen([tiny_spec("vit"), tiny_spec("resnet")], in_zip(tmp_path / "flat.zip", flat), tmp_path, clusters=3)
    assert not found.labelled
    assert [row.probe for row in found.candidates] == [None, None]
    assert "Without labels there is no accuracy" in found.verdict.sentence
    made = clusters(found, "tiny-vit")
    assert made.number == 3
    truth = np.array([photo.name[0] for photo in found.photos])
    for cluster in range(3):
        assert len(set(truth[made.assigned == cluster]) - {"t"}) == 1, "a colour each"
    names, index = cluster_agreement(found)
    assert names == ("tiny-vit", "tiny-resnet")
    assert index[0, 1] == index[1, 0] <= 1
    one, other, cosine = near_duplicates(found, "tiny-vit")[0]
    assert {found.photos[one].name, found.photos[other].name} == {"red-003.png", "twin.png"}
    assert cosine == pytest.approx(1, abs=1e-5)
    distances = [distance for _, distance in outliers(found, "tiny-vit")]
    assert distances == sorted(distances, reverse=True)
    assert disagreements(found)[0].answers == {}
    labels = labels_of(found, made, ["first", " second  one ", ""])
    assert set(labels.values()) == {"first", "second one"}
    assert len(labels) == int((made.assigned < 2).sum())
    with pytest.raises(OptionError, match="3 clusters, and 2 names"):
        labels_of(found, made, ["a", "b"])
    with pytest.raises(OptionError, match="choose from 2 to 28"):
        clusters(found, "tiny-vit", 29)
    judged = relabelled(found, labels)
    assert judged.classes == ("first", "second one")
    assert judged.candidates[0].probe is not None
    assert judged.candidates[0].probe.photos == len(labels)
    assert any("have no label" in note for note in judged.notes)
    same = chosen(list(found.specs), tmp_path / "flat.zip", tmp_path, labels=labels)
    assert [row.probe for row in same.candidates] == [row.probe for row in judged.candidates]


def test_the_number_of_clusters_is_the_silhouettes_where_none_is_given(
    data: Path, tiny_spec: Spec, tmp_path: Path
) -> None:
    found = chosen([tiny_spec("vit")], data, tmp_path, ignore_labels=True)
    assert clusters(found, "tiny-vit").number == 3


# Bad input


def test_one_class_and_one_photo_a_class_are_said_in_words(tiny_spec: Spec, tmp_path: Path) -> None:
    one = chosen([tiny_spec("vit")], photos(tmp_path / "one", red=5), tmp_path)
    assert not one.labelled
    assert "All photos are of one class (red)" in one.notes[0]
    single = chosen([tiny_spec("vit")], photos(tmp_path / "single", red=1, green=1, blue_sky=1), tmp_path)
    assert not single.labelled
    assert "fewer than two of them have two photos" in single.notes[0]
    some = chosen([tiny_spec("vit")], photos(tmp_path / "some", red=4, green=4, blue_sky=1), tmp_path)
    assert some.classes == ("green", "red")
    assert "1 classes with one photo each are left out of the accuracies: blue sky." in some.notes
    with pytest.raises(InputError, match="At least two photos are needed; there is one"):
        chosen([tiny_spec("vit")], photos(tmp_path / "alone", red=1), tmp_path)


def test_unreadable_files_are_listed_and_background_is_left_out(tiny_spec: Spec, tmp_path: Path) -> None:
    content = files(COUNTS)
    content |= {
        "red/cut.png": content["red/000.png"][:-60],
        "green/notes.txt": b"none",
        "_background/x.png": content["red/001.png"],
    }
    found = chosen([tiny_spec("vit")], in_tar(tmp_path / "photos.tar", content), tmp_path)
    assert len(found.photos) == 28
    assert [line.split(":")[0] for line in found.skipped] == ["red/cut.png", "green/notes.txt"]
    assert "1 photos of no class (_background) are left out." in found.notes


@pytest.mark.thorough
def test_a_model_that_fails_half_way_says_why_and_harms_no_other(
    data: Path, tiny_spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = pipeline()
    run, calls = own.backend.run, list[str]()

    def failing(spec: ModelSpec, *args: object, **options: object) -> object:
        calls.append(spec.name)
        if spec.name == "tiny-vit" and calls.count("tiny-vit") == 3:
            raise EngineError("There is not enough memory.")
        if spec.name == "tiny-dino" and calls.count("tiny-dino") == 2:
            raise ZeroDivisionError
        return run(spec, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(own.backend, "run", failing)
    found = chosen([tiny_spec(kind) for kind in ("vit", "dino", "resnet")], data, tmp_path, own)
    assert found.candidate("tiny-vit").error == "There is not enough memory."
    assert "tiny-dino failed on these photos" in found.candidate("tiny-dino").error
    assert found.candidate("tiny-resnet").probe is not None
    assert "Without tiny-vit, tiny-dino, which failed." in found.verdict.sentence
    with pytest.raises(OptionError, match="not enough memory"):
        coordinates(found, "tiny-vit")
    monkeypatch.undo()
    calls.clear()
    again = chosen([tiny_spec("vit")], data, tmp_path, own)
    assert again.candidates[0].probe is not None
    assert again.forward_seconds > 0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"folds": 1}, "folds must be from 2"),
        ({"k": 0}, "k must be"),
        ({"clusters": 1}, "clusters"),
        ({"strength": 0}, "strength"),
    ],
)
def test_options_out_of_range_are_refused(
    wrong: dict[str, float], words: str, data: Path, tiny_spec: Spec, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=words):
        chosen([tiny_spec("vit")], data, tmp_path, **wrong)
    with pytest.raises(OptionError, match="at least one model"):
        chosen([], data, tmp_path)


def test_data_that_is_missing_or_too_much_is_refused(
    tiny_spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path
) -> None:
    with pytest.raises(InputError, match=r"gone.tar is missing, damaged"):
        chosen([tiny_spec("vit")], tmp_path / "gone.tar", tmp_path)
    monkeypatch.setattr("vitdemo.evaluation.choose.run.free_memory", lambda: 1000)
    with pytest.raises(InputError, match="GB of memory"):
        chosen([tiny_spec("vit")], data, tmp_path)


def test_a_disk_that_will_be_full_is_said_beforehand(
    data: Path, tiny_spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    class Usage:
        free = 1000

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage)
    found = chosen([tiny_spec("vit")], data, tmp_path)
    assert any("MB of disk" in note and "goes on in memory" in note for note in found.notes)


def test_drawn_photos_are_the_same_each_time(data: Path, tiny_spec: Spec, tmp_path: Path) -> None:
    first, again = (chosen([tiny_spec("vit")], data, tmp_path, most=10).photos for _ in range(2))
    assert first == again
    assert len(first) == 10


MANY = """
import resource, sys
from pathlib import Path
from tests import tiny
from vitdemo.evaluation.choose import ChooseRequest, FeatureStore, choose
from vitdemo.pipeline import Pipeline
from vitdemo.registry import spec_from_folder
from vitdemo.settings import Settings
root = Path(sys.argv[1])
found = choose(Pipeline(Settings(device="cpu")), [spec_from_folder(root / "model")],
               ChooseRequest((root / "photos.zip",), folds=2), store=FeatureStore(root / "store", 10**9))
print(len(found.photos), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.thorough
def test_ten_thousand_photos_take_less_than_a_gigabyte(tmp_path: Path) -> None:
    from tests import tiny

    tiny.save(tmp_path / "model", "vit")
    in_zip(tmp_path / "photos.zip", files({"red": 5000, "green": 5000}))
    command = [sys.executable, "-c", MANY, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    number, peak = (int(word) for word in done.stdout.split())
    assert number == 10_000
    assert peak < 1e9


def test_the_default_store_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store = FeatureStore.default(Settings(features_mb=3))
    assert (store.folder, store.limit) == (tmp_path / "vitdemo", 3_000_000)
