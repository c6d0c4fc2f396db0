"""The Choose tab's server side: who may start what, on which photos, what the page is told, and what becomes of it."""

from __future__ import annotations

import base64
import csv
import io
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from tests.photos import FOLDERS, files, in_tar
from tests.ui.test_train import uploaded_pieces
from vitdemo.engine.local import LocalBackend
from vitdemo.errors import InputError, NotDownloadedError, OptionError, ResultExpiredError, UnknownModelError
from vitdemo.evaluation.choose import Answers, Candidate, Choice, ChooseRequest, PhotoEntry, Verdict
from vitdemo.pipeline import Pipeline
from vitdemo.registry import forget_folder, get_spec
from vitdemo.settings import Settings
from vitdemo.ui.app import build
from vitdemo.ui.choose import ChooseTab
from vitdemo.ui.choose_runs import KEPT
from vitdemo.ui.choose_settings import ChooseForm, limits, models_chosen, read_form
from vitdemo.ui.choose_views import VIEWS, result_view, view_of
from vitdemo.ui.choose_visitor import Visitor
from vitdemo.ui.errors import Page
from vitdemo.ui.link_check import understood
from vitdemo.ui.links import parse_link

MINE, THEIRS = "m" * 32, "t" * 32
MODELS = ["dino-mini", "cnn-mini"]
FORM = ChooseForm(tuple(MODELS), folds=2, k=3)
COUNTS = {"blue_sky": 5, "green": 5, "red": 5}


@pytest.fixture
def tab(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ChooseTab]:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio" / "files"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with gr.Blocks():
        found = ChooseTab(pipeline)
    yield found
    found.runs.close()


def ended(visitor: Visitor, seconds: float = 120) -> Visitor:
    until = time.monotonic() + seconds
    while visitor.under_way and time.monotonic() < until:
        time.sleep(0.02)
    assert not visitor.under_way
    return visitor


def upload(path: Path, content: dict[str, bytes], name: str = "my photos.tar") -> dict[str, Any]:
    """What a page says of an archive that it has sent."""
    archive = in_tar(path, content).read_bytes()
    return {"kind": "upload", "name": name, "pieces": uploaded_pieces(archive, 200_000)}


def event(**values: Any) -> Any:
    return SimpleNamespace(token=MINE, number=1, **values)


def numbers(text: str, kind: str = "<i2") -> Any:
    return np.frombuffer(base64.b64decode(text), kind)


def asked(tab: ChooseTab, action: str, owner: str = MINE, **query: Any) -> dict[str, Any]:
    """An answer, waited for as the page does."""
    number = tab.runs.mine(owner).choice_number  # type: ignore[union-attr]
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = tab.answer({"token": owner, "action": action, "number": number, **query})
        if "pending" not in found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{action} takes too long")


@pytest.fixture
def done(tab: ChooseTab, tmp_path: Path) -> ChooseTab:
    """With a result on fifteen photos and a file that is none."""
    content = {**files(COUNTS), "red/notes.png": b"no picture"}
    visitor = ended(tab.runs.start(MINE, FORM, upload(tmp_path / "a.tar", content), folders=False))
    assert (visitor.state, visitor.said) == ("done", "")
    return tab


@pytest.fixture(scope="module")
def shown(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChooseTab]:
    """The same, for tests that only look at it."""
    place = tmp_path_factory.mktemp("shown")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(place / "gradio" / "files"))
        with gr.Blocks():
            tab = ChooseTab(pipeline)
        content = {**files(COUNTS), "red/notes.png": b"no picture"}
        visitor = ended(tab.runs.start(MINE, FORM, upload(place / "a.tar", content), folders=False))
        assert (visitor.state, visitor.said) == ("done", "")
        yield tab
        tab.runs.close()


# Where there is one, and its limits


def test_the_tab_is_there_unless_it_is_switched_off(pipeline: Pipeline) -> None:
    page = build(Pipeline(replace(pipeline.settings, choose=False), pipeline.backend))
    assert isinstance(page, Page)
    assert page.choosing is None
    (panel,) = [one for one in page.blocks.values() if isinstance(one, gr.Tab) and one.label == "Choose"]
    assert not panel.visible
    query = {"tab": "choose"}
    link, ignored = understood(parse_link(query), query, MODELS, MODELS[0])
    assert (link.tab, ignored) == ("choose", [])
    assert understood(parse_link(query), query, MODELS, MODELS[0], ("choose",))[1] == ["tab=choose"]


def test_a_space_has_smaller_limits_unless_they_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPACE_ID", raising=False)
    own = limits(Settings())
    assert own.photos >= 10_000
    monkeypatch.setenv("SPACE_ID", "somebody/vitdemo")
    shared = limits(Settings(choose_mb=7.0))
    assert shared.photos < own.photos
    assert shared.minutes < own.minutes
    assert shared.megabytes == 7.0


def test_a_lent_gpu_says_why_nothing_can_be_compared(pipeline: Pipeline) -> None:
    class Lent(LocalBackend):
        borrowed = True

    with gr.Blocks():
        tab = ChooseTab(Pipeline(pipeline.settings, Lent(pipeline.settings)))
    assert "lent for single calls" in tab.offered["missing"]
    with pytest.raises(OptionError, match="lent for single calls"):
        tab.begin(event(settings={"models": MODELS}, data={"kind": "examples"}))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"models": []}, "Choose at least one model"),
        ({"models": "vit-mini"}, "Choose at least one model"),
        ({"models": [f"m-{number}" for number in range(17)]}, "the limit is 16"),
        ({"models": MODELS, "folds": "1"}, "Folds must be a whole number from 2 to 20"),
        ({"models": MODELS, "folds": "2.5"}, "Folds must be a whole number"),
        ({"models": MODELS, "k": "many"}, "Neighbours must be a whole number from 1 to 1000"),
        ({"models": MODELS, "k": "nan"}, "Neighbours must be"),
    ],
)
def test_what_is_not_offered_is_refused_in_words(given: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        read_form(given, Settings())


def test_models_that_are_not_here_are_refused() -> None:
    with pytest.raises(UnknownModelError):
        read_form({"models": ["../etc"]}, Settings())
    with pytest.raises(NotDownloadedError):
        read_form({"models": ["google/vit-base-patch16-224"]}, Settings())


def test_a_link_chooses_the_models_that_are_here_and_names_the_others(tab: ChooseTab) -> None:
    found = tab.follow(parse_link({"tab": "choose", "models": "cnn-mini,nobody/nothing"}))[tab.view]
    assert found["start"]["models"] == ["cnn-mini"]
    assert "nobody/nothing" in found["start"]["said"]
    assert found["offered"]["chosen"] == models_chosen()


# Photos


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "holds no file"),
        ({"a/x.png": b"no", "b/y.png": b"no"}, "2 files were not readable"),
        (files({"cat": 1}), "At least two photos are needed"),
    ],
)
def test_photos_that_cannot_be_compared_are_explained(
    content: dict[str, bytes], words: str, tab: ChooseTab, tmp_path: Path
) -> None:
    visitor = ended(tab.runs.start(MINE, FORM, upload(tmp_path / "a.tar", content), folders=False))
    told = tab.progress(MINE)
    assert (visitor.state, told["state"], told["result"]) == ("failed", "failed", 0)
    assert words in told["said"]
    assert str(tmp_path) not in told["said"]


@pytest.mark.thorough
@pytest.mark.parametrize("counts", [{"cat": 4}, {"cat": 1, "dog": 1, "emu": 1}])
def test_one_class_or_one_photo_a_class_gives_maps_and_clusters_and_says_why_no_accuracy(
    counts: dict[str, int], tab: ChooseTab, tmp_path: Path
) -> None:
    ended(tab.runs.start(MINE, FORM, upload(tmp_path / "a.tar", files(counts)), folders=False))
    result = asked(tab, "result")
    assert not result["labelled"]
    assert any("class" in note for note in result["notes"])
    assert len(numbers(asked(tab, "map", model="dino-mini")["places"])) == 2 * sum(counts.values())


def test_an_archive_over_the_limit_is_refused_and_leaves_the_place_free(tab: ChooseTab, tmp_path: Path) -> None:
    tab.runs.limits = replace(tab.runs.limits, megabytes=0.01)
    with pytest.raises(InputError, match=r"larger than 0\.01 MB, the limit of this page\. Use the command line"):
        tab.runs.start(MINE, FORM, upload(tmp_path / "a.tar", files(COUNTS)), folders=False)
    assert tab.runs.current is None
    assert not list((tab.runs.mine(MINE).folder).glob("*/*"))  # type: ignore[union-attr]


@pytest.mark.thorough
def test_more_photos_than_the_limit_are_drawn_and_it_is_said(tab: ChooseTab, tmp_path: Path) -> None:
    tab.runs.limits = replace(tab.runs.limits, photos=9)
    ended(tab.runs.start(MINE, FORM, upload(tmp_path / "a.tar", files(COUNTS)), folders=False))
    result = asked(tab, "result")
    assert result["count"] == 9
    assert any("9 of 15 files were drawn" in note for note in result["notes"])


@pytest.mark.thorough
def test_no_folder_of_the_server_is_read_unless_it_is_allowed(tab: ChooseTab, tmp_path: Path) -> None:
    given = {"kind": "folder", "folder": str(tmp_path)}
    with pytest.raises(OptionError, match="Choose an archive"):
        tab.runs.start(MINE, FORM, given, folders=False)
    with pytest.raises(InputError, match="no longer on the server"):
        tab.runs.start(MINE, FORM, {"kind": "same"}, folders=True)


# One at a time, and whose it is


@pytest.mark.thorough
def test_a_second_comparison_is_refused_and_another_visitor_can_neither_stop_nor_see_the_first(
    tab: ChooseTab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, go = threading.Event(), threading.Event()

    def held(*arguments: Any, **options: Any) -> Any:
        going.set()
        go.wait(60)
        return original(*arguments, **options)

    import vitdemo.ui.choose_runs as module

    original = module.choose
    monkeypatch.setattr(module, "choose", held)
    visitor = tab.runs.start(MINE, FORM, upload(tmp_path / "a.tar", files(COUNTS)), folders=False)
    assert going.wait(60)
    for owner in (MINE, THEIRS):
        with pytest.raises(OptionError, match="one runs at a time"):
            tab.runs.start(owner, FORM, {"kind": "examples"}, folders=False)
    assert tab.progress(THEIRS) == {"mine": False, "under_way": True, "result": 0}
    assert tab.answer({"token": THEIRS, "action": "stop"}) == {"error": "None of your comparisons is running."}
    assert tab.answer({"token": MINE, "action": "stop"})["state"] == "stopping"
    go.set()
    ended(visitor)
    told = tab.progress(MINE)
    assert (told["state"], told["resumable"]) == ("stopped", True)
    assert "What is done is kept" in told["said"]
    # Going on gives the result.
    tab.answer({"token": MINE, "action": "resume"})
    ended(visitor)
    assert tab.progress(MINE)["state"] == "done"
    assert tab.answer({"token": THEIRS, "action": "result"})["error"].startswith("The server no longer has this result")


def test_the_time_limit_of_the_page_ends_a_comparison_in_words(tab: ChooseTab, tmp_path: Path) -> None:
    tab.runs.limits = replace(tab.runs.limits, minutes=1e-9)
    visitor = ended(tab.runs.start(MINE, FORM, upload(tmp_path / "a.tar", files(COUNTS)), folders=False))
    assert visitor.state == "stopped"
    assert visitor.said.startswith("The limit of this page")


def test_a_page_without_a_secret_of_its_own_cannot_start_one(tab: ChooseTab) -> None:
    with pytest.raises(OptionError, match="reload"):
        tab.runs.start("", FORM, {"kind": "examples"}, folders=False)


@pytest.mark.thorough
def test_results_of_more_visitors_than_are_kept_go_with_their_photos(tab: ChooseTab, tmp_path: Path) -> None:
    visitors = []
    for number in range(KEPT + 1):
        given = upload(tmp_path / "a.tar", files({"a": 2}))
        visitors.append(ended(tab.runs.start(f"{number}" * 32, FORM, given, folders=False)))
    assert tab.runs.mine("0" * 32) is None
    assert not visitors[0].folder.exists()
    assert visitors[1].folder.exists()
    with pytest.raises(ResultExpiredError, match="Compare again"):
        tab.runs.result("0" * 32)


@pytest.mark.thorough
def test_what_nobody_has_used_for_two_hours_is_deleted(done: ChooseTab, monkeypatch: pytest.MonkeyPatch) -> None:
    visitor = done.runs.mine(MINE)
    assert visitor is not None
    done.runs._forget_if_left()
    assert visitor.folder.exists()
    visitor.used -= 7201
    done.runs._forget_if_left()
    assert done.runs.mine(MINE) is None
    assert not visitor.folder.exists()


@pytest.mark.thorough
def test_the_end_of_the_server_deletes_photos_and_features(done: ChooseTab, tmp_path: Path) -> None:
    visitor = done.runs.mine(MINE)
    assert visitor is not None
    assert list(visitor.folder.rglob("*"))
    assert visitor.choice is not None
    done.runs.close()
    assert not visitor.folder.exists()
    with pytest.raises(InputError):
        done.file_of(visitor.choice, 7, str(tmp_path))
    with pytest.raises(OptionError):
        done.runs.start(MINE, FORM, {"kind": "examples"}, folders=False)


# What the page is told


@pytest.mark.thorough
def test_the_result_has_the_verdict_the_table_and_what_was_left_out(shown: ChooseTab) -> None:
    result = asked(shown, "result")
    assert result["verdict"]["sentence"]
    assert [one["model"] for one in result["candidates"]] == MODELS
    assert result["candidates"][0]["probe"]["photos"] == 15
    assert result["candidates"][0]["batched"] > 0
    assert result["classes"] == ["blue sky", "green", "red"]
    assert sorted(numbers(result["labels"])) == sorted([0] * 5 + [1] * 5 + [2] * 5)
    assert result["skipped_count"] == 1
    assert "notes.png" in result["skipped"][0]
    # No path of the server, nor anything that JSON has no word for.
    text = json.dumps(result, allow_nan=False)
    assert str(shown.runs.mine(MINE).folder) not in text  # type: ignore[union-attr]


def test_every_view_is_json_of_numbers_within_the_result(shown: ChooseTab) -> None:
    queries: dict[str, dict[str, Any]] = {
        "map": {"model": MODELS[0]},
        "agreement": {"models": MODELS},
        "photos": {"photos": [0, 14]},
        "neighbours": {"models": MODELS, "photo": 3},
        "confusions": {"models": MODELS},
        "differences": {"models": MODELS},
        "clusters": {"model": MODELS[0], "clusters": "3"},
        "unusual": {"model": MODELS[1]},
    }
    assert set(queries) == set(VIEWS)
    found = {action: asked(shown, action, **query) for action, query in queries.items()}
    for action, answer in found.items():
        assert "error" not in answer, action
        json.dumps(answer, allow_nan=False)
    assert np.abs(numbers(found["map"]["places"])).max() == 32767
    assert len(numbers(found["agreement"]["scores"], "u1")) == 15
    card = found["photos"]["photos"]["14"]
    Image.open(io.BytesIO(base64.b64decode(card["src"].partition(",")[2]))).verify()
    assert card["label"] in result_classes(shown)
    near = found["neighbours"]["models"]["dino-mini"]
    assert 3 not in [photo for photo, _ in near]
    assert [cosine for _, cosine in near] == sorted((cosine for _, cosine in near), reverse=True)
    assert sum(found["clusters"]["sizes"]) == 15
    assert found["unusual"]["similarity"][0][0] == pytest.approx(1, abs=1e-3)


def result_classes(tab: ChooseTab) -> list[str]:
    found: list[str] = asked(tab, "result")["classes"]
    return found


@pytest.mark.parametrize(
    "query",
    [
        {"action": "map", "model": "vit-mini"},
        {"action": "map", "model": "dino-mini", "projection": "magic"},
        {"action": "photos", "photos": [99]},
        {"action": "photos", "photos": [-1]},
        {"action": "photos", "photos": "all"},
        {"action": "neighbours", "models": MODELS, "photo": "0"},
        {"action": "clusters", "model": "dino-mini", "clusters": "0"},
        {"action": "clusters", "model": "dino-mini", "clusters": "x"},
        {"action": "file", "kind": "../secret"},
        {"action": "labels", "kind": "csv", "model": "dino-mini", "names": []},
        {"action": "relabel", "model": "dino-mini", "names": "x"},
        {"action": "delete"},
    ],
)
def test_a_question_that_makes_no_sense_is_answered_in_words(query: dict[str, Any], shown: ChooseTab) -> None:
    found = asked(shown, **query)
    assert set(found) == {"error"}
    assert "went wrong" not in found["error"]


def test_questions_of_no_form_are_answered_in_words(tab: ChooseTab) -> None:
    for query in (None, [], {}, {"token": MINE}, {"action": "look"}):
        assert tab.answer(query) == {"error": "The question was not understood."}


def test_a_question_on_an_earlier_result_is_not_answered_with_a_later_one(shown: ChooseTab) -> None:
    found = shown.answer({"token": MINE, "action": "map", "model": "dino-mini", "number": 0})
    assert "replaced by a later one" in found["error"]


@pytest.mark.thorough
def test_the_same_photos_with_one_model_more_run_only_that_one(done: ChooseTab, pipeline: Pipeline) -> None:
    visitor = done.runs.mine(MINE)
    assert visitor is not None
    before, seen = asked(done, "result")["number"], []
    original = pipeline.backend.run

    def run(spec: Any, *arguments: Any, **options: Any) -> Any:
        seen.append((spec.name, len(arguments[0]), arguments[1].pooled))
        return original(spec, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.backend, "run", run)
        form = replace(FORM, models=(*MODELS, "vit-mini"))
        ended(done.runs.start(MINE, form, {"kind": "same"}, folders=False))
    assert sum(size for name, size, pooled in seen if pooled and name == "vit-mini") >= 15
    result = asked(done, "result")
    assert result["number"] != before
    assert [one["model"] for one in result["candidates"]] == [*MODELS, "vit-mini"]
    # The others are only timed again: none of them sees as many photos as there are.
    assert sum(size for name, size, pooled in seen if pooled and name == "dino-mini") == 0


@pytest.mark.thorough
def test_named_clusters_are_labels_of_a_second_round_and_files(done: ChooseTab, tmp_path: Path) -> None:
    given = upload(tmp_path / "b.tar", {name.replace("/", "-"): data for name, data in files(COUNTS).items()})
    visitor = ended(done.runs.start(MINE, FORM, given, folders=False))
    result = asked(done, "result")
    assert not result["labelled"]
    found = asked(done, "clusters", model="dino-mini", clusters="3")
    names = ["one", "", "two words"][: len(found["sizes"])]
    query = {"model": "dino-mini", "clusters": "3", "names": names}
    written = asked(done, "labels", kind="csv", **query)
    rows = list(csv.reader(io.StringIO(written["text"])))
    assert written["name"] == "vitdemo-labels.csv"
    assert {label for _, label in rows[1:]} == {"one", "two words"}
    assert len(rows) == 1 + found["sizes"][0] + found["sizes"][2]
    assert set(json.loads(asked(done, "labels", kind="json", **query)["text"]).values()) == {"one", "two words"}
    assert asked(done, "relabel", **{**query, "names": ["", "", ""]})["error"] == "Name at least one cluster."
    asked(done, "relabel", **query)
    ended(visitor)
    second = asked(done, "result")
    assert (second["labelled"], second["classes"]) == (True, ["one", "two words"])
    assert second["unlabelled"] == found["sizes"][1]
    assert second["candidates"][0]["probe"]["value"] > 0.5


def test_files_of_a_result(shown: ChooseTab) -> None:
    found = {kind: asked(shown, "file", kind=kind) for kind in ("json", "csv", "photos", "report")}
    assert json.loads(found["json"]["text"])
    assert len(list(csv.reader(io.StringIO(found["csv"]["text"])))) == 1 + len(MODELS)
    assert len(list(csv.reader(io.StringIO(found["photos"]["text"])))) == 1 + 15
    assert "<html" in found["report"]["text"]
    for one in found.values():
        assert str(shown.runs.mine(MINE).folder) not in one["text"]  # type: ignore[union-attr]


def test_a_photo_is_handed_to_compare_as_the_file_that_it_was(shown: ChooseTab, tmp_path: Path) -> None:
    _, choice = shown.runs.result(MINE)
    path = Path(shown.file_of(choice, 7, str(tmp_path / "cache")))
    entry = choice.photos[7]
    assert path.read_bytes() == files(COUNTS)[entry.name]
    assert path.name == Path(entry.name).name
    for number in (15, -1, "7", None):
        with pytest.raises(ResultExpiredError):
            shown.file_of(choice, number, str(tmp_path / "cache"))


def test_a_probe_is_a_model_of_all_tabs_once_and_a_download(shown: ChooseTab, tmp_path: Path) -> None:
    name = shown.probe(event(model="dino-mini"))
    try:
        assert name == "dino-mini-probe"
        assert get_spec(name).labels == tuple(folder.replace("_", " ") for folder in FOLDERS)
        assert shown.probe(event(model="dino-mini")) == name
        (tmp_path / "cache").mkdir()
        visitor, _ = shown.runs.result(MINE)
        path = shown.probes.archive(MINE, visitor.choice_number, "dino-mini", tmp_path / "cache")
        with zipfile.ZipFile(path) as packed:
            assert f"{name}/model.safetensors" in packed.namelist()
        for owner, source in ((THEIRS, "dino-mini"), (MINE, "cnn-mini")):
            with pytest.raises(OptionError, match="Make it first"):
                shown.probes.archive(owner, visitor.choice_number, source, tmp_path / "cache")
    finally:
        forget_folder(name)


@pytest.mark.thorough
def test_boxes_and_labels_are_uploads_of_their_own(tab: ChooseTab, tmp_path: Path) -> None:
    content = files(COUNTS)
    boxes = {
        "images": [{"id": i, "file_name": name, "width": 64, "height": 48} for i, name in enumerate(content)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [8, 8, 40, 30]} for i in range(len(content))
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    labels = "file,label\n" + "".join(f"{name},{'a' if i % 2 else 'b'}\n" for i, name in enumerate(content))
    extra = {}
    for name, text in (("boxes", json.dumps(boxes)), ("labels", labels)):
        (piece,) = uploaded_pieces(text.encode(), 10_000_000)
        kept = Path(piece).with_name(f"{name}.part")
        Path(piece).rename(kept)
        extra[name] = {"name": f"{name}.{'json' if name == 'boxes' else 'csv'}", "pieces": [str(kept)]}
    given = {**upload(tmp_path / "a.tar", content), **extra}
    visitor = ended(tab.runs.start(MINE, FORM, given, folders=False))
    assert (visitor.state, visitor.said) == ("done", "")
    result = asked(tab, "result")
    assert result["classes"] == ["a", "b"]
    inside = result["candidates"][0]["inside"]
    assert inside["photos"] == 15
    assert 0 < inside["iou"] <= 1
    assert inside["best"]


def test_ten_thousand_photos_are_numbers_of_some_kilobytes_in_the_browser() -> None:
    number, random = 10_000, np.random.default_rng(0)
    labels = random.integers(0, 5, number)
    features = (np.eye(5, 16)[labels] + random.normal(0, 0.1, (number, 16))).astype(np.float32)
    photos = tuple(PhotoEntry(f"{label}/{i}.jpg", f"{i:064x}", (9, 9), Path("x")) for i, label in enumerate(labels))
    probabilities = np.eye(5, dtype=np.float32)[labels]
    choice = Choice(
        request=ChooseRequest((Path("x"),)),
        photos=photos,
        classes=tuple("abcde"),
        labels=labels,
        skipped=(),
        specs=(get_spec("vit-mini"),),
        candidates=(Candidate("vit-mini", "ViT", 1, 1, "free"),),
        features={"vit-mini": features},
        answers={"vit-mini": Answers(labels, probabilities, labels)},
        verdict=Verdict("One.", "Itself."),
    )
    found = view_of(choice, {"action": "map", "model": "vit-mini"})
    places = numbers(found["places"]).reshape(number, 2)
    assert np.abs(np.bincount(labels, places[:, 0] / 32767, 5) / np.bincount(labels)).max() > 0.2
    assert (numbers(found["answers"]) == labels).all()
    assert len(json.dumps(found)) + len(json.dumps(result_view(choice, 1))) < 120_000


def test_the_page_has_one_component_for_it_that_ships_no_photos(pipeline: Pipeline) -> None:
    with gr.Blocks():
        tab = ChooseTab(pipeline)
    assert len(json.dumps(tab.view.value)) < 10_000
