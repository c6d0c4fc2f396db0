"""What is looked at in a network is what it computes: feature maps, the answers of two tokens, one vector per image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from vitdemo.errors import OptionError
from vitdemo.models.loading import Classifier, load_model
from vitdemo.models.parts import feature_maps, image_features, token_answers
from vitdemo.types import ModelSpec

Spec = Callable[[str], ModelSpec]


def loaded(spec: ModelSpec, dtype: torch.dtype = torch.float32) -> tuple[Classifier, Any]:
    model = load_model(spec, torch.device("cpu"), dtype)
    return model, model.network


def pixels_of(spec: ModelSpec, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 3, *spec.image_size)


@pytest.mark.parametrize("kind", ["vit", "beit", "dinov2", "mae", "resnet"])
def test_the_first_maps_are_the_first_convolution_by_hand(kind: str, tiny_spec: Spec) -> None:
    spec = tiny_spec(kind)
    model, network = loaded(spec)
    pixels = pixels_of(spec)
    conv = next(part for part in network.modules() if isinstance(part, nn.Conv2d))
    name, maps = feature_maps(model, pixels)[0]
    assert name == "first layer"
    assert isinstance(conv.padding, tuple)
    (pad, _), (stride, _), side = conv.padding, conv.stride, conv.kernel_size[0]
    padded = nn.functional.pad(pixels, (pad,) * 4)
    for row, column in ((0, 0), (1, 2)):
        window = padded[0, :, row * stride : row * stride + side, column * stride : column * stride + side]
        expected = (conv.weight * window).sum(dim=(1, 2, 3)) + (0 if conv.bias is None else conv.bias)
        torch.testing.assert_close(maps[:, row, column], expected.detach(), atol=1e-4, rtol=1e-4)
    if spec.readouts:
        # A ViT has no other maps; these are its tokens, before their positions.
        assert len(feature_maps(model, pixels)) == 1
        assert maps.shape[1:] == spec.patch_grid


def test_the_stages_of_a_cnn_end_in_its_last_hidden_state(tiny_spec: Spec) -> None:
    spec = tiny_spec("resnet")
    model, network = loaded(spec)
    pixels = pixels_of(spec)
    found = feature_maps(model, pixels)
    assert [name for name, _ in found] == ["first layer", "stage 1", "stage 2"]
    with torch.no_grad():
        last = network.base_model(pixels).last_hidden_state[0]
    torch.testing.assert_close(found[-1][1], last)
    assert found[-1][1].shape[1:] == spec.patch_grid


@pytest.mark.parametrize("kind", ["hybrid", "hybrid-stage2"])
def test_the_stages_of_a_hybrid_end_in_the_map_that_its_tokens_are_cut_from(kind: str, tiny_spec: Spec) -> None:
    spec = tiny_spec(kind)
    model, network = loaded(spec)
    pixels = pixels_of(spec)
    found = feature_maps(model, pixels)
    with torch.no_grad():
        last = network.base_model.embeddings.patch_embeddings.backbone(pixels).feature_maps[-1][0]
    torch.testing.assert_close(found[-1][1], last)
    assert found[-1][1].shape[1:] == spec.patch_grid


def test_the_two_answers_of_a_deit_are_those_of_its_two_classifiers_and_their_mean_is_the_models(
    tiny_spec: Spec,
) -> None:
    spec = tiny_spec("deit")
    model, network = loaded(spec)
    pixels = pixels_of(spec)
    found = token_answers(model, pixels)
    with torch.no_grad():
        tokens = network.base_model(pixels).last_hidden_state[0]
        expected = {
            "class": network.cls_classifier(tokens[0]),
            "distillation": network.distillation_classifier(tokens[1]),
        }
        own = model(pixels)
    for name, logits in expected.items():
        torch.testing.assert_close(found[name], logits, atol=1e-5, rtol=1e-5)
    assert own is not None
    torch.testing.assert_close((found["class"] + found["distillation"]) / 2, own[0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found["class"], found["distillation"])


@pytest.mark.parametrize("kind", ["vit", "deit-plain", "beit", "resnet", "dino"])
def test_a_model_without_a_distillation_token_says_which_has_one(kind: str, tiny_spec: Spec) -> None:
    spec = tiny_spec(kind)
    with pytest.raises(OptionError, match=f"{spec.name} has no distillation token. .* such as deit-mini"):
        token_answers(loaded(spec)[0], pixels_of(spec))


@pytest.mark.parametrize("kind", ["vit", "dino"])
def test_the_vector_of_an_image_is_its_class_token(kind: str, tiny_spec: Spec) -> None:
    spec = tiny_spec(kind)
    model, network = loaded(spec)
    pixels = pixels_of(spec, batch=3)
    found = image_features(model, pixels)
    with torch.no_grad():
        tokens = network.base_model(pixels).last_hidden_state
    torch.testing.assert_close(found, tokens[:, 0], atol=1e-5, rtol=1e-5)
    assert not found.requires_grad


def test_what_is_looked_at_is_float32_whatever_the_network_computes_in(tiny_spec: Spec) -> None:
    spec = tiny_spec("deit")
    half, _ = loaded(spec, torch.bfloat16)
    whole, _ = loaded(spec)
    pixels = pixels_of(spec)
    assert image_features(half, pixels).dtype == feature_maps(half, pixels)[0][1].dtype == torch.float32
    assert token_answers(half, pixels)["class"].dtype == torch.float32
    torch.testing.assert_close(image_features(half, pixels), image_features(whole, pixels), atol=0.1, rtol=0.1)
