"""Tiny random networks of every family, and checkpoint folders of them. `conftest.py` makes fixtures of these."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from vitdemo.models.nn.hybrid import ViTHybridConfig, ViTHybridForImageClassification

LABELS = ("apple", "easy face", "tench, Tinca tinca", "crane", "crane, bird", "cup", "sunflower")

KINDS = (
    "vit",
    "dino",
    "deit",
    "deit-plain",
    "beit",
    "beit-absolute",
    "beit-shared",
    "beit-class",
    "hybrid",
    "hybrid-stage2",
    "dinov2",
    "dinov2-head",
    "dinov2-registers",
    "dinov3",
    "mae",
    "msn",
    "ijepa",
)
"""Every way in which the families that can be loaded differ in their attention."""

HEADLESS = ("dino", "dinov2", "dinov2-registers", "dinov3", "mae")
"""Those without a classifier."""

_VIT: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "id2label": dict(enumerate(LABELS)),
    "label2id": {label: index for index, label in enumerate(LABELS)},
}
_BEIT: dict[str, dict[str, bool]] = {
    "beit": {"use_relative_position_bias": True},
    "beit-absolute": {"use_absolute_position_embeddings": True},
    "beit-shared": {"use_shared_relative_position_bias": True},
    "beit-class": {"use_relative_position_bias": True, "use_mean_pooling": False},
}
_OTHERS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "dinov2": (transformers.Dinov2Model, transformers.Dinov2Config, {}),
    "dinov2-head": (transformers.Dinov2ForImageClassification, transformers.Dinov2Config, {}),
    "dinov2-registers": (
        transformers.Dinov2WithRegistersModel,
        transformers.Dinov2WithRegistersConfig,
        {"num_register_tokens": 4},
    ),
    "dinov3": (
        transformers.DINOv3ViTModel,
        transformers.DINOv3ViTConfig,
        {"num_register_tokens": 4, "hidden_size": 32},
    ),
    "mae": (
        transformers.ViTMAEForPreTraining,
        transformers.ViTMAEConfig,
        {
            "decoder_hidden_size": 16,
            "decoder_num_hidden_layers": 1,
            "decoder_num_attention_heads": 2,
            "decoder_intermediate_size": 32,
            "norm_pix_loss": True,
        },
    ),
    "msn": (transformers.ViTMSNForImageClassification, transformers.ViTMSNConfig, {}),
    "ijepa": (transformers.IJepaForImageClassification, transformers.IJepaConfig, {}),
}


def backbone(stage: int = 3, **changes: Any) -> dict[str, Any]:
    """The configuration of a small BiT whose last stage is `stage`: a stride of 16 at the third."""
    return {
        "model_type": "bit",
        "embedding_size": 32,
        "num_groups": 8,
        "hidden_sizes": [32, 64, 64, 64][:stage],
        "depths": [1] * stage,
        "layer_type": "bottleneck",
        "global_padding": "SAME",
        "out_features": [f"stage{stage}"],
        **changes,
    }


def network(kind: str, **changes: Any) -> PreTrainedModel:
    """A random network, the same for the same arguments.

    Every weight is random: those that start as zeros, such as BEiT's position bias, would hide what they do.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        made = _made(kind, **changes)
        with torch.no_grad():
            for weights in made.parameters():
                weights += 0.3 * torch.randn(weights.shape)
    return made.eval()


def _made(kind: str, **changes: Any) -> PreTrainedModel:
    made: PreTrainedModel
    if kind == "vit":
        made = transformers.ViTForImageClassification(transformers.ViTConfig(**{**_VIT, **changes}))
    elif kind == "dino":
        made = transformers.ViTModel(transformers.ViTConfig(**{**_VIT, **changes}), add_pooling_layer=False)
    elif kind == "deit":
        made = transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**{**_VIT, **changes}))
    elif kind == "deit-plain":
        made = transformers.DeiTForImageClassification(transformers.DeiTConfig(**{**_VIT, **changes}))
    elif kind in _OTHERS:
        network_class, config_class, fields = _OTHERS[kind]
        common = {key: value for key, value in _VIT.items() if key != "intermediate_size" or "dinov2" not in kind}
        made = network_class(config_class(**{**common, **fields, **changes}))
    elif kind == "resnet":
        fields = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": 7, **changes}
        made = transformers.ResNetForImageClassification(transformers.ResNetConfig(**fields))
    elif kind in _BEIT:
        config = transformers.BeitConfig(**{**_VIT, **_BEIT[kind], "drop_path_rate": 0.0, **changes})
        made = transformers.BeitForImageClassification(config)
    else:
        stage = 2 if kind == "hybrid-stage2" else 3
        fields = {**_VIT, "patch_size": 1, "image_size": 64, "backbone_config": backbone(stage), **changes}
        made = ViTHybridForImageClassification(ViTHybridConfig(**fields))
    return made


def save(folder: Path, kind: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """Write a checkpoint folder as `spec_from_folder` and `load_model` want it; returns the folder."""
    made = network(kind, **changes)
    made.to(dtype).save_pretrained(folder)
    edit_json(folder / "config.json", vitdemo={"revision": "tiny"})
    side = getattr(made.config, "image_size", 32)
    size = {"height": side, "width": side} if isinstance(side, int) else {"height": side[0], "width": side[1]}
    processor = {"size": size, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    """Set entries of a JSON file; None removes one."""
    values = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    kept = {key: value for key, value in values.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")
