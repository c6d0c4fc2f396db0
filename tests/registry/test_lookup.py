"""Model descriptions from files alone."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests import tiny
from vitdemo.errors import CheckpointError, UnknownModelError
from vitdemo.models.nn.hybrid import ViTHybridConfig
from vitdemo.registry import (
    count_parameters,
    default_models,
    get_spec,
    processor_from_config,
    ready_models,
    spec_from_folder,
)
from vitdemo.registry.configs import patch_side
from vitdemo.settings import ASSETS, Settings

NAMES = ["vit-mini", "deit-mini", "beit-mini", "dino-mini", "hybrid-mini"]
"""Those that a comparison opens with."""
MORE = ["mae-mini", "cnn-mini"]


@pytest.fixture
def folder(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A checkpoint folder to damage."""
    return Path(shutil.copytree(tiny_folder("vit"), tmp_path / "mine"))


def test_the_embedded_models_are_listed_in_the_order_of_the_families() -> None:
    assert [spec.name for spec in ready_models()][: len(NAMES + MORE)] == NAMES + MORE


@pytest.mark.parametrize("name", NAMES + MORE)
def test_what_is_said_of_an_embedded_model_is_what_its_weights_are(name: str) -> None:
    spec = get_spec(name)
    weights = load_file(Path(spec.checkpoint) / "model.safetensors")
    learnt = {key: value for key, value in weights.items() if "running_" not in key and "num_batches" not in key}
    assert spec.source == "embedded"
    assert spec.parameters == sum(tensor.numel() for tensor in learnt.values())
    assert spec.bytes >= (ASSETS / "models" / name / "model.safetensors").stat().st_size
    if name == "cnn-mini":
        assert (spec.patch_grid, spec.num_layers, spec.num_heads) == ((7, 7), 0, 0)
        return
    assert (spec.patch_grid, spec.num_layers, spec.num_heads) == ((14, 14), 8, 6)
    positions = [tensor for key, tensor in weights.items() if key.endswith("position_embeddings")]
    for tensor in positions:
        assert tensor.shape[1] == spec.num_prefix_tokens + 14 * 14
    assert bool(positions) == (spec.model_type != "beit")


def test_the_embedded_models_share_their_labels_and_their_preprocessing() -> None:
    specs = ready_models()[: len(NAMES + MORE)]
    assert len({spec.labels for spec in specs if spec.labels}) == 1
    assert len(specs[0].labels) == 100
    assert len({spec.processor for spec in specs}) == 1


def test_an_unknown_model_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(UnknownModelError, match=r"'vit'.*vit-mini, deit-mini"):
        get_spec("vit")


def test_a_comparison_opens_with_the_embedded_models_or_with_those_of_the_settings() -> None:
    assert [spec.name for spec in default_models(Settings())] == NAMES
    chosen = default_models(Settings(models=("dino-mini", "vit-mini")))
    assert [spec.name for spec in chosen] == ["dino-mini", "vit-mini"]
    with pytest.raises(UnknownModelError):
        default_models(Settings(models=("vit-mini", "gone")))


@pytest.mark.parametrize(
    ("kind", "prefix", "readouts", "grid"),
    [
        ("vit", 1, ("class",), (4, 4)),
        ("deit", 2, ("class", "distillation"), (4, 4)),
        ("beit", 1, ("mean", "class"), (4, 4)),
        ("beit-class", 1, ("class",), (4, 4)),
        ("hybrid", 1, ("class",), (4, 4)),
        ("hybrid-stage2", 1, ("class",), (8, 8)),
    ],
)
def test_a_folder_tells_tokens_and_readouts(
    tiny_spec: Callable[[str], Any], kind: str, prefix: int, readouts: tuple[str, ...], grid: tuple[int, int]
) -> None:
    spec = tiny_spec(kind)
    assert spec.source == "local"
    assert spec.revision == "tiny"
    assert spec.labels == tiny.LABELS
    assert (spec.num_prefix_tokens, spec.readouts, spec.patch_grid) == (prefix, readouts, grid)
    assert (spec.num_layers, spec.num_heads) == (3, 4)


def test_labels_are_in_the_order_of_their_numbers_not_of_their_text(folder: Path) -> None:
    labels = {str(index): f"class {index}" for index in (10, 2, 11, 0, 1, 3, 4, 5, 6, 7, 8, 9)}
    tiny.edit_json(folder / "config.json", id2label=labels)
    assert spec_from_folder(folder).labels == tuple(f"class {index}" for index in range(12))


def test_image_and_patch_need_not_be_square_in_the_config(folder: Path) -> None:
    tiny.edit_json(folder / "config.json", image_size=[64, 32], patch_size=[8, 8])
    tiny.edit_json(folder / "preprocessor_config.json", size=[64, 32])
    assert spec_from_folder(folder).patch_grid == (8, 4)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"[1, 2]", b"\xff\xfe\x00garbage", b'{"cut": "of'])
def test_a_missing_or_damaged_file_is_named_without_its_path(folder: Path, name: str, content: bytes | None) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError) as refusal:
        spec_from_folder(folder)
    assert "mine" in str(refusal.value)
    assert "missing or damaged" in str(refusal.value) or "damaged" in str(refusal.value)
    assert str(folder.parent) not in str(refusal.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"patch_size": [8, 16]},
        {"patch_size": 0},
        {"image_size": "large"},
        {"image_size": []},
        {"id2label": {"1": "one", "2": "two"}},
        {"id2label": ["one", "two"]},
        {"vitdemo": "ViT"},
        {"vitdemo": {"threshold": "high"}},
        {"num_hidden_layers": float("inf")},
        {"architectures": 3},
    ],
    ids=str,
)
def test_a_config_without_what_is_needed_is_refused(folder: Path, changes: dict[str, Any]) -> None:
    tiny.edit_json(folder / "config.json", **changes)
    with pytest.raises(CheckpointError, match=r"config\.json of mine"):
        spec_from_folder(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"size": {"longest_edge": 224}},
        {"do_center_crop": True},
        {"image_mean": None},
        {"image_mean": [0.5]},
        {"image_std": ["wide"] * 3},
        {"resample": "cubic"},
        {"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0},
    ],
    ids=str,
)
def test_a_preprocessor_config_without_what_is_needed_is_refused(folder: Path, changes: dict[str, Any]) -> None:
    tiny.edit_json(folder / "preprocessor_config.json", **changes)
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json of mine"):
        spec_from_folder(folder)


@pytest.mark.parametrize("model_type", ["levit", None, 3])
def test_a_type_that_cannot_be_loaded_is_refused_with_the_types_that_can(folder: Path, model_type: object) -> None:
    tiny.edit_json(folder / "config.json", model_type=model_type)
    with pytest.raises(CheckpointError, match=r"cannot be loaded: .* Types that can: vit, deit, beit"):
        spec_from_folder(folder)


def test_parameters_are_counted_from_the_header_alone(folder: Path) -> None:
    weights = folder / "model.safetensors"
    count = count_parameters(weights)
    assert count == sum(weights.numel() for weights in tiny.network("vit").parameters())
    header = int.from_bytes(weights.read_bytes()[:8], "little")
    weights.write_bytes(weights.read_bytes()[: 8 + header])
    assert count_parameters(weights) == count


def test_statistics_and_indices_are_no_parameters(tmp_path: Path) -> None:
    network = tiny.network("resnet")
    tensors = {**network.state_dict(), "relative_position_index": torch.zeros(9, 9, dtype=torch.long)}
    save_file(tensors, tmp_path / "model.safetensors")
    assert count_parameters(tmp_path / "model.safetensors") == sum(weights.numel() for weights in network.parameters())


@pytest.mark.parametrize(
    "header", ["[]", '"x"', "[" * 50_000, '{"a": 3}', '{"a": {}}', '{"a": {"shape": [2], "x": 1}}']
)
def test_a_header_of_another_form_is_called_damaged(folder: Path, header: str) -> None:
    data = header.encode()
    (folder / "model.safetensors").write_bytes(len(data).to_bytes(8, "little") + data)
    with pytest.raises(CheckpointError, match="The weights of mine are missing or damaged"):
        spec_from_folder(folder)


@pytest.mark.parametrize("channels", [1, 4, "3"])
def test_a_network_for_other_than_colour_pictures_is_refused(folder: Path, channels: object) -> None:
    tiny.edit_json(folder / "config.json", num_channels=channels)
    with pytest.raises(CheckpointError, match="mine cannot be loaded: it does not read colour images"):
        spec_from_folder(folder)


@pytest.mark.parametrize(
    ("card", "license"),
    [
        ("---\nlicense: mit\n---\n# Title\n", "mit"),
        ("---\r\ntags:\r\n- vision\r\nlicense: apache-2.0\r\n---\r\n", "apache-2.0"),
        ('---\nlicense: "cc-by-nc-4.0"\n---\n', "cc-by-nc-4.0"),
        ("---\ntags:\n- vision\n---\nlicense: in the text\n", "unknown"),
        ("# Title\nlicense: mit\n", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_the_licence_of_a_hub_model_is_that_of_its_cards_front_matter(
    folder: Path, card: str | None, license: str
) -> None:
    if card is not None:
        (folder / "README.md").write_bytes(card.encode())
    assert spec_from_folder(folder, "hub", "someone/mine").license == license
    assert spec_from_folder(folder).license == "unknown"


def test_a_header_of_a_hundred_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((10**11).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError):
        count_parameters(path)


@pytest.mark.parametrize(
    ("config", "resize", "crop"),
    [
        ({"size": 384}, (384, 384), None),
        ({"size": [192, 256]}, (192, 256), None),
        ({"size": {"height": 192, "width": 256}}, (192, 256), None),
        ({"size": {"shortest_edge": 248}, "do_center_crop": True, "crop_size": 224}, 248, (224, 224)),
        ({"do_resize": False, "do_center_crop": True, "crop_size": {"height": 9, "width": 8}}, None, (9, 8)),
        ({"size": 224, "do_center_crop": False, "crop_size": 99}, (224, 224), None),
        ({"size": 224, "image_processor_type": "BitImageProcessor"}, 224, None),
        ({"size": 224, "feature_extractor_type": "ConvNextFeatureExtractor"}, 256, (224, 224)),
        ({"size": 384, "feature_extractor_type": "ConvNextFeatureExtractor"}, (384, 384), None),
    ],
)
def test_old_and_new_spellings_of_a_processor_are_read(
    config: dict[str, Any], resize: tuple[int, int] | int | None, crop: tuple[int, int] | None
) -> None:
    processor = processor_from_config({**config, "image_mean": [0.5] * 3, "image_std": [0.25] * 3})
    assert (processor.resize, processor.crop) == (resize, crop)
    assert (processor.mean, processor.std) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert processor.rescale == 1 / 255


def test_a_processor_that_neither_scales_nor_normalises_leaves_the_bytes_as_they_are() -> None:
    processor = processor_from_config({"do_rescale": False, "do_normalize": False, "rescale_factor": 0.1})
    assert (processor.rescale, processor.mean, processor.std) == (1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_equal_processors_are_one_key(folder: Path) -> None:
    spec = spec_from_folder(folder)
    again = processor_from_config(json.loads((folder / "preprocessor_config.json").read_text()))
    assert hash(again) == hash(spec.processor)
    assert again == spec.processor != replace(again, resample=3)


def test_the_side_of_a_hybrid_patch_is_that_of_its_own_config() -> None:
    for stage, output_stride, patch in itertools.product([1, 2, 3, 4], [4, 8, 16, 32], [1, 2]):
        backbone = tiny.backbone(4, out_features=[f"stage{stage}"], output_stride=output_stride)
        config = ViTHybridConfig(patch_size=patch, backbone_config=backbone)
        assert patch_side(config.to_dict()) == patch * config.feature_stride


def test_the_side_of_a_hybrid_patch_is_right_without_the_fields_that_have_defaults() -> None:
    config = {"model_type": "vit-hybrid", "patch_size": 1}
    assert patch_side(config) == ViTHybridConfig().feature_stride == 16
    assert isinstance(ViTHybridConfig(), transformers.PreTrainedConfig)
