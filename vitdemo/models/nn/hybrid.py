"""Hybrid ViT: the patches of the ViT are cells of a BiT convolutional network's feature map.

Dosovitskiy et al. 2021, arXiv:2010.11929, section 3.1 "Hybrid Architecture". Reads and writes the layout of the official
`google/vit-hybrid-base-bit-384`: `vit.embeddings.patch_embeddings.{backbone,projection}`, the ViT, `classifier`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import BitBackbone, BitConfig, PreTrainedModel, ViTConfig, ViTModel
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.modeling_outputs import ImageClassifierOutput

# transformers renames the `layers` of a ViT to `encoder.layer` on saving, and those of the backbone with them, which the
# official file calls `layers`. This mapping, last on saving and first on loading, undoes it for the backbone.
register_checkpoint_conversion_mapping(
    "ViTHybridForImageClassification",
    [WeightRenaming(r"stages\.(\d+)\.layers\.", r"stages.\1.encoder.layer.")],
    overwrite=True,
)


class ViTHybridConfig(ViTConfig):
    """A `ViTConfig` with `backbone_config`; `patch_size` is in cells of the feature map, usually 1.

    `backbone_featmap_shape`, `[1, channels, rows, columns]`, is not read here: transformers 4 cannot load a hybrid without it.
    """

    model_type = "vit-hybrid"
    sub_configs: ClassVar[dict[str, Any]] = {"backbone_config": BitConfig}

    backbone_config: dict[str, Any] | BitConfig | None = None
    patch_size: int = 1
    backbone_featmap_shape: list[int] | tuple[int, ...] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.backbone_config is None:
            self.backbone_config = {
                "global_padding": "same",
                "layer_type": "bottleneck",
                "depths": [3, 4, 9],
                "out_features": ["stage3"],
                "embedding_dynamic_padding": True,
            }
        if isinstance(self.backbone_config, dict):
            values = {key: value for key, value in self.backbone_config.items() if key != "model_type"}
            self.backbone_config = BitConfig(**values)
        super().__post_init__(**kwargs)
        if self.backbone_featmap_shape is None:
            size = self.image_size
            sides = (size, size) if isinstance(size, int) else size
            # "SAME" padding: a cell that begins in the picture is whole.
            cells = [-(-int(side) // self.feature_stride) for side in sides]
            self.backbone_featmap_shape = [1, self._channels, *cells]

    @property
    def _channels(self) -> int:
        backbone = self.backbone_config
        assert isinstance(backbone, BitConfig)
        return int(
            [backbone.embedding_size, *backbone.hidden_sizes][backbone.stage_names.index(backbone.out_features[-1])]
        )

    @property
    def feature_stride(self) -> int:
        """Side of a feature map cell in input pixels: the stem halves twice, each stage but the first once."""
        backbone = self.backbone_config
        assert isinstance(backbone, BitConfig)
        stage = backbone.stage_names.index(backbone.out_features[-1])
        return int(min(4 * 2 ** max(stage - 1, 0), backbone.output_stride))


class ViTHybridPatchEmbeddings(nn.Module):
    """`[B, 3, H, W]` pixels to `[B, h * w, D]` tokens, one per `patch_size` square of the last feature map."""

    def __init__(self, config: ViTHybridConfig) -> None:
        super().__init__()
        backbone = config.backbone_config
        assert isinstance(backbone, BitConfig)
        self.backbone = BitBackbone(backbone)
        self.projection = nn.Conv2d(
            self.backbone.channels[-1], config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        features = self.backbone(pixel_values).feature_maps[-1]
        tokens: Tensor = self.projection(features).flatten(2).transpose(1, 2)
        return tokens


class ViTHybridForImageClassification(PreTrainedModel):
    """A linear classifier on the class token of a ViT whose patches are cells of a CNN's feature map."""

    config_class = ViTHybridConfig
    base_model_prefix = "vit"
    main_input_name = "pixel_values"
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: ViTHybridConfig) -> None:
        super().__init__(config)
        # ViTModel derives the number of position embeddings from image and patch size, here in input pixels.
        vit_fields = {name: getattr(config, name) for name in ViTConfig.__annotations__}
        vit_fields["patch_size"] = config.patch_size * config.feature_stride
        self.vit = ViTModel(ViTConfig(**vit_fields), add_pooling_layer=False)
        self.vit.embeddings.register_module("patch_embeddings", ViTHybridPatchEmbeddings(config))
        self.classifier = nn.Linear(config.hidden_size, len(config.id2label or {}))
        self.post_init()

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> ImageClassifierOutput:
        """`[B, 3, H, W]` pixels to logits `[B, K]`."""
        outputs = self.vit(pixel_values, **kwargs)
        logits = self.classifier(outputs.last_hidden_state[:, 0])
        return ImageClassifierOutput(logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions)
