"""What the Segment tab reads from pages and links, and what it makes of masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gradio.utils import get_upload_folder

from tests.segmented import segmentation
from vitdemo.errors import ImageError
from vitdemo.pipeline import Pipeline
from vitdemo.settings import ASSETS
from vitdemo.types import Photo, Segmentation
from vitdemo.ui.components.segmenter import view_value
from vitdemo.ui.links import parse_link, segment_link
from vitdemo.ui.segment import _uploaded, answer_value
from vitdemo.ui.segment_settings import RANGES, read_settings
from vitdemo.ui.segment_views import Segmenter, tidied

MODEL = "dino-mini"


@pytest.fixture
def cup(pipeline: Pipeline) -> Photo:
    return pipeline.open(ASSETS / "examples" / "cup.jpg")


def test_a_link_of_settings_gives_the_same_settings() -> None:
    given = {"model": "vit-mini", "beside": MODEL, "method": "parts", "resolution": "224", "refine": "0", "clip": "1"}
    given |= {"parts": "3", "within": "0", "tau": "0.3"}
    settings, notes = read_settings(given, MODEL)
    assert notes == []
    query = dict(pair.split("=") for pair in segment_link("cup", settings.link).split("&"))
    assert query == {"tab": "segment", "image": "cup", **given}
    assert read_settings(parse_link(query).segment, MODEL) == (settings, [])
    # The page says the same in JSON.
    assert read_settings(settings.json, MODEL) == (settings, [])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"method": "nope"}, "There is no method “nope”; using Foreground."),
        ({"parts": "99"}, "Parts goes from 2 to 8; using 8 instead of 99."),
        ({"beside": "<html>"}, "There is no model “<html>”; comparing with none."),
        ({"model": "cnn-mini"}, "cnn-mini has no attention, and so no patches to tell apart; using dino-mini."),
        ({"tau": "nan"}, "Similarity threshold must be a number, not “nan”; using the automatic one."),
        ({"resolution": [3]}, "Resolution must be a number, not “[3]”; using 320."),
        ({"head": "x" * 99}, f"dino-mini has no head “{'x' * 39}…”; using the mean of heads."),
    ],
)
def test_what_cannot_be_used_is_said(given: dict[str, Any], words: str) -> None:
    _, notes = read_settings(given, MODEL)
    assert notes == [words]


@pytest.mark.parametrize("point", ["", "3", "a,b", "1,2,3", [None, 1], {"x": 1}, "nan,1", 5])
def test_what_is_no_point_is_none(point: Any) -> None:
    assert read_settings({"point": point}, MODEL)[0].request.point is None


def test_every_range_holds_its_default() -> None:
    settings = read_settings({}, MODEL)[0].json
    for name, (_, low, high, default) in RANGES.items():
        assert settings[name] == default
        assert default is None or low <= default <= high


@pytest.mark.thorough
def test_an_automatic_threshold_is_in_no_link_and_what_was_found_is_told(pipeline: Pipeline, cup: Photo) -> None:
    settings, _ = read_settings({}, MODEL)
    assert "tau" not in segment_link("cup", settings.link)
    found = Segmenter(pipeline).find(cup, [], settings)
    value = view_value(cup, found.first)
    assert value["tau"] == 0.5
    assert "patches compared by their keys and hidden states" in value["details"]
    assert "similarity threshold 0.50, this model's" in value["details"]


def test_only_uploaded_files_are_opened(tmp_path: Path) -> None:
    inside = str(Path(get_upload_folder()) / "abc" / "a.jpg")
    assert _uploaded([{"name": "a.jpg", "path": inside}]) == [("a.jpg", inside)]
    assert _uploaded(None) == []
    for path in ("/etc/hostname", str(Path(get_upload_folder()) / ".." / ".." / "etc" / "hostname")):
        with pytest.raises(ImageError, match="not uploaded"):
            _uploaded([{"name": "a.jpg", "path": path}])


def scattered(kept: int) -> Segmentation:
    """One mask of `kept` patches in a row, and three single ones, on 10 x 10."""
    patches = np.zeros((1, 10, 10), np.bool_)
    patches[0, 0, :kept] = True
    patches[0, [4, 6, 8], [1, 5, 9]] = True
    masks = patches.repeat(8, axis=1).repeat(8, axis=2)
    found = segmentation("attention", keep=[0])
    return Segmentation(**{**vars(found), "patches": patches, "masks": masks})


def test_single_patches_are_no_part_of_a_mask_and_a_scattered_one_is_doubted() -> None:
    found = tidied(scattered(8))
    assert found.patches.sum() == 8
    assert found.masks.sum() == 8 * 64
    assert not any("Unsure" in note for note in found.notes)
    assert "Unsure: head 1 is scattered over the picture" in tidied(scattered(2)).notes


def test_the_second_model_has_its_own_heads_and_its_own_view(pipeline: Pipeline, cup: Photo) -> None:
    segmenter = Segmenter(pipeline)
    settings, _ = read_settings({"method": "attention", "head": "5", "beside": "vit-mini", "refine": "0"}, MODEL)
    found = segmenter.find(cup, [], settings)
    assert found.second is not None
    value = answer_value(found, [], "cup")
    assert [view["model"] for view in value["views"]] == [MODEL, "vit-mini"]
    assert len(value["heads"]) == 6
    # What the browser has is not sent again.
    assert value["photo"]["src"].startswith("data:image/jpeg")
    assert answer_value(found, [], "cup", shown=value["photo"]["id"])["photo"]["src"] == ""


def test_a_point_outside_of_the_crop_is_said_and_the_middle_is_used(pipeline: Pipeline, cup: Photo) -> None:
    settings, _ = read_settings({"method": "similarity", "point": "1,1", "resolution": "0"}, MODEL)
    found = Segmenter(pipeline).find(cup, [], settings)
    assert found.settings.request.point is None
    assert found.notes == ["dino-mini does not see that point of the photo; using the middle."]
