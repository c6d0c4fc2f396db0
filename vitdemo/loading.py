"""ModelSpec to a model that is ready to run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from vitdemo.capture import TAP
from vitdemo.errors import CheckpointError
from vitdemo.nn.hybrid import ViTHybridForImageClassification
from vitdemo.registry import PROBE_FILE, read_json
from vitdemo.types import ModelSpec

_LOAD_LOCK = threading.Lock()
"""`from_pretrained` patches module globals while it runs, so that two of them must never overlap."""

_CLASSES: dict[str, type[transformers.PreTrainedModel]] = {
    "ViTForImageClassification": transformers.ViTForImageClassification,
    "ViTModel": transformers.ViTModel,
    "DeiTModel": transformers.DeiTModel,
    "BeitModel": transformers.BeitModel,
    "DeiTForImageClassificationWithTeacher": transformers.DeiTForImageClassificationWithTeacher,
    "BeitForImageClassification": transformers.BeitForImageClassification,
    "ViTHybridForImageClassification": ViTHybridForImageClassification,
    "ResNetForImageClassification": transformers.ResNetForImageClassification,
    # ViTMAE itself shuffles and drops patches; its encoder is a ViT.
    "ViTMAEForPreTraining": transformers.ViTModel,
}


class Classifier(nn.Module):
    """A network and, where it has no classifier of its own, the linear probe that stands in."""

    def __init__(self, network: transformers.PreTrainedModel, spec: ModelSpec, probe: nn.Linear | None = None) -> None:
        super().__init__()
        self.network = network
        self.spec = spec
        self.probe = probe

    def forward(self, pixel_values: Tensor) -> Tensor | None:
        """`[B, 3, H, W]` to logits `[B, K]`, or None without classifier and probe."""
        outputs = self.network(pixel_values, **self._options(pixel_values))
        if self.probe is not None:
            logits: Tensor = self.probe(self._pooled(outputs))
            return logits
        return getattr(outputs, "logits", None)

    def features(self, pixel_values: Tensor) -> Tensor:
        """`[B, D]`: one vector a picture, of the kind that the family's classifier reads."""
        return self._pooled(self.network.base_model(pixel_values, **self._options(pixel_values)))

    def _pooled(self, outputs: Any) -> Tensor:
        if self.spec.model_type == "resnet":
            pooled: Tensor = outputs.pooler_output.flatten(1)
            return pooled
        tokens: Tensor = outputs.last_hidden_state
        if self.spec.pooling == "mean":
            return tokens[:, self.spec.num_prefix_tokens :].mean(dim=1)
        return tokens[:, 0]

    def _options(self, pixel_values: Tensor) -> dict[str, bool]:
        """BEiT fits its position bias to any input by itself; the others must be asked to fit their embeddings."""
        config = self.network.config
        if config.model_type == "resnet":
            return {}
        size = config.image_size if isinstance(config.image_size, list | tuple) else (config.image_size,) * 2
        if config.model_type == "beit" or tuple(pixel_values.shape[2:]) == tuple(size):
            return {}
        return {"interpolate_pos_encoding": True}


def load_model(spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> Classifier:
    """Load weights, in evaluation mode, with the attention tap in place.

    Raises:
        CheckpointError: files are damaged, or lack weights that the model needs.
    """
    folder = Path(spec.checkpoint)
    with _LOAD_LOCK:
        network = _load_network(spec, folder, dtype)
        probe = _load_probe(spec, folder / PROBE_FILE, getattr(network.config, "hidden_size", 0), dtype)
    if spec.readouts:
        network.set_attn_implementation(TAP)
    return Classifier(network, spec, probe).to(device).eval()


def _load_network(spec: ModelSpec, folder: Path, dtype: torch.dtype) -> transformers.PreTrainedModel:
    architecture = (read_json(folder / "config.json").get("architectures") or [""])[0]
    if architecture not in _CLASSES:
        raise CheckpointError(
            f"{spec.name} is a {architecture or 'model without an architecture'}, which cannot be loaded."
        )
    # Encoders come with a pooler that these checkpoints need not have.
    encoder = _CLASSES[architecture] in (transformers.ViTModel, transformers.DeiTModel, transformers.BeitModel)
    options: dict[str, Any] = {"add_pooling_layer": False} if encoder else {}
    # Not a bar a model on every console, and no table of the weights that this family does not need.
    transformers.logging.disable_progress_bar()
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    # With `output_loading_info` it returns a pair, which its annotation does not say.
    load: Callable[..., Any] = _CLASSES[architecture].from_pretrained
    try:
        network, info = load(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True, **options
        )
    except Exception as error:  # files and configs can be wrong in some ten kinds of exception
        raise CheckpointError(f"The checkpoint of {spec.name} is damaged.") from error
    finally:
        transformers.logging.set_verbosity(verbosity)
    lacking = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if lacking:
        # transformers would go on with random numbers in their place.
        raise CheckpointError(
            f"The checkpoint of {spec.name} lacks {len(lacking)} of its weights, such as {lacking[0]}."
        )
    assert isinstance(network, transformers.PreTrainedModel)
    return network


def _load_probe(spec: ModelSpec, path: Path, width: int, dtype: torch.dtype) -> nn.Linear | None:
    if not path.exists():
        return None
    probe = nn.Linear(width, len(spec.labels), dtype=dtype)
    try:
        probe.load_state_dict(load_file(path))
    except Exception as error:
        raise CheckpointError(f"The linear probe of {spec.name} is damaged.") from error
    return probe
