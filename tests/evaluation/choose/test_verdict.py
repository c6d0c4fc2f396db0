"""What the verdict says of ties, of small losses and of clear leads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vitdemo.evaluation.choose.types import Accuracy, Candidate, ChooseRequest
from vitdemo.evaluation.choose.verdict import verdict_of

PHOTOS = 1000


def sentence(**models: tuple[int, float]) -> str:
    """Of models with this many right answers and milliseconds. The better one answers all right that the other does."""
    candidates = [
        Candidate(name, "ViT", 1, 1, "", probe=Accuracy(right / PHOTOS, 0.0, 1.0, PHOTOS), ms_batched=ms)
        for name, (right, ms) in models.items()
    ]
    answers = {name: np.arange(PHOTOS) < right for name, (right, _) in models.items()}
    return verdict_of(candidates, answers, ChooseRequest((Path("photos"),)), "a machine").sentence


def test_equal_models_are_called_as_accurate() -> None:
    found = sentence(a=(900, 10.0), b=(900, 20.0))
    assert found.startswith("a is as accurate as b (90.0%")
    assert found.endswith("and is the fastest.")
    assert "0.0 points" not in found


def test_a_fast_model_that_loses_little_is_recommended() -> None:
    assert sentence(a=(900, 20.0), b=(895, 10.0)).startswith("b is within 0.5 points of a (89.5%")


def test_a_clear_lead_is_in_points() -> None:
    found = sentence(a=(900, 20.0), b=(700, 10.0))
    assert "a is the most accurate (90.0%" in found
    assert "20.0 points ahead of b, at 2.0 times the time" in found
