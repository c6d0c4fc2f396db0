"""`open_image`, the only entry for images: uploads, pastes, snapshots, camera frames, URLs, paths and arrays.

    bytes, path, URL, data URL -> bytes within the limit -> decode.decode -> convert.upright_rgb -> Photo
    Pillow image, array        -> size within the limit -----------------> convert.upright_rgb -> Photo

Only regular files are opened, and messages give only the last part of a path.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import stat
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from vitdemo.errors import ImageError, UrlError
from vitdemo.images.convert import image_from_array, upright_rgb
from vitdemo.images.decode import (
    CUT_OFF,
    FORMATS,
    NOT_READABLE,
    as_image_errors,
    check_size,
    decode,
    frame_notes,
    max_bytes,
    rounded_up,
)
from vitdemo.images.fetch import fetch_url
from vitdemo.images.libtiff import quiet_libtiff
from vitdemo.settings import Settings, get_settings
from vitdemo.types import Photo

Source = str | Path | bytes | PIL.Image.Image | NDArray[Any]

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_ACCEPTED = "Give a file, its bytes, a URL, a Pillow image or an array."


def open_image(source: Source, settings: Settings | None = None) -> Photo:
    """Validate and decode one image, within the limits of `settings`.

    Args:
        source: the bytes of a file; a path; an `http://` or `https://` URL; a `data:` URL in base64; a Pillow image, whose
            current frame is used; or an array `[H, W]`, `[H, W, 3]` or `[H, W, 4]` of uint8, uint16 or floats in 0..1.
            A string that is not a URL is read as a path: never pass an untrusted string unchecked.
        settings: the limits; from the environment if None.

    Returns:
        RGB, EXIF orientation applied, transparency over white, the first frame of an animation. The photo shares no memory
        with `source`.

    Raises:
        ImageError: not an image of a known format, truncated, or over a limit.
        UrlError: the URL was refused, or did not return a file.
        SettingsError: `settings` is None and an environment variable is invalid.

    >>> open_image(np.zeros((2, 3), np.uint8)).size
    (3, 2)
    """
    settings = get_settings() if settings is None else settings
    with as_image_errors(NOT_READABLE):
        image, notes = _pixels(source, settings)
        rgb = upright_rgb(image)
        digest = hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode() + rgb.tobytes()).hexdigest()
    return Photo(rgb, digest, notes)


def _pixels(source: Source, settings: Settings) -> tuple[PIL.Image.Image, tuple[str, ...]]:
    if isinstance(source, np.ndarray):
        return _from_array(source, settings), ()
    if isinstance(source, PIL.Image.Image):
        return _from_pillow(source, settings)
    data = _read(source, settings)
    if len(data) > max_bytes(settings):
        _refuse_bytes(len(data), settings)
    return decode(data, settings)


def _from_array(array: NDArray[Any], settings: Settings) -> PIL.Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        shape = " x ".join(map(str, array.shape)) or "no dimensions"
        raise ImageError(f"An array of {shape} is not an image. Use H x W, H x W x 3 or H x W x 4.")
    check_size((array.shape[1], array.shape[0]), settings)
    return image_from_array(array)


def _from_pillow(image: PIL.Image.Image, settings: Settings) -> tuple[PIL.Image.Image, tuple[str, ...]]:
    # An image that is opened but not yet decoded would run its decoder here; for EPS that is Ghostscript.
    if getattr(image, "tile", None) and image.format not in FORMATS:
        raise ImageError(NOT_READABLE)
    check_size(image.size, settings)
    notes = frame_notes(image) if image.format in FORMATS else ()
    with as_image_errors(CUT_OFF), quiet_libtiff():
        image.load()
    return image, notes


def _read(source: object, settings: Settings) -> bytes:
    """The bytes of a file, path, URL or data URL."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, Path):
        return _read_file(source, settings)
    if not isinstance(source, str):
        raise ImageError(f"A value of type {type(source).__name__} is not an image. {_ACCEPTED}")
    text = source.strip()
    if not text:
        raise ImageError(f"There is no image. {_ACCEPTED}")
    if _SCHEME.match(text):  # fetch_url rejects other schemes than http and https
        if not settings.url_input:
            raise UrlError("URLs are not fetched here. Upload the image instead.")
        return fetch_url(text, settings)
    if text[:5].lower() == "data:":
        return _read_data_url(text, settings)
    return _read_file(Path(source), settings)


def _read_file(path: Path, settings: Settings) -> bytes:
    name = _display_name(path)
    no_file = f'"{name}" is not a file. Choose an image file.'
    try:
        # Without O_NONBLOCK, opening a named pipe would block until it has a writer.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(no_file)
            if status.st_size > max_bytes(settings):
                _refuse_bytes(status.st_size, settings)
            return file.read(max_bytes(settings) + 1)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the name
        raise ImageError(f'There is no file "{name}". Check its name.') from None
    except IsADirectoryError:
        raise ImageError(no_file) from None
    except PermissionError:
        raise ImageError(f'"{name}" may not be read. Change its permissions, or choose another file.') from None
    except OSError:
        raise ImageError(f'"{name}" cannot be read. Choose another file.') from None


def _display_name(path: Path) -> str:
    """The last part of a path, for messages, which must not reveal folders of the server."""
    name = re.split(r"[\\/]", str(path))[-1]
    return "".join(letter if letter.isprintable() else "?" for letter in name[:80])


def _read_data_url(url: str, settings: Settings) -> bytes:
    head, _, text = url.partition(",")
    if len(text) > 4 * max_bytes(settings):  # too long even if fully percent-encoded
        _refuse_bytes(len(text) // 4, settings)
    if not head.lower().endswith(";base64"):
        raise ImageError(NOT_READABLE)
    try:
        return base64.b64decode(b"".join(unquote_to_bytes(text).split()), validate=True)
    except binascii.Error:  # a length that no complete file has
        raise ImageError(CUT_OFF) from None


def _refuse_bytes(size: int, settings: Settings) -> NoReturn:
    limit = f"{settings.max_image_mb:g} MB"
    raise ImageError(f"{rounded_up(size / 1e6)} MB; the limit is {limit}. Save the image smaller, or as JPEG.")
