"""What stands out of a photo, by a normalised cut of the graph of its patches.

One object as in TokenCut, Wang et al. 2022, arXiv:2202.11539; several as in MaskCut, Wang et al. 2023, arXiv:2301.11320.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.linalg import LinAlgError, cho_factor, cho_solve, eigh
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from vitdemo.errors import OptionError
from vitdemo.segmentation.arrays import Floats, Mask, patch_features, unit
from vitdemo.types import Grid

TAU = 0.2
"""Cosine above which two patches are alike, in the paper."""

EPSILON = 1e-5
"""Weight between patches that are not alike: the graph stays in one piece."""

SMALLEST = 0.01
"""Share of the photo that a second or later object must exceed, in MaskCut."""

LOOSE = 0.7
"""Eigenvalue above which a cut is arbitrary: plain pictures have more with the embedded ViT and DINO, examples less than 0.6."""

BASIS = 24
"""Vectors between two restarts of Lanczos."""

FEW_RESTARTS = 12
"""After which the inverse is quicker."""

SHIFT = 1e-11
"""Far below any eigenvalue that matters, above the rounding of those that are 0."""


Side = Literal["seed", "corners", "attention"]
"""Which side of a cut is the foreground: the one with the patch farthest out, as in TokenCut; that one, unless it holds three
or four corners of the photo, as in MaskCut; or, which is neither's, the one whose patches have more attention on average."""


@dataclass(frozen=True)
class Foreground:
    """What was cut out of a photo, first object first. Masks do not overlap."""

    masks: Mask
    """`[n, h, w]`; n is 0 where nothing stands out."""
    eigenvectors: Floats
    """`[n, h, w]`: what each object was cut by, -1 to 1, higher in the object; 0 where an earlier object lies."""
    eigenvalues: tuple[float, ...]
    """Of each cut, from 0, a clean one, to about 1, an arbitrary one."""
    seeds: tuple[tuple[int, int], ...]
    """Row and column of the patch that each object grew from."""
    reason: str = ""
    """Why there are fewer objects than asked for; empty if there are not."""

    @property
    def found(self) -> bool:
        return len(self.masks) > 0


def foreground(
    features: ArrayLike,
    grid: Grid,
    *,
    objects: int = 1,
    tau: float = TAU,
    epsilon: float = EPSILON,
    side: Side = "corners",
    attention: ArrayLike | None = None,
    loosest: float = 1.0,
) -> Foreground:
    """The objects that stand out of a photo.

    The patches are parted at the mean of the eigenvector. One side is the foreground; its seed is the patch whose value is
    farthest out, and the object is what hangs together with the seed. Patches of an object leave the graph before the next
    one is cut; the paper keeps them there with features of 0, joined to all others by `epsilon`.

    Args:
        features: `[N, D]`, patches row by row.
        objects: at most so many are looked for.
        tau: -1 to 1.
        side: how the foreground is told from the rest.
        attention: `[h, w]`, for the side "attention".
        loosest: cuts of a larger eigenvalue find nothing; the paper takes all.

    Raises:
        OptionError: tau or the number of objects is out of range.
        ValueError: the features do not fit the grid.
    """
    if not -1 <= tau < 1:
        raise OptionError(f"The cosine from which patches count as alike must be at least -1 and below 1, not {tau}.")
    if objects < 1:
        raise OptionError(f"The number of objects must be at least 1, not {objects}.")
    rows = unit(patch_features(features, grid))
    looked = None if attention is None else np.asarray(attention, np.float64)
    if (side == "attention") != (looked is not None) or (looked is not None and looked.shape != grid):
        raise ValueError(f'Attention must be given as {list(grid)} for the side "attention", and for no other.')
    free = np.ones(len(rows), np.bool_)
    masks: list[Mask] = []
    vectors: list[Floats] = []
    values: list[float] = []
    seeds: list[tuple[int, int]] = []
    reason = ""
    while len(masks) < objects:
        alike = rows[free] @ rows[free].T > tau
        reason = _uniform(alike)
        if reason:
            break
        value, vector = second_eigenvector(_weights(alike, epsilon))
        if value > loosest:
            reason = "Nothing else stands out." if masks else "No part of the photo stands out from the rest."
            break
        mask, seed, oriented = _object(vector, free, grid, side, looked)
        if masks and mask.mean() <= SMALLEST:
            reason = f"Nothing else of more than {SMALLEST:.0%} of the photo stands out."
            break
        masks.append(mask)
        vectors.append(oriented)
        values.append(value)
        seeds.append(seed)
        free &= ~mask.ravel()
    shape = (len(masks), *grid)
    return Foreground(
        masks=np.array(masks, np.bool_).reshape(shape),
        eigenvectors=np.array(vectors, np.float32).reshape(shape),
        eigenvalues=tuple(values),
        seeds=tuple(seeds),
        reason=reason,
    )


def second_eigenvector(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """The solution of `(D - W) y = lambda D y` with the second smallest lambda, D being the diagonal of the row sums of W.

    With `y = D^-1/2 v` it is the second largest eigenvector of `D^-1/2 W D^-1/2`, whose largest is known: that one is moved to
    the far end, and Lanczos iterations find the rest, from the same start every time.

    Args:
        weights: `[N, N]`, symmetric, above 0, at least 2 patches.

    Returns:
        lambda, and y `[N]` with `y^T D y = 1` and its largest absolute value, the first of equal ones, above 0. Where the second
        and third eigenvalue are the same, y is one of their many eigenvectors.
    """
    count = len(weights)
    root = np.sqrt(weights.sum(axis=1))
    trivial = root / np.linalg.norm(root)

    def times(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        vector = vector.ravel()
        product: NDArray[np.float64] = weights @ (vector / root) / root - 3 * trivial * (trivial @ vector)
        return product

    try:
        value, vector = _lanczos(times, count, "LA", FEW_RESTARTS, 1e-12)
        value = 1 - value
    except ArpackNoConvergence:
        value, vector = _by_inverse(weights, root, trivial)
    solution = vector / root
    top = np.argmax(_settled(np.abs(solution)))
    return max(0.0, value), solution * np.sign(solution[top])


def _by_inverse(
    weights: NDArray[np.float64], root: NDArray[np.float64], trivial: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """For a photo of many separate things: its small eigenvalues lie close together, but are far apart in the inverse."""
    matrix = weights / root[:, None]
    matrix /= -root
    matrix += np.multiply.outer(3 * trivial, trivial)
    matrix[np.diag_indices(len(matrix))] += 1 + SHIFT
    try:
        # The transpose is the same matrix, in the order that LAPACK wants, without a copy.
        factor = cho_factor(matrix.T, check_finite=False)
        value, vector = _lanczos(lambda v: cho_solve(factor, v, check_finite=False), len(matrix), "LM", 40, 1e-8)
        value = 1 / value
    except (LinAlgError, ArpackNoConvergence):
        values, vectors = eigh(matrix, subset_by_index=[0, 0], check_finite=False)
        value, vector = float(values[0]), vectors[:, 0]
    return value - SHIFT, vector


def _lanczos(
    times: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    count: int,
    which: Literal["LA", "LM"],
    restarts: int,
    tolerance: float,
) -> tuple[float, NDArray[np.float64]]:
    """The eigenvalue at one end, and its unit eigenvector `[N]`.

    Raises:
        ArpackNoConvergence: it takes more restarts.
    """
    start = np.random.default_rng(0).standard_normal(count)
    operator = LinearOperator((count, count), matvec=times, dtype=np.float64)
    values, vectors = eigsh(
        operator, k=1, which=which, v0=start, ncv=min(BASIS, count), maxiter=restarts, tol=tolerance
    )
    return float(values[0]), vectors[:, 0]


def _weights(alike: Mask, epsilon: float) -> NDArray[np.float64]:
    if epsilon <= 0:
        raise ValueError(f"Patches that are not alike need a weight above 0, not {epsilon}.")
    weights = alike.astype(np.float64)
    np.maximum(weights, epsilon, out=weights)
    return weights


def _uniform(alike: Mask) -> str:
    """Why a graph cannot be cut: all its links are the same."""
    count = len(alike)
    links = np.count_nonzero(alike) - np.count_nonzero(alike.diagonal())
    if count < 2:
        return "No patches are left."
    if links == count * (count - 1):
        return "All patches are alike: nothing stands out."
    return "" if links else "No two patches are alike: there is nothing to group."


def _settled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rounded, so that patches of the same features do not differ by the last bits of a solver; the largest becomes 1."""
    result: NDArray[np.float64] = np.round(values / np.abs(values).max(), 7)
    return result


def _object(
    vector: NDArray[np.float64], free: Mask, grid: Grid, side: Side, attention: NDArray[np.float64] | None
) -> tuple[Mask, tuple[int, int], Floats]:
    """Mask `[h, w]`, seed and oriented eigenvector `[h, w]` of one cut; `vector` has the patches in `free` alone."""
    # The solver left the farthest value above 0: the seed is above the mean.
    settled = _settled(vector)
    inside, outside = np.zeros((2, free.size), np.bool_)
    inside[free] = settled > settled.mean()
    outside[free] = ~inside[free]
    if _is_ground(inside.reshape(grid), outside.reshape(grid), side, attention):
        settled, inside = -settled, outside
    values = np.zeros(free.size, np.float32)
    values[free] = settled
    seed = int(np.flatnonzero(free)[np.argmax(settled)])
    pieces, _ = ndimage.label(inside.reshape(grid))
    row, column = divmod(seed, grid[1])
    mask: Mask = pieces == pieces[row, column]
    return mask, (row, column), values.reshape(grid)


def _is_ground(inside: Mask, outside: Mask, side: Side, attention: NDArray[np.float64] | None) -> bool:
    """Whether the side of the farthest patch is the ground, and the other one the object."""
    if side == "corners":
        return int(inside[[0, 0, -1, -1], [0, -1, 0, -1]].sum()) >= 3
    return attention is not None and bool(attention[inside].mean() < attention[outside].mean())
