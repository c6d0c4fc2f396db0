"""Switching parts off in the forward pass gives what edited weights give, for every family, and touches nobody else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from tests.engine.test_local import Loader, _queue
from vitdemo.engine import LocalBackend
from vitdemo.errors import OptionError
from vitdemo.models.interventions import intervening, shuffled_pixels
from vitdemo.models.layers import blocks
from vitdemo.models.loading import Classifier, load_model
from vitdemo.options.knockout import resolve_knockout
from vitdemo.registry import spec_from_folder
from vitdemo.settings import Settings
from vitdemo.types import Attribution, Capture, Knockout, ModelOutput, ModelSpec, Shuffle

Spec = Callable[[str], ModelSpec]
CPU = torch.device("cpu")
GATED = {"dinov2-swiglu": ("dinov2", {"use_swiglu_ffn": True}), "dinov3-gated": ("dinov3", {"use_gated_mlp": True})}

OFF = Knockout(heads=((0, 1), (2, 0), (2, 3)), attention=(1,), mlp=(0, 2))


@pytest.fixture(scope="module")
def backend() -> LocalBackend:
    return LocalBackend(Settings(device="cpu"))


@lru_cache(maxsize=32)
def _loaded(spec: ModelSpec) -> Classifier:
    return load_model(spec, CPU, torch.float32)


class Opened(Loader):
    """Its models can be intervened in."""

    def __call__(self, spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> Any:
        model = super().__call__(spec, device, dtype)
        model.network, model.spec = model.model.network, spec
        return model


def _pixels(spec: ModelSpec, batch: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, *spec.image_size, generator=torch.Generator().manual_seed(seed))


def _second_linear(mlp: nn.Module) -> nn.Linear:
    return next(getattr(mlp, name) for name in ("fc2", "down_proj") if hasattr(mlp, name))  # type: ignore[no-any-return]


def _edited(spec: ModelSpec, off: Knockout) -> Classifier:
    """The model with its weights edited by hand."""
    model = copy.deepcopy(_loaded(spec))
    layers: Sequence[Any] = blocks(model.network)
    with torch.no_grad():
        for layer, head in off.heads:
            weight = layers[layer].attention.o_proj.weight
            width = weight.shape[1] // spec.num_heads
            weight[:, head * width : (head + 1) * width] = 0
        linears = [layers[layer].attention.o_proj for layer in off.attention]
        for linear in linears + [_second_linear(layers[layer].mlp) for layer in off.mlp]:
            linear.weight.zero_()
            if linear.bias is not None:
                linear.bias.zero_()
    return model


def _hidden(model: Classifier, pixels: Tensor) -> Tensor:
    """`[B, N, D]` last hidden states: also of models without a classifier."""
    network: Any = model.network
    encoder = network if type(network).__name__.endswith("Model") else network.base_model
    with torch.no_grad():
        hidden: Tensor = encoder(pixels).last_hidden_state
    return hidden


def _no_hook_is_left(model: nn.Module) -> bool:
    return not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("kind", [*tiny.KINDS, *GATED])
def test_what_is_off_equals_edited_weights(kind: str, tiny_spec: Spec, tmp_path_factory: Any) -> None:
    if kind in GATED:
        base, changes = GATED[kind]
        spec = spec_from_folder(tiny.save(tmp_path_factory.mktemp("gated") / kind, base, **changes))
    else:
        spec = tiny_spec(kind)
    model, pixels = _loaded(spec), _pixels(spec, 4)
    plain = _hidden(model, pixels)
    # Each row of the batch has something else off, the last one nothing.
    off = [Knockout(heads=OFF.heads), Knockout(attention=OFF.attention), Knockout(mlp=OFF.mlp), Knockout()]
    with intervening(model, spec.patch_grid, off):
        found = _hidden(model, pixels)
    for row, one in enumerate(off):
        expected = _hidden(_edited(spec, one), pixels[row : row + 1])[0]
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-5)
        assert one == Knockout() or (expected - plain[row]).abs().max() > 1e-2
    assert torch.equal(found[3], plain[3])
    with intervening(model, spec.patch_grid, [OFF]):
        together = _hidden(model, pixels)
    torch.testing.assert_close(together, _hidden(_edited(spec, OFF), pixels), atol=1e-5, rtol=1e-5)
    assert _no_hook_is_left(model)
    assert torch.equal(_hidden(model, pixels), plain)


@pytest.mark.parametrize("method", ["relevance", "grad-cam", "legrad", "grad-rollout"])
def test_gradients_flow_as_through_edited_weights(method: str, backend: LocalBackend, tiny_spec: Spec) -> None:
    spec = tiny_spec("vit")
    pixels = _pixels(spec, 2)
    found = backend.run(spec, pixels, Attribution(method, target=2, knockouts=(OFF, Knockout())))
    edited = LocalBackend(Settings(device="cpu"), load=lambda spec, *_: _edited(spec, OFF))
    expected, plain = (one.run(spec, pixels, Attribution(method, target=2)) for one in (edited, backend))
    for own, other in ((found[0], expected[0]), (found[1], plain[1])):
        assert own.values is not None
        assert other.values is not None
        torch.testing.assert_close(own.values, other.values, atol=1e-5, rtol=1e-4)


def test_recorded_attention_is_that_of_the_edited_network(backend: LocalBackend, tiny_spec: Spec) -> None:
    spec = tiny_spec("deit")
    pixels, rows = _pixels(spec), Capture(tokens=(0, 1), mean=True)
    (found,) = backend.run(spec, pixels, Capture(tokens=(0, 1), mean=True, knockouts=(OFF,)))
    (expected,) = LocalBackend(Settings(device="cpu"), load=lambda spec, *_: _edited(spec, OFF)).run(spec, pixels, rows)
    for name, values in expected.rows.items():
        torch.testing.assert_close(found.rows[name], values, atol=1e-5, rtol=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_grey_patches_are_zeros_of_the_pixels(kind: str, backend: LocalBackend, tiny_spec: Spec) -> None:
    spec = tiny_spec(kind)
    rows, columns = spec.patch_grid
    pixels, side = _pixels(spec, 2), spec.patch_size
    by_hand = pixels.clone()
    by_hand[0, :, :side, side : 2 * side] = 0
    by_hand[0, :, (rows - 1) * side :, (columns - 1) * side :] = 0
    off = Knockout(patches=(1, rows * columns - 1))
    outputs = backend.run(spec, pixels, Capture(features=True, knockouts=(off, Knockout())))
    expected = backend.run(spec, by_hand, Capture(features=True))
    for own, other in zip(outputs, expected, strict=True):
        assert own.features is not None
        assert other.features is not None
        torch.testing.assert_close(own.features.values, other.features.values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in tiny.KINDS if not kind.startswith("hybrid")])
def test_the_mean_token_stands_in_for_hidden_patches(kind: str, tiny_spec: Spec) -> None:
    spec = tiny_spec(kind)
    model, pixels = _loaded(spec), _pixels(spec, 2)
    network: Any = model.network
    embedding = next(module for name, module in network.named_modules() if name.endswith("patch_embeddings"))
    made: list[Tensor] = []
    with torch.no_grad(), intervening(model, spec.patch_grid, [Knockout(patches=(0, 5), fill="mean"), Knockout()]):
        handle = embedding.register_forward_hook(lambda *given: made.append(given[2]))
        _hidden(model, pixels)
        handle.remove()
    tokens = made[0].flatten(2).transpose(1, 2) if made[0].dim() == 4 else made[0]
    with torch.no_grad():
        own = embedding(pixels)
    own = own.flatten(2).transpose(1, 2) if own.dim() == 4 else own
    seen = [patch for patch in range(own.shape[1]) if patch not in (0, 5)]
    torch.testing.assert_close(tokens[0, [0, 5]], own[0, seen].mean(dim=0).expand(2, -1), atol=1e-5, rtol=1e-4)
    assert torch.equal(tokens[0, seen], own[0, seen])
    assert torch.equal(tokens[1], own[1])


def test_a_convolutional_network_has_patches_to_hide_but_no_heads(backend: LocalBackend, tiny_spec: Spec) -> None:
    spec = tiny_spec("resnet")
    pixels = torch.randn(1, 3, 20, 27)  # with partial cells at its edges
    grid = spec.grid_of(20, 27)
    by_hand = pixels.clone()
    by_hand[:, :, 16:, 24:] = 0
    (found,) = backend.run(spec, pixels, Capture(knockouts=(Knockout(patches=(grid[0] * grid[1] - 1,)),)))
    (expected,) = backend.run(spec, by_hand, Capture())
    assert found.logits is not None
    assert expected.logits is not None
    torch.testing.assert_close(found.logits, expected.logits)
    for off in (Knockout(heads=((0, 0),)), Knockout(attention=(0,)), Knockout(mlp=(0,))):
        with pytest.raises(OptionError, match="convolutional network: it has no heads, attention or MLP blocks"):
            backend.run(spec, pixels, Capture(knockouts=(off,)))
    with pytest.raises(OptionError, match="Fill with grey or mae"):
        backend.run(spec, pixels, Capture(knockouts=(Knockout(patches=(0,), fill="mean"),)))


def test_images_of_one_batch_have_their_own_knockouts(backend: LocalBackend, tiny_spec: Spec) -> None:
    spec = tiny_spec("vit")
    pixels = _pixels(spec, 11)  # more than fit into one forward pass
    off = tuple(Knockout(heads=((row % 3, row % 4),)) if row % 5 else Knockout() for row in range(11))
    found = backend.run(spec, pixels, Capture(knockouts=off))
    for row, one in enumerate(off):
        (alone,) = backend.run(spec, pixels[row : row + 1], Capture(knockouts=(one,)))
        assert alone.logits is not None
        torch.testing.assert_close(found[row].logits, alone.logits, atol=1e-5, rtol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [kind for kind in tiny.KINDS if kind not in tiny.HEADLESS])
def test_one_image_with_many_knockouts_gives_what_each_alone_gives(
    kind: str, backend: LocalBackend, tiny_spec: Spec
) -> None:
    spec = tiny_spec(kind)
    pixels, before = _pixels(spec), Knockout(heads=((0, 3),), mlp=(0,), patches=(1, 2))
    late = [before | Knockout(heads=((2, head),)) for head in range(4)]
    patches = [Knockout(), Knockout(patches=(3,))]
    for off in (late, [*late, before | Knockout(attention=(1,)), before], patches):
        found = backend.run(spec, pixels, Capture(knockouts=tuple(off)))
        assert len(found) == len(off)
        for own, one in zip(found, off, strict=True):
            (alone,) = backend.run(spec, pixels, Capture(knockouts=(one,)))
            torch.testing.assert_close(_readings(own), _readings(alone), atol=1e-5, rtol=1e-5)


def test_many_knockouts_of_one_image_pass_what_they_share_once(backend: LocalBackend, tiny_spec: Spec) -> None:
    spec = tiny_spec("vit")
    model, sizes = _loaded(spec), []
    layers = blocks(model.network)
    off = [Knockout(mlp=(0,)) | Knockout(heads=((1, head),)) for head in range(3)]
    with intervening(model, spec.patch_grid, off, fan_out=1), torch.no_grad():
        handles = [layer.register_forward_hook(lambda *given: sizes.append(len(given[2]))) for layer in layers]
        model(_pixels(spec))
        for handle in handles:
            handle.remove()
    assert sizes == [1, 3, 3]
    rows = backend.run(spec, _pixels(spec), Capture(tokens=(0,), knockouts=tuple(off)))
    assert [tuple(output.rows["class"].shape) for output in rows] == [(3, 4, 17)] * 3


def test_users_who_share_a_forward_pass_do_not_share_a_knockout(tiny_spec: Spec) -> None:
    spec, loader = tiny_spec("vit"), Opened()
    backend = LocalBackend(Settings(device="cpu"), load=loader)
    jobs = [(_pixels(spec, 1, seed), Capture(knockouts=(OFF,) if seed % 2 else ())) for seed in range(4)]
    with _queue(backend, loader, spec, jobs) as futures:
        pass
    assert loader.models[0].batches[-1] == 4
    alone = LocalBackend(Settings(device="cpu"))
    for (pixels, capture), future in zip(jobs, futures, strict=True):
        (expected,), (found,) = alone.run(spec, pixels, capture), future.result()
        assert found.logits is not None
        torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-5)


def test_a_failed_forward_pass_leaves_no_hook_and_the_next_user_has_all_of_the_network(tiny_spec: Spec) -> None:
    spec = tiny_spec("vit")
    model, pixels = _loaded(spec), _pixels(spec)
    plain = _hidden(model, pixels)
    with (
        pytest.raises(ValueError, match="doesn't match model"),
        intervening(model, spec.patch_grid, [Knockout(heads=((0, 0),), mlp=(1,), patches=(0,))]),
    ):
        _hidden(model, torch.zeros(1, 3, 8, 8))
    with (
        pytest.raises(ValueError, match="belongs into the pixels"),
        intervening(model, spec.patch_grid, [Knockout(mlp=(1,), patches=(0,), fill="mae")]),
    ):
        pass
    assert _no_hook_is_left(model)
    assert torch.equal(_hidden(model, pixels), plain)


def test_other_threads_see_the_whole_network(tiny_spec: Spec) -> None:
    spec = tiny_spec("vit")
    model, pixels = _loaded(spec), _pixels(spec)
    plain = _hidden(model, pixels)
    with ThreadPoolExecutor(1) as pool, intervening(model, spec.patch_grid, [OFF]):
        assert torch.equal(pool.submit(_hidden, model, pixels).result(), plain)
        assert not torch.equal(_hidden(model, pixels), plain)


@pytest.mark.parametrize(
    ("off", "words"),
    [
        (Knockout(heads=((3, 0),)), "no layer 3: tiny-vit has layers 0 to 2, or -3 to -1"),
        (Knockout(heads=((0, 4),)), "no head 4: tiny-vit has heads 0 to 3"),
        (Knockout(attention=(-4,)), "no layer -4"),
        (Knockout(mlp=(9,)), "no layer 9"),
        (Knockout(patches=(16,)), "no patch 16: this picture has patches 0 to 15"),
        (Knockout(patches=tuple(range(16))), "All 16 patches are hidden: nothing is left to see. Leave at least one"),
        (Knockout(attention=(0, 1, 2)), "Leave at least one head on"),
        (Knockout(attention=(0, 2), heads=tuple((1, head) for head in range(4))), "All attention of tiny-vit is off"),
        (Knockout(patches=(1,), fill="blue"), "Choose from: grey, mean, mae"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_off_is_said_in_words(off: Knockout, words: str, backend: LocalBackend, tiny_spec: Spec) -> None:
    spec = tiny_spec("vit")
    with pytest.raises(OptionError, match=words):
        backend.run(spec, _pixels(spec), Capture(knockouts=(off,)))


def test_equal_knockouts_are_equal_however_they_were_written(tiny_spec: Spec) -> None:
    spec = tiny_spec("vit")
    written = Knockout(heads=((-1, 2), (0, 1), (2, 2)), mlp=(-1, 2), patches=(5, 3, 5))
    resolved = resolve_knockout(written, spec, (4, 4))
    assert resolved == Knockout(heads=((0, 1), (2, 2)), mlp=(2,), patches=(3, 5))
    assert len({resolved, resolve_knockout(resolved, spec, (4, 4))}) == 1
    assert Knockout(heads=((1, 1),)) | Knockout(heads=((0, 0),), mlp=(2,)) == Knockout(((0, 0), (1, 1)), mlp=(2,))


ORDER = torch.randperm(16, generator=torch.Generator().manual_seed(3))


def _readings(output: ModelOutput) -> Tensor:
    assert output.logits is not None
    return output.logits


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_patches_that_take_their_positions_along_leave_the_class_token_as_it_was(kind: str, tiny_spec: Spec) -> None:
    spec = tiny_spec(kind)
    model, pixels, prefix = _loaded(spec), _pixels(spec), spec.num_prefix_tokens
    order = (
        ORDER
        if len(ORDER) == spec.patch_grid[0] * spec.patch_grid[1]
        else torch.randperm(spec.patch_grid[0] * spec.patch_grid[1], generator=torch.Generator().manual_seed(3))
    )
    plain = _hidden(model, pixels)
    with intervening(model, spec.patch_grid, shuffle=Shuffle(tuple(order.tolist()), along=True)):
        found = _hidden(model, pixels)
    torch.testing.assert_close(found[:, :prefix], plain[:, :prefix], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[:, prefix:], plain[:, prefix:][:, order], atol=1e-4, rtol=1e-4)
    assert not torch.equal(order, torch.arange(len(order)))
    assert _no_hook_is_left(model)


def test_patches_that_change_places_change_the_answer_of_a_vit_and_of_a_cnn(
    backend: LocalBackend, tiny_spec: Spec
) -> None:
    for kind, along in (("vit", False), ("resnet", False), ("resnet", True)):
        spec = tiny_spec(kind)
        side = spec.patch_size
        pixels = torch.randn(1, 3, 32, 32)
        grid = spec.grid_of(32, 32)
        order = tuple(reversed(range(grid[0] * grid[1])))
        (found,) = backend.run(spec, pixels, Capture(shuffle=Shuffle(order, along)))
        (plain,) = backend.run(spec, pixels, Capture())
        moved = torch.cat(
            [
                torch.cat([pixels[:, :, y : y + side, x : x + side] for x in range(32 - side, -1, -side)], dim=3)
                for y in range(32 - side, -1, -side)
            ],
            dim=2,
        )
        (by_hand,) = backend.run(spec, moved, Capture())
        torch.testing.assert_close(_readings(found), _readings(by_hand), atol=1e-5, rtol=1e-5)
        assert (_readings(found) - _readings(plain)).abs().max() > 1e-3


def test_a_picture_of_partial_patches_is_not_shuffled() -> None:
    with pytest.raises(OptionError, match="not of whole patches"):
        shuffled_pixels(torch.zeros(1, 3, 10, 8), torch.arange(2), (1, 1), 8)
