"""Pure functions that change the pixels of a model's input, after resize and crop and before normalisation.

All take and return `[H, W, 3]` uint8, as a picture is shown: what a person sees is what the model gets.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vitdemo.errors import OptionError
from vitdemo.options.perturbations import PERTURBATIONS, require_strength

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

DROP_GRID = 14
"""Patches per side that occlusion chooses from: a ViT's own patches at 224 px and 16 px per patch, as in Naseer et al. 2021."""


def perturb(pixels: Pixels, kind: str, strength: float, seed: tuple[int, ...] = (0,)) -> Pixels:
    """One perturbation of `vitdemo.options.perturbations.PERTURBATIONS`; at its neutral strength the same pixels.

    Args:
        seed: of the order of cells and of dropped patches. Nothing else is random.

    Raises:
        OptionError: there is no such perturbation, or the strength is out of range.
    """
    if kind not in PERTURBATIONS:
        raise OptionError(f"Unknown perturbation {kind!r}. Choose from: {', '.join(PERTURBATIONS)}.")
    require_strength(kind, strength)
    if kind == "shuffle":
        return shuffled(pixels, int(strength), np.random.default_rng(seed))
    if kind == "shift":
        return shifted(pixels, int(strength))
    if kind == "occlusion":
        return occluded(pixels, strength, np.random.default_rng(seed))
    if kind == "rotation":
        return rotated(pixels, strength)
    return without_low(pixels, strength) if kind == "low" else without_high(pixels, strength)


def shuffled(pixels: Pixels, cells: int, rng: np.random.Generator) -> Pixels:
    """The cells of a grid of `cells` x `cells` in random order: Naseer et al. 2021, arXiv:2105.10497.

    Where a side is no multiple of `cells`, the few pixels left over at the right and at the bottom stay where they are.

    Raises:
        OptionError: there are fewer pixels than cells.

    >>> shuffled(np.arange(12, dtype=np.uint8).reshape(2, 2, 3), 2, np.random.default_rng(0))[..., 0].tolist()
    [[6, 0], [3, 9]]
    """
    height, width = pixels.shape[0] // cells, pixels.shape[1] // cells
    if not height or not width:
        raise OptionError(
            f"{pixels.shape[1]} x {pixels.shape[0]} pixels cannot be cut into {cells} x {cells} cells. Use fewer."
        )
    inner = pixels[: height * cells, : width * cells]
    parts = inner.reshape(cells, height, cells, width, 3).swapaxes(1, 2).reshape(-1, height, width, 3)
    parts = parts[rng.permutation(len(parts))]
    found = pixels.copy()
    found[: height * cells, : width * cells] = (
        parts.reshape(cells, cells, height, width, 3).swapaxes(1, 2).reshape(inner.shape)
    )
    return found


def shifted(pixels: Pixels, distance: int) -> Pixels:
    """Moved to the right by `distance` px. The left column is repeated; what leaves at the right is gone.

    Raises:
        OptionError: nothing of the photo would be left.

    >>> shifted(np.array([[[1] * 3, [2] * 3, [3] * 3]], np.uint8), 1)[..., 0].tolist()
    [[1, 1, 2]]
    """
    width = pixels.shape[1]
    if distance >= width:
        raise OptionError(
            f"A shift by {distance} px leaves nothing of a photo that is {width} px wide. Use a smaller one."
        )
    return pixels[:, np.maximum(np.arange(width) - distance, 0)]


def occluded(pixels: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    """A share of the patches of a 14 x 14 grid in black, in random order: the random PatchDrop of Naseer et al. 2021.

    With the same random numbers, what is dropped at one share is dropped at every larger one.
    """
    rows, columns = (np.arange(side) * DROP_GRID // side for side in pixels.shape[:2])
    gone = np.zeros(DROP_GRID**2, np.bool_)
    gone[rng.permutation(gone.size)[: round(share * gone.size)]] = True
    found = pixels.copy()
    found[gone.reshape(DROP_GRID, DROP_GRID)[rows][:, columns]] = 0
    return found


def split_frequencies(pixels: Pixels, radius: float) -> tuple[Floats, Floats]:
    """The frequencies below a radius and the others, as two pictures that add up to the first: Park & Kim 2022, arXiv:2202.06709.

    Args:
        radius: of the Fourier spectrum, as a share of the Nyquist frequency, which is half a cycle per pixel. At 0 all
            frequencies are high, above the square root of 2 all are low.

    Returns:
        Low and high, `[H, W, 3]` float32, neither clipped nor rounded; above a radius of 0 the mean colour is among the low ones.
    """
    values = pixels.astype(np.float32)
    height, width = pixels.shape[:2]
    distance = 2 * np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    spectrum = np.fft.rfft2(values, axes=(0, 1)) * (distance < radius)[..., None]
    low = np.fft.irfft2(spectrum, s=(height, width), axes=(0, 1)).astype(np.float32)
    return low, values - low


def without_low(pixels: Pixels, radius: float) -> Pixels:
    """The frequencies from a radius on, with the mean colour of the photo; see `split_frequencies`."""
    if radius == 0:
        return pixels
    return _as_pixels(split_frequencies(pixels, radius)[1] + pixels.mean(axis=(0, 1), dtype=np.float32))


def without_high(pixels: Pixels, radius: float) -> Pixels:
    """The frequencies below a radius, and the mean colour of the photo at least; see `split_frequencies`."""
    if radius == 0:
        return _as_pixels(np.broadcast_to(pixels.mean(axis=(0, 1), dtype=np.float32), pixels.shape))
    return _as_pixels(split_frequencies(pixels, radius)[0])


def rotated(pixels: Pixels, degrees: float) -> Pixels:
    """Turned counter-clockwise about the centre, bilinear: Engstrom et al. 2019, arXiv:1712.02779.

    The photo is mirrored at its edges to fill the corners: in black they would be edges that no photo has.
    """
    if degrees == 0:
        return pixels
    height, width = pixels.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    found = cv2.warpAffine(pixels, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(found, np.uint8)


def _as_pixels(values: Floats) -> Pixels:
    return np.rint(values).clip(0, 255).astype(np.uint8)
