"""Methods beside stored answers of published code: the agreement that the documentation states."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scripts import compare_references, reference_inputs
from scripts.compare_references import CASES, GOLDEN, Case, agreement, same, stored, table
from vitdemo.settings import ROOT


@pytest.mark.thorough
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.method} {case.reference} {case.compared}")
def test_a_method_equals_its_reference_unless_the_table_says_why_not(case: Case) -> None:
    assert same(case) or case.differs, agreement(case)


def test_the_documentation_has_the_table_as_it_is() -> None:
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert f"<!-- compared: references -->\n{table()}\n<!-- /compared: references -->" in page


def test_every_stored_array_has_its_provenance_and_is_compared() -> None:
    known = json.loads((GOLDEN / "provenance.json").read_text(encoding="utf-8"))
    assert set(known) == {file.stem for file in GOLDEN.glob("*.npz")} == {case.reference for case in CASES}
    for name, source in known.items():
        assert source["commit"]
        assert source["licence"]
        for array in stored(name):
            assert [pattern for pattern in source["arrays"] if array.startswith(pattern.removesuffix("*"))]


def test_a_comparison_that_is_off_is_not_called_the_same() -> None:
    case = next(case for case in CASES if case.method == "`relevance`")
    found = case.ours()
    off = Case("", case.reference, "", lambda: {name: values * (1 + 1e-4) for name, values in found.items()})
    assert not same(off)
    assert agreement(off) == "rank correlation 1.00"
    masks = {"mass 0.6": ~stored("dino")["mass 0.6"]}
    assert agreement(Case("", "dino", "", lambda: masks)) == "every patch in 0 of 3"


def test_inputs_are_those_that_the_references_were_given() -> None:
    # Sums of streams that never change: another NumPy or PyTorch must not move them.
    assert float(reference_inputs.picture().sum()) == pytest.approx(-59.0518, rel=1e-4)
    assert float(sum(values.double().sum() for values in reference_inputs.vit().values())) == pytest.approx(
        278.942071, rel=1e-6
    )
    assert float(np.abs(reference_inputs.scene(40)).sum(dtype=np.float64)) == pytest.approx(1796.3892, rel=1e-6)
    assert compare_references.A[0].shape == (1, 3, 17, 17)
