"""The from-scratch Vision Transformer equals transformers', and has none of the faults of the tutorial's code."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from transformers import ViTConfig, ViTForImageClassification

from tests import tiny
from vitdemo.errors import OptionError
from vitdemo.models.attention_tap import record_attention
from vitdemo.models.loading import load_model
from vitdemo.models.nn.vit import VisionTransformer, as_transformers, cut_patches, to_transformers
from vitdemo.registry import get_spec, spec_from_folder
from vitdemo.types import Capture

CPU = torch.device("cpu")
SIZES = [(32, 8), (32, 4), (28, 7), (16, 16), (6, 1), ((24, 40), 8), ((40, 24), 4), ((16, 48), 16)]
"""`img_size` and `patch_size`."""


def shaken(network: nn.Module) -> Any:
    """In evaluation mode with random weights everywhere: initial zeros and ones would hide biases and LayerNorms."""
    with torch.no_grad():
        for weights in network.parameters():
            weights += 0.3 * torch.randn(weights.shape)
    return network.eval()


def ours(img_size: Any = 32, patch_size: int = 8, **changes: Any) -> VisionTransformer:
    fields = {"num_classes": 7, "dim": 24, "depth": 3, "heads": 4, "mlp_dim": 40, **changes}
    model: VisionTransformer = shaken(VisionTransformer(img_size, patch_size, **fields))
    return model


def theirs(img_size: Any = 32, patch_size: int = 8, **changes: Any) -> ViTForImageClassification:
    fields = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40, **changes}
    config = ViTConfig(image_size=img_size, patch_size=patch_size, id2label=dict(enumerate(tiny.LABELS)), **fields)
    model: ViTForImageClassification = shaken(ViTForImageClassification(config))
    return model


@torch.no_grad()
def load_transformers_weights(model: VisionTransformer, source: Mapping[str, Tensor]) -> None:
    """Copy the weights of a `ViTForImageClassification`; the two must have the same."""
    targets = as_transformers(model)
    assert targets.keys() == source.keys()
    for name, tensor in targets.items():
        tensor.copy_(source[name])


def random_images(model: VisionTransformer, batch: int = 3) -> Tensor:
    return torch.randn(batch, *model.image_shape)


def assert_same_weights(left: nn.Module, right: nn.Module) -> None:
    assert list(left.state_dict()) == list(right.state_dict())
    for name, weights in left.state_dict().items():
        assert torch.equal(weights, right.state_dict()[name]), name


# The same as transformers, there and back.


@pytest.mark.parametrize(("img_size", "patch_size"), SIZES)
def test_with_the_weights_of_transformers_it_gives_their_logits(img_size: Any, patch_size: int) -> None:
    model, other = ours(img_size, patch_size), theirs(img_size, patch_size)
    load_transformers_weights(model, other.state_dict())
    images = random_images(model)
    with torch.no_grad():
        expected = other(images).logits
        torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=1e-5)
    assert expected.std(dim=0).min() > 0.01, "the logits hardly depend on the image: this shows nothing"


@pytest.mark.parametrize(("img_size", "patch_size"), SIZES)
def test_with_its_weights_transformers_gives_its_logits(img_size: Any, patch_size: int) -> None:
    model = ours(img_size, patch_size, channels=2)
    images = random_images(model)
    with torch.no_grad():
        expected = to_transformers(model, tiny.LABELS)(images).logits
        torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=1e-5)


def test_its_gradients_are_those_of_transformers() -> None:
    model = ours(dropout=0.0)
    other = to_transformers(model, tiny.LABELS)
    images = random_images(model)
    model(images).logsumexp(dim=1).sum().backward()
    other(images).logits.logsumexp(dim=1).sum().backward()
    mine, wanted = model.blocks[0].attention.q_proj.weight.grad, other.vit.layers[0].attention.q_proj.weight.grad
    torch.testing.assert_close(mine, wanted, atol=1e-4, rtol=1e-4)
    kernel = other.vit.embeddings.patch_embeddings.projection.weight.grad
    torch.testing.assert_close(model.patch_embeddings.weight.grad, kernel.flatten(1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_weights_go_out_and_come_back_bit_for_bit(dtype: torch.dtype) -> None:
    model = ours((24, 40)).to(dtype)
    out = to_transformers(model, tiny.LABELS)
    back = ours((24, 40)).to(dtype)
    load_transformers_weights(back, out.state_dict())
    assert_same_weights(back, model)
    assert_same_weights(to_transformers(back, tiny.LABELS), out)
    assert {weights.dtype for weights in out.parameters()} == {dtype}


def test_weights_come_in_and_go_out_bit_for_bit() -> None:
    other, model = theirs(), ours()
    load_transformers_weights(model, other.state_dict())
    assert_same_weights(to_transformers(model, tiny.LABELS), other)


def test_the_embedded_vit_runs_in_it() -> None:
    spec = get_spec("vit-mini")
    network = load_model(spec, CPU, torch.float32)
    config = network.network.config
    model = VisionTransformer(
        spec.image_size,
        spec.patch_size,
        len(spec.labels),
        config.hidden_size,
        spec.num_layers,
        spec.num_heads,
        config.intermediate_size,
    ).eval()
    load_transformers_weights(model, network.network.state_dict())
    images = random_images(model, batch=2)
    with torch.no_grad():
        torch.testing.assert_close(model(images), network(images), atol=1e-4, rtol=1e-4)


def test_an_export_is_a_copy_in_evaluation_mode_that_can_be_trained_and_draws_no_random_numbers() -> None:
    model = ours().train()
    before = torch.get_rng_state()
    other = to_transformers(model, tiny.LABELS)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert not any(module.training for module in other.modules())
    assert all(weights.requires_grad for weights in other.parameters())
    mine = {weights.data_ptr() for weights in model.parameters()}
    assert mine.isdisjoint(weights.data_ptr() for weights in other.parameters())


def test_an_export_has_the_labels_and_the_form_in_its_config() -> None:
    config = to_transformers(ours((24, 40), dropout=0.2), tiny.LABELS).config
    assert config.id2label == dict(enumerate(tiny.LABELS))
    assert config.label2id == {label: index for index, label in enumerate(tiny.LABELS)}
    assert tuple(config.image_size) == (24, 40)
    assert to_transformers(ours(), tiny.LABELS).config.image_size == 32
    found = (config.patch_size, config.hidden_size, config.num_hidden_layers, config.num_attention_heads)
    assert (*found, config.intermediate_size, config.num_labels, config.hidden_dropout_prob) == (
        8,
        24,
        3,
        4,
        40,
        7,
        0.2,
    )
    assert (config.hidden_act, config.layer_norm_eps, config.attention_probs_dropout_prob) == ("gelu", 1e-12, 0.0)


@pytest.mark.parametrize(("img_size", "patch_size"), [(32, 8), ((24, 40), 8)])
def test_an_exported_folder_loads_like_any_other_and_shows_the_same_attention(
    tmp_path: Path, img_size: Any, patch_size: int
) -> None:
    model = ours(img_size, patch_size)
    folder = tmp_path / "mine"
    to_transformers(model, tiny.LABELS).save_pretrained(folder)
    height, width = model.image_shape[1:]
    processor = {"size": {"height": height, "width": width}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")

    spec = spec_from_folder(folder)
    loaded = load_model(spec, CPU, torch.float32)
    assert (spec.labels, spec.image_size, spec.patch_grid) == (tiny.LABELS, (height, width), model.patch_grid)
    assert (spec.num_layers, spec.num_heads, spec.num_prefix_tokens) == (3, 4, 1)
    assert spec.parameters == sum(weights.numel() for weights in model.parameters())
    images = random_images(model)
    with torch.no_grad():
        logits, attention = model(images, return_attention=True)
        with record_attention(Capture(tokens=(0,), mean=True)) as record:
            torch.testing.assert_close(loaded(images), logits, atol=1e-5, rtol=1e-5)
    assert len(attention) == len(record.rows["class"]) == 3
    for layer, rows in enumerate(attention):
        torch.testing.assert_close(record.rows["class"][layer], rows[:, :, 0], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(record.rows["mean"][layer], rows.mean(dim=2), atol=1e-6, rtol=1e-5)


# The tutorial's model, in our own words, and what is wrong with it.


def tutorial_patches(images: Tensor, a_side: int) -> Tensor:
    """`[B, 3, H, W]` to `[B, N, 3 * p * p]`, `a_side` patches per side, as in the tutorial."""
    patch = images.shape[2] // a_side
    windows = images.unfold(2, patch, patch).unfold(3, patch, patch)
    return windows.contiguous().view(len(images), 3, patch, patch, -1).permute(0, 4, 1, 2, 3).flatten(2)


class Tutorial(nn.Module):
    """The tutorial's network. As printed it transposes the patches once more before it embeds them."""

    def __init__(self, img_size: int = 32, patch_size: int = 8, as_printed: bool = False) -> None:
        super().__init__()
        self.a_side, self.as_printed = img_size // patch_size, as_printed
        self.embed = nn.Linear(3 * patch_size**2, 24)
        self.positions = nn.Parameter(torch.randn(1, self.a_side**2 + 1, 24))
        self.cls_token = nn.Parameter(torch.randn(1, 1, 24))
        layer = nn.TransformerEncoderLayer(d_model=24, nhead=4, dim_feedforward=40, dropout=0.1)
        self.encoder = nn.TransformerEncoder(layer, num_layers=3, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 7))

    def forward(self, images: Tensor) -> Tensor:
        patches = tutorial_patches(images, self.a_side)
        embedded = self.embed(patches.transpose(1, 2) if self.as_printed else patches)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), embedded], dim=1) + self.positions
        logits: Tensor = self.head(self.encoder(tokens)[:, 0])
        return logits


@pytest.mark.parametrize(("img_size", "patch_size"), [(224, 16), (32, 8), (32, 4)])
def test_the_tutorials_model_as_printed_cannot_run_and_ours_can(img_size: int, patch_size: int) -> None:
    images = torch.randn(2, 3, img_size, img_size)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Tutorial(img_size, patch_size, as_printed=True)(images)
    # It would need as many patches, a square number, as a patch has numbers, three times a square: no size can do.
    assert not any(math.isqrt(3 * side**2) ** 2 == 3 * side**2 for side in range(1, 1000))
    assert ours(img_size, patch_size, depth=1)(images).shape == (2, 7)


def squares_of_patches(patches: Tensor) -> list[set[int]]:
    """For each patch the numbers of the squares that its pixels come from; `patches` are of `numbered_squares`."""
    return [set(patch.int().tolist()) for patch in patches[0]]


def numbered_squares() -> Tensor:
    """An image `[1, 3, 32, 32]` in which each pixel has the row-major index of its 8 x 8 square."""
    rows, columns = torch.meshgrid(torch.arange(32) // 8, torch.arange(32) // 8, indexing="ij")
    return (4 * rows + columns).float().expand(1, 3, 32, 32)


def test_fault_1_the_tutorial_mixes_pixels_of_several_squares_in_a_patch_and_ours_does_not() -> None:
    mixed = squares_of_patches(tutorial_patches(numbered_squares(), a_side=4))
    assert all(len(squares) > 1 for squares in mixed)
    assert squares_of_patches(cut_patches(numbered_squares(), patch_size=8)) == [{number} for number in range(16)]


@pytest.mark.parametrize(("shape", "patch"), [((3, 32, 32), 8), ((2, 24, 40), 4), ((5, 6, 4), 1), ((1, 16, 48), 16)])
def test_each_patch_is_its_square_of_the_picture(shape: tuple[int, int, int], patch: int) -> None:
    images = torch.randn(2, *shape)
    patches = cut_patches(images, patch)
    columns = shape[2] // patch
    assert patches.shape == (2, shape[1] // patch * columns, shape[0] * patch**2)
    for index in range(patches.shape[1]):
        top, left = index // columns * patch, index % columns * patch
        assert torch.equal(patches[:, index], images[:, :, top : top + patch, left : left + patch].flatten(1))
    # Independent of the memory format.
    assert torch.equal(cut_patches(images.to(memory_format=torch.channels_last), patch), patches)


def outputs_of(part: nn.Module, model: nn.Module, images: Tensor) -> Tensor:
    """The outputs of a module of the model."""
    found: list[Tensor] = []
    handle = part.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    with handle, torch.no_grad():
        model(images)
    return found[0]


def test_fault_2_in_the_tutorial_the_images_of_a_batch_attend_to_each_other_and_in_ours_they_do_not() -> None:
    images = torch.randn(3, 3, 32, 32)
    others = torch.cat([images[:1], torch.randn(2, 3, 32, 32)])
    theirs, model = shaken(Tutorial()), ours()
    for network, part, independent in ((theirs, theirs.encoder, False), (model, model.blocks[-1], True)):
        tokens = outputs_of(part, network, images)[0]
        beside_others = outputs_of(part, network, others)[0]
        alone = outputs_of(part, network, images[:1])[0]
        assert torch.allclose(tokens, beside_others, atol=1e-5) == independent
        assert torch.allclose(tokens, alone, atol=1e-5) == independent


def test_fault_2_so_the_tutorials_class_token_never_sees_a_patch_and_ours_sees_all() -> None:
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        # Among class tokens alone, which are all the same: every image gets the same logits.
        assert shaken(Tutorial())(images).std(dim=0).max() < 1e-5
    model = ours()
    assert model(images).std(dim=0).min() > 1e-2
    images.requires_grad_()
    model(images)[:, 0].sum().backward()
    assert images.grad is not None
    assert (cut_patches(images.grad, 8).abs().sum(dim=2) > 0).all(), "a patch without influence on the logits"


def silence(*layers: nn.Linear) -> None:
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def test_fault_3_the_tutorial_normalises_the_sum_and_ours_lets_it_through() -> None:
    tokens = 3 * torch.randn(2, 5, 24) + 1
    layer, block = shaken(Tutorial()).encoder.layers[0], ours().blocks[0]
    silence(layer.self_attn.out_proj, layer.linear2)
    silence(block.attention.o_proj, block.mlp.fc2)
    # With nothing from either branch, a pre-norm block is the identity (equations 2 and 3 of the paper).
    with torch.no_grad():
        assert not torch.allclose(layer(tokens), tokens, atol=0.5)
        assert torch.equal(block(tokens), tokens)


def test_fault_4_the_tutorial_takes_the_patch_size_from_the_picture_and_ours_refuses_another_size() -> None:
    theirs, model = shaken(Tutorial()), ours()
    image = torch.randn(1, 3, 35, 35)
    cropped = image[:, :, :32, :32]
    # A border of three pixels is cut off without a word.
    assert torch.equal(tutorial_patches(image, a_side=4), tutorial_patches(cropped, a_side=4))
    assert theirs(image).shape == (1, 7)
    # Twice the size is twice the patch, and the complaint is one of matrices.
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        theirs(torch.randn(1, 3, 64, 64))
    for side in (35, 64):
        with pytest.raises(
            OptionError, match=rf"\[1, 3, {side}, {side}\] do not fit: this model takes \[B, 3, 32, 32\]"
        ):
            model(torch.randn(1, 3, side, side))


# What it is made of.


def test_the_signature_is_the_tutorials_and_the_defaults_are_vit_b_16() -> None:
    parameters = list(inspect.signature(VisionTransformer).parameters.values())
    positional = {p.name: p.default for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
    names = ("img_size", "patch_size", "num_classes", "dim", "depth", "heads", "mlp_dim", "dropout")
    assert list(positional.items()) == list(zip(names, (224, 16, 1000, 768, 12, 12, 3072, 0.1), strict=True))
    with torch.device("meta"):
        model = VisionTransformer()
    # As in table 1 of the paper, "86M".
    assert sum(weights.numel() for weights in model.parameters()) == 86_567_656


def test_it_starts_with_small_weights_and_without_biases() -> None:
    model = VisionTransformer(64, 4, 50, 64, 2, 4, 128)
    for name, weights in model.named_parameters():
        if name.endswith(".bias"):
            assert (weights == 0).all(), name
        elif "norm" in name:
            assert (weights == 1).all(), name
        else:
            assert weights.std().item() == pytest.approx(0.02, rel=0.3), name


def test_an_answer_with_attention_is_the_answer_without() -> None:
    model = ours((24, 40))
    images = random_images(model)
    with torch.no_grad():
        logits, attention = model(images, return_attention=True)
        assert torch.equal(logits, model(images))
    assert [tuple(layer.shape) for layer in attention] == [(3, 4, 16, 16)] * 3
    for layer in attention:
        torch.testing.assert_close(layer.sum(dim=3), torch.ones(3, 4, 16))


def test_its_attention_is_what_transformers_gives() -> None:
    model = ours()
    other = to_transformers(model, tiny.LABELS)
    other.set_attn_implementation("eager")
    images = random_images(model)
    with torch.no_grad():
        expected = other(images, output_attentions=True).attentions
        attention = model(images, return_attention=True)[1]
    for found, wanted in zip(attention, expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_a_batch_gives_what_its_images_give_one_by_one(batch: int) -> None:
    model = ours()
    images = random_images(model, batch)
    with torch.no_grad():
        logits = model(images)
        assert logits.shape == (batch, 7)
        for index in range(batch):
            torch.testing.assert_close(logits[index], model(images[index : index + 1])[0], atol=1e-5, rtol=1e-5)


def cnn(channels: int = 3, features: int = 6) -> nn.Sequential:
    """A stride of 4."""
    stem = nn.Conv2d(channels, 5, 3, stride=2, padding=1)
    return nn.Sequential(stem, nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, features, 3, stride=2, padding=1))


@pytest.mark.parametrize("make", [ours, lambda: ours(64, 1, feature_extractor=cnn())], ids=["plain", "hybrid"])
def test_gradients_flow_to_every_weight(make: Callable[[], VisionTransformer]) -> None:
    model = make().train()
    nnf.cross_entropy(model(random_images(model)), torch.tensor([0, 3, 6])).backward()
    for name, weights in model.named_parameters():
        assert weights.grad is not None, name
        largest = weights.grad.abs().max().item()
        if name.endswith("k_proj.bias"):
            # It adds the same to all scores of a row, which a softmax does not see.
            assert largest < 1e-5, name
        elif name == "feature_extractor.0.bias":
            # The BatchNorm after it takes the mean away.
            assert largest < 1e-4, name
        else:
            assert largest > 1e-5, name


def test_dropout_acts_in_training_alone() -> None:
    model = ours(dropout=0.5)
    images = random_images(model)
    with torch.no_grad():
        assert torch.equal(model(images), model(images))
        evaluated = model(images)
        model.train()
        assert not torch.allclose(model(images), model(images))
        still = ours(dropout=0.0)
        still.load_state_dict(model.state_dict())
        assert torch.equal(still.train()(images), evaluated)


def test_dropout_is_on_the_embedded_tokens_and_after_each_dense_layer_but_query_key_and_value() -> None:
    model = ours(dropout=1.0).train()
    images = random_images(model)
    entering: dict[str, Tensor] = {}
    for name, part in model.named_modules():
        if name in ("blocks.0", "blocks.0.layernorm_after", "blocks.0.mlp.fc2", "blocks.1"):
            part.register_forward_pre_hook(lambda _part, inputs, name=name: entering.update({name: inputs[0]}))
    with torch.no_grad():
        _, attention = model(images, return_attention=True)
    assert len(entering) == 4
    assert all((tokens == 0).all() for tokens in entering.values())
    assert (attention[0] > 0).all()
    assert sum(isinstance(part, nn.Dropout) for part in model.modules()) == 1 + 2 * 3


def test_a_few_steps_of_training_lower_the_loss_and_learn_where_the_light_is() -> None:
    model = VisionTransformer(16, 4, 4, dim=24, depth=2, heads=4, mlp_dim=48, dropout=0.0)
    labels = torch.arange(4).repeat(8)
    images = 0.3 * torch.randn(32, 3, 16, 16)
    for image, label in zip(images, labels.tolist(), strict=True):
        top, left = label // 2 * 8, label % 2 * 8
        image[:, top : top + 8, left : left + 8] += 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = nnf.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(4), abs=0.2)
    assert losses[-1] < 0.2 * losses[0]
    assert (model.eval()(images).argmax(dim=1) == labels).float().mean() > 0.9


# The hybrid.


@pytest.mark.parametrize(("img_size", "patch_size", "grid"), [(32, 1, (8, 8)), (32, 2, (4, 4)), ((24, 40), 2, (3, 5))])
def test_a_hybrid_is_a_vit_on_the_feature_map(img_size: Any, patch_size: int, grid: tuple[int, int]) -> None:
    model = ours(img_size, patch_size, feature_extractor=cnn())
    images = random_images(model)
    with torch.no_grad():
        features = model.feature_extractor(images)  # type: ignore[misc]
        plain = ours(features.shape[2:], patch_size, channels=6)
        weights = {k: v for k, v in model.state_dict().items() if not k.startswith("feature_extractor.")}
        plain.load_state_dict(weights)
        torch.testing.assert_close(model(images), plain(features), atol=1e-6, rtol=1e-6)
        attention = model(images, return_attention=True)[1]
    assert model.patch_grid == plain.patch_grid == grid
    assert attention[0].shape == (3, 4, 1 + grid[0] * grid[1], 1 + grid[0] * grid[1])


class Features(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.backbone(images).feature_maps[-1]
        return maps


def test_on_a_bit_network_it_is_the_hybrid_of_the_paper() -> None:
    other = tiny.network("hybrid")
    stem = "vit.embeddings.patch_embeddings.backbone."
    backbone = other.get_submodule(stem.removesuffix("."))
    plain = ours(4, 1, channels=64, mlp_dim=32)
    load_transformers_weights(plain, {k: v for k, v in other.state_dict().items() if not k.startswith(stem)})
    model = VisionTransformer(64, 1, 7, 24, 3, 4, 32, feature_extractor=Features(backbone)).eval()
    left_out = model.load_state_dict(plain.state_dict(), strict=False)
    assert all(name.startswith("feature_extractor.") for name in left_out.missing_keys)
    images = random_images(model)
    with torch.no_grad():
        torch.testing.assert_close(model(images), other(images).logits, atol=1e-5, rtol=1e-5)


def test_a_feature_extractor_is_taken_as_it_is() -> None:
    extractor = cnn().train()
    extractor[1].eval()  # as someone might who keeps its statistics
    before = {name: tensor.clone() for name, tensor in extractor.state_dict().items()}
    model = VisionTransformer(32, 2, 7, 24, 1, 4, 40, feature_extractor=extractor)
    assert model.feature_extractor is extractor
    assert all(torch.equal(tensor, before[name]) for name, tensor in extractor.state_dict().items())
    assert [part.training for part in extractor] == [True, False, True, True]
    # In training a BatchNorm refuses a single number a channel, which the map of one image may be.
    tight = nn.Sequential(nn.Conv2d(3, 4, 32), nn.BatchNorm2d(4))
    assert VisionTransformer(32, 1, 7, 24, 1, 4, 40, feature_extractor=tight).patch_grid == (1, 1)


# Invalid arguments


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"img_size": 30}, "30 x 30 cannot be cut into patches of 8 x 8"),
        ({"img_size": (32, 36)}, "32 x 36 cannot be cut"),
        ({"img_size": (32, 32, 3)}, "give one number, or"),
        ({"img_size": "224"}, "give one number, or"),
        ({"img_size": 32.0}, r"whole numbers from 1; 32\.0 is not"),
        ({"img_size": 0}, "0 is not"),
        ({"patch_size": -8}, "-8 is not"),
        ({"num_classes": 0}, "0 is not"),
        ({"depth": 0}, "0 is not"),
        ({"heads": 0}, "0 is not"),
        ({"channels": None}, "None is not"),
        ({"heads": 5}, r"dim \(24\) must be a multiple of heads \(5\)"),
        ({"dropout": 1.5}, "dropout is 1.5"),
        ({"dropout": math.nan}, "dropout is nan"),
        ({"feature_extractor": cnn(), "patch_size": 3}, "8 x 8 cannot be cut into patches of 3 x 3"),
        ({"feature_extractor": nn.Flatten()}, "gives one tensor"),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        ours(**changes)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 32, 32, 3), (2, 3, 32, 40), (2, 3, 40, 32), ()])
def test_pictures_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match=r"this model takes \[B, 3, 32, 32\]"):
        ours()(torch.zeros(shape))


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(OptionError, match="6 labels do not fit 7 classes"):
        to_transformers(ours(), tiny.LABELS[:-1])


def test_a_hybrid_is_not_exported_as_something_else() -> None:
    model = ours(32, 1, feature_extractor=cnn())
    with pytest.raises(OptionError, match="hybrid"):
        to_transformers(model, tiny.LABELS)
