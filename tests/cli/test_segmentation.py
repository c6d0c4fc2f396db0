"""`segment` on the command line: folders of photos, bad ones among them, and the files that are written."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.cli.command import run as command
from tests.conftest import picture
from vitdemo.cli import main
from vitdemo.cli.segmentation import _Opened
from vitdemo.registry import ready_models
from vitdemo.settings import ROOT

CUP = str(ROOT / "assets" / "examples" / "cup.jpg")

Run = Callable[..., Any]


@pytest.fixture
def run(
    tiny_folder: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[dict[str, Any]], str]]:
    """`run(*arguments)`: status, JSON and stderr of the tiny DINO on 8 x 8 patches, writing into `tmp_path / "out"`."""

    folder = str(tiny_folder("dino"))
    capsys.readouterr()

    def run(*arguments: str) -> tuple[int, list[dict[str, Any]], str]:
        common = ["--model", folder, "--resolution", "64", "--out-dir", str(tmp_path / "out")]
        status = main(["segment", *common, "--json", *arguments])
        captured = capsys.readouterr()
        return status, json.loads(captured.out), captured.err

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 50 photos, the eighth of which is broken, among files that are none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(50):
        picture(60 + index % 7, 40 + index % 5, seed=index).save(folder / f"{index:02}.png")
    (folder / "07.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture either")
    (folder / "._08.png").write_bytes(b"what a system left")
    (folder / "inner").mkdir()
    return folder


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["attention", "parts"])
def test_a_folder_of_fifty_photos_is_done_but_for_the_broken_one(
    run: Run, photos: Path, tmp_path: Path, method: str
) -> None:
    status, entries, errors = run(str(photos), "--method", method)
    assert status == 1
    assert not errors
    assert [Path(entry["image"]).name for entry in entries] == [f"{index:02}.png" for index in range(50)]
    (broken,) = (entry for entry in entries if "error" in entry)
    assert Path(broken["image"]).name == "07.png"
    assert "Not a readable image" in broken["error"]
    assert set(broken) == {"image", "error"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{n:02}" for n in range(50) if n != 7]
    for index, entry in enumerate(entries):
        if index == 7:
            continue
        assert entry["folder"] == str(tmp_path / "out" / f"{index:02}")
        stored = json.loads((Path(entry["folder"]) / "segmentation.json").read_text(encoding="utf-8"))
        assert {"image": entry["image"], **stored, "folder": entry["folder"]} == entry
        coco = json.loads((Path(entry["folder"]) / "coco.json").read_text(encoding="utf-8"))
        assert coco["images"][0]["file_name"] == f"{index:02}.png"
        with Image.open(Path(entry["folder"]) / "labels.png") as labels:
            assert labels.size == (60 + index % 7, 40 + index % 5)


def test_parts_are_shared_by_all_photos_and_attention_is_not(run: Run, photos: Path, tmp_path: Path) -> None:
    few = [str(photos / f"{index:02}.png") for index in range(4)]
    _, together, _ = run(*few, "--method", "parts", "--whole")
    names = {mask["name"] for entry in together for mask in entry["masks"]}
    assert names == {"part 1", "part 2", "part 3", "part 4"}
    assert sum(mask["area"] for mask in together[0]["masks"]) > 0.7
    changed = False
    for number, name in enumerate(few):
        _, (alone,), _ = run(name, "--method", "parts", "--whole")
        changed |= alone["masks"] != together[number]["masks"]
    assert changed, "groups of one photo cannot be those of four"
    _, together, _ = run(*few, "--method", "attention")
    _, (alone,), _ = run(few[2], "--method", "attention")
    assert alone["masks"] == together[2]["masks"]


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["parts", "pca"])
def test_photos_that_are_opened_twice_give_what_those_that_are_held_give(
    run: Run, photos: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def results() -> dict[str, bytes]:
        run(str(photos), "--method", method)
        return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in (tmp_path / "out").rglob("*.png")}

    held = results()
    monkeypatch.setattr("vitdemo.cli.segmentation.HELD", 5000)
    seen: list[_Opened] = []
    add = _Opened.add

    def watched(self: _Opened, number: int) -> None:
        add(self, number)
        seen.append(self)

    monkeypatch.setattr(_Opened, "add", watched)
    assert results() == held
    assert len(seen[0].held) < 3


def test_images_of_one_name_have_a_folder_each(run: Run, tmp_path: Path) -> None:
    names = ["a/cat.png", "b/cat.png", "b/CAT.jpg", "a/.. .png", "a/\N{RIGHT-TO-LEFT OVERRIDE}x y!.png"]
    for index, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(40, 30 + index).save(tmp_path / name)
    status, entries, _ = run(*(str(tmp_path / name) for name in names))
    assert status == 0
    folders = [Path(entry["folder"]) for entry in entries]
    assert [folder.name for folder in folders] == ["cat", "cat-2", "CAT-3", "photo", "_x y_"]
    for index, folder in enumerate(folders):
        assert folder.parent == tmp_path / "out"
        with Image.open(folder / "overlay.png") as overlay:
            assert overlay.size == (40, 30 + index)


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text there")
def test_a_name_that_is_no_text_can_be_written_about(run: Run, tmp_path: Path) -> None:
    data = os.fsencode(tmp_path) + b"/b\xff.png"
    picture(40, 30).save(tmp_path / "b.png")
    os.rename(tmp_path / "b.png", data)
    status, (entry,), _ = run(os.fsdecode(data))
    assert status == 0
    assert Path(entry["image"]).name == "b\N{REPLACEMENT CHARACTER}.png"
    assert json.loads((Path(entry["folder"]) / "coco.json").read_text(encoding="utf-8"))["images"]


def test_what_cannot_be_opened_is_listed_and_the_rest_is_done(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    status, entries, _ = run(str(tmp_path / "empty"), str(tmp_path / "gone.png"), CUP)
    assert status == 1
    assert 'There is no image in the folder "empty"' in entries[0]["error"]
    assert 'There is no file "gone.png"' in entries[1]["error"]
    assert "error" not in entries[2]


def test_files_of_an_earlier_run_with_more_masks_are_removed_and_those_of_others_stay(run: Run, tmp_path: Path) -> None:
    run(CUP, "--method", "attention", "--head", "all")
    folder = tmp_path / "out" / "cup"
    (folder / "mine.txt").write_text("mine")
    assert {path.name for path in folder.glob("mask-*")} == {f"mask-{number:02}.png" for number in range(1, 5)}
    run(CUP, "--method", "attention", "--head", "2")
    assert {path.name for path in folder.glob("mask-*")} == {"mask-01.png"}
    assert (folder / "mine.txt").read_text() == "mine"


@pytest.mark.thorough
def test_options_reach_the_method(run: Run) -> None:
    def entry(*arguments: str) -> dict[str, Any]:
        _, (found,), _ = run(CUP, *arguments)
        return dict(found)

    found = entry("--method", "attention", "--head", "3", "--threshold", "0.9", "--refine", "--clip-outliers")
    assert found["parameters"] == {"threshold": 0.9, "head": 3, "refine": True, "clip": True, "resolution": 64}
    assert entry("--objects", "3")["parameters"]["objects"] == 3
    assert entry("--method", "parts", "--parts", "2", "--whole")["parameters"]["within"] is False
    found = entry("--method", "similarity", "--point", "300,200.5")
    assert found["parameters"]["point"] == [300, 200.5]
    assert 1 < len(found["matches"]) <= 5
    assert found["grid"] == [5, 8]
    small = entry("--method", "attention", "--threshold", "0.2")["masks"][0]["area"]
    assert small < entry("--method", "attention", "--threshold", "0.9")["masks"][0]["area"]


def test_a_patch_of_the_first_photo_is_looked_for_in_all(run: Run, tmp_path: Path) -> None:
    picture(40, 30).save(tmp_path / "small.png")
    status, (first, other), _ = run(CUP, str(tmp_path / "small.png"), "--method", "similarity", "--point", "300,200")
    assert status == 0
    assert [mask["name"] for mask in first["masks"]] == ["query"]
    assert not other["masks"]
    assert 1 <= len(first["matches"]) <= 5
    assert 1 <= len(other["matches"]) <= 5
    assert all(-1 <= match["cosine"] <= 1 for match in other["matches"])
    assert not first["pairs"]
    assert 1 <= len(other["pairs"]) <= 5
    for pair in other["pairs"]:
        assert 0 <= pair["first"][0] < 600
        assert 0 <= pair["first"][1] < 400
        assert 0 <= pair["here"][0] < 40
        assert 0 <= pair["here"][1] < 30
    assert not (Path(first["folder"]) / "pairs.png").exists()
    assert (Path(other["folder"]) / "pairs.png").exists()


def test_without_the_first_photo_there_is_no_patch_to_look_for(
    tiny_folder: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    command = ["segment", str(tmp_path / "broken.png"), CUP, "--model", str(tiny_folder("dino"))]
    assert main([*command, "--method", "similarity", "--out-dir", str(tmp_path / "out")]) == 2
    assert "broken.png, whose patch is to be looked for, cannot be opened" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--threshold", "0", "--method", "attention"], "above 0 and at most 1, not 0"),
        (["--threshold", "2", "--method", "attention"], "above 0 and at most 1, not 2"),
        (["--threshold", "nan", "--method", "attention"], "above 0 and at most 1, not nan"),
        (["--objects", "0"], "The number of objects must be 1 to 10, not 0"),
        (["--parts", "21"], "The number of parts must be 1 to 20, not 21"),
        (["--method", "magic"], "Choose from: attention, foreground, parts, pca, similarity"),
        (["--method", "attention", "--head", "4"], "use mean, max, min, or 0 to 3"),
        (["--method", "attention", "--head", "median"], "mean, max, min"),
        (["--method", "similarity", "--point", "9999,1"], "The point 9999,1 is not on what tiny-dino sees"),
        (["--method", "similarity", "--point", "left"], "is not X,Y"),
        (["--resolution", "4"], "at least one patch"),
        (["--models", "vit-mini,dino-mini"], "takes one model"),
        (["--model", "resnet-9000"], "Unknown model"),
    ],
)
def test_wrong_usage_is_said_and_ends_with_2(
    arguments: list[str],
    words: str,
    tiny_folder: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = [] if "model" in " ".join(arguments) else ["--model", str(tiny_folder("dino"))]
    capsys.readouterr()
    assert main(["segment", CUP, CUP, *model, "--out-dir", str(tmp_path / "out"), "--json", *arguments]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out
    assert not list(tmp_path.rglob("*.png"))


def test_a_model_without_attention_is_wrong_usage(
    tiny_folder: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["segment", CUP, "--model", str(tiny_folder("resnet")), "--out-dir", str(tmp_path)]) == 2
    assert "has no attention" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["segment", CUP], ["segment", "--out-dir", "x"]])
def test_a_missing_argument_is_named(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "--out-dir" in capsys.readouterr().err if "--out-dir" not in arguments else "IMAGE"


def test_a_folder_that_cannot_be_written_is_said_before_a_model_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["segment", CUP, "--out-dir", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "cup").write_text("")
    assert main(["segment", CUP, "--out-dir", str(tmp_path / "out"), "--resolution", "64"]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.thorough
def test_more_photos_than_can_be_grouped_are_refused_with_the_number(
    photos: Path, tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    monkeypatch.setattr("vitdemo.pipeline.segment.MAX_GROUPED", 2 * 10 * 8 * 5 * 24 * 4)
    arguments = [
        "segment",
        "--model",
        str(tiny_folder("dino")),
        "--resolution",
        "64",
        "--out-dir",
        str(tmp_path / "out"),
    ]
    assert main([*arguments, str(photos), "--method", "parts"]) == 2
    assert "can take about 10, not 49" in capsys.readouterr().err
    assert main([*arguments, str(photos), "--method", "attention"]) == 1


def test_standard_input_by_the_first_dino_in_words(tmp_path: Path) -> None:
    done = command("segment", "-", "--out-dir", str(tmp_path), "--resolution", "224", stdin=Path(CUP).read_bytes())
    assert done.status == 0, done.error
    first = next(spec.name for spec in ready_models() if spec.family == "DINO")
    assert f"{first}  foreground" in done.out
    assert "object 1" in done.out
    assert "image/s" not in done.error
    with Image.open(tmp_path / "stdin" / "cutout.png") as cutout:
        assert cutout.size == (600, 400)
        assert 0 < (np.asarray(cutout)[:, :, 3] > 0).mean() < 1


def test_python_takes_one_picture_or_a_list() -> None:
    import vitdemo

    one = vitdemo.segment(CUP, resolution=None)
    assert (one.spec.name, one.method, len(one.masks)) == ("dino-mini", "foreground", 1)
    several = vitdemo.segment([CUP, picture(60, 40)], "vit-mini", method="parts", parts=2, resolution=96)
    assert [found.spec.name for found in several] == ["vit-mini", "vit-mini"]
    assert several[0].masks.shape[1:] == (400, 600)
    assert several[1].masks.shape[1:] == (40, 60)
    assert vitdemo.segment([]) == []
    assert isinstance(
        vitdemo.segment(np.zeros((40, 60), np.uint8), method="pca", resolution=64), vitdemo.types.Segmentation
    )
    with pytest.raises(vitdemo.errors.OptionError, match="number of parts"):
        vitdemo.segment(CUP, parts=0)
    with pytest.raises(TypeError, match="magic"):
        vitdemo.segment(CUP, magic=1)
