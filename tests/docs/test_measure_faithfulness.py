"""The tables of faithfulness: their measures, one photo, and what an interrupted run leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scripts.measure_faithfulness import infidelity, kendalls_w, one_photo, read_state, requests_of, saco, tables
from scripts.parts import replace_part
from vitdemo.evaluation.faithfulness import faithfulness
from vitdemo.pipeline import Pipeline
from vitdemo.settings import Settings
from vitdemo.types import ModelSpec, Photo


def test_saco_weighs_pairs_of_groups_by_the_difference_of_their_sums() -> None:
    # Pairs in order weigh 1 and 3; the one out of order weighs 2.
    assert saco(np.array([3.0, 2.0, 0.0]), np.array([0.3, 0.1, 0.2])) == pytest.approx((1 + 3 - 2) / 6)
    assert saco(np.array([1.0, 1.0]), np.array([0.0, 1.0])) == 0


def test_infidelity_is_what_the_best_multiple_leaves() -> None:
    assert infidelity(np.array([1.0, 1.0]), np.array([1.0, 0.0])) == pytest.approx(0.5)
    assert infidelity(np.zeros(2), np.array([1.0, 0.0])) == 1


def test_kendalls_w_is_one_for_equal_orders_and_zero_for_opposite_ones() -> None:
    assert kendalls_w(np.array([[1.0, 2.0, 3.0], [1.0, 5.0, 9.0]])) == pytest.approx(1)
    assert kendalls_w(np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])) == pytest.approx(0)


def test_one_photo_has_every_method_and_the_curves_of_the_command(
    tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo]
) -> None:
    pipeline, spec, picture = Pipeline(Settings(device="cpu")), tiny_spec("vit"), photo(60, 60)
    found = one_photo(pipeline, spec, picture, seed=3)
    assert set(found) == set(requests_of(spec)) >= {"attention", "relevance", "legrad", "legrad, all-layers"}
    curves = faithfulness(pipeline, picture, spec, requests_of(spec)["relevance"], seed=3)
    own = found["relevance"]
    assert (own["deletion"], own["insertion"]) == pytest.approx((curves.deletion_auc, curves.insertion_auc))
    assert own["random"] == pytest.approx(curves.random_auc)
    assert -1 <= own["saco"] <= 1
    assert 0 <= own["infidelity"] <= 1
    entry = {"photo": "a", "model": spec.name, "methods": found}
    text = tables([entry, {**entry, "photo": "b"}])
    assert f"**{spec.name}**, 2 photos" in text
    assert f"| relevance | {own['deletion']:.3f} (" in text


def test_a_line_that_was_cut_off_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "state"
    assert read_state(path) == []
    path.write_text(json.dumps({"photo": "a"}) + '\n{"photo": "b', encoding="utf-8")
    assert read_state(path) == [{"photo": "a"}]


def test_a_part_of_a_page_is_replaced_and_only_that(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("one\n<!-- x -->\nold\n<!-- /x -->\ntwo\n", encoding="utf-8")
    replace_part(page, "x", "new\n")
    assert page.read_text(encoding="utf-8") == "one\n<!-- x -->\nnew\n<!-- /x -->\ntwo\n"
    with pytest.raises(LookupError):
        replace_part(page, "y", "")
