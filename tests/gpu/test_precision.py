"""bf16 and fp16 give the maps of fp32, in every family.

bf16 keeps 8 bits of a number and fp16 11, so that each rounding is off by up to 0.4% and 0.05%; sums are made in fp32, on GPUs
too. The bounds are about three times the worst that the same models show in these formats on a CPU, since kernels add in another
order: embedded models 0.9990 and 0.99994 in rank correlation, 0.059 and 0.008 of a map's range, 0.032 and 0.0014 of a score.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from scripts.gpu.rig import Rig
from tests import tiny
from tests.gpu.conftest import Keep
from vitdemo.attribution import rank_correlation
from vitdemo.pipeline import Pipeline
from vitdemo.registry import embedded_models, get_spec
from vitdemo.settings import Settings
from vitdemo.types import Capture, Explanation, ModelSpec

EMBEDDED = [spec.name for spec in embedded_models()]

LEAST = {"bf16": 0.997, "fp16": 0.9998, "fp32": 0.9998}
"""Rank correlation of a map with that of fp32. fp32 is compared with the CPU's: by default torch makes convolutions in TF32 on
GPUs since Ampere, whose 11 bits are fp16's."""
MOST = {"bf16": 0.18, "fp16": 0.025, "fp32": 0.025}
"""Largest difference of two maps, as a share of the range of the fp32 map."""
SCORE = {"bf16": 0.1, "fp16": 0.005, "fp32": 0.005}
"""Largest difference of a score."""
ROWS = {"bf16": 0.1, "fp16": 0.015}
"""Largest difference of a row of tiny random networks, whose attention is between 0 and 1, and relative one of logits; on a CPU
0.038 and 0.0056 (logits 0.068 and 0.0071)."""
CONVOLVED = {"bf16": 0.4, "fp16": 0.04}
"""The same for the hybrid, whose random convolutions and group normalisations round before the transformer does: 0.13 and
0.011."""


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("name", EMBEDDED)
def test_a_map_of_an_embedded_model_is_that_of_fp32(rig: Rig, keep: Keep, name: str, dtype: str) -> None:
    spec = get_spec(name)
    exact = Pipeline(Settings(device="cpu")) if dtype == "fp32" else rig.pipeline
    pairs = [
        (exact.explain(photo, spec, dtype="fp32"), rig.pipeline.explain(photo, spec, dtype=dtype))
        for photo in rig.photos(rig.choose(None, 1))
    ]
    assert all(found.prediction.dtype == dtype for _, found in pairs)
    assert all(found.prediction.device.startswith(rig.device.type) for _, found in pairs)
    scores = [_score(*pair) for pair in pairs if pair[0].prediction.labels]
    same = [one.prediction.labels[0].index == other.prediction.labels[0].index for one, other in pairs if scores]
    known = [pair for pair in pairs if pair[0].map is not None]
    correlations = [_correlation(*pair) for pair in known]
    differences = [_difference(*pair) for pair in known]
    keep(
        correlation=min(correlations, default=None),
        difference=max(differences, default=None),
        score=max(scores, default=None),
        same_top1=sum(same) / len(same) if same else None,
    )
    assert min(correlations, default=1) >= LEAST[dtype]
    assert max(differences, default=0) <= MOST[dtype]
    assert max(scores, default=0) <= SCORE[dtype]


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("kind", [*tiny.KINDS, "resnet"])
def test_rows_of_a_tiny_network_of_every_family_are_those_of_fp32(
    rig: Rig, keep: Keep, tiny_spec: Callable[[str], ModelSpec], kind: str, dtype: str
) -> None:
    spec, backend = tiny_spec(kind), rig.backend()
    pixels = torch.randn(4, 3, *spec.image_size, generator=torch.Generator().manual_seed(5))
    wanted = Capture(tokens=(0,), mean=True) if spec.readouts else Capture()
    exact, found = (backend.run(spec, pixels, wanted, name) for name in ("fp32", dtype))
    differences = [
        (one.rows[name] - other.rows[name]).abs().max().item()
        for one, other in zip(exact, found, strict=True)
        for name in one.rows
    ]
    logits = [
        ((one.logits - other.logits).norm() / one.logits.norm()).item()
        for one, other in zip(exact, found, strict=True)
        if one.logits is not None and other.logits is not None
    ]
    keep(difference=max(differences, default=None), logits=max(logits, default=None))
    assert (spec.readouts == ()) == (differences == [])
    for output in found:
        for rows in output.rows.values():
            assert torch.isfinite(rows).all()
            torch.testing.assert_close(rows.sum(-1), torch.ones(rows.shape[:-1]), atol=1e-3, rtol=0)
    most = (CONVOLVED if kind.startswith("hybrid") else ROWS)[dtype]
    assert max(differences, default=0) <= most
    assert max(logits, default=0) <= most


def _score(one: Explanation, other: Explanation) -> float:
    """Largest difference of a score of the labels that both show."""
    first, second = ({label.index: label.score for label in found.prediction.labels} for found in (one, other))
    return max(abs(first[index] - second[index]) for index in first.keys() & second.keys())


def _correlation(one: Explanation, other: Explanation) -> float:
    assert one.map is not None
    assert other.map is not None
    found = rank_correlation(one.map, one.view, other.map, other.view)
    assert found is not None
    return found


def _difference(one: Explanation, other: Explanation) -> float:
    assert one.map is not None
    assert other.map is not None
    return float(np.abs(one.map.values - other.map.values).max() / np.ptp(one.map.values))
