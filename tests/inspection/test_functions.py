"""Pure functions of the inspection, against other ways to the same numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vitdemo.errors import OptionError
from vitdemo.inspection import (
    Sizes,
    attention_distance,
    bias_pictures,
    costs,
    filter_pictures,
    position_similarity,
    principal_filters,
    receptive_field,
    tokens_of,
)
from vitdemo.models.loading import load_model
from vitdemo.models.parts import bias_tables, convolutions, sizes_of
from vitdemo.models.preprocess import preprocess
from vitdemo.options.explain import ExplainRequest
from vitdemo.pipeline import Pipeline, inside
from vitdemo.pipeline.prepare import prepare
from vitdemo.types import Capture, ModelSpec, Photo

Spec = Callable[[str], ModelSpec]
Maker = Callable[..., Photo]
CPU = torch.device("cpu")


def test_a_position_is_most_like_itself_and_similarity_is_mutual() -> None:
    maps = position_similarity(torch.randn(15, 8), (3, 5))
    assert maps.shape == (15, 3, 5)
    flat = maps.flatten(1)
    torch.testing.assert_close(flat.diagonal(), torch.ones(15))
    torch.testing.assert_close(flat, flat.T)
    left, right = torch.randn(2, 8), torch.randn(13, 8)
    expected = torch.nn.functional.cosine_similarity(left[0], right[3], dim=0)
    torch.testing.assert_close(position_similarity(torch.cat([left, right]), (3, 5))[0, 1, 0], expected)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["vit", "deit", "hybrid", "dinov2-registers", "beit-absolute", "mae", "ijepa"])
def test_similarity_is_that_of_the_networks_own_position_embeddings(
    kind: str, pipeline: Pipeline, tiny_spec: Spec
) -> None:
    spec = tiny_spec(kind)
    network: Any = load_model(spec, CPU, torch.float32).network
    table = next(part.position_embeddings for name, part in network.named_modules() if name.endswith("embeddings"))
    patches = spec.patch_grid[0] * spec.patch_grid[1]
    expected = position_similarity(table[0, -patches:].detach(), spec.patch_grid)
    torch.testing.assert_close(inside.positions(pipeline, spec), expected)


@pytest.mark.parametrize(
    ("kind", "words"), [("beit", "relative position bias in its"), ("dinov3", "RoPE"), ("resnet", "padding only")]
)
def test_a_model_without_position_embeddings_says_what_it_has_instead(
    kind: str, words: str, pipeline: Pipeline, tiny_spec: Spec
) -> None:
    with pytest.raises(OptionError, match=words):
        inside.positions(pipeline, tiny_spec(kind))


@pytest.mark.parametrize("kind", ["beit", "beit-shared"])
def test_a_picture_of_the_bias_holds_what_attention_adds(kind: str, pipeline: Pipeline, tiny_spec: Spec) -> None:
    spec = tiny_spec(kind)
    model = load_model(spec, CPU, torch.float32)
    pictures = inside.biases(pipeline, spec)
    assert pictures.shape == (3 if kind == "beit" else 1, 4, 7, 7)
    bias: Any = next(part for name, part in model.network.named_modules() if name.endswith("position_bias"))
    with torch.no_grad():
        added = bias((4, 4))[0]
    for query, key in ((0, 5), (6, 1), (15, 15), (3, 12)):
        rows, columns = key // 4 - query // 4, key % 4 - query % 4
        torch.testing.assert_close(pictures[0][:, rows + 3, columns + 3], added[:, 1 + query, 1 + key])
    assert torch.equal(bias_pictures(*_first(bias_tables(model))), pictures[0])
    with pytest.raises(OptionError, match="A BEiT has, such as beit-mini"):
        inside.biases(pipeline, tiny_spec("vit"))


def _first(found: Any) -> Any:
    return found[0][0], found[1]


def test_attention_distance_is_known_for_attention_to_oneself_to_a_neighbour_and_to_all() -> None:
    itself = torch.eye(6).view(1, 6, 2, 3)
    following = torch.eye(6).roll(1, dims=1).view(1, 6, 2, 3)
    found = attention_distance(torch.cat([itself, following, torch.full((1, 6, 2, 3), 0.1)]), 16)
    assert found[0] == 0
    # Within a row 16 px; from the end of one row to the start of the other, a row and two columns away.
    assert found[1] == pytest.approx((4 * 16 + 2 * 16 * math.hypot(1, 2)) / 6)
    places = [(row, column) for row in range(2) for column in range(3)]
    every = [16 * math.dist(one, other) for one in places for other in places]
    assert found[2] == pytest.approx(sum(every) / 36)


def test_distances_are_given_for_each_head_of_each_layer(pipeline: Pipeline, tiny_spec: Spec, photo: Maker) -> None:
    spec = tiny_spec("deit")
    found = inside.distances(pipeline, photo(), spec)
    assert found.shape == (3, 4)
    assert 0 < float(found.min()) < float(found.max()) < 32 * math.sqrt(2)
    with pytest.raises(OptionError, match="it has no attention"):
        inside.distances(pipeline, photo(), tiny_spec("resnet"))


def test_the_receptive_field_is_as_far_as_gradients_reach(pipeline: Pipeline, tiny_spec: Spec) -> None:
    spec = tiny_spec("resnet")
    field = inside.receptive_fields(pipeline, spec)[-1]
    model = load_model(spec, CPU, torch.float32)
    assert receptive_field(convolutions(model))[-1] == field
    network: Any = model.network
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, torch.nn.Conv2d):
                part.weight.fill_(1 / part.weight[0].numel())  # so that nothing cancels out
            elif isinstance(part, torch.nn.BatchNorm2d):
                part.reset_parameters()
    # Average pooling in place of the largest, so that every pixel counts.
    network.resnet.embedder.pooler = torch.nn.AvgPool2d(3, 2, 1)
    pixels = torch.ones(1, 3, 4 * field, 4 * field, requires_grad=True)
    cells = network.resnet(pixels).last_hidden_state
    middle = cells.shape[2] // 2
    (gradient,) = torch.autograd.grad(cells[0, :, middle, middle].sum(), pixels)
    reached = gradient[0].abs().sum(dim=0) > 0
    assert int(reached.any(dim=0).sum()) == int(reached.any(dim=1).sum()) == field
    with pytest.raises(OptionError, match="no convolutional network"):
        inside.receptive_fields(pipeline, tiny_spec("vit"))


def test_a_filter_is_grey_where_it_is_zero_and_reaches_an_end_of_the_scale() -> None:
    weight = torch.zeros(2, 3, 4, 4)
    weight[0, 0, 1, 2] = -3.0
    weight[0, 2, 3, 3] = 1.5
    pictures = filter_pictures(weight)
    assert pictures.shape == (2, 4, 4, 3)
    assert (pictures[1] == 0.5).all()
    assert pictures[0, 1, 2].tolist() == [0.0, 0.5, 0.5]
    assert pictures[0, 3, 3].tolist() == [0.5, 0.5, 0.75]


def test_principal_filters_span_what_the_filters_vary_in() -> None:
    first, second = torch.randn(2, 3, 4, 4)
    weight = torch.stack([a * first + b * second for a, b in torch.randn(10, 2)])
    found = principal_filters(weight, 2).permute(0, 3, 1, 2).flatten(1) - 0.5
    plane = torch.stack([first.flatten(), second.flatten()]).T
    coordinates = torch.linalg.lstsq(plane, found.T).solution
    torch.testing.assert_close(plane @ coordinates, found.T, atol=1e-5, rtol=1e-4)
    with pytest.raises(OptionError, match="1 to 10 principal components"):
        principal_filters(weight, 11)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("vit", (24, 8, 8, 3)), ("dinov3", (32, 8, 8, 3)), ("hybrid", (32, 7, 7, 3)), ("resnet", (8, 7, 7, 3))],
)
def test_filters_are_those_that_pixels_meet_first(
    kind: str, shape: tuple[int, ...], pipeline: Pipeline, tiny_spec: Spec
) -> None:
    found = inside.filters(pipeline, tiny_spec(kind))
    assert tuple(found.shape) == shape
    assert 0 <= float(found.min()) < float(found.max()) <= 1


@pytest.mark.parametrize("kind", ["vit", "beit", "dinov3", "dinov2-registers"])
def test_the_steps_of_a_head_end_in_its_attention_and_output(
    kind: str, pipeline: Pipeline, tiny_spec: Spec, photo: Maker
) -> None:
    spec, one = tiny_spec(kind), photo()
    model = load_model(spec, CPU, torch.float32)
    network: Any = model.network
    given: list[torch.Tensor] = []
    attention = next(part for name, part in network.named_modules() if name.endswith("1.attention"))
    handle = attention.o_proj.register_forward_pre_hook(lambda module, arguments: given.append(arguments[0]))
    with torch.no_grad():
        model(preprocess([one], spec.processor).pixel_values)
    handle.remove()
    point = (70.0, 20.0)
    prepared = prepare(one, spec, ExplainRequest(point=point))
    token = spec.num_prefix_tokens + prepared.patch
    steps = inside.steps(pipeline, one, spec, layer=1, head=2, point=point)
    width = steps.output.shape[0]
    torch.testing.assert_close(steps.output, given[0][0, token, 2 * width : 3 * width], atol=1e-5, rtol=1e-4)
    explained = pipeline.explain(one, spec, ExplainRequest(layer=1, head=2, readout="patch", point=point)).map
    assert explained is not None
    patches = steps.weights[spec.num_prefix_tokens :].view(explained.values.shape)
    torch.testing.assert_close(patches, torch.from_numpy(explained.values.copy()), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(steps.products, steps.keys @ steps.query)
    if kind != "beit":
        torch.testing.assert_close(steps.scores, steps.products * width**-0.5)
    with pytest.raises(OptionError, match="heads are 0 to 3"):
        inside.steps(pipeline, one, spec, head=4)


def test_values_are_recorded_only_on_request(pipeline: Pipeline, tiny_spec: Spec) -> None:
    spec = tiny_spec("vit")
    pixels = torch.randn(1, 3, 32, 32)
    (plain,) = pipeline.backend.run(spec, pixels, Capture(queries=True))
    assert all(layer.value is None for layer in plain.queries)


@pytest.mark.parametrize("kind", ["vit", "deit", "beit", "ijepa"])
def test_costs_are_those_of_the_network(kind: str, pipeline: Pipeline, tiny_spec: Spec) -> None:
    spec = tiny_spec(kind)
    model = load_model(spec, CPU, torch.float32)
    found = {part.part: part for part in inside.costs_of(pipeline, spec, 32, 32, 8)}
    network: Any = model.network
    network.set_attn_implementation("eager")  # whose products the counter sees
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 32, 32))
    extra = 2 * 24 * 7 if kind == "deit" else 0  # the second head of a distilled DeiT
    assert sum(part.flops for part in found.values()) + extra == counter.get_total_flops()
    if kind == "vit":
        assert sum(part.parameters for part in found.values()) == sum(weight.numel() for weight in network.parameters())


def test_attention_grows_with_the_square_of_the_tokens_and_the_rest_in_proportion() -> None:
    sizes = Sizes(192, 12, 3, 768, 1000)
    small, large = ({part.part: part for part in costs(sizes, side, side, 16)} for side in (224, 448))
    assert tokens_of(448, 448, 16) == 785
    assert large["attention"].flops / small["attention"].flops == pytest.approx((785 / 197) ** 2)
    assert large["mlp"].flops / small["mlp"].flops == pytest.approx(785 / 197)
    # ViT-Ti/16: 5.7 M parameters, and 1.26 billion multiply-adds at 224 px.
    assert sum(part.parameters for part in small.values()) == 5_717_416
    assert sum(part.flops for part in small.values()) / 2e9 == pytest.approx(1.26, abs=0.01)
    with pytest.raises(OptionError, match="hold no patch of 32 x 32"):
        costs(sizes, 16, 224, 32)


def test_a_network_with_convolutions_is_not_reckoned_as_a_vit(pipeline: Pipeline, tiny_spec: Spec) -> None:
    for kind in ("resnet", "hybrid"):
        with pytest.raises(OptionError, match="Choose a ViT or DeiT"):
            inside.costs_of(pipeline, tiny_spec(kind), 32, 32, 8)
    assert sizes_of(load_model(tiny_spec("beit"), CPU, torch.float32)).key_bias is False


def test_shuffled_patches_change_the_answer_unless_they_take_their_positions_along(
    pipeline: Pipeline, tiny_spec: Spec, photo: Maker
) -> None:
    spec, one = tiny_spec("vit"), photo()
    own = {label.index: label.score for label in pipeline.classify([one], spec, top_k=7)[0].labels}
    along, order = inside.shuffled(pipeline, one, spec, along=True, top_k=7, seed=1)
    kept, same = inside.shuffled(pipeline, one, spec, top_k=7, seed=1)
    assert order.order == same.order
    assert sorted(order.order) == list(range(16)) != list(order.order)
    for label in along.labels:
        assert label.score == pytest.approx(own[label.index], abs=1e-4)
    assert max(abs(label.score - own[label.index]) for label in kept.labels) > 1e-3
