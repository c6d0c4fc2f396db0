"""Foreground objects by normalised cut of the patch graph.

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

from vitdemo.attribution import iou
from vitdemo.errors import OptionError
from vitdemo.segmentation.arrays import Floats, Mask, patch_features, unit
from vitdemo.types import Grid

TAU = 0.2
"""Cosine above which two patches are similar, from TokenCut."""

EPSILON = 1e-5
"""Edge weight between dissimilar patches, which keeps the graph connected."""

SMALLEST = 0.01
"""Share of the photo that a second or later object must exceed, from MaskCut."""

OVERLAP = 0.5
"""Intersection over union with the object before above which a cut is no new object, from MaskCut."""

MAX_EIGENVALUE = 0.7
"""Above this eigenvalue a cut is arbitrary: with the embedded ViT and DINO, uniform images exceed it; examples stay below 0.6."""

BASIS = 24
"""Lanczos vectors between restarts."""

FEW_RESTARTS = 12
"""Restarts after which inverse iteration is faster."""

SHIFT = 1e-11
"""Far below any relevant eigenvalue, above the rounding of those that are 0."""


ALL_ALIKE = "All patches are alike: nothing stands out."

Side = Literal["seed", "corners", "attention"]
"""Which side of a cut is the foreground: the one with the most extreme patch, as in TokenCut; that one unless it contains three
or four corners of the photo, as in MaskCut; or the one with the higher mean attention, as in neither paper."""

Taken = Literal["dropped", "painted"]
"""What becomes of an object's patches: they leave the graph, or stay with features of 0, as in MaskCut."""


@dataclass(frozen=True)
class Foreground:
    """The objects found in a photo, in order. Masks do not overlap."""

    masks: Mask
    """`[n, h, w]`; n is 0 if nothing stands out."""
    eigenvectors: Floats
    """`[n, h, w]`: eigenvector of each cut, -1 to 1, higher in the object; 0 in earlier objects that were dropped."""
    eigenvalues: tuple[float, ...]
    """Of each cut, from 0 (clean) to about 1 (arbitrary)."""
    seeds: tuple[tuple[int, int], ...]
    """Row and column of each object's seed patch."""
    reason: str = ""
    """Why there are fewer objects than requested, or empty."""

    @property
    def found(self) -> bool:
        return len(self.masks) > 0


def foreground(
    features: ArrayLike,
    grid: Grid,
    *,
    objects: int = 1,
    tau: float = TAU,
    side: Side = "corners",
    taken: Taken = "dropped",
    attention: ArrayLike | None = None,
    max_eigenvalue: float = 1.0,
) -> Foreground:
    """The foreground objects of a photo.

    The eigenvector is split at its mean. One side is the foreground; its seed is the patch with the most extreme value, and the
    object is the connected component of the seed.

    MaskCut paints the patches of an object over before the next cut: `EPSILON` joins them to all others, so that a component
    may pass through them, and a cut that mostly repeats the object before uses up one of `objects` cuts. Later objects are
    often smaller, or missing. In its code the sign that the solver happens to give an eigenvector decides, too, whether corners
    count; here they always do.

    Args:
        features: `[N, D]`, patches in row-major order.
        objects: maximum number of objects.
        tau: -1 to 1.
        side: how the foreground side is chosen.
        taken: what becomes of the patches of an object before the next cut.
        attention: `[h, w]`, for the side "attention".
        max_eigenvalue: cuts with a larger eigenvalue are rejected; the papers accept all.

    Raises:
        OptionError: tau or the number of objects is out of range.
        ValueError: the features do not fit the grid.
    """
    if not -1 <= tau < 1:
        raise OptionError(f"The cosine from which patches count as alike must be at least -1 and below 1, not {tau}.")
    if objects < 1:
        raise OptionError(f"The number of objects must be at least 1, not {objects}.")
    rows = unit(patch_features(features, grid))
    weight = None if attention is None else np.asarray(attention, np.float64)
    if (side == "attention") != (weight is not None) or (weight is not None and weight.shape != grid):
        raise ValueError(f'Attention must be given as {list(grid)} for the side "attention", and for no other.')
    free = np.ones(len(rows), np.bool_)
    masks: list[Mask] = []
    vectors: list[Floats] = []
    values: list[float] = []
    seeds: list[tuple[int, int]] = []
    reason = ""
    last: Mask = np.zeros(grid, np.bool_)
    for _ in range(objects):
        within = free if taken == "dropped" else np.ones_like(free)
        similar = rows[within] @ rows[within].T > tau
        reason = _why_uniform(similar[np.ix_(free[within], free[within])])
        if reason:
            break
        value, vector = second_eigenvector(_weights(similar))
        if value > max_eigenvalue:
            reason = "Nothing else stands out." if masks else "No part of the photo stands out from the rest."
            break
        mask, seed, oriented = _object(vector, within, grid, side, weight)
        if masks and mask.mean() <= SMALLEST:
            reason = f"Nothing else of more than {SMALLEST:.0%} of the photo stands out."
            break
        if iou(mask, last) > OVERLAP:
            # As in MaskCut, the next cut is compared with nothing, and so taken.
            last = np.zeros_like(mask)
            continue
        last = mask
        mask = mask & free.reshape(grid)
        if not mask.any():
            reason = "Nothing else stands out."
            break
        masks.append(mask)
        vectors.append(oriented)
        values.append(value)
        seeds.append(seed)
        free &= ~mask.ravel()
        if taken == "painted":
            rows[~free] = 0
    shape = (len(masks), *grid)
    return Foreground(
        masks=np.array(masks, np.bool_).reshape(shape),
        eigenvectors=np.array(vectors, np.float32).reshape(shape),
        eigenvalues=tuple(values),
        seeds=tuple(seeds),
        reason=reason,
    )


def none_found(grid: Grid, reason: str) -> Foreground:
    """No object, and why."""
    none = np.zeros((0, *grid), np.bool_)
    return Foreground(none, none.astype(np.float32), (), (), reason)


def second_eigenvector(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """The solution of `(D - W) y = lambda D y` with the second smallest lambda, where D is the diagonal of W's row sums.

    With `y = D^-1/2 v`, v is the second largest eigenvector of `D^-1/2 W D^-1/2`, whose largest is known: that one is deflated,
    and Lanczos iterations from a fixed start find the next.

    Args:
        weights: `[N, N]`, symmetric, positive, N at least 2.

    Returns:
        lambda, and y `[N]` with `y^T D y = 1` and its first largest absolute value positive. If the second and third eigenvalues
        are equal, y is one of many eigenvectors.
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
    top = np.argmax(_rounded(np.abs(solution)))
    return max(0.0, value), solution * np.sign(solution[top])


def _by_inverse(
    weights: NDArray[np.float64], root: NDArray[np.float64], trivial: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """For photos of many separate objects: their small eigenvalues are close together, but far apart in the inverse."""
    matrix = weights / root[:, None]
    matrix /= -root
    matrix += np.multiply.outer(3 * trivial, trivial)
    matrix[np.diag_indices(len(matrix))] += 1 + SHIFT
    try:
        # The transpose is the same matrix in Fortran order, without a copy.
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
    """The eigenvalue at one end of the spectrum, and its unit eigenvector `[N]`.

    Raises:
        ArpackNoConvergence: `restarts` are not enough.
    """
    start = np.random.default_rng(0).standard_normal(count)
    operator = LinearOperator((count, count), matvec=times, dtype=np.float64)
    values, vectors = eigsh(
        operator, k=1, which=which, v0=start, ncv=min(BASIS, count), maxiter=restarts, tol=tolerance
    )
    return float(values[0]), vectors[:, 0]


def _weights(similar: Mask) -> NDArray[np.float64]:
    weights = similar.astype(np.float64)
    np.maximum(weights, EPSILON, out=weights)
    return weights


def _why_uniform(similar: Mask) -> str:
    """Why a graph cannot be cut, or empty."""
    count = len(similar)
    links = np.count_nonzero(similar) - np.count_nonzero(similar.diagonal())
    if count < 2:
        return "No patches are left."
    if links == count * (count - 1):
        return ALL_ALIKE
    return "" if links else "No two patches are alike: there is nothing to group."


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scaled to a maximum of 1 and rounded, so that equal patches do not differ by the solver's rounding errors."""
    result: NDArray[np.float64] = np.round(values / np.abs(values).max(), 7)
    return result


def _object(
    vector: NDArray[np.float64], free: Mask, grid: Grid, side: Side, attention: NDArray[np.float64] | None
) -> tuple[Mask, tuple[int, int], Floats]:
    """Mask `[h, w]`, seed and oriented eigenvector `[h, w]` of one cut; `vector` covers only the patches in `free`."""
    # The most extreme value is positive: the seed is above the mean.
    rounded = _rounded(vector)
    inside, outside = np.zeros((2, free.size), np.bool_)
    inside[free] = rounded > rounded.mean()
    outside[free] = ~inside[free]
    if _is_background(inside.reshape(grid), outside.reshape(grid), side, attention):
        rounded, inside = -rounded, outside
    values = np.zeros(free.size, np.float32)
    values[free] = rounded
    seed = int(np.flatnonzero(free)[np.argmax(rounded)])
    pieces, _ = ndimage.label(inside.reshape(grid))
    row, column = divmod(seed, grid[1])
    mask: Mask = pieces == pieces[row, column]
    return mask, (row, column), values.reshape(grid)


def _is_background(inside: Mask, outside: Mask, side: Side, attention: NDArray[np.float64] | None) -> bool:
    """Whether the side of the most extreme patch is the background."""
    if side == "corners":
        return int(inside[[0, 0, -1, -1], [0, -1, 0, -1]].sum()) >= 3
    return attention is not None and bool(attention[inside].mean() < attention[outside].mean())
