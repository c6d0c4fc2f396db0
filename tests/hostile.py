"""Images that people, phones and attackers send, each with the expected result."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

NOT_READABLE = "Not a readable image. Use JPEG, PNG, WebP, GIF, BMP or TIFF."


@dataclass(frozen=True)
class Case:
    """A file, and the words of its refusal, or None where it is accepted."""

    file: str
    data: bytes
    refusal: str | None = None
    note: str | None = None
    """What an accepted file's answer says about it."""


def encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=file_format, **options)
    return buffer.getvalue()


def photo(width: int = 90, height: int = 60, mode: str = "RGB") -> Image.Image:
    """A smooth picture with a bright corner, so that no two orientations are alike."""
    rows, columns = np.mgrid[0:height, 0:width]
    red, green = columns * 255 // max(width - 1, 1), rows * 255 // max(height - 1, 1)
    pixels = np.stack([red, green, np.full_like(red, 90)], axis=-1).astype(np.uint8)
    pixels[: max(1, height // 4), : max(1, width // 4)] = 255
    return Image.fromarray(pixels).convert(mode)


def bomb(side: int = 9000) -> bytes:
    """A valid PNG of a few kilobytes that holds `side` x `side` pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    packer = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    body = b"".join([*(packer.compress(row) for _ in range(side)), packer.flush()])
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(photo(), "JPEG", exif=exif)


JPEG = encode(photo(), "JPEG")

CASES = [
    Case("empty.jpg", b"", NOT_READABLE),
    Case("notes.jpg", b"Dear diary, this is no picture.\n" * 20, NOT_READABLE),
    Case("drawing.svg", b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>', NOT_READABLE),
    Case("figure.eps", encode(photo(), "EPS"), NOT_READABLE),
    Case("page.pdf", encode(photo(), "PDF"), NOT_READABLE),
    Case("layers.psd", b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 8, 8, 8, 3) + bytes(60), NOT_READABLE),
    Case("half.jpg", JPEG[: len(JPEG) // 2], "The image is cut off."),
    Case("half.png", encode(photo(), "PNG")[:-40], "The image is cut off."),
    Case("bomb.png", bomb(), "81 MP; the limit is 25 MP."),
    Case("wide.png", encode(Image.new("1", (16_385, 1)), "PNG"), "16384 pixels a side"),
    Case(
        "moving.gif",
        encode(photo(), "GIF", save_all=True, append_images=[photo().rotate(90)]),
        note="The first frame",
    ),
    Case("deep.png", encode(Image.fromarray(np.full((40, 40), 40_000, np.uint16)), "PNG")),
    Case("float.tiff", encode(Image.fromarray(np.linspace(-1, 9, 1600, dtype=np.float32).reshape(40, 40)), "TIFF")),
    Case("palette.gif", encode(photo(mode="P"), "GIF")),
    Case("grey-alpha.png", encode(photo(mode="LA"), "PNG")),
    Case("alpha.png", encode(photo(mode="RGBA"), "PNG")),
    Case("bits.png", encode(photo(mode="1"), "PNG")),
    Case("ink.jpg", encode(photo(mode="CMYK"), "JPEG")),
    Case("turned.jpg", turned()),
    Case("dot.png", encode(photo(1, 1), "PNG")),
    Case("thin.png", encode(photo(1, 5000), "PNG")),
    Case("bitmap.bmp", encode(photo(), "BMP")),
    Case("web.webp", encode(photo(), "WEBP")),
]
"""An image over the byte limit is made by the tests that need it."""

REFUSED = [case for case in CASES if case.refusal]
ACCEPTED = [case for case in CASES if not case.refusal]
