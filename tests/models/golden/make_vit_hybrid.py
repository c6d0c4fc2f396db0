"""Makes `vit-hybrid/`: a small random hybrid ViT as the last transformers that has one saves it, and what it answers.

transformers 5 has no hybrid ViT. 4.57.6 is the last release with it, so this needs an environment of its own:

    python -m venv ../tf4
    ../tf4/bin/pip install transformers==4.57.6 torch==2.13.0 pillow
    ../tf4/bin/python tests/models/golden/make_vit_hybrid.py

With a folder as its argument it writes there, instead, a random network of the full size of
`google/vit-hybrid-base-bit-384`. `golden.safetensors` holds

    pixels      [B, 3, S, S]
    logits      [B, K]
    class_rows  [L, B, H, N], the attention of the class token in each layer
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

BACKBONE = {
    "global_padding": "same",
    "layer_type": "bottleneck",
    "depths": (3, 4, 9),
    "out_features": ["stage3"],
    "embedding_dynamic_padding": True,
}
"""As the official checkpoint was converted."""

LABELS = ("tench, Tinca tinca", "goldfish", "crane", "crane, bird", "cup", "sunflower", "daisy")


def main() -> None:
    if len(sys.argv) > 1:
        save(Path(sys.argv[1]), {"backbone_config": BACKBONE, "image_size": 384, "num_labels": 1000})
        return
    small = {"depths": (1, 1, 2), "embedding_size": 16, "hidden_sizes": [32, 48, 64], "num_groups": 8}
    config = {
        "backbone_config": {**BACKBONE, **small},
        "backbone_featmap_shape": [1, 64, 4, 4],
        "image_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "id2label": dict(enumerate(LABELS)),
        "label2id": {label: index for index, label in enumerate(LABELS)},
    }
    save(Path(__file__).parent / "vit-hybrid", config)


def save(folder: Path, fields: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(7)
    backbone = transformers.BitConfig(**fields["backbone_config"])
    config = transformers.ViTHybridConfig(**{**fields, "backbone_config": backbone})
    # The initialisation of this release fails for want of a mask token; every weight is set here anyhow.
    with transformers.modeling_utils.no_init_weights():
        network = transformers.ViTHybridForImageClassification(config)
    randomise(network, generator)
    network.save_pretrained(folder)
    side = config.image_size
    transformers.ViTHybridImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ).save_pretrained(folder)

    loaded = transformers.ViTHybridForImageClassification.from_pretrained(folder, attn_implementation="eager")
    pixels = pictures(side, generator)
    with torch.no_grad():
        outputs = loaded.eval()(pixels, output_attentions=True)
    rows = torch.stack([attention[:, :, 0] for attention in outputs.attentions])
    save_file({"pixels": pixels, "logits": outputs.logits, "class_rows": rows}, folder / "golden.safetensors")


def randomise(network: torch.nn.Module, generator: torch.Generator) -> None:
    """No weight is left at 0 or 1, and those before a norm are as small as real ones: its epsilon counts."""
    assert not list(network.buffers())
    with torch.no_grad():
        for name, weights in network.named_parameters():
            noise = torch.randn(weights.shape, generator=generator)
            if weights.ndim == 1 and name.endswith("weight"):
                weights.copy_(1 + 0.3 * noise)
            elif "embeddings" in name and "norm" not in name:
                weights.copy_(0.02 * noise)
            elif weights.ndim == 1:
                weights.copy_(0.3 * noise)
            else:
                weights.copy_(noise * (2 / weights.shape[1]) ** 0.5)


def pictures(side: int, generator: torch.Generator) -> Tensor:
    """Two pictures of coloured spots with noise, from -1 to 1."""
    spots = torch.randn(2, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(spots, (side, side), mode="bilinear")
    return (smooth + 0.1 * torch.randn(smooth.shape, generator=generator)).clamp(-1, 1)


if __name__ == "__main__":
    main()
