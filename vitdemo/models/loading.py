"""Loading of the model of a `ModelSpec`."""

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
"""`from_pretrained` is not thread-safe: it patches module globals while it runs."""

_CLASSES: dict[str, type[transformers.PreTrainedModel]] = {
    # transformers 5 has dropped the hybrid.
    name: ViTHybridForImageClassification if name.startswith("ViTHybrid") else getattr(transformers, name)
    for name in ARCHITECTURES
}

_WITH_POOLER = ("ViTModel", "DeiTModel", "BeitModel", "IJepaModel")
"""Encoders with an optional pooler, which checkpoints may lack and which is not used."""

_ANY_SIZE = ("beit", "dinov2", "dinov2_with_registers", "dinov3_vit", "resnet")
"""Types that always interpolate their position embeddings; the others need `interpolate_pos_encoding`."""


class Classifier(nn.Module):
    """A network and, if it has no classifier, a linear probe."""

    def __init__(self, network: transformers.PreTrainedModel, spec: ModelSpec, probe: nn.Linear | None = None) -> None:
        super().__init__()
        self.network = network
        self.spec = spec
        self.probe = probe

    @property
    def body(self) -> nn.Module:
        """The network, or only the encoder of a masked autoencoder."""
        decoder = isinstance(self.network, transformers.ViTMAEForPreTraining)
        return self.network.base_model if decoder else self.network

    def forward(self, pixel_values: Tensor) -> Tensor | None:
        """`[B, 3, H, W]` to logits `[B, K]`, or None without a classifier or probe."""
        outputs = self.body(pixel_values, **size_options(self.network, pixel_values))
        if self.probe is not None:
            logits: Tensor = self.probe(self.pooled(outputs))
            return logits
        return getattr(outputs, "logits", None)

    def reconstruct(self, pixel_values: Tensor, hidden: Tensor) -> Tensor:
        """See `vitdemo.models.nn.mae.reconstruct`; for masked autoencoders only."""
        assert isinstance(self.network, transformers.ViTMAEForPreTraining)
        return reconstruct(self.network, pixel_values, hidden)

    def features(self, pixel_values: Tensor) -> Tensor:
        """`[B, D]`: one vector per image, as read by a linear probe."""
        return self.pooled(self.encoder(pixel_values, **size_options(self.network, pixel_values)))

    @property
    def encoder(self) -> nn.Module:
        """The network without its classifier or decoder."""
        # transformers' `base_model` of a bare DINOv3 is its encoder without the embeddings.
        bare = type(self.network).__name__.endswith("Model")
        return self.network if bare else self.network.base_model

    def pooled(self, outputs: Any) -> Tensor:
        """`[B, D]`, of the encoder's outputs."""
        # A BEiT with a pooler normalises the mean after it was taken; its classifier reads that.
        pooler = outputs.get("pooler_output") if self.spec.model_type in ("resnet", "beit") else None
        if pooler is not None:
            pooled: Tensor = pooler.flatten(1)
            return pooled
        tokens: Tensor = outputs.last_hidden_state
        if self.spec.pooling == "mean":
            return tokens[:, self.spec.num_prefix_tokens :].mean(dim=1)
        return tokens[:, 0]


def size_options(network: transformers.PreTrainedModel, pixel_values: Tensor) -> dict[str, bool]:
    """What a forward pass is to be told so that it takes `[B, 3, H, W]` of another size than the network was built for."""
    if network.config.model_type in _ANY_SIZE:
        return {}
    size = network.config.image_size
    trained = tuple(size) if isinstance(size, list | tuple) else (size, size)
    return {} if tuple(pixel_values.shape[2:]) == trained else {"interpolate_pos_encoding": True}


def load_model(spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> Classifier:
    """Load a model in evaluation mode, with the attention tap set.

    Raises:
        CheckpointError: files are missing or damaged, or lack some of the weights.
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
    # Those trained here were interpolated without an offset.
    accept_any_grid(network, as_dino=spec.is_dino_v1)
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
    # No progress bar per model, and no report of unused weights.
    transformers.logging.disable_progress_bar()
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    # With `output_loading_info` it returns a pair, contrary to its annotation.
    load: Callable[..., Any] = _CLASSES[architecture].from_pretrained
    try:
        # In float32: loading sets the default dtype of the process, which would affect forward passes in other threads.
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
    except Exception as error:  # damaged files raise some ten kinds of exception
        raise CheckpointError(f"The checkpoint of {spec.name} is damaged.") from error
    finally:
        transformers.logging.set_verbosity(verbosity)
    missing = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if missing:
        # transformers initialises them at random.
        raise CheckpointError(
            f"The checkpoint of {spec.name} lacks {len(missing)} of its weights, such as {missing[0]}."
        )
    assert isinstance(network, transformers.PreTrainedModel)
    return network


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights, but not computed buffers such as DINOv3's RoPE frequencies."""
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
