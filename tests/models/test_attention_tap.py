"""The attention tap records what eager `output_attentions=True` returns, only as requested, only in its thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tests import tiny
from vitdemo.models.attention_tap import TAP, AttentionRecord, attention_rows, mean_row, record_attention
from vitdemo.models.loading import Classifier, load_model, size_options
from vitdemo.registry import get_spec, ready_models
from vitdemo.types import Capture, ModelSpec

CPU = torch.device("cpu")
EVERYTHING = Capture(tokens=(0, 1), mean=True)
MODELS = [*(spec.name for spec in ready_models() if spec.readouts), *tiny.KINDS]

Load = Callable[[str], tuple[ModelSpec, Classifier]]


@pytest.fixture(scope="module")
def load(tiny_spec: Callable[[str], ModelSpec]) -> Load:
    """`load(name)`: an embedded model, or a tiny one by its kind, in fp32."""

    @cache
    def loaded(name: str) -> tuple[ModelSpec, Classifier]:
        spec = tiny_spec(name) if name in tiny.KINDS else get_spec(name)
        return spec, load_model(spec, CPU, torch.float32)

    return loaded


def _pixels(spec: ModelSpec, batch: int = 2, grid: tuple[int, int] | None = None, seed: int = 0) -> Tensor:
    rows, columns = grid or spec.patch_grid
    shape = (batch, 3, rows * spec.patch_size, columns * spec.patch_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _recorded(
    model: Classifier, pixels: Tensor, capture: Capture = EVERYTHING
) -> tuple[AttentionRecord, Tensor | None]:
    with torch.no_grad(), record_attention(capture) as record:
        logits = model(pixels)
    return record, logits


@contextmanager
def _implementation(model: Classifier, name: str) -> Iterator[None]:
    # Not `set_attn_implementation`: it asks the hybrid's convolutional part, too, which has no attention.
    config = model.network.base_model.config
    try:
        config._attn_implementation = name
        yield
    finally:
        config._attn_implementation = TAP


def _eager(model: Classifier, pixels: Tensor) -> tuple[Tensor, ...]:
    """`[B, H, N, N]` per layer, from transformers itself."""
    with torch.no_grad(), _implementation(model, "eager"):
        outputs = model.body(pixels, **size_options(model.network, pixels), output_attentions=True)
    return tuple(outputs.attentions)


def _sdpa(model: Classifier, pixels: Tensor) -> Tensor | None:
    with torch.no_grad(), _implementation(model, "sdpa"):
        logits: Tensor | None = model(pixels)
    return logits


def _assert_same_as_eager(model: Classifier, pixels: Tensor, spec: ModelSpec, grid: tuple[int, int]) -> None:
    expected = _eager(model, pixels)
    record, _ = _recorded(model, pixels)
    tokens = spec.num_prefix_tokens + grid[0] * grid[1]
    assert len(expected) == spec.num_layers
    assert set(record.rows) == {"class", "distillation", "mean"}
    assert all(len(layers) == spec.num_layers for layers in record.rows.values())
    for layer, attention in enumerate(expected):
        assert attention.shape == (len(pixels), spec.num_heads, tokens, tokens)
        wanted = {"class": attention[:, :, 0], "distillation": attention[:, :, 1], "mean": attention.mean(dim=2)}
        for readout, rows in wanted.items():
            difference = (record.rows[readout][layer] - rows).abs().max()
            assert difference <= 1e-5, (readout, layer)


@pytest.mark.thorough
@pytest.mark.parametrize("name", MODELS)
def test_rows_of_every_token_and_their_mean_are_those_of_eager(load: Load, name: str) -> None:
    spec, model = load(name)
    _assert_same_as_eager(model, _pixels(spec), spec, spec.patch_grid)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("grid", [(5, 3), (2, 8)], ids=str)
def test_rows_are_those_of_eager_at_an_input_that_is_neither_native_nor_square(
    load: Load, name: str, grid: tuple[int, int]
) -> None:
    spec, model = load(name)
    _assert_same_as_eager(model, _pixels(spec, 1, grid), spec, grid)


@pytest.mark.parametrize("name", tiny.KINDS)
def test_the_attention_of_the_tiny_networks_is_not_flat(load: Load, name: str) -> None:
    # Parity of flat rows would prove nothing.
    spec, model = load(name)
    attention = torch.stack(_eager(model, _pixels(spec)))
    assert attention.std() > 0.1 / attention.shape[-1]


@pytest.mark.parametrize("name", ["beit", "beit-shared"])
def test_the_position_bias_of_beit_is_in_the_rows(load: Load, name: str) -> None:
    spec, model = load(name)
    pixels = _pixels(spec)
    before, _ = _recorded(model, pixels)
    tables = {key: value for key, value in model.state_dict().items() if "relative_position_bias_table" in key}
    assert tables
    kept = {key: value.clone() for key, value in tables.items()}
    try:
        for table in tables.values():
            table.zero_()
        after, _ = _recorded(model, pixels)
    finally:
        for key, table in tables.items():
            table.copy_(kept[key])
    assert (before.rows["mean"][0] - after.rows["mean"][0]).abs().max() > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_plain_sdpa_whether_recording_or_not(load: Load, name: str) -> None:
    spec, model = load(name)
    pixels = _pixels(spec)
    expected = _sdpa(model, pixels)
    with torch.no_grad():
        outside = model(pixels)
    _, inside = _recorded(model, pixels)
    if expected is None:
        assert outside is inside is None
        return
    assert expected.shape == (2, len(spec.labels))
    assert torch.equal(outside, expected)
    assert torch.equal(inside, expected)


@pytest.mark.parametrize("name", MODELS)
def test_all_rows_sum_to_one_prefix_tokens_included(load: Load, name: str) -> None:
    spec, model = load(name)
    record, _ = _recorded(model, _pixels(spec))
    for layers in record.rows.values():
        for rows in layers:
            assert rows.dtype == torch.float32
            torch.testing.assert_close(rows.sum(dim=-1), torch.ones(2, spec.num_heads), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_are_float32_and_sum_to_one_when_the_model_runs_in_half_precision(
    tiny_spec: Callable[[str], ModelSpec], dtype: torch.dtype
) -> None:
    for kind in ("vit", "beit"):
        spec = tiny_spec(kind)
        model = load_model(spec, CPU, dtype)
        record, logits = _recorded(model, _pixels(spec).to(dtype))
        assert logits is not None
        assert logits.dtype == dtype
        for layers in record.rows.values():
            for rows in layers:
                assert rows.dtype == torch.float32
                torch.testing.assert_close(rows.sum(dim=-1), torch.ones(2, 4), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("capture", "readouts"),
    [
        (Capture(), set()),
        (Capture(tokens=(0,)), {"class"}),
        (Capture(tokens=(1,)), {"distillation"}),
        (Capture(tokens=(0, 1)), {"class", "distillation"}),
        (Capture(mean=True), {"mean"}),
        (Capture(tokens=(0,), mean=True), {"class", "mean"}),
    ],
    ids=lambda value: "+".join(sorted(value)) or "none" if isinstance(value, set) else str(value),
)
def test_only_what_is_named_is_recorded(load: Load, capture: Capture, readouts: set[str]) -> None:
    spec, model = load("deit")
    record, _ = _recorded(model, _pixels(spec), capture)
    assert set(record.rows) == readouts


def test_a_batch_of_two_gives_what_two_batches_of_one_give(load: Load) -> None:
    for name in ("deit", "beit", "hybrid"):
        spec, model = load(name)
        pixels = _pixels(spec)
        together, logits = _recorded(model, pixels)
        for index in (0, 1):
            alone, own = _recorded(model, pixels[index : index + 1])
            torch.testing.assert_close(own[0], logits[index], atol=1e-4, rtol=1e-5)
            for readout, layers in alone.rows.items():
                for layer, rows in enumerate(layers):
                    torch.testing.assert_close(rows[0], together.rows[readout][layer][index], atol=1e-5, rtol=0)
        assert not torch.allclose(together.rows["class"][-1][0], together.rows["class"][-1][1])


def test_nothing_is_recorded_outside_a_scope(load: Load) -> None:
    spec, model = load("vit")
    record, _ = _recorded(model, _pixels(spec))
    with torch.no_grad():
        model(_pixels(spec))
    assert [len(layers) for layers in record.rows.values()] == [3, 3, 3]


def test_nothing_is_recorded_of_a_forward_in_another_thread(load: Load) -> None:
    spec, model = load("vit")
    with record_attention(EVERYTHING) as record, ThreadPoolExecutor(1) as pool:
        assert pool.submit(model, _pixels(spec)).result() is not None
    assert record.rows == {}


def test_threads_at_once_each_record_their_own(load: Load) -> None:
    spec, model = load("vit")
    pixels = [_pixels(spec, batch=1, seed=seed) for seed in range(8)]
    expected = [_recorded(model, one)[0].rows["class"] for one in pixels]
    gate = threading.Barrier(len(pixels))

    def record(index: int) -> list[Tensor]:
        with torch.no_grad(), record_attention(Capture(tokens=(0,))) as record:
            gate.wait()  # all scopes are open before the first forward
            model(pixels[index])
            gate.wait()
        return record.rows["class"]

    with ThreadPoolExecutor(len(pixels)) as pool:
        found = list(pool.map(record, range(len(pixels))))
    for own, other in zip(found, expected, strict=True):
        assert len(own) == spec.num_layers
        torch.testing.assert_close(torch.stack(own), torch.stack(other), atol=1e-6, rtol=0)


def test_an_inner_scope_records_for_itself_and_the_outer_one_goes_on_after_it(load: Load) -> None:
    spec, model = load("vit")
    first, second = _pixels(spec, seed=1), _pixels(spec, seed=2)
    with torch.no_grad(), record_attention(Capture(tokens=(0,))) as outer:
        with record_attention(Capture(mean=True)) as inner:
            model(first)
        model(second)
    assert set(inner.rows) == {"mean"}
    assert set(outer.rows) == {"class"}
    assert len(outer.rows["class"]) == spec.num_layers
    alone, _ = _recorded(model, second, Capture(tokens=(0,)))
    assert torch.equal(outer.rows["class"][0], alone.rows["class"][0])


def test_a_failed_forward_leaves_no_scope_behind(load: Load) -> None:
    spec, model = load("vit")
    with pytest.raises(ValueError, match="channel"), record_attention(EVERYTHING) as record:
        model(_pixels(spec)[:, :1])
    model(_pixels(spec))
    assert record.rows == {}


def test_a_forward_that_fails_half_way_leaves_no_scope_and_no_queries_behind(load: Load) -> None:
    spec, model = load("vit")
    last = list(model.network.modules())[-1]
    broken = last.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
    try:
        with pytest.raises(RuntimeError, match="out of memory"), record_attention(EVERYTHING) as record:
            model(_pixels(spec))
    finally:
        broken.remove()
    recorded = len(record.rows["class"])
    assert recorded > 0
    model(_pixels(spec))
    assert len(record.rows["class"]) == recorded
    assert "mean" not in record.rows


def test_a_finished_record_keeps_no_queries_and_keys(load: Load) -> None:
    spec, model = load("beit")
    record, _ = _recorded(model, _pixels(spec))
    assert record._deferred == []


def test_no_hook_is_on_any_module_of_a_model_that_was_recorded(tiny_spec: Callable[[str], ModelSpec]) -> None:
    spec = tiny_spec("deit")
    model = load_model(spec, CPU, torch.float32)
    _recorded(model, _pixels(spec))
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks


def test_other_implementations_are_as_transformers_made_them() -> None:
    assert AttentionInterface()["sdpa"] is sdpa_attention_forward
    assert AttentionMaskInterface()["sdpa"] is sdpa_mask
    assert AttentionInterface()[TAP] is not sdpa_attention_forward


def test_a_convolutional_network_has_nothing_to_record(tiny_spec: Callable[[str], ModelSpec]) -> None:
    spec = tiny_spec("resnet")
    record, logits = _recorded(load_model(spec, CPU, torch.float32), torch.randn(2, 3, 32, 32))
    assert logits is not None
    assert logits.shape == (2, 7)
    assert record.rows == {}


def test_of_a_masked_autoencoder_the_encoder_alone_is_recorded(load: Load) -> None:
    spec, model = load("mae")
    hidden = torch.zeros(1, *spec.patch_grid, dtype=torch.bool)
    hidden[0, 0, 0] = True
    record, _ = _recorded(model, _pixels(spec, 1))
    with torch.no_grad():
        model.reconstruct(_pixels(spec, 1), hidden)
    assert [len(layers) for layers in record.rows.values()] == [spec.num_layers] * 3


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_network_that_does_not_use_the_tap_is_not_recorded(implementation: str) -> None:
    network = tiny.network("vit")
    network.set_attn_implementation(implementation)
    with torch.no_grad(), record_attention(EVERYTHING) as record:
        network(torch.randn(1, 3, 32, 32))
    assert record.rows == {}


def test_a_new_network_does_not_use_the_tap_by_itself() -> None:
    assert tiny.network("vit").config._attn_implementation != TAP


@pytest.mark.parametrize("mask_rows", [1, 9])
@pytest.mark.parametrize("boolean", [True, False])
def test_masks_of_one_row_or_of_all_boolean_or_additive_are_applied(mask_rows: int, boolean: bool) -> None:
    query, key = torch.randn(2, 3, 9, 4), torch.randn(2, 3, 9, 4)
    allowed = torch.rand(2, 1, mask_rows, 9) > 0.3
    allowed[..., 0] = True
    additive = torch.zeros(allowed.shape).masked_fill(~allowed, float("-inf"))
    expected = (query @ key.transpose(-1, -2) * 0.5 + additive).softmax(dim=-1)
    mask = allowed if boolean else additive
    torch.testing.assert_close(attention_rows(query, key, mask, 0.5, 2, 5), expected[:, :, 2:5])
    torch.testing.assert_close(mean_row(query, key, mask, 0.5), expected.mean(dim=2))


@pytest.mark.parametrize("block", [1, 4, 7, 9, 100])
def test_the_mean_does_not_depend_on_the_size_of_its_blocks(block: int) -> None:
    query, key, bias = torch.randn(2, 3, 9, 4), torch.randn(2, 3, 9, 4), torch.randn(1, 3, 9, 9)
    expected = (query @ key.transpose(-1, -2) * 0.5 + bias).softmax(dim=-1).mean(dim=2)
    torch.testing.assert_close(mean_row(query, key, bias, 0.5, block), expected)
