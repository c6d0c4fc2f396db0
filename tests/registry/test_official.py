"""The table of official checkpoints agrees with their architectures, and each runs as in transformers.

Every entry is built in full without memory, and a tiny network in the layout of its own files comes from the fake Hub.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub.utils import close_session
from transformers import PreTrainedModel

from tests import tiny
from tests.fakehub import FakeHub
from vitdemo.models.attention_tap import record_attention
from vitdemo.models.loading import _CLASSES, _WITH_POOLER, load_model
from vitdemo.models.nn.hybrid import ViTHybridConfig
from vitdemo.models.preprocess import preprocess, resize_and_crop
from vitdemo.registry import (
    FAMILIES,
    OFFICIAL,
    available_models,
    configs,
    download,
    get_spec,
    processor_from_config,
    spec_from_folder,
)
from vitdemo.types import Capture, ModelSpec, Photo

FIRSTS = {(entry.model_type, entry.expected_classes > 0): entry for entry in reversed(OFFICIAL.values())}
"""One of each architecture, with and without a classifier: what differs between the others is size and labels."""

ENTRIES = pytest.mark.parametrize(
    "entry",
    [
        pytest.param(entry, marks=[] if entry in FIRSTS.values() else pytest.mark.thorough)
        for entry in OFFICIAL.values()
    ],
    ids=list(OFFICIAL),
)

HALF: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
IMAGENET: dict[str, Any] = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
OLD: dict[str, Any] = {"do_normalize": True, "do_resize": True}
NEW: dict[str, Any] = {**OLD, "do_rescale": True, "rescale_factor": 0.00392156862745098}


def preprocessor(entry: ModelSpec) -> dict[str, Any]:
    """`preprocessor_config.json` in the spelling of the official repository."""
    side = entry.image_size[0]
    square = {"height": side, "width": side}
    if entry.model_type == "resnet":
        kind = {"feature_extractor_type": "ConvNextFeatureExtractor", "crop_pct": 0.875, "resample": 3}
        return {**OLD, **IMAGENET, **kind, "size": side}
    if entry.model_type == "vit-hybrid":
        kind = {"image_processor_type": "ViTHybridImageProcessor", "do_center_crop": True, "do_convert_rgb": True}
        return {**NEW, **HALF, **kind, "resample": 3, "crop_size": square, "size": {"shortest_edge": side}}
    if entry.model_type == "dinov3_vit":
        kind = {"image_processor_type": "DINOv3ViTImageProcessorFast", "default_to_square": True, "resample": 2}
        unset = dict.fromkeys(("crop_size", "do_center_crop", "do_convert_rgb", "device", "input_data_format"))
        return {**NEW, **IMAGENET, **kind, **unset, "data_format": "channels_first", "size": square}
    if entry.model_type.startswith("dinov2"):
        kind = {"image_processor_type": "BitImageProcessor", "do_center_crop": True, "do_convert_rgb": True}
        return {**NEW, **IMAGENET, **kind, "resample": 3, "crop_size": square, "size": {"shortest_edge": 256}}
    if entry.family == "DeiT":
        kind = {"feature_extractor_type": "DeiTFeatureExtractor", "do_center_crop": True, "crop_size": side}
        return {**OLD, **IMAGENET, **kind, "resample": 3, "size": {224: 256, 384: 438}[side]}
    if entry.family == "BEiT":
        kind = {"feature_extractor_type": "BeitFeatureExtractor", "do_center_crop": False, "crop_size": side}
        return {**OLD, **HALF, **kind, "resample": 2, "size": side}
    if entry.name == "google/vit-base-patch16-224":
        return {**NEW, **HALF, "image_processor_type": "ViTImageProcessor", "resample": 2, "size": square}
    normal = HALF if entry.family == "ViT" else IMAGENET
    return {**OLD, **normal, "feature_extractor_type": "ViTFeatureExtractor", "resample": 2, "size": side}


ARCHITECTURES = {
    ("vit", True): "ViTForImageClassification",
    ("vit", False): "ViTModel",
    ("deit", True): "DeiTForImageClassificationWithTeacher",
    ("beit", True): "BeitForImageClassification",
    ("dinov2", True): "Dinov2ForImageClassification",
    ("dinov2", False): "Dinov2Model",
    ("dinov2_with_registers", False): "Dinov2WithRegistersModel",
    ("dinov3_vit", False): "DINOv3ViTModel",
    ("vit-hybrid", True): "ViTHybridForImageClassification",
    ("vit_mae", False): "ViTMAEForPreTraining",
    ("resnet", True): "ResNetForImageClassification",
}
"""By type and whether there is a classifier."""

BACKBONE: dict[str, Any] = {
    "model_type": "bit",
    "embedding_size": 64,
    "num_groups": 32,
    "hidden_sizes": [256, 512, 1024, 2048],
    "depths": [3, 4, 9],
    "layer_type": "bottleneck",
    "global_padding": "same",
    "output_stride": 32,
    "embedding_dynamic_padding": True,
    "out_features": ["stage3"],
}
RESNET: dict[str, Any] = {
    "embedding_size": 64,
    "hidden_sizes": [256, 512, 1024, 2048],
    "depths": [3, 4, 6, 3],
    "layer_type": "bottleneck",
    "downsample_in_first_stage": False,
    "hidden_act": "relu",
}
BEIT: dict[str, Any] = {
    "use_mean_pooling": True,
    "use_relative_position_bias": True,
    "use_shared_relative_position_bias": False,
    "use_absolute_position_embeddings": False,
    "use_mask_token": False,
    "layer_scale_init_value": 0.1,
}
DINOV2: dict[str, Any] = {
    "image_size": 518,
    "mlp_ratio": 4,
    "layerscale_value": 1.0,
    "use_swiglu_ffn": False,
    "out_features": ["stage12"],
    "out_indices": [12],
    "stage_names": ["stem", *(f"stage{layer}" for layer in range(1, 13))],
}
DINOV3: dict[str, Any] = {
    "num_register_tokens": 4,
    "key_bias": False,
    "query_bias": True,
    "value_bias": True,
    "proj_bias": True,
    "mlp_bias": True,
    "layerscale_value": 1.0,
    "use_gated_mlp": False,
    "rope_theta": 100.0,
    "pos_embed_rescale": 2.0,
    "pos_embed_jitter": None,
    "pos_embed_shift": None,
}
MAE: dict[str, Any] = {
    "decoder_hidden_size": 512,
    "decoder_num_hidden_layers": 8,
    "decoder_num_attention_heads": 16,
    "decoder_intermediate_size": 2048,
    "mask_ratio": 0.75,
    "norm_pix_loss": False,
}
PARTICULAR: dict[str, dict[str, Any]] = {
    "beit": BEIT,
    "dinov2": DINOV2,
    "dinov2_with_registers": {**DINOV2, "num_register_tokens": 4},
    "dinov3_vit": DINOV3,
    "vit_mae": MAE,
    "vit-hybrid": {"backbone_config": BACKBONE, "patch_size": 1},
}
SMALL: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "out_features": ["stage2"],
    "out_indices": [2],
    "stage_names": ["stem", "stage1", "stage2"],
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "backbone_config": {
        **BACKBONE,
        "embedding_size": 16,
        "num_groups": 8,
        "hidden_sizes": [16] * 4,
        "depths": [1] * 3,
    },
}


def config(entry: ModelSpec) -> dict[str, Any]:
    """`config.json` with the keys that the official repository's has."""
    found: dict[str, Any] = {
        "model_type": entry.model_type,
        "architectures": [ARCHITECTURES[entry.model_type, entry.expected_classes > 0]],
        "num_channels": 3,
        "transformers_version": "4.13.0.dev0",
        **_classes([f"class {index}" for index in range(entry.expected_classes)]),
    }
    if entry.model_type == "resnet":
        return {**found, **RESNET}
    found |= {
        "image_size": entry.image_size[0],
        "patch_size": entry.patch_size,
        "num_hidden_layers": entry.num_layers,
        "num_attention_heads": entry.num_heads,
        "hidden_size": 64 * entry.num_heads,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6 if entry.model_type.startswith("dinov") else 1e-12,
    }
    if not entry.model_type.startswith("dinov2"):
        found["intermediate_size"] = 256 * entry.num_heads
    return found | PARTICULAR.get(entry.model_type, {})


def small(entry: ModelSpec) -> dict[str, Any]:
    """The same with small numbers, and few classes."""
    values = {key: SMALL.get(key, value) for key, value in config(entry).items()}
    return values | (_classes(list(tiny.LABELS)) if entry.expected_classes else {})


def _classes(names: list[str]) -> dict[str, Any]:
    if not names:
        return {}
    return {
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }


def build(values: dict[str, Any]) -> PreTrainedModel:
    """The network of a configuration, with random weights."""
    architecture, model_type = values["architectures"][0], values["model_type"]
    known: Any = ViTHybridConfig if model_type == "vit-hybrid" else transformers.CONFIG_MAPPING[model_type]
    options = {"add_pooling_layer": False} if architecture in _WITH_POOLER else {}
    made: Any = _CLASSES[architecture]
    network: PreTrainedModel = made(known.from_dict(values), **options).eval()
    return network


def encoder(network: Any) -> Any:
    """The module that returns the tokens; DINOv3's base model is only part of it."""
    return network if isinstance(network, transformers.DINOv3ViTModel) else network.base_model


def test_the_table_names_the_architectures_that_the_loader_takes() -> None:
    assert sorted(configs.ARCHITECTURES) == sorted(_CLASSES)
    assert {entry.model_type for entry in OFFICIAL.values()} <= set(configs.FAMILY_OF)


@pytest.mark.thorough
@ENTRIES
def test_an_entry_is_what_its_architecture_is(entry: ModelSpec) -> None:
    values = {**config(entry), "mask_ratio": 0.0}
    with torch.device("meta"):
        network = build(values)
    with torch.no_grad():
        pixels = torch.zeros(1, 3, *entry.image_size, device="meta")
        features = encoder(network)(pixels).last_hidden_state
    assert sum(weights.numel() for weights in network.parameters()) == entry.parameters
    assert entry.bytes == 4 * entry.parameters
    rows, columns = entry.patch_grid
    if entry.model_type == "resnet":
        assert features.shape == (1, 2048, rows, columns)
        assert (entry.num_layers, entry.num_heads, entry.num_prefix_tokens) == (0, 0, 0)
    else:
        assert features.shape == (1, entry.num_prefix_tokens + rows * columns, network.config.hidden_size)


def test_an_entry_says_all_that_is_shown_of_a_model() -> None:
    available = available_models()
    for entry in OFFICIAL.values():
        assert entry.family in FAMILIES
        assert entry.license in ("apache-2.0", "dinov3-license")
        assert entry.link == f"https://huggingface.co/{entry.name}"
        assert bool(entry.readouts) == ("attention" in entry.methods) == (entry.family != "CNN")
        assert bool(entry.gated) == entry.name.startswith("facebook/dinov3")
        assert (entry.source, entry.ready, entry.labels) == ("hub", False, ())
        assert entry.num_classes == entry.expected_classes in (0, 1000, 21841)
        assert [spec for spec in available if spec.name == entry.name] == [entry]


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with pytest.MonkeyPatch.context() as patch, FakeHub() as hub:
        for name, value in (("NO_PROXY", "127.0.0.1"), ("HF_ENDPOINT", hub.endpoint), ("HF_TOKEN", "hf_good")):
            patch.setenv(name, value)
        close_session()
        yield hub
        close_session()


@pytest.mark.thorough
@ENTRIES
def test_an_entry_comes_from_the_hub_and_answers_as_in_transformers(
    entry: ModelSpec, hub: FakeHub, photo: Callable[..., Photo], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    folder, values = tmp_path / "repository", small(entry)
    network = build(values)
    with torch.no_grad():
        for weights in network.parameters():
            weights += 0.1 * torch.randn(weights.shape)
    network.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor(entry)))
    hub.add(entry.name, folder, gated=bool(entry.gated))

    spec = download(entry.name)
    assert spec == get_spec(entry.name)
    kept = ("name", "family", "model_type", "image_size", "patch_size", "patch_grid", "num_prefix_tokens", "readouts")
    kept += ("license", "gated", "methods", "pooling", "reconstructs", "link", "processor")
    assert {name: getattr(spec, name) for name in kept} == {name: getattr(entry, name) for name in kept}
    assert spec.labels == (tiny.LABELS if entry.expected_classes else ())
    assert spec.parameters == sum(weights.numel() for weights in network.parameters())

    pixels = preprocess([photo(101, 67)], spec.processor).pixel_values
    model = load_model(spec, torch.device("cpu"), torch.float32)
    with torch.no_grad(), record_attention(Capture(tokens=(0,) if spec.readouts else ())) as record:
        logits = model(pixels)
    # MAE's encoder is a ViT; transformers' own would hide patches at random.
    plain: Any = transformers.ViTModel if entry.model_type == "vit_mae" else type(network)
    options = {"add_pooling_layer": False} if plain.__name__ in _WITH_POOLER else {}
    expected = plain.from_pretrained(spec.checkpoint, **options).eval()
    encoder(expected).config._attn_implementation = "eager"
    with torch.no_grad():
        answer = expected(pixels, **({"output_attentions": True} if spec.readouts else {}))
        hidden = encoder(expected)(pixels).last_hidden_state
    if entry.expected_classes:
        torch.testing.assert_close(logits, answer.logits, atol=1e-5, rtol=0)
    else:
        assert logits is None
    if spec.readouts:
        rows = torch.stack(record.rows["class"])
        assert rows.shape[-1] == spec.num_prefix_tokens + spec.patch_grid[0] * spec.patch_grid[1]
        assert rows.std() > 1e-4, "rows that are all alike show nothing"
        torch.testing.assert_close(rows, torch.stack(answer.attentions)[:, :, :, 0], atol=1e-5, rtol=0)
    if entry.model_type == "dinov3_vit":
        return  # see below
    if entry.model_type == "resnet":
        pooled = hidden.mean(dim=(2, 3))
    elif entry.model_type == "beit":
        pooled = encoder(expected).pooler(hidden)  # its classifier reads the mean after a LayerNorm
    elif spec.pooling == "mean":
        pooled = hidden[:, spec.num_prefix_tokens :].mean(dim=1)
    else:
        pooled = hidden[:, 0]
    torch.testing.assert_close(model.features(pixels), pooled, atol=1e-5, rtol=0)


def test_the_features_of_dinov3_are_its_class_token(tiny_folder: Callable[[str], Path]) -> None:
    model = load_model(spec_from_folder(tiny_folder("dinov3")), torch.device("cpu"), torch.float32)
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.features(pixels), model.network(pixels).last_hidden_state[:, 0])


def test_the_processor_of_an_entry_is_that_of_its_file() -> None:
    for entry in OFFICIAL.values():
        assert processor_from_config(preprocessor(entry)) == entry.processor, entry.name


PIL: dict[str, Any] = {
    "ViTFeatureExtractor": transformers.ViTImageProcessorPil,
    "ViTImageProcessor": transformers.ViTImageProcessorPil,
    "DeiTFeatureExtractor": transformers.DeiTImageProcessorPil,
    "BeitFeatureExtractor": transformers.BeitImageProcessorPil,
    "BitImageProcessor": transformers.BitImageProcessorPil,
    "ViTHybridImageProcessor": transformers.BitImageProcessorPil,
    "ConvNextFeatureExtractor": transformers.ConvNextImageProcessorPil,
    # Of this one transformers has no Pillow processor: it stretches as ViT's does, with another library.
    "DINOv3ViTImageProcessorFast": transformers.ViTImageProcessorPil,
}


def kind(values: dict[str, Any]) -> str:
    return str(values.get("image_processor_type") or values.get("feature_extractor_type"))


LAYOUTS = {f"{kind(values)} {values['size']}": values for values in map(preprocessor, OFFICIAL.values())}
LAYOUTS |= {
    "ConvNext 384, not cropped": {**LAYOUTS["ConvNextFeatureExtractor 224"], "size": 384},
    "ConvNext, new spelling": {**LAYOUTS["ConvNextFeatureExtractor 224"], "size": {"shortest_edge": 256}},
    "ConvNext, another part": {**LAYOUTS["ConvNextFeatureExtractor 224"], "size": 97, "crop_pct": 0.9},
    "Bit, one number": {**LAYOUTS["BitImageProcessor {'shortest_edge': 256}"], "size": 250},
    "Bit, not cropped": {
        **LAYOUTS["BitImageProcessor {'shortest_edge': 256}"],
        "do_center_crop": False,
    },
}


@pytest.mark.thorough
@pytest.mark.parametrize("values", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_the_pixels_are_those_of_transformers_own_processor(
    photo: Callable[..., Photo], values: dict[str, Any]
) -> None:
    ours, given = processor_from_config(values), {key: value for key, value in values.items() if value is not None}
    stock = PIL[kind(values)](**given)
    bytes_alone = PIL[kind(values)](**{**given, "do_rescale": False, "do_normalize": False})
    for size in ((301, 203), (203, 301), (40, 33), (384, 384)):
        image = photo(*size)
        wanted = stock(image.image, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(preprocess([image], ours).pixel_values, wanted, atol=1e-6, rtol=0)
        raw = bytes_alone(image.image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        assert np.array_equal(np.asarray(resize_and_crop(image.image, ours)[0]), raw), size
