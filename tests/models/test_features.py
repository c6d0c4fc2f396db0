"""Patch features of the last layer equal transformers' own, for every family."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests import tiny
from vitdemo.engine import LocalBackend
from vitdemo.models.loading import load_model, size_options
from vitdemo.models.preprocess import preprocess
from vitdemo.pipeline import Pipeline
from vitdemo.settings import Settings
from vitdemo.types import Capture, ModelSpec, Photo

Spec = Callable[[str], ModelSpec]
Maker = Callable[..., Photo]


@pytest.fixture(scope="module")
def backend() -> LocalBackend:
    return LocalBackend(Settings())


def _hidden(spec: ModelSpec, pixels: Tensor) -> Tensor:
    """`[B, N, D]`: last hidden states, from the network's own outputs."""
    model = load_model(spec, torch.device("cpu"), torch.float32)
    network = model.network
    encoder = network if type(network).__name__.endswith("Model") else network.base_model
    with torch.no_grad():
        hidden: Tensor = encoder(pixels, **size_options(model.network, pixels)).last_hidden_state
    return hidden


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_features_are_the_last_hidden_states_of_the_patches(
    kind: str, backend: LocalBackend, tiny_spec: Spec, photo: Maker
) -> None:
    spec = tiny_spec(kind)
    pixels = preprocess([photo(seed=1), photo(seed=2)], spec.processor).pixel_values
    found = backend.run(spec, pixels, Capture(features=True, queries=True))
    hidden = _hidden(spec, pixels)
    for output, own in zip(found, hidden, strict=True):
        assert output.features is not None
        torch.testing.assert_close(output.features.values, own[spec.num_prefix_tokens :], atol=1e-5, rtol=1e-4)
        rows, columns = output.patch_grid
        assert output.features.norms.shape == (rows * columns,)
        assert bool((output.features.norms > 0).all())
        key = output.queries[-1].key[0]
        for head in range(spec.num_heads):
            width = key.shape[-1]
            part = output.features.keys[:, head * width : (head + 1) * width]
            torch.testing.assert_close(part, key[head, spec.num_prefix_tokens :])
    plain = backend.run(spec, pixels, Capture())
    assert plain[0].features is None


def test_norms_are_lengths_before_the_last_normalisation(backend: LocalBackend, tiny_spec: Spec, photo: Maker) -> None:
    spec = tiny_spec("dinov2")
    pixels = preprocess([photo()], spec.processor).pixel_values
    model = load_model(spec, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        last = model.network(pixels, output_hidden_states=True).hidden_states[-1]
        normed = model.network.layernorm(last)
    (output,) = backend.run(spec, pixels, Capture(features=True))
    assert output.features is not None
    torch.testing.assert_close(output.features.values, normed[0, spec.num_prefix_tokens :], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(output.features.norms, last[0, spec.num_prefix_tokens :].norm(dim=-1))


def test_what_is_remembered_grows_by_what_is_asked_for(tiny_spec: Spec, photo: Maker) -> None:
    fresh, spec, one = Pipeline(), tiny_spec("vit"), photo()
    assert fresh.explain(one, spec, capture=Capture(queries=True)).features is None
    first = fresh.explain(one, spec, capture=Capture(features=True))
    assert first.features is not None
    assert first.queries == ()
    assert not first.prediction.from_cache
    both = fresh.explain(one, spec, capture=Capture(queries=True, features=True))
    assert both.prediction.from_cache
    assert both.queries
    assert both.features is not None
    assert fresh.backend.forwards == 2


def test_a_convolutional_network_has_no_features(pipeline: Pipeline, tiny_spec: Spec, photo: Maker) -> None:
    found = pipeline.explain(photo(), tiny_spec("resnet"), capture=Capture(features=True, queries=True))
    assert (found.features, found.queries) == (None, ())


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [*tiny.KINDS, "resnet"])
def test_the_pooled_vector_of_a_pass_is_what_a_probe_reads_and_costs_no_logits(
    kind: str, backend: LocalBackend, tiny_spec: Spec, photo: Maker
) -> None:
    spec = tiny_spec(kind)
    pixels = preprocess([photo(seed=1), photo(seed=2)], spec.processor).pixel_values
    found = backend.run(spec, pixels, Capture(pooled=True))
    model = load_model(spec, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        expected = model.features(pixels)
    plain = backend.run(spec, pixels, Capture())
    for output, bare, own in zip(found, plain, expected, strict=True):
        assert output.pooled is not None
        torch.testing.assert_close(output.pooled, own)
        assert bare.pooled is None
        assert (output.logits is None) == (bare.logits is None)
        if output.logits is not None:
            torch.testing.assert_close(output.logits, bare.logits)


def test_the_pooled_vector_of_a_classifier_is_what_its_head_reads(tiny_spec: Spec, photo: Maker) -> None:
    for kind in ("vit", "deit-plain", "beit", "beit-class", "hybrid", "msn", "ijepa", "resnet"):
        spec = tiny_spec(kind)
        model = load_model(spec, torch.device("cpu"), torch.float32)
        pixels = preprocess([photo(seed=1)], spec.processor).pixel_values
        head = model.network.classifier
        with torch.no_grad():
            torch.testing.assert_close(head(model.features(pixels)), model(pixels), atol=1e-5, rtol=1e-4)
