"""Every method equals its paper's formulas, on every family, in double precision, and leaves no hooks behind."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any, cast

import pytest
import torch
import transformers
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from tests import tiny
from vitdemo import attribution
from vitdemo.attribution import rollout, rollout_vit_explain
from vitdemo.engine.attribute import attribute
from vitdemo.errors import OptionError
from vitdemo.models import attention_tap
from vitdemo.models.attention_tap import TAP, AttentionRecord, record_attention
from vitdemo.models.layers import blocks, final_norm, head_of, norms, read_out, watching
from vitdemo.models.loading import Classifier, load_model, size_options
from vitdemo.options.methods import METHODS, applicable, obstacle
from vitdemo.registry import spec_from_folder
from vitdemo.types import FUSIONS, Attribution, Capture, Fusion, LayerQueries, ModelSpec

CPU = torch.device("cpu")
TARGET = 3
REGISTERS_HEAD = "dinov2-registers-head"
TRANSFORMERS = (*tiny.KINDS, REGISTERS_HEAD)
CLASSIFIERS = tuple(kind for kind in TRANSFORMERS if kind not in tiny.HEADLESS)
NON_ATTENTION = tuple(name for name in METHODS if name != "attention")
"""`attention` runs no `attribute`: its rows come with every forward."""
SPECIFIC = tuple(name for name, method in METHODS.items() if method.class_specific)

PREFIX = {"deit": 2, "deit-plain": 2, "ijepa": 0, "dinov2-registers": 5, REGISTERS_HEAD: 5, "dinov3": 5}
"""Tokens before the patches, where it is not the class token alone."""
MEAN_OF_PATCHES = ("beit", "beit-absolute", "beit-shared", "ijepa", "mae")
CLASS_BESIDE_MEAN = ("dinov2-head", REGISTERS_HEAD)

Load = Callable[[str], Classifier]


@pytest.fixture(scope="module")
def load(tiny_spec: Callable[[str], ModelSpec], tmp_path_factory: pytest.TempPathFactory) -> Load:
    """`load(kind)`: a tiny random model in float64, shared: copy it before changing it."""

    def spec_of(kind: str) -> ModelSpec:
        if kind != REGISTERS_HEAD:
            return tiny_spec(kind)
        folder = tmp_path_factory.mktemp("registers") / kind
        network = transformers.Dinov2WithRegistersForImageClassification(tiny.network("dinov2-registers").config)
        _randomise(network)
        network.save_pretrained(folder)
        shutil.copy(f"{tiny_spec('dinov2-registers').checkpoint}/preprocessor_config.json", folder)
        return spec_from_folder(folder)

    @cache
    def loaded(kind: str) -> Classifier:
        return load_model(spec_of(kind), CPU, torch.float32).double().requires_grad_(False)

    return loaded


def _randomise(module: nn.Module, seed: int = 1) -> None:
    numbers = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in module.parameters():
            weights.copy_(0.3 * torch.randn(weights.shape, generator=numbers) + (weights.dim() == 1))


def _pixels(model: Classifier, batch: int = 2, grid: tuple[int, int] | None = None, seed: int = 0) -> Tensor:
    rows, columns = grid or model.spec.patch_grid
    shape = (batch, 3, rows * model.spec.patch_size, columns * model.spec.patch_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _map(model: Classifier, pixels: Tensor, method: str, **options: Any) -> Tensor:
    return attribute(model, pixels, Attribution(method, **options))[1]


def _same(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    largest = expected.abs().max()
    assert expected.std() > 1e-3 * largest, "parity of flat maps would prove nothing"
    # transformers takes every softmax in float32.
    assert (found.double() - expected).abs().max() <= 1e-5 * largest


# The textbook


@contextmanager
def _implementation(model: Classifier, name: str) -> Iterator[None]:
    # Not `set_attn_implementation`: it asks the hybrid's convolutional part, too, which has no attention.
    config = model.network.base_model.config
    try:
        config._attn_implementation = name
        yield
    finally:
        config._attn_implementation = TAP


def _eager(model: Classifier, pixels: Tensor) -> Any:
    """transformers' own logits, attentions and hidden states, of one autograd graph."""
    # Of a copy: transformers leaves hooks on a network that was asked for these.
    model = copy.deepcopy(model)
    pixels = pixels.clone().requires_grad_()
    with _implementation(model, "eager"):
        return model.body(
            pixels, **size_options(model.network, pixels), output_attentions=True, output_hidden_states=True
        )


def _attentions_and_gradients(model: Classifier, pixels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    outputs = _eager(model, pixels)
    for attention in outputs.attentions:
        attention.retain_grad()
    outputs.logits[:, TARGET].sum().backward()
    return [one.detach() for one in outputs.attentions], [one.grad for one in outputs.attentions]


def _start(kind: str, tokens: int) -> Tensor:
    """Which tokens the classifier reads, by hand."""
    prefix = PREFIX.get(kind, 1)
    start = torch.zeros(tokens, dtype=torch.float64)
    if kind in MEAN_OF_PATCHES:
        start[prefix:] = 1 / (tokens - prefix)
    elif kind in CLASS_BESIDE_MEAN:
        start[0] = 1 / 2
        start[prefix:] = 1 / 2 / (tokens - prefix)
    elif kind == "deit":
        start[0] = start[1] = 1 / 2
    else:
        start[0] = 1
    return start


def _textbook_rollout(attentions: Sequence[Tensor], fusion: Fusion, discard: float, class_token: bool) -> Tensor:
    """Abnar & Zuidema: `R = A_L ... A_1` of one image, `A = 0.5 W + 0.5 I`, W fused over the heads and normalised."""
    tokens = attentions[0].shape[-1]
    found = torch.eye(tokens, dtype=torch.float64)
    for heads in attentions:
        fused = {"mean": heads.mean(0), "max": heads.max(0).values, "min": heads.min(0).values}[fusion].clone()
        for row in fused:
            for place in row.argsort()[: math.floor(tokens * discard)].tolist():
                if place > 0 or not class_token:
                    row[place] = 0
            row /= row.sum()
        found = (0.5 * fused + 0.5 * torch.eye(tokens)) @ found
    return found


def _textbook_relevance(attentions: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Chefer et al. 2021b, equations 5 and 6: all of R, of one image."""
    found = torch.eye(attentions[0].shape[-1], dtype=torch.float64)
    for attention, gradient in zip(attentions, gradients, strict=True):
        found = found + (gradient * attention).clamp(min=0).mean(dim=0) @ found
    return found


def _textbook_grad_rollout(attentions: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Chefer et al. 2021a, equations 13 and 14, rows normalised, with attention in place of its relevance."""
    found = identity = torch.eye(attentions[0].shape[-1], dtype=torch.float64)
    for attention, gradient in zip(attentions, gradients, strict=True):
        layer = identity + (gradient * attention).clamp(min=0).mean(dim=0)
        found = layer / layer.sum(dim=1, keepdim=True) @ found
    return found


def _block_list(model: Classifier) -> nn.ModuleList:
    base: Any = model.network.base_model
    found = base.encoder.layer if hasattr(base, "encoder") else base.layers
    assert isinstance(found, nn.ModuleList)
    return found


def _textbook_legrad(model: Classifier, pixels: Tensor) -> Tensor:
    """Bousselham et al.: the score at a layer is that of the network that ends there. All tokens."""
    total = 0
    for layer in range(model.spec.num_layers):
        cut = copy.deepcopy(model)
        del _block_list(cut)[layer + 1 :]
        outputs = _eager(cut, pixels)
        assert len(outputs.attentions) == layer + 1
        (gradient,) = torch.autograd.grad(outputs.logits[:, TARGET].sum(), [outputs.attentions[-1]])
        total = total + gradient.clamp(min=0).mean(dim=1).mean(dim=1)
    return total / model.spec.num_layers


class _Plus(nn.Module):
    """A module with a tensor added to its output."""

    def __init__(self, module: nn.Module, added: Tensor) -> None:
        super().__init__()
        self.module = module
        # In a function, a copy of the module keeps the same leaf.
        self.plus = lambda tokens: tokens + added

    def forward(self, tokens: Tensor) -> Tensor:
        return self.plus(self.module(tokens))


def _textbook_grad_cam(model: Classifier, pixels: Tensor, prefix: int) -> Tensor:
    """Selvaraju et al., at the last block's normalised input, whose gradient is that of zeros added to it."""
    hidden = _eager(model, pixels).hidden_states[-2].detach()
    changed = copy.deepcopy(model)
    block = _block_list(changed)[-1]
    name = "norm1" if hasattr(block, "norm1") else "layernorm_before"
    norm = getattr(block, name)
    added = torch.zeros_like(hidden).requires_grad_()
    setattr(block, name, _Plus(norm, added))
    (gradient,) = torch.autograd.grad(_eager(changed, pixels).logits[:, TARGET].sum(), [added])
    features = norm(hidden)
    found = torch.zeros(hidden.shape[:2], dtype=torch.float64)
    for channel in range(hidden.shape[2]):
        weight = gradient[:, prefix:, channel].mean(dim=1)
        found += weight[:, None] * features[:, :, channel]
    return found[:, prefix:].clamp(min=0)


# Parity

SETTINGS: tuple[tuple[Fusion, float], ...] = tuple((fusion, discard) for fusion in FUSIONS for discard in (0, 0.3, 0.9))


def _layers(attentions: list[Tensor]) -> list[LayerQueries]:
    """Queries and keys whose attention is the given matrices."""
    nothing = torch.zeros(*attentions[0].shape[:3], 1, dtype=attentions[0].dtype)
    return [LayerQueries(nothing, nothing, attention.log(), 1.0) for attention in attentions]


@pytest.mark.thorough
@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_rollout_is_the_product_of_all_layers(load: Load, kind: str) -> None:
    model = load(kind)
    pixels = _pixels(model)
    attentions = [attention.detach() for attention in _eager(model, pixels).attentions]
    prefix, tokens = PREFIX.get(kind, 1), attentions[0].shape[-1]
    start = _start(kind, tokens)
    for fusion, discard in SETTINGS:
        whole = [
            _textbook_rollout([attention[index] for attention in attentions], fusion, discard, prefix > 0)
            for index in (0, 1)
        ]
        expected = torch.stack([start @ one for one in whole])
        _same(rollout(_layers(attentions), start, fusion, discard, class_token=prefix > 0), expected)
        _same(_map(model, pixels, "rollout", fusion=fusion, discard=discard), expected[:, prefix:])


def _rollout_as_vit_explain(attentions: Sequence[Tensor], fusion: Fusion, discard: float) -> Tensor:
    """Of one image, entry by entry: discarded over the whole matrix, identity before normalisation, columns by row sums."""
    tokens = attentions[0].shape[-1]
    found = torch.eye(tokens, dtype=torch.float64)
    for heads in attentions:
        fused = {"mean": heads.mean(0), "max": heads.max(0).values, "min": heads.min(0).values}[fusion].clone()
        for place in fused.flatten().argsort()[: math.floor(tokens * tokens * discard)].tolist():
            if place > 0:
                fused[place // tokens, place % tokens] = 0
        mixed = (fused + torch.eye(tokens)) / 2
        sums = [mixed[row].sum() for row in range(tokens)]
        for column in range(tokens):
            mixed[:, column] /= sums[column]
        found = mixed @ found
    return found


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["vit", "deit", "beit", "hybrid"])
def test_rollout_as_in_vit_explain_discards_over_the_whole_matrix(load: Load, kind: str) -> None:
    model = load(kind)
    pixels = _pixels(model)
    attentions = [attention.detach() for attention in _eager(model, pixels).attentions]
    prefix, start = PREFIX.get(kind, 1), _start(kind, attentions[0].shape[-1])
    for fusion, discard in SETTINGS:
        whole = [
            _rollout_as_vit_explain([attention[index] for attention in attentions], fusion, discard) for index in (0, 1)
        ]
        expected = torch.stack([start @ one for one in whole])
        _same(rollout_vit_explain(_layers(attentions), start, fusion, discard, block=5), expected)
        found = _map(model, pixels, "rollout", fusion=fusion, discard=discard, variant="vit-explain")
        _same(found, expected[:, prefix:])
        plain = _map(model, pixels, "rollout", fusion=fusion, discard=discard)
        assert torch.allclose(found, plain, atol=1e-6) == (fusion == "mean" and discard == 0)


@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.parametrize("grid", [None, (2, 5)], ids=["native", "oblong"])
def test_relevance_and_gradient_rollout_are_the_products_of_all_layers(
    load: Load, kind: str, grid: tuple[int, int] | None
) -> None:
    model = load(kind)
    pixels = _pixels(model, grid=grid)
    attentions, gradients = _attentions_and_gradients(model, pixels)
    prefix, tokens = PREFIX.get(kind, 1), attentions[0].shape[-1]
    start = _start(kind, tokens)
    for method, textbook in (("relevance", _textbook_relevance), ("grad-rollout", _textbook_grad_rollout)):
        whole = [textbook([a[index] for a in attentions], [g[index] for g in gradients]) for index in (0, 1)]
        if method == "relevance":
            whole = [one - torch.eye(tokens) for one in whole]
        expected = torch.stack([start @ one for one in whole])[:, prefix:]
        _same(_map(model, pixels, method, target=TARGET), expected)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_legrad_is_the_gradient_of_networks_that_end_at_each_layer(load: Load, kind: str) -> None:
    model = load(kind)
    pixels = _pixels(model)
    expected = _textbook_legrad(model, pixels)[:, PREFIX.get(kind, 1) :]
    _same(_map(model, pixels, "legrad", target=TARGET, variant="all-layers"), expected)


def test_legrads_default_scores_the_mean_token_of_the_last_two_layers(load: Load) -> None:
    model = load("vit")
    pixels = _pixels(model)
    outputs, network = _eager(model, pixels), copy.deepcopy(cast(Any, model.network))
    expected = torch.zeros(2, outputs.attentions[0].shape[-1], dtype=torch.float64)
    for layer in (-2, -1):
        # The hidden states of layer l are those after block l; the last ones are before the final LayerNorm.
        mean = outputs.hidden_states[layer].mean(dim=1)
        score = network.classifier(network.vit.layernorm(mean))[:, TARGET].sum()
        (gradient,) = torch.autograd.grad(score, [outputs.attentions[layer]], retain_graph=True)
        expected += gradient.clamp(min=0).mean(dim=(1, 2)) / 2
    _same(_map(model, pixels, "legrad", target=TARGET), expected[:, 1:])
    _same(_map(model, pixels, "legrad", target=TARGET, variant="last-layers"), expected[:, 1:])


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_grad_cam_weighs_the_channels_of_the_last_blocks_input(load: Load, kind: str) -> None:
    model = load(kind)
    pixels = _pixels(model)
    expected = _textbook_grad_cam(model, pixels, PREFIX.get(kind, 1))
    _same(_map(model, pixels, "grad-cam", target=TARGET), expected)


def test_grad_cam_of_a_resnet_is_its_last_map_weighted_by_the_classifier(load: Load) -> None:
    model = load("resnet")
    pixels = _pixels(model, grid=(3, 5))
    network: Any = copy.deepcopy(model.network)
    features = network(pixels, output_hidden_states=True).hidden_states[-1]
    # The mean over all places is classified: the gradient is the class's own weight at each of them.
    expected = torch.einsum("bchw,c->bhw", features, network.classifier[1].weight[TARGET] / 15).clamp(min=0)
    _same(_map(model, pixels, "grad-cam", target=TARGET), expected.flatten(1))


@pytest.mark.parametrize("kind", [*TRANSFORMERS, "resnet"])
@pytest.mark.parametrize("query", [0, 7])
def test_similarity_is_the_cosine_of_final_features(load: Load, kind: str, query: int) -> None:
    model = load(kind)
    pixels = _pixels(model)
    if kind == "resnet":
        features = copy.deepcopy(model).body(pixels, output_hidden_states=True).hidden_states[-1]
        features = features.flatten(2).transpose(1, 2)
    else:
        encoder = model.network if kind == "dinov3" else model.network.base_model
        with torch.no_grad(), _implementation(model, "eager"):
            features = encoder(pixels, **size_options(model.network, pixels)).last_hidden_state[
                :, PREFIX.get(kind, 1) :
            ]
    expected = torch.zeros(features.shape[:2], dtype=torch.float64)
    for index, places in enumerate(features):
        for place, feature in enumerate(places):
            expected[index, place] = feature @ places[query] / feature.norm() / places[query].norm()
    found = _map(model, pixels, "similarity", query=query)
    _same(found, expected)
    torch.testing.assert_close(found[:, query], torch.ones(2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", NON_ATTENTION)
@pytest.mark.parametrize("kind", ["vit", "dinov2-head", "beit", "deit"])
def test_scores_are_those_of_a_plain_forward(load: Load, kind: str, method: str) -> None:
    model = load(kind)
    pixels = _pixels(model)
    logits, _, targets = attribute(model, pixels, Attribution(method))
    with torch.no_grad():
        expected = model(pixels)
    # The matrix has a softmax in float32, SDPA has not.
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert not logits.requires_grad
    assert targets == (expected.argmax(dim=1).tolist() if method in SPECIFIC else None)


@pytest.mark.parametrize("kind", ["vit", "beit"])
def test_gradients_are_those_of_finite_differences(load: Load, kind: str) -> None:
    model = load(kind)
    pixels = _pixels(model, batch=1)
    with record_attention(Capture(gradients=True)) as record:
        score = model(pixels.requires_grad_())[0, TARGET]
    gradients = torch.autograd.grad(score, record.attentions)
    added: dict[int, Tensor] = {}
    layer = 0

    def perturbed(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, None]:
        nonlocal layer
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        attention = (scores if mask is None else scores + mask).softmax(dim=-1)
        attention = attention + added.get(layer, 0)
        layer += 1
        return (attention @ value).transpose(1, 2).contiguous(), None

    def scored(place: tuple[int, int, int, int], step: float) -> float:
        nonlocal layer, added
        change = torch.zeros(gradients[0].shape, dtype=torch.float64)
        change[0, place[1], place[2], place[3]] = step
        layer, added = 0, {place[0]: change}
        with torch.no_grad(), _implementation(model, "vitdemo_test_perturbed"):
            return float(model(pixels)[0, TARGET])

    AttentionInterface.register("vitdemo_test_perturbed", perturbed)
    AttentionMaskInterface.register("vitdemo_test_perturbed", sdpa_mask)
    try:
        # The class token's row is the only one of the last layer that a class token's classifier reads.
        places = [(l, h, i, j) for l in range(3) for h in (0, 3) for i, j in ((0, 0), (0, 5), (4, 2), (9, 16))]  # noqa: E741
        differences = [(scored(place, 1e-4) - scored(place, -1e-4)) / 2e-4 for place in places]
    finally:
        for table in (AttentionInterface(), AttentionMaskInterface()):
            type(table)._global_mapping.pop("vitdemo_test_perturbed")
    found = torch.tensor([float(gradients[place[0]][0, *place[1:]]) for place in places])
    assert (found.abs() > 1e-4).sum() >= 16
    torch.testing.assert_close(found.double(), torch.tensor(differences).double(), rtol=1e-4, atol=1e-6)


# Heads


@pytest.mark.thorough
@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.parametrize("grid", [None, (3, 5)], ids=["native", "oblong"])
def test_the_head_gives_the_networks_own_scores_of_the_last_tokens(
    load: Load, kind: str, grid: tuple[int, int] | None
) -> None:
    model = load(kind)
    outputs = _eager(model, _pixels(model, grid=grid))
    head = head_of(model.network, None, model.spec.num_prefix_tokens, model.spec.pooling == "mean")
    torch.testing.assert_close(head(outputs.hidden_states[-1]), outputs.logits, atol=1e-10, rtol=0)
    assert (head(outputs.hidden_states[-2]) - outputs.logits).abs().max() > 1e-3


@pytest.mark.parametrize("kind", tiny.HEADLESS)
@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_the_head_of_a_probe_gives_the_probes_scores(load: Load, kind: str, pooling: Any) -> None:
    model = _probed(load(kind), pooling)
    pixels = _pixels(model)
    hidden = _eager(model, pixels).hidden_states[-1]
    head = head_of(model.network, model.probe, model.spec.num_prefix_tokens, pooling == "mean")
    with torch.no_grad():
        torch.testing.assert_close(head(hidden), model(pixels), atol=1e-5, rtol=1e-5)


def _probed(model: Classifier, pooling: Any) -> Classifier:
    probe = nn.Linear(model.network.config.hidden_size, len(tiny.LABELS)).double()
    spec = replace(model.spec, labels=tiny.LABELS, pooling=pooling, note="a probe")
    return Classifier(model.network, spec, probe).requires_grad_(False).eval()


@pytest.mark.thorough
@pytest.mark.parametrize("kind", tiny.HEADLESS)
@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_class_specific_methods_explain_a_probe(load: Load, kind: str, pooling: Any) -> None:
    model = _probed(load(kind), pooling)
    pixels = _pixels(model)
    for method in SPECIFIC:
        first, second = (_map(model, pixels, method, target=target) for target in (1, 2))
        assert torch.isfinite(first).all()
        assert (first - second).abs().max() > 1e-6, method


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_blocks_and_norms_are_those_of_the_encoder_in_their_order(load: Load, kind: str) -> None:
    model = load(kind)
    hidden = _eager(model, _pixels(model)).hidden_states
    assert len(blocks(model.network)) == len(norms(model.network)) == model.spec.num_layers
    with torch.no_grad(), watching([*norms(model.network), final_norm(model.network)]) as seen:
        model(_pixels(model))
    for found, expected in zip(seen, hidden, strict=True):
        torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_the_read_out_is_what_the_classifier_reads(load: Load, kind: str) -> None:
    model = load(kind)
    rows, columns = model.spec.patch_grid
    found = read_out(model, rows * columns)
    torch.testing.assert_close(found.double(), _start(kind, len(found)))
    assert float(found.sum()) == pytest.approx(1)


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_only_tokens_of_the_read_out_change_the_score(load: Load, kind: str) -> None:
    model = load(kind)
    tokens = _eager(model, _pixels(model)).hidden_states[-1].detach().requires_grad_()
    head_of(model.network, None, model.spec.num_prefix_tokens, False)(tokens)[:, TARGET].sum().backward()
    assert tokens.grad is not None
    read = tokens.grad.abs().sum(dim=(0, 2)) > 1e-12
    assert torch.equal(read, _start(kind, tokens.shape[1]) > 0)


# Streaming


def _queries(layers: int, heads: int, tokens: int, batch: int = 2) -> list[LayerQueries]:
    return [
        LayerQueries(
            2 * torch.randn(batch, heads, tokens, 8),
            2 * torch.randn(batch, heads, tokens, 8),
            torch.randn(1, heads, tokens, tokens) if layer == 1 else None,
            8**-0.5,
        )
        for layer in range(layers)
    ]


@pytest.mark.thorough
@pytest.mark.parametrize("block", [1, 7, 19, 20, 21, 64])
def test_rollout_does_not_depend_on_the_block(block: int) -> None:
    layers = _queries(3, 4, 20)
    start = torch.rand(20)
    start /= start.sum()
    for fusion, discard in SETTINGS:
        expected = rollout(layers, start, fusion, discard, block=1000)
        torch.testing.assert_close(rollout(layers, start, fusion, discard, block), expected, atol=1e-6, rtol=1e-5)


class _Shapes(TorchDispatchMode):
    """Records the shapes of all tensors that operations create."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.shapes |= {tuple(one.shape) for one in tree_leaves(made) if isinstance(one, Tensor)}
        return made

    def square(self, tokens: int) -> bool:
        return any(math.prod(shape) >= tokens**2 for shape in self.shapes)


def test_rollout_makes_no_matrix_of_all_tokens() -> None:
    tokens, heads, block = 700, 3, 16
    layers = _queries(2, heads, tokens, batch=1)[:1] * 2
    start = torch.ones(tokens) / tokens
    for fusion, discard in SETTINGS[:2]:
        with _Shapes() as seen:
            rollout(layers, start, fusion, discard, block)
        assert max(math.prod(shape) for shape in seen.shapes) <= heads * tokens * max(block, 8)
    with _Shapes() as seen:
        rollout(layers, start, block=tokens)
    assert seen.square(tokens), "the recorder sees such a matrix where there is one"


def test_a_forward_for_rollout_makes_no_matrix_of_all_tokens(load: Load) -> None:
    model = load("vit")
    pixels = _pixels(model, batch=1, grid=(30, 30))
    tokens = 30 * 30 + 1
    with _Shapes() as seen:
        _map(model, pixels, "rollout", fusion="max", discard=0.5)
    assert not any(shape[-2:] == (tokens, tokens) for shape in seen.shapes)
    assert not seen.square(tokens)


# Properties


@pytest.mark.thorough
@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_rows_of_rollouts_sum_to_one(load: Load, kind: str) -> None:
    model = load(kind)
    pixels = _pixels(model)
    attentions = [attention.detach() for attention in _eager(model, pixels).attentions]
    start = _start(kind, attentions[0].shape[-1])
    gradients = [torch.randn_like(attention) for attention in attentions]
    rows = [rollout(_layers(attentions), start, fusion, discard).double() for fusion, discard in SETTINGS]
    rows.append(attribution.grad_rollout(attentions, gradients, start))
    for row in rows:
        torch.testing.assert_close(row.sum(dim=1), torch.ones(2, dtype=torch.float64), atol=1e-5, rtol=0)
        assert (row >= 0).all()


def test_rows_sum_to_one_where_heads_hardly_meet() -> None:
    attentions = [torch.full((1, 2, 4, 4), 1e-18)]
    attentions[0][0, 0, :, 0] = attentions[0][0, 1, :, 1] = 1
    found = rollout(_layers(attentions), torch.tensor([0.0, 0, 0, 1]), "min")
    assert float(found.sum()) == pytest.approx(1)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("discard", [0, 0.5, 0.99])
def test_attention_of_each_token_to_itself_keeps_everything_at_the_read_out(fusion: Fusion, discard: float) -> None:
    identity = torch.eye(9).expand(2, 4, 9, 9)
    start = torch.zeros(9)
    start[0] = 1
    found = rollout(_layers([identity] * 3), start, fusion, discard)
    assert torch.equal(found, start.expand(2, -1))
    mean = torch.ones(9) / 9
    torch.testing.assert_close(rollout(_layers([identity] * 3), mean, fusion, discard), mean.expand(2, -1))


def test_without_gradients_nothing_is_relevant_and_nothing_moves() -> None:
    attentions = [torch.rand(2, 4, 9, 9).softmax(dim=-1)] * 2
    none = [torch.zeros(2, 4, 9, 9)] * 2
    start = torch.ones(9) / 9
    assert not attribution.relevance(attentions, none, start).any()
    assert torch.equal(attribution.grad_rollout(attentions, none, start), start.expand(2, -1))
    assert not attribution.legrad(none).any()
    assert not attribution.grad_cam(torch.randn(2, 9, 5), torch.zeros(2, 9, 5)).any()


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["vit", "deit", "beit", "ijepa", "hybrid", "dinov2-head", "resnet"])
def test_each_picture_of_a_batch_has_its_own_map(load: Load, kind: str) -> None:
    model = load(kind)
    pixels = _pixels(model, batch=3)
    order = [2, 0, 1]
    for method in model.spec.methods:
        if method == "attention":
            continue
        options: dict[str, Any] = {"rank": 2} if method in SPECIFIC else {}
        together = attribute(model, pixels, Attribution(method, **options))
        turned = attribute(model, pixels[order], Attribution(method, **options))
        _same(turned[1], together[1][order].double())
        assert (turned[2] is None) or turned[2] == [together[2][index] for index in order]
        for index in range(3):
            logits, alone, targets = attribute(model, pixels[index : index + 1], Attribution(method, **options))
            _same(alone, together[1][index : index + 1].double())
            torch.testing.assert_close(logits[0], together[0][index], atol=1e-5, rtol=1e-5)
            assert targets is None or targets == [together[2][index]]
        assert (together[1][0] - together[1][1]).abs().max() > 1e-4 * together[1].abs().max(), method


@pytest.mark.thorough
@pytest.mark.parametrize("method", NON_ATTENTION)
@pytest.mark.parametrize("kind", ["vit", "beit", "hybrid", "dinov2-head"])
def test_a_map_changes_when_weights_are_randomised(load: Load, kind: str, method: str) -> None:
    # Adebayo et al. 2018.
    model = load(kind)
    pixels = _pixels(model, batch=8)
    other = copy.deepcopy(model)
    _randomise(other)
    maps = [_map(one, pixels, method, target=TARGET) for one in (model, other)]
    pairs = zip(*(one.tolist() for one in maps), strict=True)
    agreement = sum(spearmanr(*pair).statistic for pair in pairs if all(len(set(one)) > 1 for one in pair)) / 8
    assert abs(agreement) < 0.6


@pytest.mark.parametrize("method", NON_ATTENTION)
def test_a_map_depends_on_the_classifier_if_it_explains_a_class_and_only_then(load: Load, method: str) -> None:
    for kind in ("vit", "deit", "dinov2-head"):
        model = load(kind)
        other = copy.deepcopy(model)
        for name, part in other.network.named_modules():
            if name.endswith("classifier"):
                _randomise(part)
        pixels = _pixels(model)
        maps = [_map(one, pixels, method, target=TARGET) for one in (model, other)]
        assert torch.equal(*maps) is not METHODS[method].class_specific


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [*CLASSIFIERS, "resnet"])
def test_another_class_has_another_map_where_a_class_is_explained_and_the_same_elsewhere(load: Load, kind: str) -> None:
    model = load(kind)
    pixels = _pixels(model)
    for method in model.spec.methods:
        if method == "attention":
            continue
        first, second = (_map(model, pixels, method, target=target) for target in (1, 2))
        if METHODS[method].class_specific:
            assert (first - second).abs().max() > 1e-3 * first.abs().max(), method
        else:
            assert torch.equal(first, second), method


@pytest.mark.parametrize("method", SPECIFIC)
def test_a_rank_means_the_class_of_that_rank_of_each_picture(load: Load, method: str) -> None:
    model = load("vit")
    pixels = _pixels(model, batch=3)
    with torch.no_grad():
        order = model(pixels).argsort(dim=1, descending=True)
    for rank in (1, 3, 7):
        _, maps, targets = attribute(model, pixels, Attribution(method, rank=rank))
        assert targets == order[:, rank - 1].tolist()
        for index, target in enumerate(targets):
            own = _map(model, pixels[index : index + 1], method, target=target)
            torch.testing.assert_close(maps[index], own[0], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("options", [{"target": 7}, {"target": -1}, {"rank": 8}, {"rank": 0}])
def test_a_class_that_there_is_not_is_refused_with_their_number(load: Load, options: dict[str, int]) -> None:
    model = load("vit")
    with pytest.raises(OptionError, match="this model has 7 of them"):
        _map(model, _pixels(model), "relevance", **options)
    _assert_nothing_left(model)


@pytest.mark.parametrize("query", [-1, 16])
def test_a_patch_that_there_is_not_is_refused_with_the_range(load: Load, query: int) -> None:
    model = load("vit")
    with pytest.raises(OptionError, match="patches 0 to 15"):
        _map(model, _pixels(model), "similarity", query=query)


def test_methods_say_what_they_need_and_where_they_do_not_apply() -> None:
    assert tuple(METHODS) == applicable(attention=True, classes=True)
    assert applicable(attention=True, classes=False) == ("attention", "rollout", "similarity")
    assert applicable(attention=False, classes=True) == ("grad-cam", "similarity")
    assert applicable(attention=False, classes=False) == ("similarity",)
    assert set(SPECIFIC) == {name for name, method in METHODS.items() if method.needs == "gradients"}
    assert "no classifier" in obstacle(METHODS["grad-cam"], attention=True, classes=False)
    assert "convolutional" in obstacle(METHODS["rollout"], attention=False, classes=True)
    for name, method in METHODS.items():
        assert name == method.name
        assert "arXiv:" in method.paper


# What is recorded, and what stays


def _record(model: Classifier, pixels: Tensor, request: Capture) -> AttentionRecord:
    with torch.no_grad(), record_attention(request) as record:
        model(pixels)
    return record


def test_queries_that_are_asked_for_are_recorded_and_nothing_else(load: Load) -> None:
    model = load("beit")
    pixels = _pixels(model)
    record = _record(model, pixels, Capture(queries=True))
    assert (record.rows, record.attentions) == ({}, [])
    for layer, expected in zip(record.queries, _eager(model, pixels).attentions, strict=True):
        found = attention_tap.attention_rows(layer.query, layer.key, layer.mask, layer.scaling, 0, layer.query.shape[2])
        torch.testing.assert_close(found.double(), expected.detach(), atol=1e-6, rtol=0)


def test_attention_matrices_that_gradients_are_asked_of_are_in_the_graph_and_nothing_else_is_recorded(
    load: Load,
) -> None:
    model = load("beit")
    pixels = _pixels(model).requires_grad_()
    with record_attention(Capture(gradients=True)) as record:
        logits = model(pixels)
    assert (record.rows, record.queries) == ({}, [])
    for attention, expected in zip(record.attentions, _eager(model, pixels.detach()).attentions, strict=True):
        torch.testing.assert_close(attention.double(), expected, atol=1e-6, rtol=0)
    assert all(gradient.any() for gradient in torch.autograd.grad(logits[:, 0].sum(), record.attentions))


def test_without_a_request_no_queries_matrices_or_rows_are_recorded(load: Load) -> None:
    model = load("vit")
    record = _record(model, _pixels(model), Capture())
    assert (record.rows, record.queries, record.attentions) == ({}, [], [])


def _assert_nothing_left(model: Classifier) -> None:
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks
        assert not module.training
    for weights in model.parameters():
        assert weights.grad is None
        assert not weights.requires_grad
    assert torch.is_grad_enabled()
    assert attention_tap._ACTIVE.get() is None
    if model.spec.readouts:
        assert model.network.base_model.config._attn_implementation == TAP


@pytest.mark.parametrize("kind", ["vit", "deit", "beit", "hybrid", "dinov2-head", "ijepa", "resnet"])
def test_nothing_stays_behind(load: Load, kind: str) -> None:
    model = load(kind)
    pixels = _pixels(model)
    for method in model.spec.methods:
        if method != "attention":
            _, maps, _ = attribute(model, pixels, Attribution(method))
            assert not maps.requires_grad
            _assert_nothing_left(model)
    assert not pixels.requires_grad
    assert pixels.grad is None


@pytest.mark.parametrize("method", NON_ATTENTION)
@pytest.mark.parametrize("place", ["last block", "classifier"])
def test_nothing_stays_behind_of_a_forward_that_fails_half_way(
    load: Load, monkeypatch: pytest.MonkeyPatch, method: str, place: str
) -> None:
    model = load("vit")
    network: Any = model.network
    pixels = _pixels(model)
    expected = _map(model, pixels, method)

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(network.classifier if place == "classifier" else network.vit.layers[-1].mlp, "forward", fails)
        with pytest.raises(RuntimeError, match="out of memory"):
            _map(model, pixels, method)
        _assert_nothing_left(model)
    assert torch.equal(_map(model, pixels, method), expected)


@pytest.mark.parametrize("method", NON_ATTENTION)
def test_a_caller_without_gradients_gets_the_same_map_and_stays_without(load: Load, method: str) -> None:
    model = load("vit")
    pixels = _pixels(model)
    expected = _map(model, pixels, method)
    with torch.no_grad():
        assert torch.equal(_map(model, pixels, method), expected)
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("inputs", [True, False])
def test_watching_ends_with_its_block_and_with_an_error(inputs: bool) -> None:
    first, second = nn.Linear(2, 3), nn.Linear(3, 4)
    both = nn.Sequential(first, second)
    with watching([first, second], inputs) as seen:
        both(torch.zeros(5, 2))
    assert [one.shape[-1] for one in seen] == ([2, 3] if inputs else [3, 4])
    both(torch.zeros(5, 2))
    assert len(seen) == 2
    with pytest.raises(RuntimeError), watching([first, second], inputs):
        both(torch.zeros(5, 1))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in (first, second))
