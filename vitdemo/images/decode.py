"""Bytes of an image file to pixels, within limits, whatever the bytes are. `images.py` is the only caller.

Formats are recognised by their first bytes and by nothing else, and only six are known. Pillow's plugins for them are
called directly, because `PIL.Image.open` warns, or refuses without saying the size, before a caller can apply a limit.
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
from vitdemo.settings import Settings

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's names of the formats that are opened. MPO is what Pillow calls the JPEG of many phones."""

NOT_READABLE = "Not a readable image. Use JPEG, PNG, WebP, GIF, BMP or TIFF."
CUT_OFF = "The image is cut off. Some of its data is missing or damaged: save or send it again."
NO_MEMORY = "The image needs more memory than there is. Use a smaller one."
FIRST_FRAME = "The first frame of an animation is used."
FIRST_PAGE = "The first of several pages is used."

_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
"""Lengths of the known kinds of BMP header: "BM" alone begins many a text."""


def decode(data: bytes, settings: Settings) -> tuple[Image.Image, tuple[str, ...]]:
    """The first frame of the file, its pixels loaded, in the file's own mode; and notes for the user.

    Raises:
        ImageError: not one of `FORMATS`, cut off or damaged, or beyond the limits on sides and megapixels.
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
    with as_image_errors(CUT_OFF):
        image.load()
    return image, notes


@contextmanager
def as_image_errors(message: str) -> Iterator[None]:
    """Whatever goes wrong inside leaves as an `ImageError`: decoders raise some twenty kinds of exception."""
    try:
        yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(NO_MEMORY) from error
    except Exception as error:
        raise ImageError(message) from error


def check_size(size: tuple[int, int], settings: Settings) -> None:
    """Refuse a `(width, height)` in pixels beyond the limits.

    Raises:
        ImageError: too many pixels, or a side of none or of too many.
    """
    megapixels, limit = size[0] * size[1] / 1e6, settings.max_megapixels
    if megapixels > limit:
        raise ImageError(f"{rounded_up(megapixels)} MP; the limit is {limit:g} MP. Scale the image down first.")
    if not 1 <= min(size) <= max(size) <= settings.max_side:
        sides = f"{size[0]} x {size[1]} pixels; the limit is 1 to {settings.max_side} pixels a side."
        raise ImageError(f"{sides} Scale or crop the image first.")


def max_bytes(settings: Settings) -> int:
    """Bytes that an image file may have."""
    return int(settings.max_image_mb * 1e6)


def rounded_up(value: float) -> str:
    """To one decimal and upwards, so that what exceeds a limit is not shown as equal to it.

    >>> rounded_up(81.0), rounded_up(25.001)
    ('81', '25.1')
    """
    return f"{math.ceil(round(value * 10, 6)) / 10:.12g}"


def frame_notes(image: Image.Image) -> tuple[str, ...]:
    """What to tell the user of the frames that are not used. To be called before the pixels are loaded."""
    try:
        several = getattr(image, "is_animated", False) and image.tell() == 0
    except Exception:
        several = False
    if not several or image.format == "MPO":  # the further pictures of an MPO are previews and depth maps
        return ()
    return (FIRST_PAGE if image.format == "TIFF" else FIRST_FRAME,)


class _CutOffError(SyntaxError):
    """The file ends inside its pixels. As a SyntaxError, Pillow forgives it after the pixels of a PNG."""


class _File(io.BytesIO):
    """The bytes of an image file, which know whether a reader wanted more of them than there are.

    While `decoding`, reading on at the end raises. Pillow would fill the missing part with grey, silently, once
    anything in this process has set `ImageFile.LOAD_TRUNCATED_IMAGES`, and the door must not depend on that.
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
            # Decoders ask for large blocks and take what is left, but 8 bytes are a PNG's chunk header, needed whole.
            if self.decoding and (size == 8 or (size > 8 and not data)):
                raise _CutOffError
        return data


class _Png(PngImagePlugin.PngImageFile):
    """Checks the size before Pillow, on opening, allocates an animation's pixels; repairs the transparent colour."""

    def _open(self) -> None:
        super()._open()
        transparent = self.info.get("transparency")
        rawmode = self.tile[0].args if self.tile else None
        # Pillow scales the pixels to 8 bits, but not the colour that they are compared with.
        if isinstance(transparent, int) and rawmode in ("L;2", "L;4"):
            self.info["transparency"] = transparent * (85 if rawmode == "L;2" else 17)
        elif isinstance(transparent, tuple) and rawmode == "RGB;16B":
            self.info["transparency"] = tuple(value >> 8 for value in transparent)

    def _seek(self, frame: int, rewind: bool = False) -> None:
        assert isinstance(self.fp, _File)
        check_size(self.size, self.fp.settings)
        super()._seek(frame, rewind)


class _Gif(GifImagePlugin.GifImageFile):
    """Checks the sizes of screen and first frame before Pillow warns of large ones and allocates their pixels."""

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
    """Whether a file that has the signature of its format, and yet cannot be opened, lacks its end."""
    if opener is WebPImagePlugin.WebPImageFile:  # read whole by its plugin; the length is in the RIFF header
        data = file.getbuffer()
        return 8 + int.from_bytes(data[4:8], "little") > len(data)
    return file.ran_out


def _gif_size(data: bytes) -> tuple[int, int]:
    """`(width, height)` that hold both the screen and the first frame; the screen alone if no frame can be found."""

    def word(at: int) -> int:
        return data[at] | data[at + 1] << 8

    width, height = int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    try:
        at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
        while data[at] != ord(","):
            if data[at] == ord("!"):  # an extension: a label, then blocks, each with its length, until an empty one
                at += 2
                while data[at]:
                    at += 1 + data[at]
            at += 1
        return max(width, word(at + 1) + word(at + 5)), max(height, word(at + 3) + word(at + 7))
    except IndexError:
        return width, height


def _check_tiles(image: TiffImagePlugin.TiffImageFile, settings: Settings) -> None:
    """The tile of a TIFF is decoded whole, and may be declared far larger than the image."""
    width, length = image.tag_v2.get(TiffImagePlugin.TILEWIDTH), image.tag_v2.get(TiffImagePlugin.TILELENGTH)
    if isinstance(width, int) and isinstance(length, int) and width * length / 1e6 > settings.max_megapixels:
        tiles = f"Tiles of {rounded_up(width * length / 1e6)} MP; the limit is {settings.max_megapixels:g} MP."
        raise ImageError(f"{tiles} Save the image as PNG or JPEG.")
