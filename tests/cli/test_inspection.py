"""`ablate` and `lens` on the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.command import refused, run, run_json
from vitdemo.settings import ROOT

CUP = str(ROOT / "assets" / "examples" / "cup.jpg")


def test_ablate_tells_scores_and_writes_both_maps(tmp_path: Path) -> None:
    png, npz = tmp_path / "both.png", tmp_path / "both.npz"
    off = ["--heads", "7:0,7:1", "--attention", "5", "--mlp", "-1", "--patches", "0,14-16", "--fill", "mean"]
    entry = run_json("ablate", CUP, "--model", "vit-mini", *off, "--out", str(png), "--raw", str(npz))
    assert entry["knockout"] == {
        "heads": [[7, 0], [7, 1]],
        "attention": [5],
        "mlp": [7],
        "patches": [0, 14, 15, 16],
        "fill": "mean",
    }
    before, after = entry["before"]["results"][0]["labels"], entry["after"]["results"][0]["labels"]
    assert entry["target"]["label"] == before[0]["label"]
    assert entry["score"]["before"] == pytest.approx(before[0]["score"])
    assert after != before
    arrays = np.load(npz)
    assert arrays["before"].shape == arrays["after"].shape == (14, 14)
    assert json.loads(str(arrays["meta"]))["score"] == entry["score"]
    with Image.open(png) as picture:
        assert picture.format == "PNG"


def test_ablate_ranks_blocks_and_says_so_in_words() -> None:
    done = run("ablate", CUP, "--model", "vit-mini", "--rank", "blocks", "--top", "2")
    assert done.status == 0
    assert re.findall(r"^ +(\d+)\. --(?:attention|mlp) [0-7] ", done.out, re.MULTILINE) == ["1", "2"]
    assert " points, then " in done.out


def test_lens_tells_each_layer(tmp_path: Path) -> None:
    npz = tmp_path / "lens.npz"
    entry = run_json("lens", CUP, "--model", "beit-mini", "--target", "cup", "--raw", str(npz))
    assert entry["target"]["label"] == "cup"
    assert len(entry["layers"]) == 8
    assert all(len(layer["labels"]) == 3 for layer in entry["layers"])
    assert entry["layers"][-1]["labels"][0]["label"] == entry["results"][0]["labels"][0]["label"]
    arrays = np.load(npz)
    assert arrays["patches"].shape == arrays["best"].shape == (8, 14, 14)
    np.testing.assert_allclose(arrays["scores"], [layer["score"] for layer in entry["layers"]], rtol=1e-5)
    assert "decided in layer" in run("lens", CUP, "--model", "beit-mini").out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ablate", CUP), "Nothing is off"),
        (("ablate", CUP, "--model", "cnn-mini", "--heads", "0:0"), "convolutional network"),
        (("ablate", CUP, "--patches", "0-195"), "All 196 patches are hidden"),
        (("ablate", CUP, "--attention", "0-7"), "Leave at least one head on"),
        (("ablate", CUP, "--heads", "0"), "is not LAYER:HEAD"),
        (("ablate", CUP, "--models", "vit-mini,deit-mini", "--mlp", "0"), "ablate takes one model"),
        (("lens", CUP, "--model", "mae-mini"), "has no classifier"),
        (("lens", CUP, "--model", "cnn-mini"), "convolutional network"),
        (("lens", CUP, "--target", "unicorn"), "has no class 'unicorn'"),
    ],
)
def test_what_does_not_apply_is_refused_in_words(arguments: tuple[str, ...], words: str) -> None:
    assert words in refused(*arguments, status=2)
