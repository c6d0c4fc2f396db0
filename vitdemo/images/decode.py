"""Decoding of untrusted image files within limits.

Six formats are recognised, by their signatures only. Pillow's plugins are called directly, because `PIL.Image.open` warns,
or raises without giving the size, before a caller can apply a limit.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from vitdemo.errors import ImageError
from vitdemo.images.libtiff import quiet_libtiff
from vitdemo.settings import Settings

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's names of the accepted formats. MPO is Pillow's name for the multi-picture JPEG of many phones."""

NOT_READABLE = "Not a readable image. Use JPEG, PNG, WebP, GIF, BMP or TIFF."
CUT_OFF = "The image is cut off. Some of its data is missing or damaged: save or send it again."
NO_MEMORY = "The image needs more memory than there is. Use a smaller one."
FIRST_FRAME = "The first frame of an animation is used."
FIRST_PAGE = "The first of several pages is used."

_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
"""Known BMP header lengths: "BM" alone could also begin a text."""


def decode(data: bytes, settings: Settings) -> tuple[Image.Image, tuple[str, ...]]:
    """The first frame with its pixels loaded, in the file's own mode, and notes for the user.

    Raises:
        ImageError: not one of `FORMATS`, truncated, damaged, or over the limits on sides and megapixels.
    """
    opener = _opener(data)
    file = _File(data, settings)
    try:
        with as_image_errors(NOT_READABLE):
            image = opener(file)
    except ImageError as error:
        if str(error) == NOT_READABLE and _ends_early(file, opener):
            raise ImageError(CUT_OFF) from error
        raise
    check_size(image.size, settings)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiles(image, settings)
    notes = frame_notes(image)
    file.decoding = True
    with as_image_errors(CUT_OFF), quiet_libtiff():
        image.load()
    return image, notes


@contextmanager
def as_image_errors(message: str) -> Iterator[None]:
    """Turn any exception into an `ImageError`: decoders raise some twenty kinds."""
    try:
        yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(NO_MEMORY) from error
    except Exception as error:
        raise ImageError(message) from error


def check_size(size: tuple[int, int], settings: Settings) -> None:
    """Check `(width, height)` in pixels against the limits.

    Raises:
        ImageError: too many pixels, an empty side, or one that is too long.
    """
    megapixels, limit = size[0] * size[1] / 1e6, settings.max_megapixels
    if megapixels > limit:
        raise ImageError(f"{rounded_up(megapixels)} MP; the limit is {limit:g} MP. Scale the image down first.")
    if not 1 <= min(size) <= max(size) <= settings.max_side:
        sides = f"{size[0]} x {size[1]} pixels; the limit is 1 to {settings.max_side} pixels a side."
        raise ImageError(f"{sides} Scale or crop the image first.")


def max_bytes(settings: Settings) -> int:
    """The largest allowed size of an image file."""
    return int(settings.max_image_mb * 1e6)


def rounded_up(value: float) -> str:
    """Rounded up to one decimal, so that a value over a limit is not displayed as equal to it.

    >>> rounded_up(81.0), rounded_up(25.001)
    ('81', '25.1')
    """
    return f"{math.ceil(round(value * 10, 6)) / 10:.12g}"


def frame_notes(image: Image.Image) -> tuple[str, ...]:
    """A note if the file has unused frames or pages. Call it before the pixels are loaded."""
    try:
        several = getattr(image, "is_animated", False) and image.tell() == 0
    except Exception:
        several = False
    if not several or image.format == "MPO":  # the other frames of an MPO are previews and depth maps
        return ()
    return (FIRST_PAGE if image.format == "TIFF" else FIRST_FRAME,)


class _CutOffError(SyntaxError):
    """The file ends before its pixels do. A SyntaxError, because Pillow tolerates that one after a PNG's pixels."""


class _File(io.BytesIO):
    """An in-memory image file that records whether a reader ran past its end.

    While `decoding`, reading past the end raises: Pillow would silently fill the missing part with grey if anything in the
    process had set `ImageFile.LOAD_TRUNCATED_IMAGES`.
    """

    def __init__(self, data: bytes, settings: Settings) -> None:
        super().__init__(data)
        self.settings = settings
        self.ran_out = False
        self.decoding = False

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if size is not None and len(data) < size:
            self.ran_out = True
            # Decoders request large blocks and accept less, but 8 bytes are a PNG chunk header, which must be complete.
            if self.decoding and (size == 8 or (size > 8 and not data)):
                raise _CutOffError
        return data


class _Png(PngImagePlugin.PngImageFile):
    """Checks the size before Pillow allocates an animation's pixels on opening; scales the transparent colour."""

    def _open(self) -> None:
        super()._open()
        transparent = self.info.get("transparency")
        rawmode = self.tile[0].args if self.tile else None
        # Pillow scales the pixels to 8 bits, but not the colour they are compared with.
        if isinstance(transparent, int) and rawmode in ("L;2", "L;4"):
            self.info["transparency"] = transparent * (85 if rawmode == "L;2" else 17)
        elif isinstance(transparent, tuple) and rawmode == "RGB;16B":
            self.info["transparency"] = tuple(value >> 8 for value in transparent)

    def _seek(self, frame: int, rewind: bool = False) -> None:
        assert isinstance(self.fp, _File)
        check_size(self.size, self.fp.settings)
        super()._seek(frame, rewind)


class _Gif(GifImagePlugin.GifImageFile):
    """Checks the sizes of the screen and the first frame before Pillow allocates their pixels."""

    def _open(self) -> None:
        assert isinstance(self.fp, _File)
        check_size(_gif_size(self.fp.getvalue()), self.fp.settings)
        super()._open()


def _opener(data: bytes) -> type[ImageFile.ImageFile]:
    if data.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.JpegImageFile
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _Png
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile
    if data.startswith((b"GIF87a", b"GIF89a")):
        return _Gif
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return BmpImagePlugin.BmpImageFile
    if data.startswith(tuple(TiffImagePlugin.PREFIXES)):
        return TiffImagePlugin.TiffImageFile
    raise ImageError(NOT_READABLE)


def _ends_early(file: _File, opener: type[ImageFile.ImageFile]) -> bool:
    """Whether a file with a known signature that cannot be opened is truncated."""
    if opener is WebPImagePlugin.WebPImageFile:  # its plugin reads the whole file; the RIFF header has the length
        data = file.getbuffer()
        return 8 + int.from_bytes(data[4:8], "little") > len(data)
    return file.ran_out


def _gif_size(data: bytes) -> tuple[int, int]:
    """`(width, height)` covering the screen and the first frame; of the screen alone if there is no frame."""

    def word(at: int) -> int:
        return data[at] | data[at + 1] << 8

    width, height = int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    try:
        at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
        while data[at] != ord(","):
            if data[at] == ord("!"):  # an extension: a label, then length-prefixed blocks until an empty one
                at += 2
                while data[at]:
                    at += 1 + data[at]
            at += 1
        return max(width, word(at + 1) + word(at + 5)), max(height, word(at + 3) + word(at + 7))
    except IndexError:
        return width, height


def _check_tiles(image: TiffImagePlugin.TiffImageFile, settings: Settings) -> None:
    """A TIFF tile is decoded whole, and may be declared far larger than the image."""
    width, length = image.tag_v2.get(TiffImagePlugin.TILEWIDTH), image.tag_v2.get(TiffImagePlugin.TILELENGTH)
    if isinstance(width, int) and isinstance(length, int) and width * length / 1e6 > settings.max_megapixels:
        tiles = f"Tiles of {rounded_up(width * length / 1e6)} MP; the limit is {settings.max_megapixels:g} MP."
        raise ImageError(f"{tiles} Save the image as PNG or JPEG.")
