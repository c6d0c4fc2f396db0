"""What is known of a photo and a request before any forward pass is what the forward pass then gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests import tiny
from vitdemo.errors import OptionError
from vitdemo.options.explain import ExplainRequest
from vitdemo.pipeline import Pipeline
from vitdemo.pipeline.prepare import MAX_GRADIENT_TOKENS, MAX_TOKENS, prepare
from vitdemo.types import ModelSpec, Photo

SpecOf = Callable[[str], ModelSpec]
PhotoMaker = Callable[..., Photo]


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_view_and_grid_are_those_of_the_explanation(
    pipeline: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker, kind: str
) -> None:
    for request in (ExplainRequest(), ExplainRequest(resolution=64)):
        prepared = prepare(photo(96, 64), tiny_spec(kind), request)
        found = pipeline.explain(photo(96, 64), tiny_spec(kind), request)
        assert (prepared.view, prepared.grid) == (found.view, found.patch_grid)


def test_the_patch_is_the_one_under_the_point_and_the_middle_by_default(vit: ModelSpec, photo: PhotoMaker) -> None:
    # The model sees the square in the middle of this photo, x from 16 to 79, in 14 patches each way.
    assert prepare(photo(96, 64), vit, ExplainRequest()).patch == 7 * 14 + 7
    assert prepare(photo(96, 64), vit, ExplainRequest(point=(16, 0))).patch == 0
    assert prepare(photo(96, 64), vit, ExplainRequest(point=(79, 63))).patch == 14 * 14 - 1
    outside = prepare(photo(96, 64), vit, ExplainRequest(point=(80, 0)))
    with pytest.raises(OptionError, match="x from 16 to 79, y from 0 to 63"):
        _ = outside.patch


def test_gradients_are_limited_to_fewer_patches(tiny_spec: SpecOf, photo: PhotoMaker) -> None:
    def patches(kind: str, method: str) -> int:
        prepared = prepare(photo(64, 64), tiny_spec(kind), ExplainRequest(method, resolution=8000))
        assert "The resolution was lowered" in prepared.notes[0]
        return prepared.grid[0] * prepared.grid[1]

    assert MAX_GRADIENT_TOKENS < patches("vit", "attention") <= MAX_TOKENS
    assert MAX_GRADIENT_TOKENS < patches("vit", "rollout") <= MAX_TOKENS
    assert patches("vit", "relevance") <= MAX_GRADIENT_TOKENS
    assert patches("beit", "rollout") <= MAX_GRADIENT_TOKENS
