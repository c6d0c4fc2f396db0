"""Which photos show one colour only."""

from __future__ import annotations

import numpy as np
import pytest

from vitdemo.images.open import open_image
from vitdemo.images.plain import is_plain
from vitdemo.pipeline import Pipeline
from vitdemo.registry import get_spec
from vitdemo.settings import ASSETS


def test_a_colour_is_plain_with_the_noise_of_a_camera_and_not_with_a_pattern_or_a_small_object() -> None:
    whole = (0, 0, 300, 200)
    grey = np.full((200, 300, 3), 128.0)
    noise = np.random.default_rng(0).normal(0, 2, grey.shape)
    chequered = grey + 20 * (np.indices((200, 300)).sum(axis=0) % 2)[..., None]
    bird = grey.copy()
    bird[100:108, 100:112] = 0
    shown = [open_image(picture.astype(np.uint8)) for picture in (grey, grey + noise, chequered, bird)]
    assert [is_plain(photo, whole) for photo in shown] == [True, True, False, False]
    # Only what the model sees counts.
    assert is_plain(shown[3], (150, 0, 300, 150))


def test_no_example_is_plain() -> None:
    for path in (ASSETS / "examples").glob("*.jpg"):
        photo = open_image(path)
        assert not is_plain(photo, (0, 0, *photo.size)), path.name


@pytest.mark.parametrize("colour", [(0, 0, 0), (128, 128, 128), (30, 60, 200)])
def test_what_a_classifier_says_of_one_colour_is_doubted(pipeline: Pipeline, colour: tuple[int, int, int]) -> None:
    photo = pipeline.open(np.full((200, 300, 3), colour, np.uint8))
    spec = get_spec("vit-mini")
    (prediction,) = pipeline.classify([photo], spec)
    explanation = pipeline.explain(photo, spec)
    for one in (prediction, explanation.prediction):
        assert one.labels
        assert one.uncovered
    assert "The image is of one colour: its labels mean nothing." in explanation.notes
