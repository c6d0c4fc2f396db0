"""The command line: what people and scripts get."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.command import refused, run, run_apart, run_json
from tests.hostile import ACCEPTED, REFUSED
from vitdemo.registry import default_models, ready_models
from vitdemo.settings import ROOT, Settings

CUP = str(ROOT / "assets" / "examples" / "cup.jpg")
NAMES = [spec.name for spec in default_models(Settings())]
READY = [spec.name for spec in ready_models()]


def test_models_lists_every_embedded_folder_as_the_contract_says() -> None:
    entries = run_json("models")
    keys = ["name", "family", "source", "parameters", "image_size", "patch_size", "classes", "bytes", "offline"]
    assert all(list(entry)[: len(keys)] == keys for entry in entries)
    embedded = {entry["name"] for entry in entries if entry["source"] == "embedded"}
    assert embedded == {path.name for path in (ROOT / "assets/models").iterdir()}


def test_classify_takes_many_pictures_and_fails_only_for_the_broken_one(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    entries = run_json("classify", CUP, str(broken), CUP, "--models", "vit-mini,dino-mini", "--top-k", "3", status=1)
    assert [("error" in entry) for entry in entries] == [False, True, False]
    assert [result["model"] for result in entries[0]["results"]] == ["vit-mini", "dino-mini"]
    assert set(entries[0]["results"][0]) >= {"model", "family", "labels", "ms", "device", "dtype"}
    assert all(len(result["labels"]) == 3 for result in entries[0]["results"])
    assert "linear probe" in entries[0]["results"][1]["note"]
    assert entries[0]["results"][0]["labels"] == entries[2]["results"][0]["labels"]


@pytest.mark.thorough
def test_a_process_answers_standard_input_in_json_alone_as_it_answers_the_file() -> None:
    done = run_apart("classify", "-", "--json", stdin=Path(CUP).read_bytes())
    assert (done.status, done.error) == (0, "")
    (entry,) = json.loads(done.out)
    assert entry["results"][0]["labels"] == run_json("classify", CUP)[0]["results"][0]["labels"]


@pytest.mark.thorough
def test_a_box_is_measured_on_the_map_and_on_every_layer_and_head() -> None:
    entry = run_json("explain", CUP, "--model", "deit-mini", "--layer", "2", "--head", "1", "--box", "200,100,200,200")
    box = entry["box"]
    assert list(box) == ["boxes", "seen", "patches", "even", "diagonal", "energy", "iou", "emd", "heads"]
    (own,) = (one for one in box["heads"] if (one["layer"], one["head"]) == (2, 1))
    assert {name: box[name] for name in ("energy", "iou")} == {name: own[name] for name in ("energy", "iou")}
    assert box["emd"] == pytest.approx(own["emd"], abs=1e-6)
    several = run_json("compare", CUP, "--models", "vit-mini,deit-mini", "--box=200,100,200,200", "--box=0,0,50,50")
    assert [len(result["box"]["boxes"]) for result in several["results"]] == [2, 2]
    printed = run("explain", CUP, "--model", "deit-mini", "--box", "200,100,200,200").out
    assert "% inside the box, IoU " in printed
    assert printed.count("patches away") == 6


@pytest.mark.parametrize(
    ("box", "words"),
    [("1,2,3", "four numbers"), ("1,2,0,4", "no area"), ("700,0,5,5", "outside of the photo"), ("x", "four numbers")],
)
def test_a_bad_box_is_refused(box: str, words: str) -> None:
    assert words in refused("explain", CUP, f"--box={box}", status=2)
    assert words in refused("compare", CUP, "--models", "vit-mini", f"--box={box}", status=2)


def test_a_box_is_for_one_photo() -> None:
    assert "one IMAGE" in refused("compare", CUP, CUP, "--box", "1,2,3,4", status=2)


def test_explain_writes_the_overlay_and_the_numbers(tmp_path: Path) -> None:
    png, npz = tmp_path / "map.png", tmp_path / "map.npz"
    options = ["--model", "deit-mini", "--layer", "2", "--head", "1", "--target", "cup"]
    entry = run_json("explain", CUP, *options, "--out", str(png), "--raw", str(npz))
    left, top, right, bottom = entry["crop"]
    with Image.open(png) as picture:
        assert picture.size == (right - left, bottom - top)
    arrays = np.load(npz)
    assert arrays["map"].shape == tuple(entry["grid"])
    assert arrays["map"].dtype == arrays["rows"].dtype == np.float32
    np.testing.assert_allclose(arrays["map"], arrays["rows"][2, 1])
    assert arrays["map"].max() == pytest.approx(entry["max"])
    assert json.loads(str(arrays["meta"]))["layer"] == entry["layer"] == 2
    assert entry["target"]["label"] == "cup"
    keys = [
        "image",
        "model",
        "method",
        "layer",
        "head",
        "target",
        "grid",
        "crop",
        "min",
        "max",
        "description",
        "results",
        "ms",
        "device",
        "dtype",
        "revision",
    ]
    assert set(entry) >= set(keys)


def test_explain_enlarges_the_photo_in_its_own_shape() -> None:
    entry = run_json("explain", CUP, "--model", "beit-mini", "--resolution", "320")
    assert entry["grid"] == [13, 20]
    assert entry["crop"] == [0, 0, 600, 400]


def test_compare_reports_every_model_and_every_pair(tmp_path: Path) -> None:
    png = tmp_path / "figure.png"
    entry = run_json("compare", CUP, "--out", str(png))
    assert [result["model"] for result in entry["results"]] == NAMES
    assert len(entry["agreement"]) == len(NAMES) * (len(NAMES) - 1) // 2
    assert all(-1 <= pair["rank_correlation"] <= 1 and 0 <= pair["iou"] <= 1 for pair in entry["agreement"])
    with Image.open(png) as figure:
        assert figure.width > figure.height


def test_people_get_words_instead_of_json() -> None:
    done = run("compare", CUP, "--models", "vit-mini,beit-mini")
    assert (done.status, done.error) == (0, "")
    assert "layer 8 of 8" in done.out
    assert "vit-mini / beit-mini" in done.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["classify", CUP, "--model", "resnet-9000"], f"Choose from: {', '.join(READY)}; or a model on the Hub"),
        (["explain", CUP, "--layer", "8"], "layers 0 to 7"),
        (["explain", CUP, "--head", "6"], "0 to 5"),
        (["explain", CUP, "--head", "median"], "mean, max, min"),
        (["explain", CUP, "--method", "magic"], "Choose from: attention, "),
        (["explain", CUP, "--readout", "distillation"], "Choose from: class, patch."),
        (["explain", CUP, "--target", "unicorn"], "has no class 'unicorn'"),
        (["explain", CUP, "--models", "vit-mini,beit-mini"], "use compare"),
        (["explain", CUP, "--resolution", "8"], "16 pixels"),
        (["explain", CUP, "--out", "/nowhere/map.png"], "cannot be written"),
        (["classify", CUP, "--device", "abacus"], "not available"),
        (["classify", CUP, "--top-k", "0"], "above 0"),
        (["paint", CUP], "invalid choice"),
    ],
)
def test_wrong_usage_is_said_and_ends_with_2(arguments: list[str], words: str) -> None:
    assert words in refused(*arguments, status=2)


@pytest.mark.thorough
def test_every_row_of_the_image_door_gets_its_answer(tmp_path: Path) -> None:
    cases = [*REFUSED, *ACCEPTED]
    for case in cases:
        (tmp_path / case.file).write_bytes(case.data)
    entries = run_json("classify", *(str(tmp_path / case.file) for case in cases), status=1)
    for case, entry in zip(cases, entries, strict=True):
        if case.refusal:
            assert case.refusal in entry["error"], case.file
            assert str(tmp_path) not in entry["error"]
        else:
            assert entry["results"][0]["labels"], case.file


def test_a_picture_over_the_byte_limit_names_the_limit(tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    large.write_bytes(bytes(10_000_001))
    for entry in (
        run_json("classify", str(large), status=1)[0],
        run_json("classify", "-", status=1, stdin=large.read_bytes())[0],
    ):
        assert "10 MB" in entry["error"]


@pytest.mark.thorough
def test_a_process_that_is_refused_ends_with_1_and_says_why_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITDEMO_MAX_SIDE", "wide")
    done = run_apart("classify", CUP)
    assert (done.status, done.out) == (1, "")
    assert done.error.startswith("vitdemo: VITDEMO_MAX_SIDE='wide'")


@pytest.mark.thorough
def test_bench_prints_every_ratio_with_its_spread(tiny_folder: Callable[[str], Path]) -> None:
    (entry,) = run_json("bench", "--model", str(tiny_folder("vit")), "--pairs", "2", "--no-memory")
    assert len(entry["ratios"]) >= 2
    for ratio in entry["ratios"].values():
        assert 0 < ratio["q1"] <= ratio["median"] <= ratio["q3"]
