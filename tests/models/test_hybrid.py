"""The hybrid network has the official layout, and the grid of its config."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import ViTForImageClassification

from tests import tiny
from vitdemo.models.loading import load_model
from vitdemo.models.nn.hybrid import ViTHybridConfig, ViTHybridForImageClassification, ViTHybridPatchEmbeddings
from vitdemo.registry import get_spec, read_json, spec_from_folder
from vitdemo.registry.configs import patch_side

STRIDES = [
    ({"stage": 1, "embedding_dynamic_padding": True}, 4),
    ({"stage": 2}, 8),
    ({"stage": 3}, 16),
    ({"stage": 4}, 32),
    ({"stage": 3, "out_features": ["stage2"]}, 8),
    ({"stage": 3, "out_features": ["stem"], "embedding_dynamic_padding": True}, 4),
    ({"stage": 4, "output_stride": 16}, 16),
    ({"stage": 4, "output_stride": 8}, 8),
    ({"stage": 3, "global_padding": None}, 16),
    ({"stage": 3, "embedding_dynamic_padding": True}, 16),
    ({"stage": 3, "layer_type": "preactivation"}, 16),
]


@pytest.mark.parametrize(("backbone", "stride"), STRIDES, ids=str)
def test_the_stride_of_the_config_is_that_of_the_real_feature_map(backbone: dict[str, Any], stride: int) -> None:
    config = ViTHybridConfig(
        patch_size=1, hidden_size=24, image_size=(64, 96), backbone_config=tiny.backbone(**backbone)
    )
    assert config.feature_stride == stride
    assert patch_side(config.to_dict()) == stride
    embeddings = ViTHybridPatchEmbeddings(config).eval()
    with torch.no_grad():
        features = embeddings.backbone(torch.randn(1, 3, 64, 96)).feature_maps[-1]
    assert features.shape[2:] == (64 // stride, 96 // stride)
    assert tuple(config.backbone_featmap_shape) == features.shape


@pytest.mark.parametrize("patch", [1, 2])
def test_patches_are_squares_of_cells_row_after_row(patch: int) -> None:
    config = ViTHybridConfig(patch_size=patch, hidden_size=24, backbone_config=tiny.backbone(2))
    embeddings = ViTHybridPatchEmbeddings(config).eval()
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        tokens = embeddings(pixels)
        features = embeddings.backbone(pixels).feature_maps[-1]
        cell = features[:, :, patch : 2 * patch, 2 * patch : 3 * patch]
        row, column, columns = 1, 2, 12 // patch
        assert tokens.shape == (1, 8 * 12 // patch**2, 24)
        expected = embeddings.projection(cell).flatten()
    torch.testing.assert_close(tokens[0, row * columns + column], expected, atol=1e-5, rtol=1e-5)


def test_the_state_dict_has_the_layout_of_the_official_checkpoint() -> None:
    names = set(tiny.network("hybrid").state_dict())
    stem = "vit.embeddings.patch_embeddings."
    assert {
        "classifier.weight",
        "classifier.bias",
        "vit.embeddings.cls_token",
        "vit.embeddings.position_embeddings",
        f"{stem}projection.weight",
        f"{stem}projection.bias",
        f"{stem}backbone.bit.embedder.convolution.weight",
        f"{stem}backbone.bit.encoder.stages.2.layers.0.conv1.weight",
        "vit.layernorm.weight",
    } <= names
    # All that a plain ViT has, but its own patch projection, is there under the same names.
    plain = set(ViTForImageClassification(tiny.network("vit").config).state_dict())
    assert plain <= names
    assert {name for name in names - plain if not name.startswith(f"{stem}backbone.")} == set()


def test_the_embedded_hybrid_loads_every_one_of_its_weights_and_no_other(tmp_path: Path) -> None:
    spec = get_spec("hybrid-mini")
    stored = load_file(Path(spec.checkpoint) / "model.safetensors")
    load_model(spec, torch.device("cpu"), torch.float32).network.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert set(saved) == set(stored)
    for name, weights in stored.items():
        assert torch.equal(saved[name], weights.float())


def test_a_grid_of_patches_has_the_size_that_the_spec_says(tiny_folder: Callable[[str], Path]) -> None:
    for kind in ("hybrid", "hybrid-stage2"):
        spec = spec_from_folder(tiny_folder(kind))
        model = load_model(spec, torch.device("cpu"), torch.float32)
        positions = model.network.state_dict()["vit.embeddings.position_embeddings"].shape[1]
        assert positions == 1 + spec.patch_grid[0] * spec.patch_grid[1]
        with torch.no_grad():
            tokens = model.network.vit(torch.randn(1, 3, *spec.image_size)).last_hidden_state
        assert tokens.shape[1] == positions


def test_saving_and_loading_gives_the_same_network(tmp_path: Path) -> None:
    network = tiny.network("hybrid-stage2")
    network.save_pretrained(tmp_path)
    again = ViTHybridForImageClassification.from_pretrained(tmp_path).eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(pixels).logits, again(pixels).logits)
    for field in ("depths", "hidden_sizes", "out_features", "num_groups", "global_padding", "layer_type"):
        assert getattr(again.config.backbone_config, field) == getattr(network.config.backbone_config, field)
    assert again.config.feature_stride == 8
    # transformers 4 reads the size of the feature map from the file alone.
    assert read_json(tmp_path / "config.json")["backbone_featmap_shape"] == [1, 64, 8, 8]
    assert again.config.id2label == dict(enumerate(tiny.LABELS))


def test_the_embedded_hybrid_states_its_feature_map_for_transformers_4() -> None:
    stated = read_json(Path(get_spec("hybrid-mini").checkpoint) / "config.json")
    assert stated["backbone_featmap_shape"] == [1, 192, 14, 14]
    computed = ViTHybridConfig(**{**stated, "backbone_featmap_shape": None})
    assert computed.backbone_featmap_shape == stated["backbone_featmap_shape"]


def test_the_config_without_a_backbone_is_that_of_the_official_checkpoint() -> None:
    config = ViTHybridConfig()
    assert (config.model_type, config.patch_size, config.feature_stride) == ("vit-hybrid", 1, 16)
    assert ViTHybridConfig(image_size=384).backbone_featmap_shape == [1, 1024, 24, 24]
    assert config.backbone_config.depths == [3, 4, 9]
    assert config.backbone_config.layer_type == "bottleneck"
    assert config.backbone_config.global_padding == "SAME"
    assert ViTHybridConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


def test_the_classifier_sees_the_class_token_alone() -> None:
    network = tiny.network("hybrid")
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        outputs = network(pixels, output_hidden_states=True)
        token = network.vit.layernorm(outputs.hidden_states[-1])[:, 0]
        torch.testing.assert_close(outputs.logits, network.classifier(token))
