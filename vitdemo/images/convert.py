"""Conversion of any Pillow mode, and of arrays, to upright 8-bit RGB.

Pillow's `convert("RGB")` clips 16-bit and float greys to white, drops transparency and refuses LAB; this module handles
them. Size limits and file formats are checked by the only caller, `open.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin

from vitdemo.errors import ImageError

_ROWS = 256
"""Rows of a float image that are scaled at a time, to save memory: float64 takes eight bytes per pixel."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to the transpose that undoes it; 1 and invalid values need none."""


def upright_rgb(image: Image.Image) -> Image.Image:
    """A new upright RGB image without metadata; `image`, whose pixels must be loaded, stays as it is.

    Transparency is composited over white. 16-bit greys are scaled to 8 bits; for 32-bit and float greys see
    `_grey_from_integers` and `_grey_from_floats`. ICC profiles are not applied.

    Raises:
        Exception: whatever Pillow raises on a broken palette or a mode that cannot be converted.
    """
    rgb = _to_rgb(image)
    turn = _turn(image)
    rgb = rgb.copy() if turn is None else rgb.transpose(turn)
    rgb.info = {}  # so that orientation and transparency are not applied twice
    return rgb


def image_from_array(array: NDArray[Any]) -> Image.Image:
    """An array as an image of mode RGB, RGBA or L.

    Args:
        array: `[H, W]`, `[H, W, 3]` or `[H, W, 4]`; uint8, uint16, or floats in 0..1; channels are RGB or RGBA.

    Raises:
        ImageError: another dtype, or floats outside 0..1.
    """
    if array.dtype.kind == "f":
        array = _bytes_from_unit(array)
    elif array.dtype.kind == "u" and array.dtype.itemsize == 2:
        array = _table(0xFFFF)[array]
    elif array.dtype != np.uint8:
        raise ImageError(f"An array of {array.dtype} is not an image. Use uint8, uint16, or floats in 0..1.")
    return Image.fromarray(np.ascontiguousarray(array))


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return None
    return _TURNS.get(orientation) if isinstance(orientation, int) else None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _grey_from_16_bit(image).convert("RGB")
    if image.mode == "I":
        return _grey_from_integers(np.asarray(image)).convert("RGB")
    if image.mode == "F":
        return _grey_from_floats(np.asarray(image), inverted=_white_is_zero(image)).convert("RGB")
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None  # None is for in-place conversion only
        return converted
    if image.has_transparency_data:
        return _over_white(image)
    return image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    rgba = image.convert("RGBA")
    canvas = Image.new("RGB", rgba.size, "white")
    canvas.paste(rgba, mask=rgba.getchannel("A"))
    return canvas


def _grey_from_16_bit(image: Image.Image) -> Image.Image:
    """0..65535 to 0..255, or 0..4095 of a 12-bit TIFF; the transparent grey of a PNG becomes white."""
    white = 0xFFFF
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (16,))
        white = (1 << (bits[0] if isinstance(bits, tuple) else bits)) - 1
    table = _table(white)
    if _white_is_zero(image):
        table = 255 - table
    transparent = image.info.get("transparency")
    if isinstance(transparent, int) and 0 <= transparent <= 0xFFFF:
        table[transparent] = 255
    return Image.fromarray(table[np.asarray(image)])


def _grey_from_integers(values: NDArray[np.int32]) -> Image.Image:
    """32-bit integers have no defined white: scale from 0..255 or 0..65535 if all values fit, else from their own range."""
    low, high = int(values.min()), int(values.max())
    if low >= 0 and high <= 0xFF:
        return Image.fromarray(values.astype(np.uint8))
    if low >= 0 and high <= 0xFFFF:
        return Image.fromarray(_table(0xFFFF)[values])
    return Image.fromarray(_stretched(values, low, high))


def _grey_from_floats(values: NDArray[Any], *, inverted: bool = False) -> Image.Image:
    """The smallest finite value to 0, the largest to 255; NaN and -inf to 0, +inf to 255. Flat images are clipped."""
    finite = np.isfinite(values)
    low = float(values.min(where=finite, initial=np.inf))
    high = float(values.max(where=finite, initial=-np.inf))
    grey = _stretched(values, low, high)
    return Image.fromarray(255 - grey if inverted else grey)


def _stretched(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    offset, scale = (low, 255 / (high - low)) if low < high else (0.0, 1.0)
    grey = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _ROWS):
        rows = (values[start : start + _ROWS].astype(np.float64) - offset) * scale
        rows = np.nan_to_num(rows, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
        grey[start : start + _ROWS] = np.rint(rows.clip(0, 255))
    return grey


def _white_is_zero(image: Image.Image) -> bool:
    """Whether a TIFF is WhiteIsZero, which Pillow inverts only up to 8 bits."""
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    return bool(tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0)


def _table(white: int) -> NDArray[np.uint8]:
    """Lookup table `[65536]` from value to 8-bit grey, rounded; `white` and above map to 255."""
    table: NDArray[np.uint8] = np.rint(np.arange(0x10000) * (255 / white)).clip(0, 255).astype(np.uint8)
    return table


def _bytes_from_unit(values: NDArray[Any]) -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # also rejects NaN
        raise ImageError(f"Floats from {low:g} to {high:g} are not an image. Scale them to 0..1, or give uint8.")
    scaled = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _ROWS):
        scaled[start : start + _ROWS] = np.rint(values[start : start + _ROWS].astype(np.float64) * 255)
    return scaled
