"""What positions encode: Dosovitskiy et al. 2021, arXiv:2010.11929, figure 7 (centre), and BEiT's relative position bias."""

from __future__ import annotations

from torch import Tensor

from vitdemo.types import Grid


def position_similarity(table: Tensor, grid: Grid) -> Tensor:
    """Cosine similarity of every patch's position embedding to those of all patches: `[h * w, h, w]`, -1 to 1.

    Args:
        table: `[h * w, D]`, row by row, without those of prefix tokens.
    """
    unit = table.float() / table.float().norm(dim=-1, keepdim=True).clamp_min(1e-12)
    maps: Tensor = (unit @ unit.T).clamp(-1, 1).reshape(-1, *grid)
    return maps


def bias_pictures(table: Tensor, grid: Grid) -> Tensor:
    """BEiT's relative position bias as a picture for each head: `[H, 2h - 1, 2w - 1]`.

    The middle is the bias of a patch towards itself; above it is that towards patches above, and so on: what is added to the
    attention scores at `[row of the key - row of the query + h - 1, column of the key - column of the query + w - 1]`.

    Args:
        table: `[(2h - 1)(2w - 1) + 3, H]`; the last three, to and from the class token, are left out.
    """
    pictures: Tensor = table[:-3].float().view(2 * grid[0] - 1, 2 * grid[1] - 1, -1).permute(2, 0, 1)
    # The table counts from the key to the query.
    return pictures.flip(1, 2)
