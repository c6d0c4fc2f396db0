"""Interpolated position embeddings equal transformers' on square grids, and follow the same rule on oblong images."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.beit.modeling_beit import BeitRelativePositionBias

from tests import tiny
from vitdemo.models.loading import load_model, size_options
from vitdemo.models.position_embeddings import DINO_OFFSET, accept_any_grid, resize_bias, resize_positions
from vitdemo.registry import spec_from_folder
from vitdemo.types import ModelSpec

CPU = torch.device("cpu")
PLACED = tuple(kind for kind in tiny.KINDS if kind not in ("beit", "beit-shared", "beit-class", "dinov3"))
"""Those with a table of positions."""

BIASED = ("beit", "beit-shared", "beit-class")
OBLONG = tuple(kind for kind in (*PLACED, *BIASED) if kind != "mae")
"""transformers' MAE cannot be oblong, and hides patches at random."""

GRIDS = [(4, 4), (2, 2), (7, 7), (3, 5), (8, 2), (1, 1), (1, 9)]
LOADED: dict[Any, Any] = {}


@pytest.mark.parametrize("grid", [(5, 5), (30, 30), (3, 7)])
def test_dinos_own_checkpoints_are_interpolated_as_if_the_grid_were_a_tenth_of_a_patch_larger(
    grid: tuple[int, int],
) -> None:
    cells = torch.randn(16, 3, generator=torch.Generator().manual_seed(3))
    table = torch.cat([torch.ones(1, 3), cells])[None]

    def shifted(old: int, new: int) -> NDArray[np.float64]:
        """Keys' kernel with a = -0.75, edges repeated, at the places of a grid of `new + 0.1`."""
        weights = np.zeros((new, old))
        for target in range(new):
            centre = (target + 0.5) * old / (new + 0.1) - 0.5
            for cell in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
                away = abs(centre - cell)
                near = 1.25 * away**3 - 2.25 * away**2 + 1
                far = -0.75 * (away**3 - 5 * away**2 + 8 * away - 4)
                weights[target, min(max(cell, 0), old - 1)] += near if away <= 1 else far
        return weights

    found = resize_positions(table, (4, 4), grid, offset=DINO_OFFSET)
    torch.testing.assert_close(found[0, 1:], _by_hand(cells, (4, 4), grid, shifted), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[0, 0], torch.ones(3))
    assert torch.equal(resize_positions(table, (4, 4), (4, 4), offset=DINO_OFFSET), table)


@pytest.mark.parametrize(
    ("family", "source", "own"), [("DINO", "hub", True), ("DINO", "local", False), ("ViT", "hub", False)]
)
def test_only_published_checkpoints_of_dino_are_interpolated_by_its_rule(
    tmp_path: Path, family: str, source: Any, own: bool
) -> None:
    spec = replace(spec_from_folder(tiny.save(tmp_path / "made", "dino")), family=family, source=source)
    embeddings = _embeddings(load_model(spec, CPU, torch.float32).network)
    table = embeddings.position_embeddings
    expected = resize_positions(table, (4, 4), (6, 7), offset=DINO_OFFSET if own else 0.0)
    assert torch.equal(_resized(embeddings, (6, 7), 8, 1), expected)


def _embeddings(network: nn.Module) -> Any:
    (found,) = (
        module for module in network.modules() if isinstance(getattr(module, "position_embeddings", None), nn.Parameter)
    )
    return found


def _biases(network: nn.Module) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, BeitRelativePositionBias)]


def _resized(embeddings: Any, grid: tuple[int, int], side: int, prefix: int) -> Tensor:
    """The position embeddings that a network adds on this grid."""
    tokens = torch.zeros(1, prefix + grid[0] * grid[1], embeddings.position_embeddings.shape[-1])
    with torch.no_grad():
        found: Tensor = embeddings.interpolate_pos_encoding(tokens, grid[0] * side, grid[1] * side)
    return found


def _side(embeddings: Any) -> int:
    return int(embeddings.patch_size if isinstance(embeddings.patch_size, int) else embeddings.patch_size[0])


def _prefix(embeddings: Any) -> int:
    """Position embeddings of prefix tokens."""
    return len(embeddings.position_embeddings[0]) - len(embeddings.position_embeddings[0]) // 16 * 16


def _cubic(old: int, new: int) -> NDArray[np.float64]:
    """`[new, old]`: interpolation weights of Keys' kernel with a = -0.75, edges repeated."""
    weights = np.zeros((new, old))
    for target in range(new):
        centre = (target + 0.5) * old / new - 0.5
        for cell in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            distance = abs(centre - cell)
            if distance <= 1:
                weight = 1.25 * distance**3 - 2.25 * distance**2 + 1
            else:
                weight = -0.75 * (distance**3 - 5 * distance**2 + 8 * distance - 4)
            weights[target, min(max(cell, 0), old - 1)] += weight
    return weights


def _antialiased(old: int, new: int) -> NDArray[np.float64]:
    """The same with a = -0.5, widened when downscaling, and cut off at the edges."""
    weights, scale = np.zeros((new, old)), max(old / new, 1.0)
    for target in range(new):
        centre = (target + 0.5) * old / new
        first, last = max(int(centre - 2 * scale + 0.5), 0), min(int(centre + 2 * scale + 0.5), old)
        for cell in range(first, last):
            distance = abs((cell + 0.5 - centre) / scale)
            if distance < 1:
                weights[target, cell] = 1.5 * distance**3 - 2.5 * distance**2 + 1
            elif distance < 2:
                weights[target, cell] = -0.5 * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        weights[target] /= weights[target].sum()
    return weights


def _linear(old: int, new: int) -> NDArray[np.float64]:
    weights = np.zeros((new, old))
    for target in range(new):
        centre = max((target + 0.5) * old / new - 0.5, 0.0)
        low = min(int(centre), old - 1)
        weights[target, low] += 1 - (centre - low)
        weights[target, min(low + 1, old - 1)] += centre - low
    return weights


def _by_hand(
    cells: Tensor, trained: tuple[int, int], grid: tuple[int, int], weights: Callable[[int, int], NDArray[np.float64]]
) -> Tensor:
    """`[h * w, D]` of one grid interpolated to another, separably, in double precision."""
    table = cells.detach().double().numpy().reshape(*trained, -1)
    down, along = weights(trained[0], grid[0]), weights(trained[1], grid[1])
    resized = np.einsum("yr,xc,rcd->yxd", down, along, table)
    return torch.from_numpy(resized.reshape(grid[0] * grid[1], -1)).float()


def _bias_by_hand(table: Tensor, trained: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """`[H, N, N]`, pair by pair: the offset of query and key selects the row of the table."""
    old, new = ((2 * rows - 1, 2 * columns - 1) for rows, columns in (trained, grid))
    cells = (
        _by_hand(table[:-3], old, new, _linear).unflatten(0, new) if trained != grid else table[:-3].unflatten(0, old)
    )
    rows, columns = grid
    tokens = rows * columns
    bias = torch.zeros(table.shape[1], tokens + 1, tokens + 1)
    for query in range(tokens):
        for key in range(tokens):
            below = query // columns - key // columns
            right = query % columns - key % columns
            bias[:, query + 1, key + 1] = cells[below + rows - 1, right + columns - 1]
    bias[:, 0, 1:] = table[-3][:, None]
    bias[:, 1:, 0] = table[-2][:, None]
    bias[:, 0, 0] = table[-1]
    return bias


def _oblong(kind: str, tmp_path_factory: pytest.TempPathFactory, size: tuple[int, int]) -> tuple[ModelSpec, Any]:
    """A tiny network with an oblong grid, as loaded, read only."""
    if (kind, size) not in LOADED:
        scale = 2 if kind == "hybrid" else 1  # for as many patches
        folder = tmp_path_factory.mktemp("oblong") / kind
        spec = spec_from_folder(tiny.save(folder, kind, image_size=[scale * side for side in size]))
        LOADED[kind, size] = spec, load_model(spec, CPU, torch.float32)
    found: tuple[ModelSpec, Any] = LOADED[kind, size]
    return found


@pytest.mark.parametrize("kind", PLACED)
def test_on_other_grids_positions_are_those_of_transformers(kind: str) -> None:
    plain = tiny.network(kind)
    ours = deepcopy(plain)
    accept_any_grid(ours)
    assert type(_embeddings(ours)) is not type(_embeddings(plain))
    side, prefix = _side(_embeddings(plain)), _prefix(_embeddings(plain))
    for grid in GRIDS:
        expected = _resized(_embeddings(plain), grid, side, prefix)
        found = _resized(_embeddings(ours), grid, side, prefix)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", BIASED)
def test_on_other_square_grids_the_bias_is_that_of_transformers(kind: str) -> None:
    plain = tiny.network(kind)
    ours = deepcopy(plain)
    accept_any_grid(ours)
    pairs = list(zip(_biases(plain), _biases(ours), strict=True))
    assert len(pairs) == (1 if kind == "beit-shared" else 3)
    for first, second in pairs:
        for grid in GRIDS:
            with torch.no_grad():
                torch.testing.assert_close(second(grid), first(grid), atol=1e-6, rtol=0)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", OBLONG)
@pytest.mark.parametrize("grid", [(2, 2), (6, 6), (3, 5)], ids=str)
def test_whole_networks_answer_as_those_of_transformers(kind: str, grid: tuple[int, int]) -> None:
    plain = tiny.network(kind)
    ours = deepcopy(plain)
    accept_any_grid(ours)
    side = 16 if kind == "hybrid" else 8
    pixels = torch.randn(1, 3, grid[0] * side, grid[1] * side)
    asked = any(kind.startswith(name) for name in ("beit", "dinov2"))
    options: dict[str, Any] = {} if asked else {"interpolate_pos_encoding": True}
    with torch.no_grad():
        torch.testing.assert_close(ours(pixels, **options)[0], plain(pixels, **options)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", PLACED)
def test_at_their_own_size_positions_are_the_table_itself(kind: str) -> None:
    network = tiny.network(kind)
    accept_any_grid(network)
    embeddings = _embeddings(network)
    native = (8, 8) if kind == "hybrid-stage2" else (4, 4)
    found = _resized(embeddings, native, _side(embeddings), _prefix(embeddings))
    assert torch.equal(found, embeddings.position_embeddings)


@pytest.mark.parametrize("trained", [(4, 8), (8, 4), (3, 1)], ids=str)
@pytest.mark.parametrize("grid", [(4, 8), (8, 4), (5, 3), (2, 2), (9, 11)], ids=str)
@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_an_oblong_table_is_resized_rows_and_columns_for_themselves(
    trained: tuple[int, int], grid: tuple[int, int], prefix: int
) -> None:
    table = torch.randn(1, prefix + trained[0] * trained[1], 3)
    for antialias, weights in ((False, _cubic), (True, _antialiased)):
        found = resize_positions(table, trained, grid, antialias)
        assert torch.equal(found[:, :prefix], table[:, :prefix])
        expected = table[0, prefix:] if trained == grid else _by_hand(table[0, prefix:], trained, grid, weights)
        torch.testing.assert_close(found[0, prefix:], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("trained", [(2, 4), (4, 2), (3, 1)], ids=str)
@pytest.mark.parametrize("grid", [(2, 4), (4, 2), (5, 3), (1, 2)], ids=str)
def test_an_oblong_table_of_relative_positions_is_resized_and_that_of_the_class_token_stays(
    trained: tuple[int, int], grid: tuple[int, int]
) -> None:
    old, new = ((2 * rows - 1, 2 * columns - 1) for rows, columns in (trained, grid))
    table = torch.randn(old[0] * old[1] + 3, 4)
    found = resize_bias(table, trained, grid)
    assert torch.equal(found[-3:], table[-3:])
    expected = table[:-3] if trained == grid else _by_hand(table[:-3], old, new, _linear)
    torch.testing.assert_close(found[:-3], expected, atol=1e-5, rtol=0)


@pytest.mark.thorough
@pytest.mark.parametrize("size", [(32, 64), (64, 32)], ids=str)
@pytest.mark.parametrize("kind", OBLONG)
def test_an_oblong_network_runs_at_its_own_size_and_at_others(
    tmp_path_factory: pytest.TempPathFactory, kind: str, size: tuple[int, int]
) -> None:
    spec, model = _oblong(kind, tmp_path_factory, size)
    assert spec.patch_grid == ((4, 8) if size == (32, 64) else (8, 4))
    for grid in (spec.patch_grid, spec.patch_grid[::-1], (5, 5), (3, 7)):
        with torch.no_grad():
            outputs = model.network.base_model(
                pixels := torch.randn(1, 3, *(side * spec.patch_size for side in grid)),
                **size_options(model.network, pixels),
            )
        tokens = spec.num_prefix_tokens + grid[0] * grid[1]
        assert outputs.last_hidden_state.shape[1] == tokens
        assert outputs.last_hidden_state.isfinite().all()


@pytest.mark.parametrize("size", [(32, 64), (64, 32)], ids=str)
@pytest.mark.parametrize("kind", [kind for kind in OBLONG if kind in PLACED])
def test_positions_of_an_oblong_network_are_those_made_by_hand(
    tmp_path_factory: pytest.TempPathFactory, kind: str, size: tuple[int, int]
) -> None:
    spec, model = _oblong(kind, tmp_path_factory, size)
    embeddings = _embeddings(model.network)
    table, prefix = embeddings.position_embeddings[0], _prefix(embeddings)
    weights = _antialiased if kind == "dinov2-registers" else _cubic
    for grid in (spec.patch_grid, spec.patch_grid[::-1], (5, 5), (3, 7), (1, 2)):
        found = _resized(embeddings, grid, _side(embeddings), prefix)[0]
        assert torch.equal(found[:prefix], table[:prefix])
        same = grid == spec.patch_grid
        expected = table[prefix:] if same else _by_hand(table[prefix:], spec.patch_grid, grid, weights)
        torch.testing.assert_close(found[prefix:], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(32, 64), (64, 32)], ids=str)
@pytest.mark.parametrize("kind", BIASED)
def test_the_bias_of_an_oblong_network_is_that_looked_up_pair_by_pair(
    tmp_path_factory: pytest.TempPathFactory, kind: str, size: tuple[int, int]
) -> None:
    spec, model = _oblong(kind, tmp_path_factory, size)
    bias = _biases(model.network)[-1]
    table = bias.relative_position_bias_table.detach()
    for grid in (spec.patch_grid, spec.patch_grid[::-1], (3, 3), (2, 5)):
        with torch.no_grad():
            found = bias(grid)
        expected = _bias_by_hand(table, spec.patch_grid, grid)
        torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("trained", [(4, 4), (4, 8)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_the_result_is_that_of_float32_rounded(trained: tuple[int, int], dtype: torch.dtype) -> None:
    table = torch.randn(1, 1 + trained[0] * trained[1], 5).to(dtype)
    found = resize_positions(table, trained, (7, 3))
    assert found.dtype == dtype
    assert torch.equal(found, resize_positions(table.float(), trained, (7, 3)).to(dtype))
    table = torch.randn((2 * trained[0] - 1) * (2 * trained[1] - 1) + 3, 4).to(dtype)
    found = resize_bias(table, trained, (7, 3))
    assert found.dtype == dtype
    assert torch.equal(found, resize_bias(table.float(), trained, (7, 3)).to(dtype))


@pytest.mark.parametrize("kind", ["vit", "deit", "dinov2-registers", "ijepa", "beit", "beit-shared", "mae"])
def test_a_copy_of_a_network_has_its_own_positions(tiny_spec: Callable[[str], ModelSpec], kind: str) -> None:
    original = load_model(tiny_spec(kind), CPU, torch.float32)
    copied = deepcopy(original)
    pixels = torch.randn(1, 3, 48, 24)

    def answer(model: Any) -> Tensor:
        with torch.no_grad():
            found: Tensor = model.body(pixels, **size_options(model.network, pixels))[0]
        return found

    expected = answer(original)
    torch.testing.assert_close(answer(copied), expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        for name, weights in copied.named_parameters():
            if "position" in name:
                weights.copy_(torch.randn(weights.shape))
    changed = answer(copied)
    assert not torch.allclose(changed, expected, atol=1e-3)
    torch.testing.assert_close(answer(original), expected, atol=1e-5, rtol=1e-5)
    del original
    torch.testing.assert_close(answer(copied), changed, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [*PLACED, *BIASED])
def test_weights_names_and_configuration_stay_as_they_are(kind: str) -> None:
    plain: PreTrainedModel = tiny.network(kind)
    ours = deepcopy(plain)
    accept_any_grid(ours)
    accept_any_grid(ours)  # a second time changes nothing
    expected, found = plain.state_dict(), ours.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert [type(module).__name__ for module in ours.modules()] == [type(module).__name__ for module in plain.modules()]
    assert ours.config.to_dict() == plain.config.to_dict()


def test_a_network_without_positions_is_left_alone() -> None:
    for kind in ("dinov3", "resnet"):
        network = tiny.network(kind)
        before = [type(module) for module in network.modules()]
        accept_any_grid(network)
        assert [type(module) for module in network.modules()] == before


def test_gradients_reach_the_table_through_the_resize() -> None:
    for kind in ("vit", "beit"):
        network = tiny.network(kind)
        accept_any_grid(network)
        pixels = torch.randn(1, 3, 48, 24)
        network(pixels, **({} if kind == "beit" else {"interpolate_pos_encoding": True})).logits.sum().backward()
        tables = [weights for name, weights in network.named_parameters() if "position" in name]
        assert all(table.grad is not None and table.grad.abs().sum() > 0 for table in tables)


def test_a_saved_copy_has_the_class_of_transformers(tiny_spec: Callable[[str], ModelSpec], tmp_path: Path) -> None:
    model = load_model(tiny_spec("beit"), CPU, torch.float32)
    model.network.save_pretrained(tmp_path / "again")
    again = type(model.network).from_pretrained(tmp_path / "again")
    assert type(_biases(again)[0]) is BeitRelativePositionBias
    assert all(torch.equal(a, b) for a, b in zip(model.network.parameters(), again.parameters(), strict=True))
