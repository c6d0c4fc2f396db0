"""A Vision Transformer from scratch: Dosovitskiy et al. 2021, arXiv:2010.11929, in plain PyTorch.

Shapes: B batch, N tokens (class token, then patches in row-major order), H heads, D width `dim`, K classes. The network is
equivalent to transformers' `ViTForImageClassification`; the functions at the end give its weights to one.
"""

from __future__ import annotations

import copy
import re
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from vitdemo.errors import OptionError

NORM_EPS = 1e-12  # transformers' value for ViT


def cut_patches(images: Tensor, patch_size: int) -> Tensor:
    """`[B, C, H, W]` to `[B, h * w, C * patch_size ** 2]`: patches in row-major order, flattened as (channel, row, column)."""
    batch, channels, height, width = images.shape
    rows, columns = height // patch_size, width // patch_size
    squares = images.reshape(batch, channels, rows, patch_size, columns, patch_size)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, channels * patch_size**2)


class SelfAttention(nn.Module):
    """Multi-head self-attention, appendix A of the paper."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, tokens: Tensor, attentions: list[Tensor] | None = None) -> Tensor:
        """`[B, N, D]` to `[B, N, D]`; appends the attention `[B, H, N, N]`, whose rows sum to 1, to `attentions` if given."""
        projected = (project(tokens) for project in (self.q_proj, self.k_proj, self.v_proj))
        # [B, N, D] to [B, H, N, D / H]
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in projected)
        if attentions is not None:
            # The fused call below does not return its softmax.
            attentions.append((query @ key.transpose(2, 3) * query.shape[3] ** -0.5).softmax(dim=3))
        gathered = scaled_dot_product_attention(query, key, value)
        mixed: Tensor = self.o_proj(gathered.transpose(1, 2).flatten(2))
        return mixed


class Block(nn.Module):
    """One pre-norm encoder layer, equations 2 and 3: self-attention, then an MLP per token."""

    def __init__(self, dim: int, heads: int, mlp_dim: int, dropout: float) -> None:
        super().__init__()
        self.layernorm_before = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attention = SelfAttention(dim, heads)
        self.layernorm_after = nn.LayerNorm(dim, eps=NORM_EPS)
        fc1, fc2 = nn.Linear(dim, mlp_dim), nn.Linear(mlp_dim, dim)
        self.mlp = nn.Sequential(OrderedDict(fc1=fc1, gelu=nn.GELU(), dropout=nn.Dropout(dropout), fc2=fc2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, attentions: list[Tensor] | None = None) -> Tensor:
        """`[B, N, D]` to `[B, N, D]`; `attentions` as in `SelfAttention`."""
        tokens = tokens + self.dropout(self.attention(self.layernorm_before(tokens), attentions))
        mixed: Tensor = tokens + self.dropout(self.mlp(self.layernorm_after(tokens)))
        return mixed


class PretrainingHead(nn.Sequential):
    """The head at pre-training, section 3.1: an MLP with one hidden layer of width D, and tanh. `[B, D]` to `[B, K]`."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.hidden, self.tanh, self.output = nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, num_classes)
        self.in_features, self.out_features = dim, num_classes


class VisionTransformer(nn.Module):
    """An image classifier: patches, class token, encoder, one linear layer on the class token. Defaults: ViT-B/16.

    Args:
        img_size: side in pixels, or `(height, width)`.
        patch_size: side of a patch, in pixels, or in cells of the feature map if there is a `feature_extractor`.
        num_classes, dim, depth, heads, mlp_dim: K, D, number of blocks, heads per block, hidden width of the MLPs.
        dropout: on the embedded tokens and after every dense layer except query, key and value.
        channels: of the images.
        feature_extractor: for the hybrid of section 3.1: a network from `[B, channels, *img_size]` to a feature map
            `[B, C, h, w]`, which is cut into patches; with `patch_size=1` each cell is a token. It is trained jointly.
        pretrain: a `PretrainingHead` instead of the linear layer.

    Raises:
        OptionError: an argument is out of range, or they do not fit together.

    >>> model = VisionTransformer(img_size=32, patch_size=8, num_classes=10, dim=24, depth=2, heads=4, mlp_dim=48)
    >>> model(torch.zeros(5, 3, 32, 32)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        num_classes: int = 1000,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_dim: int = 3072,
        dropout: float = 0.1,
        *,
        channels: int = 3,
        feature_extractor: nn.Module | None = None,
        pretrain: bool = False,
    ) -> None:
        super().__init__()
        size = tuple(img_size) if isinstance(img_size, Sequence) else (img_size, img_size)
        if len(size) != 2:
            raise OptionError(f"img_size is {img_size!r}: give one number, or (height, width).")
        for count in (*size, patch_size, num_classes, dim, depth, heads, mlp_dim, channels):
            if not isinstance(count, int) or count < 1:
                raise OptionError(f"Sizes and counts of a model are whole numbers from 1; {count!r} is not.")
        if dim % heads:
            raise OptionError(f"dim ({dim}) must be a multiple of heads ({heads}).")
        if not 0 <= dropout <= 1:
            raise OptionError(f"dropout is {dropout}: it must be from 0 to 1.")
        self.image_shape, self.patch_size, self.heads = (channels, *size), patch_size, heads
        shape = self.image_shape if feature_extractor is None else _feature_shape(feature_extractor, self.image_shape)
        if shape[1] % patch_size or shape[2] % patch_size:
            raise OptionError(f"{shape[1]} x {shape[2]} cannot be cut into patches of {patch_size} x {patch_size}.")
        self.patch_grid = shape[1] // patch_size, shape[2] // patch_size
        self.patch_embeddings = nn.Linear(shape[0] * patch_size**2, dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.position_embeddings = nn.Parameter(torch.empty(1, 1 + self.patch_grid[0] * self.patch_grid[1], dim))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_dim, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.head = PretrainingHead(dim, num_classes) if pretrain else nn.Linear(dim, num_classes)
        for name, weights in self.named_parameters():
            if weights.ndim > 1:
                nn.init.trunc_normal_(weights, std=0.02)
            elif name.endswith(".bias"):
                nn.init.zeros_(weights)
        self.feature_extractor = feature_extractor  # after the initialisation: it may be pretrained

    def forward(self, images: Tensor, return_attention: bool = False) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Normalised images `[B, channels, *img_size]` to logits `[B, K]`.

        With `return_attention`, to `(logits, attentions)`: one `[B, H, N, N]` per block, first block first; rows sum to 1.

        Raises:
            OptionError: the images have another size.
        """
        if images.ndim != 4 or images.shape[1:] != self.image_shape:
            expected = str(self.image_shape)[1:-1]
            raise OptionError(f"Images of shape {list(images.shape)} do not fit: this model takes [B, {expected}].")
        features = images if self.feature_extractor is None else self.feature_extractor(images)
        patches = self.patch_embeddings(cut_patches(features, self.patch_size))
        class_tokens = self.cls_token.expand(len(images), -1, -1)
        tokens = self.dropout(torch.cat([class_tokens, patches], dim=1) + self.position_embeddings)
        attentions: list[Tensor] = []
        for block in self.blocks:
            tokens = block(tokens, attentions if return_attention else None)
        logits: Tensor = self.head(self.norm(tokens[:, 0]))
        return (logits, attentions) if return_attention else logits


def _feature_shape(extractor: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """`(C, h, w)` of one image's feature map, from a trial run of a copy, so that BatchNorm statistics do not change."""
    like = next(extractor.parameters(), torch.empty(0))
    with torch.no_grad():
        features = copy.deepcopy(extractor).eval()(like.new_zeros(1, *shape))
    if not isinstance(features, Tensor) or features.ndim != 4:
        raise OptionError("A feature extractor gives one tensor, [B, C, h, w].")
    return tuple(features.shape[1:])


_NAMES = {  # first part of our names to transformers'; the rest is equal
    "cls_token": "vit.embeddings.cls_token",
    "position_embeddings": "vit.embeddings.position_embeddings",
    "patch_embeddings": "vit.embeddings.patch_embeddings.projection",
    "blocks": "vit.layers",
    "norm": "vit.layernorm",
    "head": "classifier",
}


def as_transformers(model: VisionTransformer) -> dict[str, Tensor]:
    """The model's own tensors, not copies, under transformers' names and in its shapes (patch embedding as a convolution)."""
    if model.feature_extractor is not None:
        raise OptionError("A hybrid has no counterpart among transformers' models: see vitdemo.models.nn.hybrid.")
    found = {re.sub(r"^\w+", lambda part: _NAMES[part[0]], name): tensor for name, tensor in model.state_dict().items()}
    kernel = _NAMES["patch_embeddings"] + ".weight"
    found[kernel] = found[kernel].view(-1, model.image_shape[0], model.patch_size, model.patch_size)
    return found


def to_transformers(model: VisionTransformer, labels: Sequence[str]) -> ViTForImageClassification:
    """A copy as a transformers model in evaluation mode; `labels` are in the order of the logits.

    A `PretrainingHead` stays one, as the `classifier`, which transformers cannot load: see `pretrained_encoder`.

    Raises:
        OptionError: the number of labels is not that of the classes, or `model` is a hybrid.
    """
    state = {name: tensor.clone() for name, tensor in as_transformers(model).items()}
    if len(labels) != model.head.out_features:
        raise OptionError(f"{len(labels)} labels do not fit {model.head.out_features} classes.")
    channels, height, width = model.image_shape
    config = ViTConfig(
        hidden_size=model.head.in_features,
        num_hidden_layers=len(model.blocks),
        num_attention_heads=model.heads,
        intermediate_size=len(state["vit.layers.0.mlp.fc1.bias"]),
        hidden_dropout_prob=model.dropout.p,
        layer_norm_eps=NORM_EPS,
        image_size=height if height == width else (height, width),
        patch_size=model.patch_size,
        num_channels=channels,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    with torch.device("meta"):  # skips the random initialisation
        exported: ViTForImageClassification = ViTForImageClassification(config)
        if isinstance(model.head, PretrainingHead):
            head = PretrainingHead(model.head.in_features, model.head.out_features)
            exported.classifier = head  # type: ignore[assignment]
    exported.load_state_dict(state, assign=True)
    exported.eval()
    return exported


def pretrained_encoder(model: ViTForImageClassification) -> ViTModel:
    """The encoder of a model with a `PretrainingHead`, whose hidden layer becomes transformers' pooler. Shares the weights.

    As the paper's own checkpoints on ImageNet-21k are published: without the output layer, which fine-tuning replaces.
    """
    assert isinstance(model.classifier, PretrainingHead)
    with torch.device("meta"):
        encoder: ViTModel = ViTModel(model.config, add_pooling_layer=True)
    hidden = model.classifier.hidden
    pooler = {"pooler.dense.weight": hidden.weight.detach(), "pooler.dense.bias": hidden.bias.detach()}
    encoder.load_state_dict({**model.vit.state_dict(), **pooler}, assign=True)
    encoder.eval()
    return encoder
