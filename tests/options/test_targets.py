"""Which class a user means."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests import tiny
from vitdemo.errors import OptionError
from vitdemo.options.targets import parse_target, resolve_target
from vitdemo.types import ModelOutput, ModelSpec

LOGITS = torch.tensor([0.0, 3.0, 1.0, 2.0, -1.0, 5.0, -2.0])
"""Ranks: cup, easy face, crane, tench, apple, crane (bird), sunflower."""


@pytest.fixture
def spec(tiny_spec: Callable[[str], ModelSpec]) -> ModelSpec:
    return tiny_spec("vit")


def _output(logits: torch.Tensor | None = LOGITS) -> ModelOutput:
    return ModelOutput(logits=logits, rows={}, patch_grid=(4, 4), milliseconds=1.0, device="cpu", dtype="fp32")


@pytest.mark.parametrize(
    ("target", "index"),
    [
        (0, 0),
        (6, 6),
        ("3", 3),
        (" 3 ", 3),
        ("apple", 0),
        ("Apple", 0),
        (" SUNFLOWER ", 6),
        ("easy face", 1),
        ("easy_face", 1),
        ("tench", 2),
        ("tinca tinca", 2),
        ("tench, Tinca tinca", 2),
        ("bird", 4),
        ("crane, bird", 4),
        ("top:1", 5),
        ("top:2", 1),
        ("top:7", 6),
    ],
)
def test_a_class_is_found_by_index_label_synonym_or_rank(spec: ModelSpec, target: int | str, index: int) -> None:
    assert resolve_target(target, spec, _output()) == index


def test_the_names_that_classes_have_in_the_data_set_are_understood_beside_everyday_ones(spec: ModelSpec) -> None:
    from dataclasses import replace

    everyday = replace(spec, labels=("water lily", "car", *tiny.LABELS[2:]))
    for target, index in (("water lily", 0), ("water lilly", 0), ("water_lilly", 0), ("Car", 1), ("car_side", 1)):
        assert resolve_target(target, everyday, _output()) == index
    with pytest.raises(OptionError):
        resolve_target("water lilly", spec, _output())


def test_labels_that_are_written_with_underscores_are_found_both_ways(spec: ModelSpec) -> None:
    from dataclasses import replace

    written = replace(spec, labels=("soccer_ball", *tiny.LABELS[1:]))
    assert resolve_target("soccer ball", written, _output()) == 0
    assert resolve_target("soccer_ball", written, _output()) == 0


def test_an_ambiguous_label_is_an_error_that_lists_its_indices(spec: ModelSpec) -> None:
    with pytest.raises(OptionError, match=r"several classes.*3 \(crane\), 4 \(crane, bird\)"):
        resolve_target("crane", spec, _output())


@pytest.mark.parametrize("target", [7, 100, -1, "7", "-1", 10**30, "9" * 5000])
def test_an_index_out_of_range_is_refused_with_the_range(spec: ModelSpec, target: int | str) -> None:
    with pytest.raises(OptionError, match="classes 0 to 6"):
        resolve_target(target, spec, _output())


@pytest.mark.parametrize(
    "target", ["top:0", "top:8", "top:-1", "top:", "top:one", "top:1.5", "top:²", "top:" + "9" * 5000]
)
def test_a_rank_out_of_range_is_refused_with_the_range(spec: ModelSpec, target: str) -> None:
    with pytest.raises(OptionError, match="top:1 to top:7"):
        resolve_target(target, spec, _output())


def test_an_unknown_label_is_refused_with_those_that_are_near(spec: ModelSpec) -> None:
    with pytest.raises(OptionError, match=r"no class 'sun'\. Near: sunflower\."):
        resolve_target("sun", spec, _output())
    with pytest.raises(OptionError, match=r"no class 'zebra'\.$"):
        resolve_target("zebra", spec, _output())


@pytest.mark.parametrize(
    ("target", "parsed"),
    [
        (None, (None, 1)),
        ("top:1", (None, 1)),
        (" top:7 ", (None, 7)),
        (5, (5, 1)),
        ("0", (0, 1)),
        ("cup", (5, 1)),
        ("Tench", (2, 1)),
    ],
)
def test_a_target_is_an_index_or_else_a_rank(
    spec: ModelSpec, target: int | str | None, parsed: tuple[int | None, int]
) -> None:
    assert parse_target(target, spec) == parsed


@pytest.mark.parametrize("target", [7, "top:8", "zebra", "crane", ""])
def test_what_means_no_class_is_refused_before_there_are_scores(spec: ModelSpec, target: int | str) -> None:
    with pytest.raises(OptionError):
        parse_target(target, spec)


def test_without_a_classifier_no_target_is_the_only_one(tiny_spec: Callable[[str], ModelSpec]) -> None:
    assert parse_target(None, tiny_spec("dino")) == (None, 1)
    for target in (0, "top:1", "apple", ""):
        with pytest.raises(OptionError, match="has no classifier, so it has no target classes"):
            parse_target(target, tiny_spec("dino"))


@pytest.mark.parametrize("target", ["", "  ", "--1", "1.5", "²"])
def test_what_is_neither_number_nor_label_is_refused(spec: ModelSpec, target: str) -> None:
    with pytest.raises(OptionError, match="has no class"):
        resolve_target(target, spec, _output())


def test_a_model_without_classifier_has_no_targets(tiny_spec: Callable[[str], ModelSpec]) -> None:
    with pytest.raises(OptionError, match="has no classifier"):
        resolve_target("apple", tiny_spec("dino"), _output(None))
