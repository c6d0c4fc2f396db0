"""The hybrid network equals that of transformers 4: `golden/make_vit_hybrid.py` made the checkpoint and the values."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests import tiny
from vitdemo.models.attention_tap import record_attention
from vitdemo.models.loading import load_model
from vitdemo.models.nn.hybrid import ViTHybridForImageClassification
from vitdemo.registry import spec_from_folder
from vitdemo.types import Capture, ModelSpec

FOLDER = Path(__file__).parent / "golden" / "vit-hybrid"

OLD_BACKBONE = {
    "_name_or_path": "",
    "architectures": None,
    "depths": [1, 1, 2],
    "drop_path_rate": 0.0,
    "embedding_dynamic_padding": True,
    "embedding_size": 16,
    "global_padding": "SAME",
    "hidden_act": "relu",
    "hidden_sizes": [32, 48, 64],
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "is_decoder": False,
    "layer_type": "bottleneck",
    "max_length": 20,
    "model_type": "bit",
    "num_beams": 1,
    "num_channels": 3,
    "num_groups": 8,
    "out_features": ["stage3"],
    "output_attentions": False,
    "output_stride": 32,
    "pruned_heads": {},
    "return_dict": True,
    "stage_names": ["stem", "stage1", "stage2", "stage3"],
    "tie_word_embeddings": True,
    "torch_dtype": None,
    "torchscript": False,
    "transformers_version": "4.26.1",
    "use_bfloat16": False,
    "width_factor": 1,
}
"""As transformers 4.26 wrote it, which had no `out_indices` and kept the fields of generation."""


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(FOLDER / "golden.safetensors")


def _logits_and_rows(spec: ModelSpec, pixels: Tensor) -> tuple[Tensor, Tensor]:
    model = load_model(spec, torch.device("cpu"), torch.float32)
    with torch.no_grad(), record_attention(Capture(tokens=(0,))) as record:
        logits = model(pixels)
    return logits, torch.stack(record.rows["class"])


def test_logits_and_attention_of_the_class_token_are_those_of_transformers_4(golden: dict[str, Tensor]) -> None:
    logits, rows = _logits_and_rows(spec_from_folder(FOLDER), golden["pixels"])
    torch.testing.assert_close(logits, golden["logits"], atol=1e-5, rtol=0)
    torch.testing.assert_close(rows, golden["class_rows"], atol=1e-5, rtol=0)


def test_the_golden_values_depend_on_the_picture_and_on_the_place(golden: dict[str, Tensor]) -> None:
    # Parity of constants would prove nothing.
    assert (golden["logits"][0] - golden["logits"][1]).abs().max() > 0.5
    assert golden["class_rows"].shape == (2, 2, 4, 17)
    assert (golden["class_rows"].std(dim=-1) > 0.02).all()


def test_every_weight_of_transformers_4_is_loaded_and_none_is_left_over() -> None:
    _, info = ViTHybridForImageClassification.from_pretrained(FOLDER, output_loading_info=True)
    assert not any(info.values()), info


@pytest.mark.parametrize("loaded", [True, False], ids=["loaded", "built"])
def test_weights_are_written_under_the_names_of_transformers_4(tmp_path: Path, loaded: bool) -> None:
    network = ViTHybridForImageClassification.from_pretrained(FOLDER)
    if not loaded:
        built = ViTHybridForImageClassification(network.config)
        built.load_state_dict(network.state_dict())
        network = built
    network.save_pretrained(tmp_path)
    before, after = load_file(FOLDER / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert set(after) == set(before)
    assert all(torch.equal(after[name], weights) for name, weights in before.items())


def test_no_golden_weight_is_one_that_a_fresh_network_has() -> None:
    for name, weights in load_file(FOLDER / "model.safetensors").items():
        assert not ((weights == 0) | (weights == 1)).any(), name


def test_the_config_of_transformers_4_is_read_right() -> None:
    spec = spec_from_folder(FOLDER)
    assert (spec.model_type, spec.image_size, spec.patch_size) == ("vit-hybrid", (64, 64), 16)
    assert (spec.patch_grid, spec.num_prefix_tokens, spec.readouts) == ((4, 4), 1, ("class",))
    assert (spec.num_layers, spec.num_heads) == (2, 4)
    assert spec.labels[:4] == ("tench, Tinca tinca", "goldfish", "crane", "crane, bird")
    assert (spec.processor.resize, spec.processor.crop, spec.processor.resample) == (64, (64, 64), 3)


def test_a_config_of_the_time_of_the_official_checkpoint_gives_the_same(
    tmp_path: Path, golden: dict[str, Tensor]
) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "old")
    unknown_then = ("backbone", "backbone_kwargs", "use_pretrained_backbone", "use_timm_backbone", "dtype")
    tiny.edit_json(
        folder / "config.json",
        backbone_config=OLD_BACKBONE,
        torch_dtype="float32",
        **dict.fromkeys(unknown_then),
    )
    spec = spec_from_folder(folder)
    assert (spec.patch_size, spec.patch_grid) == (16, (4, 4))
    logits, rows = _logits_and_rows(spec, golden["pixels"])
    torch.testing.assert_close(logits, golden["logits"], atol=1e-5, rtol=0)
    torch.testing.assert_close(rows, golden["class_rows"], atol=1e-5, rtol=0)
