"""The example photos: what each tab opens with, and which ones fool the models."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vitdemo.pipeline import Pipeline
from vitdemo.registry import default_models
from vitdemo.settings import Settings
from vitdemo.types import Photo
from vitdemo.ui.examples import Example, example_to_open, examples, opened, opening_example
from vitdemo.ui.state import COMPARE, EXPLAIN, SEGMENT


@pytest.fixture
def first(pipeline: Pipeline) -> Photo:
    return opened(pipeline, opening_example(COMPARE))


@pytest.fixture
def crab(pipeline: Pipeline) -> Photo:
    return opened(pipeline, opening_example(SEGMENT))


def test_each_tab_shows_its_own_example_until_somebody_chooses_a_photo(first: Photo, crab: Photo) -> None:
    assert example_to_open(SEGMENT, first, touched=False) == opening_example(SEGMENT)
    assert (
        example_to_open(COMPARE, crab, touched=False) == example_to_open(EXPLAIN, crab, touched=False) == examples()[0]
    )
    for tab, photo in ((SEGMENT, crab), (COMPARE, first), (EXPLAIN, first)):
        assert example_to_open(tab, photo, touched=False) is None


def test_a_chosen_photo_stays_in_every_tab(pipeline: Pipeline, first: Photo, crab: Photo) -> None:
    for tab in (COMPARE, EXPLAIN, SEGMENT):
        for photo in (first, crab, replace(first, digest="uploaded"), opened(pipeline, examples()[1]), None):
            assert example_to_open(tab, photo, touched=True) is None
    assert example_to_open(SEGMENT, opened(pipeline, examples()[1]), touched=False) is None


@pytest.mark.thorough
def test_those_that_fool_the_models_do_and_the_first_one_is_named_right_by_all(pipeline: Pipeline) -> None:
    def right(example: Example) -> int:
        photo = opened(pipeline, example)
        found = [pipeline.classify([photo], spec)[0].labels[0].label for spec in default_models(Settings())]
        return found.count(str(example.label))

    fooling = [example for example in examples() if example.fools]
    assert [right(example) for example in fooling] == [0] * len(fooling)
    assert fooling
    assert right(examples()[0]) == len(default_models(Settings()))
