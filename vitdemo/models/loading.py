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

from vitdemo.errors import CheckpointError
from vitdemo.models.attention_tap import TAP
from vitdemo.models.nn.hybrid import ViTHybridForImageClassification
from vitdemo.models.nn.mae import accept_masks, reconstruct
from vitdemo.models.position_embeddings import accept_any_grid
from vitdemo.registry import ARCHITECTURES, PROBE_FILE, read_json, remove_damaged
from vitdemo.types import ModelSpec

_LOAD_LOCK = threading.Lock()
"""`from_pretrained` patches module globals while it runs, so that two of them must never overlap."""

_CLASSES: dict[str, type[transformers.PreTrainedModel]] = {
    # transformers 5 no longer has the hybrid.
    name: ViTHybridForImageClassification if name.startswith("ViTHybrid") else getattr(transformers, name)
    for name in ARCHITECTURES
}

_WITH_POOLER = ("ViTModel", "DeiTModel", "BeitModel", "IJepaModel")
"""Encoders that come with a pooler, which checkpoints need not have, and which nothing here reads."""

_ANY_SIZE = ("beit", "dinov2", "dinov2_with_registers", "dinov3_vit", "resnet")
"""Types that fit their positions to any input by themselves; the others must be asked to."""


class Classifier(nn.Module):
    """A network and, where it has no classifier of its own, the linear probe that stands in."""

    def __init__(self, network: transformers.PreTrainedModel, spec: ModelSpec, probe: nn.Linear | None = None) -> None:
        super().__init__()
        self.network = network
        self.spec = spec
        self.probe = probe

    @property
    def body(self) -> nn.Module:
        """What answers a picture: the network, or the encoder alone of one that also has a decoder."""
        decoder = isinstance(self.network, transformers.ViTMAEForPreTraining)
        return self.network.base_model if decoder else self.network

    def forward(self, pixel_values: Tensor) -> Tensor | None:
        """`[B, 3, H, W]` to logits `[B, K]`, or None without classifier and probe."""
        outputs = self.body(pixel_values, **self._options(pixel_values))
        if self.probe is not None:
            logits: Tensor = self.probe(self._pooled(outputs))
            return logits
        return getattr(outputs, "logits", None)

    def reconstruct(self, pixel_values: Tensor, hidden: Tensor) -> Tensor:
        """See `vitdemo.models.nn.mae.reconstruct`; only for a model that reconstructs."""
        assert isinstance(self.network, transformers.ViTMAEForPreTraining)
        return reconstruct(self.network, pixel_values, hidden)

    def features(self, pixel_values: Tensor) -> Tensor:
        """`[B, D]`: one vector a picture, of the kind that the family's classifier reads."""
        # transformers' `base_model` of a bare DINOv3 is its encoder, without the embeddings.
        bare = type(self.network).__name__.endswith("Model")
        encoder = self.network if bare else self.network.base_model
        return self._pooled(encoder(pixel_values, **self._options(pixel_values)))

    def _pooled(self, outputs: Any) -> Tensor:
        if self.spec.model_type == "resnet":
            pooled: Tensor = outputs.pooler_output.flatten(1)
            return pooled
        tokens: Tensor = outputs.last_hidden_state
        if self.spec.pooling == "mean":
            return tokens[:, self.spec.num_prefix_tokens :].mean(dim=1)
        return tokens[:, 0]

    def _options(self, pixel_values: Tensor) -> dict[str, bool]:
        if self.spec.model_type in _ANY_SIZE:
            return {}
        size = self.network.config.image_size
        trained = tuple(size) if isinstance(size, list | tuple) else (size, size)
        return {} if tuple(pixel_values.shape[2:]) == trained else {"interpolate_pos_encoding": True}


def load_model(spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> Classifier:
    """Load weights, in evaluation mode, with the attention tap in place.

    Raises:
        CheckpointError: files are damaged, or lack weights that the model needs.
    """
    if not spec.ready:
        raise CheckpointError(f"{spec.name} is not on this machine.")
    folder = Path(spec.checkpoint)
    try:
        with _LOAD_LOCK:
            network = _load_network(spec, folder)
            probe = _load_probe(spec, folder / PROBE_FILE, getattr(network.config, "hidden_size", 0))
    except CheckpointError as error:
        if spec.source == "hub" and remove_damaged(folder):
            raise CheckpointError(
                f"The checkpoint of {spec.name} was damaged and is removed. Download it again."
            ) from error
        raise
    if spec.readouts:
        network.set_attn_implementation(TAP)
    accept_any_grid(network)
    if isinstance(network, transformers.ViTMAEForPreTraining):
        accept_masks(network)
    model = Classifier(network, spec, probe)
    _cast(model, dtype)
    return model.to(device).eval()


def _load_network(spec: ModelSpec, folder: Path) -> transformers.PreTrainedModel:
    architecture = (read_json(folder / "config.json").get("architectures") or [""])[0]
    if architecture not in _CLASSES:
        raise CheckpointError(
            f"{spec.name} is a {architecture or 'model without an architecture'}, which cannot be loaded. "
            f"Architectures that can: {', '.join(_CLASSES)}."
        )
    options: dict[str, Any] = {"add_pooling_layer": False} if architecture in _WITH_POOLER else {}
    # Not a bar a model on every console, and no table of the weights that this family does not need.
    transformers.logging.disable_progress_bar()
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    # With `output_loading_info` it returns a pair, which its annotation does not say.
    load: Callable[..., Any] = _CLASSES[architecture].from_pretrained
    try:
        # In float32: any other dtype would be that of the whole process while it loads, forwards in other threads included.
        network, info = load(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=not spec.pickled,
            weights_only=True,
            output_loading_info=True,
            **options,
        )
    except (MemoryError, torch.OutOfMemoryError):
        raise  # the file is fine
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


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    """What a checkpoint holds changes its type; what is only computed, such as DINOv3's frequencies, keeps its precision."""
    for tensor in model.state_dict(keep_vars=True).values():
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)


def _load_probe(spec: ModelSpec, path: Path, width: int) -> nn.Linear | None:
    if not path.exists():
        return None
    probe = nn.Linear(width, len(spec.labels))
    try:
        probe.load_state_dict(load_file(path))
    except Exception as error:
        raise CheckpointError(f"The linear probe of {spec.name} is damaged.") from error
    return probe
