"""Requests for a map: what one is, and what a model makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields

import pytest

import vitdemo
from vitdemo.cli import build_parser
from vitdemo.errors import OptionError
from vitdemo.options.explain import ExplainRequest, parse_point, resolve
from vitdemo.types import ModelSpec

SpecOf = Callable[[str], ModelSpec]


def test_equal_requests_are_one_key_and_none_can_be_changed() -> None:
    one, same = ExplainRequest("rollout", discard=0.5), ExplainRequest(method="rollout", discard=0.5)
    assert {one: "kept"}[same] == "kept"
    assert ExplainRequest("rollout") not in {one}
    with pytest.raises(FrozenInstanceError):
        one.layer = 3  # type: ignore[misc]


def test_python_and_the_command_line_take_every_field_with_the_same_default() -> None:
    defaults = {field.name: field.default for field in fields(ExplainRequest)}
    for function in (vitdemo.explain, vitdemo.compare):
        given = function.__kwdefaults__ or {}
        assert {name: given[name] for name in defaults} == defaults
    parsed = vars(build_parser().parse_args(["explain", "cup.jpg"]))
    assert {name: parsed[name] for name in defaults} == {**defaults, "layer": "-1"}


def test_a_model_adds_its_own_readout_and_a_class_its_rank(tiny_spec: SpecOf) -> None:
    assert resolve(ExplainRequest(), tiny_spec("vit")).readout == "class"
    assert resolve(ExplainRequest(), tiny_spec("beit")).readout == "mean"
    assert resolve(ExplainRequest(readout="patch"), tiny_spec("beit")).readout == "patch"
    ranked = resolve(ExplainRequest("relevance", target="top:3"), tiny_spec("vit"))
    assert (ranked.target, ranked.rank, ranked.readout) == (None, 3, None)
    assert resolve(ExplainRequest("relevance", target=4), tiny_spec("vit")).target == 4


def test_a_network_without_attention_has_no_method_but_also_no_error(tiny_spec: SpecOf) -> None:
    resolved = resolve(ExplainRequest(layer=99), tiny_spec("resnet"))
    assert (resolved.method, resolved.readout) == (None, None)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (ExplainRequest(layer=3), "layers 0 to 2"),
        (ExplainRequest(head="median"), "use mean, max, min, or 0 to 3"),
        (ExplainRequest("rollout", head=1), "Rollout fuses the heads"),
        (ExplainRequest("rollout", discard=1.0), "at least 0 and below 1, not 1.0"),
        (
            ExplainRequest("legrad", variant="vit-explain"),
            "no variant 'vit-explain'. Choose from: last-layers, all-layers",
        ),
        (ExplainRequest("relevance", variant="x"), "no variant 'x'. Choose from: none"),
        (ExplainRequest("guess"), "Unknown method 'guess'"),
        (ExplainRequest(readout="mean"), "has no read-out 'mean'"),
    ],
)
def test_what_a_model_does_not_have_is_refused_before_it_runs(
    tiny_spec: SpecOf, request_: ExplainRequest, words: str
) -> None:
    with pytest.raises(OptionError, match=words):
        resolve(request_, tiny_spec("vit"))


def test_points_are_two_numbers() -> None:
    assert (parse_point(" 3, 4.5"), parse_point(""), parse_point(None)) == ((3.0, 4.5), None, None)
    for text in ("3", "3,4,5", "a,b"):
        with pytest.raises(OptionError, match=r"is not X,Y"):
            parse_point(text)
