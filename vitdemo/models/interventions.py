"""Forward passes with parts of a network off, patches hidden, or patches in another order.

Everything happens in the forward pass and for single images of a batch: heads in the attention tap, blocks, tokens and pixels in
hooks, which act in the thread of their block only and are removed after it, also after a failure. Weights are not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.beit.modeling_beit import BeitRelativePositionBias

from vitdemo.errors import OptionError
from vitdemo.models.attention_tap import silencing
from vitdemo.models.layers import blocks
from vitdemo.models.loading import Classifier
from vitdemo.types import Grid, Knockout, Shuffle

_ACTIVE: ContextVar[object | None] = ContextVar("vitdemo_intervention", default=None)


@contextmanager
def intervening(
    model: Classifier,
    grid: Grid,
    knockouts: Sequence[Knockout] = (),
    shuffle: Shuffle | None = None,
    fan_out: int | None = None,
) -> Iterator[None]:
    """Forward passes of this block, in this thread, are made so. Without an intervention no module gets a hook.

    Args:
        grid: rows and columns of patches of the pictures.
        knockouts: one for each image of the batch, or one for all; checked, and filled with grey or the mean token:
            what a masked autoencoder fills in is in the pixels already.
        shuffle: for all images.
        fan_out: the batch is one image, which passes the layers before this one once, and from it on once for each knock-out.
            See `first_difference`.
    """
    if not any(knockouts) and shuffle is None:
        yield
        return
    hooks = _Hooks(model)
    token = _ACTIVE.set(hooks)
    try:
        if shuffle is not None:
            _shuffle(hooks, grid, shuffle)
        _hide(hooks, grid, knockouts if fan_out is None else knockouts[:1])
        heads = _switch_off(hooks, knockouts, fan_out)
        with silencing(heads):
            yield
    finally:
        _ACTIVE.reset(token)
        hooks.remove()


class _Hooks:
    def __init__(self, model: Classifier) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def on_pixels(self, change: Callable[[Tensor], Tensor]) -> None:
        self.on_input(self.model, change)

    def on_input(self, module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        """The first of a module's inputs."""

        def hook(module: nn.Module, arguments: tuple[Any, ...]) -> Any:
            return (change(arguments[0]), *arguments[1:]) if _ACTIVE.get() is self else None

        self._handles.append(module.register_forward_pre_hook(hook))

    def on_output(self, module: nn.Module, change: Callable[[Tensor], Tensor], every: bool = False) -> None:
        """A module's output, or the first of several; with `every`, each of them."""

        def hook(module: nn.Module, arguments: Any, output: Any) -> Any:
            if _ACTIVE.get() is not self:
                return None
            if isinstance(output, Tensor):
                return change(output)
            return tuple(change(part) if every or not index else part for index, part in enumerate(output))

        self._handles.append(module.register_forward_hook(hook))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def first_difference(knockouts: Sequence[Knockout]) -> int | None:
    """The first layer in which these differ; None where they hide other patches, or are all the same."""
    if len({(one.patches, one.fill) for one in knockouts}) > 1:
        return None
    touched = {layer for one in knockouts for layer in (*one.attention, *one.mlp, *(layer for layer, _ in one.heads))}
    return next((layer for layer in sorted(touched) if len({_of_layer(one, layer) for one in knockouts}) > 1), None)


def _of_layer(knockout: Knockout, layer: int) -> tuple[object, ...]:
    heads = tuple(head for own, head in knockout.heads if own == layer)
    return heads, layer in knockout.attention, layer in knockout.mlp


def _switch_off(hooks: _Hooks, every: Sequence[Knockout], fan_out: int | None) -> dict[nn.Module, Tensor]:
    """Hooks on blocks; the heads are returned, for the attention tap."""
    heads: dict[nn.Module, Tensor] = {}
    layers: Sequence[Any] = blocks(hooks.model.network)
    for layer, block in enumerate(layers):
        # Before the fan-out all are alike.
        knockouts = every if fan_out is None or layer >= fan_out else every[:1]
        if layer == fan_out:
            hooks.on_input(block, partial(_repeated, count=len(every)))
        for part, off in (
            (block.attention, [layer in one.attention for one in knockouts]),
            (block.mlp, [layer in one.mlp for one in knockouts]),
        ):
            if any(off):
                rows = torch.tensor(off, device=hooks.device)[:, None, None]
                hooks.on_output(part, partial(_without, rows=rows))
        silent = [[(layer, head) in one.heads for head in range(hooks.model.spec.num_heads)] for one in knockouts]
        if any(any(row) for row in silent):
            heads[block.attention] = torch.tensor(silent, device=hooks.device)
    return heads


def _hide(hooks: _Hooks, grid: Grid, knockouts: Sequence[Knockout]) -> None:
    for fill in ("grey", "mean"):
        hidden = torch.zeros(len(knockouts), grid[0] * grid[1], dtype=torch.bool)
        for row, one in enumerate(knockouts):
            if one.patches and one.fill == "mae":
                raise ValueError("what a masked autoencoder fills in belongs into the pixels")
            if one.fill == fill:
                hidden[row, list(one.patches)] = True
        hidden = hidden.to(hooks.device)
        if not hidden.any():
            continue
        if fill == "grey":
            hooks.on_pixels(partial(_greyed, hidden=hidden, grid=grid, side=hooks.model.spec.patch_size))
        else:
            embedding = _named(hooks.model.network, "patch_embeddings")
            hooks.on_output(embedding, partial(_mean_for, hidden=hidden))


def _repeated(tokens: Tensor, count: int) -> Tensor:
    return tokens.expand(count, -1, -1)


def _without(output: Tensor, rows: Tensor) -> Tensor:
    return output.masked_fill(rows, 0.0)


def _greyed(pixels: Tensor, hidden: Tensor, grid: Grid, side: int) -> Tensor:
    return pixels.masked_fill(pixel_mask(hidden, grid, side, pixels.shape[2:]), 0.0)


def pixel_mask(hidden: Tensor, grid: Grid, side: int, size: Sequence[int]) -> Tensor:
    """Hidden patches `[B, P]` as `[B, 1, H, W]` in pixels; `side` is that of a patch, `size` is `(H, W)`."""
    cells = hidden.view(-1, 1, *grid).repeat_interleave(side, dim=2).repeat_interleave(side, dim=3)
    # A CNN's last cells reach over the edge; pixels beyond the last whole patch of a transformer are not seen.
    mask = torch.zeros(len(hidden), 1, *size, dtype=torch.bool, device=hidden.device)
    mask[:, :, : cells.shape[2], : cells.shape[3]] = cells[:, :, : size[0], : size[1]]
    return mask


def _mean_for(tokens: Tensor, hidden: Tensor) -> Tensor:
    """Patch tokens `[B, P, D]`, or `[B, D, h, w]`, with the mean of the visible ones in place of the hidden."""
    if tokens.dim() == 4:
        flat = _mean_for(tokens.flatten(2).transpose(1, 2), hidden)
        return flat.transpose(1, 2).reshape(tokens.shape)
    visible = ~hidden[..., None]
    mean = (tokens.float() * visible).sum(dim=1, keepdim=True) / visible.sum(dim=1, keepdim=True)
    return torch.where(visible, tokens, mean.to(tokens.dtype))


def _shuffle(hooks: _Hooks, grid: Grid, shuffle: Shuffle) -> None:
    network, spec = hooks.model.network, hooks.model.spec
    if sorted(shuffle.order) != list(range(grid[0] * grid[1])):
        raise OptionError(f"An order of {grid[0] * grid[1]} patches names each of them once, by its number from 0.")
    order = torch.tensor(shuffle.order, device=hooks.device)
    if not shuffle.along or not spec.readouts:
        hooks.on_pixels(lambda pixels: shuffled_pixels(pixels, order, grid, spec.patch_size))
        return
    prefix = torch.arange(spec.num_prefix_tokens, device=hooks.device)
    tokens = torch.cat([prefix, order + len(prefix)])
    # Tokens with their positions; positions that attention itself adds follow them.
    hooks.on_output(_named(network, "embeddings"), lambda output: output[:, tokens])
    for name, module in network.named_modules():
        if isinstance(module, BeitRelativePositionBias):
            hooks.on_output(module, lambda bias: bias[:, :, tokens][:, :, :, tokens])
        elif name.endswith("rope_embeddings"):
            hooks.on_output(module, lambda table: table[order], every=True)


def shuffled_pixels(pixels: Tensor, order: Tensor, grid: Grid, side: int) -> Tensor:
    """`[B, C, H, W]` with patches of `side` pixels in another order: place i shows patch `order[i]`.

    Raises:
        OptionError: the pictures are not of whole patches.
    """
    rows, columns = grid
    if pixels.shape[2] != rows * side or pixels.shape[3] != columns * side:
        raise OptionError(
            f"A picture of {pixels.shape[3]} x {pixels.shape[2]} pixels is not of whole patches of {side} x {side}: "
            "its patches cannot change places. Choose another resolution."
        )
    patches = pixels.unflatten(3, (columns, side)).unflatten(2, (rows, side)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    moved = patches[:, order].unflatten(1, (rows, columns)).permute(0, 3, 1, 4, 2, 5)
    shuffled: Tensor = moved.reshape(pixels.shape)
    return shuffled


def _named(network: nn.Module, wanted: str) -> nn.Module:
    """The first module of that name, wherever it is."""
    found: nn.Module = next(part for name, part in network.named_modules() if name.rpartition(".")[2] == wanted)
    return found
