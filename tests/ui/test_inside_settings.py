"""What the Inside tab reads from pages and links; what cannot be used is said in words."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from vitdemo.errors import OptionError
from vitdemo.options.knockout import parse_numbers
from vitdemo.ui.inside_settings import STEPS, models_offered, read_settings
from vitdemo.ui.links import INSIDE_NAMES, parse_link

MODEL = "vit-mini"

LINK = {
    "tab": "inside",
    "step": "apart",
    "model": "deit-mini",
    "beside": "cnn-mini",
    "layer": "3",
    "head": "2",
    "point": "0.25,0.75",
    "seed": "4",
    "kind": "rotation",
    "heads": "0:1,3:0",
    "attention": "2",
    "mlp": "0,5",
    "patches": "0,14-16",
    "fill": "mean",
}


def test_a_link_of_settings_gives_what_it_names_and_the_page_says_the_same_in_json() -> None:
    settings, notes = read_settings(parse_link(LINK).inside, MODEL)
    assert notes == []
    assert {*settings.json} == {*INSIDE_NAMES} == {*LINK} - {"tab"}
    assert (settings.step, settings.model, settings.beside, settings.kind) == (
        "apart",
        "deit-mini",
        "cnn-mini",
        "rotation",
    )
    assert (settings.layer, settings.head, settings.seed, settings.point) == (3, 2, 4, (0.25, 0.75))
    off = settings.knockout
    assert (off.heads, off.attention, off.mlp) == (((0, 1), (3, 0)), (2,), (0, 5))
    assert (off.patches, off.fill) == ((0, 14, 15, 16), "mean")
    assert read_settings(json.loads(json.dumps(settings.json)), MODEL) == (settings, [])


def test_nothing_given_is_the_first_step_of_the_default_model_with_nothing_off() -> None:
    settings, notes = read_settings({}, MODEL)
    assert notes == []
    assert settings.step == next(iter(STEPS))
    assert (settings.model, settings.beside, settings.layer, settings.point) == (MODEL, "", -1, None)
    assert not settings.knockout


def test_a_link_to_another_tab_sets_nothing_here() -> None:
    assert parse_link({**LINK, "tab": "segment"}).inside == {}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"step": "nope"}, "There is no step “nope”; showing Patches."),
        ({"kind": "<b>"}, "There is no perturbation “<b>”; using Patch shuffle."),
        ({"model": "nope"}, "There is no model “nope”; using vit-mini."),
        ({"beside": "x" * 99}, f"There is no model “{'x' * 39}…”; comparing with none."),
        ({"layer": "2.5"}, "layer must be a whole number from -1, not “2.5”; using -1."),
        ({"layer": -2}, "layer must be a whole number from -1, not “-2”; using -1."),
        ({"head": "nan"}, "head must be a whole number from 0, not “nan”; using 0."),
        ({"seed": "1e99"}, "seed must be a whole number from 0, not “1e99”; using 0."),
        ({"heads": "3"}, "The head '3' is not LAYER:HEAD, such as 3:0. Separate several by commas. Nothing is off."),
        ({"mlp": "one"}, "'one' is not a layer: use whole numbers and ranges, such as 0,14-16. Nothing is off."),
        ({"fill": "red"}, "Hidden patches cannot be filled with 'red'. Choose from: grey, mean, mae. Using grey."),
    ],
)
def test_what_cannot_be_used_is_said(given: dict[str, Any], words: str) -> None:
    assert read_settings(given, MODEL)[1] == [words]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x" * 5000,
        "nan",
        "-inf",
        "1e999",
        "🙂",
        math.nan,
        math.inf,
        -1,
        10**400,
        1.5,
        True,
        [],
        [[[[1]]]],
        [None],
        {"a": 1},
    ],
    ids=lambda value: str(value)[:12],
)
def test_whatever_a_page_sends_there_are_settings_that_json_can_hold(value: Any) -> None:
    for name in INSIDE_NAMES:
        settings, notes = read_settings({name: value}, MODEL)
        assert json.dumps(settings.json, allow_nan=False)
        assert all(len(note) < 400 for note in notes)
        assert read_settings(settings.json, MODEL) == (settings, [])


@pytest.mark.parametrize("point", ["", "3", "a,b", "1,2,3", [None, 1], [[1], 2], "nan,1", "1e999,0", [10**400, 0], 5])
def test_what_is_no_point_is_none(point: Any) -> None:
    assert read_settings({"point": point}, MODEL)[0].point is None


def test_a_point_outside_of_the_photo_is_on_its_edge() -> None:
    assert read_settings({"point": [-3, 1.5]}, MODEL)[0].point == (0.0, 1.0)


def test_layers_that_are_counted_from_the_end_are_those_of_the_model() -> None:
    off = read_settings({"model": MODEL, "heads": "-1:0", "attention": "-8", "mlp": "-9"}, MODEL)[0].knockout
    assert (off.heads, off.attention) == (((7, 0),), (0,))
    # It has eight: the words for the ninth are the step's.
    assert off.mlp == (-9,)


def test_ranges_cannot_name_more_numbers_than_memory_holds() -> None:
    with pytest.raises(OptionError, match="more than 200,000 numbers: name each patch once"):
        parse_numbers(",".join(["0-99999"] * 100_000), "patch")


def test_the_list_has_the_models_that_are_there_and_those_that_are_chosen() -> None:
    offered = models_offered(MODEL, "")
    assert [one["name"] for one in offered].count(MODEL) == 1
    known = next(one for one in offered if one["name"] == MODEL)
    assert (known["layers"], known["heads"]) == (8, 6)
    assert next(one for one in offered if one["name"] == "cnn-mini")["layers"] == 0
