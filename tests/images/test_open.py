"""Every kind of image that can be given to `open_image`, made here."""

from __future__ import annotations

import base64
import io
import itertools
import os
import random
import struct
import subprocess
import sys
import tarfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import BmpImagePlugin, ExifTags, Image, ImageCms, ImageFile, JpegImagePlugin, PngImagePlugin

from vitdemo.errors import ImageError, UrlError
from vitdemo.images.decode import CUT_OFF, FIRST_FRAME, FIRST_PAGE, NO_MEMORY, NOT_READABLE
from vitdemo.images.open import open_image
from vitdemo.settings import Settings
from vitdemo.types import Photo

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of the metadata in files broken on purpose

SETTINGS = Settings()

WRITERS: dict[str, dict[str, Any]] = {
    "JPEG": {"format": "JPEG", "quality": 95},
    "progressive JPEG": {"format": "JPEG", "quality": 95, "progressive": True},
    "PNG": {"format": "PNG"},
    "WebP": {"format": "WEBP", "quality": 90},
    "lossless WebP": {"format": "WEBP", "lossless": True},
    "GIF": {"format": "GIF"},
    "BMP": {"format": "BMP"},
    "TIFF": {"format": "TIFF"},
    "LZW TIFF": {"format": "TIFF", "compression": "tiff_lzw"},
    "deflate TIFF": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
    "JPEG TIFF": {"format": "TIFF", "compression": "jpeg"},
}
LOSSLESS = [name for name in WRITERS if "JPEG" not in name and name not in ("WebP", "GIF")]


def scene(width: int = 96, height: int = 64) -> Image.Image:
    """No two pixels of a row or column alike, and no symmetry, so that any turn or loss shows."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    noise = np.random.default_rng(7).integers(0, 40, (height, width))
    return Image.fromarray(np.stack([x, y, (x * y / 255 + noise).clip(0, 255)], axis=-1).astype(np.uint8))


def written(image: Image.Image, writer: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **{**WRITERS[writer], **options})
    return buffer.getvalue()


def pixels(photo: Photo) -> np.ndarray:
    return np.asarray(photo.image)


def refusal(source: Any, settings: Settings = SETTINGS) -> str:
    """The message that `source` is refused with; a warning on the way is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError) as caught:
            open_image(source, settings)
    return str(caught.value)


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: bytes) -> bytes:
    """A PNG by hand; `rows` start with their filter byte, `chunks` go before the pixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(rows, 9)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + body


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def tiff(tags: dict[int, int], data: bytes, order: str = "<") -> bytes:
    """A TIFF by hand with one strip; `tags` beside those of size, offset and length."""
    tags = {**tags, 273: 8, 279: len(data)}
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(data))
    return head + data + struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", 0)


# Not an image


def test_what_is_no_image_is_called_not_readable() -> None:
    for data in (
        b"",
        b"\0",
        b"\0" * 5000,
        b"hello",
        b"BM",
        b"BMW builds cars, and this text begins like a bitmap. " * 9,
        b"RIFF\x10\0\0\0WAVEfmt ",
        b"<!doctype html><html></html>",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'/>",
        b"<?xml version='1.0'?><svg/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"%PDF-1.7\n",
        b"8BPS\0\x01" + b"\0" * 40,
        b"PK\x03\x04" + b"\0" * 40,
        b"\0\0\0\x18ftypheic" + b"\0" * 40,
        random.Random(1).randbytes(5000),
    ):
        assert refusal(data) == "Not a readable image. Use JPEG, PNG, WebP, GIF, BMP or TIFF.", data[:12]


def test_other_formats_that_pillow_opens_are_called_not_readable() -> None:
    for extension in ("PPM", "ICO", "TGA", "JPEG2000", "PDF", "EPS", "PCX", "SGI", "DDS", "AVIF", "DIB"):
        buffer = io.BytesIO()
        scene().save(buffer, extension)
        assert refusal(buffer.getvalue()) == NOT_READABLE, extension


def test_an_opened_but_undecoded_image_of_another_format_does_not_run_its_decoder() -> None:
    buffer = io.BytesIO()
    scene().save(buffer, "EPS")
    assert refusal(Image.open(buffer)) == NOT_READABLE


def test_noise_behind_a_signature_ends_in_an_image_error() -> None:
    signatures = [b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0"]
    for signature, seed in itertools.product(signatures, range(30)):
        with pytest.raises(ImageError):
            open_image(signature + random.Random(seed).randbytes(400), SETTINGS)


# Cut off


@pytest.mark.parametrize("writer", WRITERS)
def test_a_truncated_file_opens_whole_or_not_at_all(writer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = written(scene(), writer)
    whole = pixels(open_image(data, SETTINGS))
    for flag, sixteenths in itertools.product((False, True), range(1, 16)):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", flag)  # as a library elsewhere in the process may
        try:
            photo = open_image(data[: len(data) * sixteenths // 16], SETTINGS)
        except ImageError as error:
            assert str(error) in (CUT_OFF, NOT_READABLE)
        else:
            np.testing.assert_array_equal(pixels(photo), whole)


def test_half_a_file_is_called_cut_off() -> None:
    for writer in WRITERS:
        data = written(scene(), writer)
        message = refusal(data[: len(data) // 2])
        assert message.startswith("The image is cut off."), writer
        assert "again" in message


def test_a_png_that_ends_at_the_border_of_two_chunks_is_called_cut_off() -> None:
    rows = np.random.default_rng(0).integers(0, 255, (40, 31), np.uint8)
    rows[:, 0] = 0
    packed = zlib.compress(rows.tobytes())
    first, second = png_chunk(b"IDAT", packed[:600]), png_chunk(b"IDAT", packed[600:])
    head = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 30, 40, 8, 0, 0, 0, 0))
    assert open_image(head + first + second + png_chunk(b"IEND", b""), SETTINGS).size == (30, 40)
    assert refusal(head + first) == CUT_OFF
    assert refusal(head + first + png_chunk(b"IEND", b"")) == CUT_OFF


def test_a_png_without_its_end_mark_has_all_its_pixels_and_opens() -> None:
    data = written(scene())
    np.testing.assert_array_equal(pixels(open_image(data[:-12], SETTINGS)), np.asarray(scene()))


@pytest.mark.parametrize("writer", WRITERS)
def test_damaged_bytes_end_in_a_photo_or_an_image_error(writer: str) -> None:
    data = written(scene(), writer)
    for seed in range(60):
        generator = random.Random(seed)
        damaged = bytearray(data)
        for _ in range(generator.choice((1, 3, 20))):
            damaged[generator.randrange(min(len(data), generator.choice((64, 10_000))))] = generator.randrange(256)
        try:
            photo = open_image(bytes(damaged), SETTINGS)
        except ImageError as error:
            assert str(error)
        else:
            assert photo.image.mode == "RGB"


# Limits


def png_of_81_megapixels() -> bytes:
    return png(9000, 9000, 1, 0, b"\0" * (1126 * 9000))


def jpeg_of_4290_megapixels() -> bytes:
    data = written(scene(), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", 65500, 65500) + data[at + 4 :]


def gif(screen: tuple[int, int], frame: tuple[int, int]) -> bytes:
    control = b"!\xf9\x04\x08\0\0\0\0"  # restore to background: Pillow allocates the frame's area on opening
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", *screen, 0, 0, 0)
        + control
        + b","
        + struct.pack("<HHHHB", 0, 0, *frame, 0)
        + b"\x08\0;"
    )


def webp_of_256_megapixels() -> bytes:
    body = b"VP8L" + struct.pack("<IBI", 18, 0x2F, 15999 | 15999 << 14) + b"\x88\x88\x08" + b"\0" * 10
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def animated_png_of_900_megapixels() -> bytes:
    control = struct.pack(">IIIIIHHBB", 0, 30000, 30000, 0, 0, 1, 1, 1, 0)
    small = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 6, 0, 0, 0))
    return png(
        8, 8, 8, 6, b"\0" * 33 * 8, small, png_chunk(b"acTL", struct.pack(">II", 2, 0)), png_chunk(b"fcTL", control)
    )


def bmp_of_400_megapixels() -> bytes:
    data = written(scene(), "BMP")
    return data[:18] + struct.pack("<ii", 20000, 20000) + data[26:]


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "PNG": (png_of_81_megapixels, "81 MP"),
    "large PNG": (lambda: png(30000, 30000, 8, 2, b""), "900 MP"),
    "animated PNG": (animated_png_of_900_megapixels, "900 MP"),
    "JPEG": (jpeg_of_4290_megapixels, "4290.3 MP"),
    "GIF": (lambda: gif((65535, 65535), (1, 1)), "4294.9 MP"),
    "GIF with a frame larger than its screen": (lambda: gif((10, 10), (12000, 9000)), "108 MP"),
    "WebP": (webp_of_256_megapixels, "256 MP"),
    "BMP": (bmp_of_400_megapixels, "400 MP"),
    "TIFF": (lambda: tiff({256: 50000, 257: 50000, 258: 8, 259: 1, 262: 1, 277: 1}, b"\0" * 9), "2500 MP"),
    "barely": (lambda: png(5001, 5000, 1, 0, b""), "25.1 MP"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_from_its_header(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = BOMBS[name][0]()
    assert len(data) < 20_000

    def no_pixels(*_: object) -> None:
        raise AssertionError("pixels were allocated")

    monkeypatch.setattr("PIL.Image.core.new", no_pixels)
    monkeypatch.setattr("PIL.Image.core.fill", no_pixels)
    assert refusal(data) == f"{BOMBS[name][1]}; the limit is 25 MP. Scale the image down first."


def test_the_megapixel_limit_is_a_setting() -> None:
    assert open_image(scene(100, 100), Settings(max_megapixels=0.01)).size == (100, 100)
    assert refusal(scene(100, 101), Settings(max_megapixels=0.01)).startswith("0.1 MP; the limit is 0.01 MP.")


def test_pillows_own_limit_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [written(scene(), writer) for writer in WRITERS if "TIFF" not in writer]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Image.open warns above it, and refuses above twice as much
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in files:
            assert open_image(data, SETTINGS).size == (96, 64)


def test_a_tiff_with_tiles_far_larger_than_itself_is_refused() -> None:
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: 160_000, 323: 160_000, 324: 8, 325: 9}
    assert refusal(tiff(tags, b"\0" * 9)).startswith("Tiles of 25600 MP; the limit is 25 MP.")


@pytest.mark.parametrize("size", [(16_385, 1), (1, 16_385)])
def test_a_side_above_the_limit_is_refused(size: tuple[int, int]) -> None:
    message = refusal(written(Image.new("L", size)))
    assert message.startswith(f"{size[0]} x {size[1]} pixels; the limit is 1 to 16384 pixels a side.")


@pytest.mark.parametrize("writer", LOSSLESS)
def test_thin_and_tiny_images_open(writer: str) -> None:
    # WebP ends a pixel earlier.
    for size in ((1, 1), (1, 5000), (5000, 1), (16_383 if "WebP" in writer else 16_384, 1)):
        image = scene(*size)
        np.testing.assert_array_equal(pixels(open_image(written(image, writer), SETTINGS)), np.asarray(image))


def test_a_file_above_the_byte_limit_is_refused_however_it_comes(tmp_path: Path) -> None:
    data = b"\xff" * 2_000_001
    path = tmp_path / "large.png"
    path.write_bytes(data)
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    for source in (data, path, str(path), url):
        message = refusal(source, Settings(max_image_mb=2))
        assert message == "2.1 MB; the limit is 2 MB. Save the image smaller, or as JPEG."


# Frames


@pytest.mark.parametrize("writer", ["GIF", "PNG", "lossless WebP", "TIFF"])
def test_the_first_of_several_frames_is_used_and_said_so(writer: str) -> None:
    colours = ["red", "lime", "blue"]
    first, *others = [Image.new("RGB", (20, 10), colour) for colour in colours]
    photo = open_image(written(first, writer, save_all=True, append_images=others), SETTINGS)
    np.testing.assert_array_equal(pixels(photo), np.asarray(first))
    assert photo.notes == (FIRST_PAGE if writer == "TIFF" else FIRST_FRAME,)


def test_a_single_frame_needs_no_note() -> None:
    for writer in WRITERS:
        assert open_image(written(scene(), writer), SETTINGS).notes == (), writer


def test_a_gif_whose_second_frame_is_cut_off_gives_its_first() -> None:
    first, second = scene().quantize(), Image.effect_noise((96, 64), 90).convert("P")
    alone = written(first, "GIF")
    data = written(first, "GIF", save_all=True, append_images=[second])
    for cut in (len(alone) + 30, len(data) - 500):
        np.testing.assert_array_equal(pixels(open_image(data[:cut], SETTINGS)), np.asarray(first.convert("RGB")))


def test_the_previews_in_a_phones_jpeg_are_not_an_animation() -> None:
    buffer = io.BytesIO()
    scene().save(buffer, "MPO", save_all=True, append_images=[scene(40, 40)])
    photo = open_image(buffer.getvalue(), SETTINGS)
    assert (photo.size, photo.notes) == ((96, 64), ())


def test_a_pillow_animation_is_used_as_it_stands() -> None:
    data = written(
        Image.new("RGB", (9, 9), "red"), "GIF", save_all=True, append_images=[Image.new("RGB", (9, 9), "lime")]
    )
    animation = Image.open(io.BytesIO(data))
    assert open_image(animation, SETTINGS).notes == (FIRST_FRAME,)
    animation.seek(1)
    photo = open_image(animation, SETTINGS)
    assert photo.image.getpixel((0, 0)) == (0, 255, 0)
    assert photo.notes == ()


# Modes

GREYS_16 = np.array([[0, 257, 40_000, 65_535]], np.uint16)
GREYS_8 = np.array([[0, 1, 156, 255]], np.uint8)


def grey(photo: Photo) -> Any:
    red, green, blue = (np.asarray(band) for band in photo.image.split())
    np.testing.assert_array_equal(red, green)
    np.testing.assert_array_equal(red, blue)
    return red.tolist()


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I"])
def test_a_16_bit_grey_pillow_image_is_scaled(mode: str) -> None:
    image = Image.new(mode, (4, 1))
    for x, value in enumerate(GREYS_16[0]):
        image.putpixel((x, 0), int(value))
    assert grey(open_image(image, SETTINGS)) == GREYS_8.tolist()


@pytest.mark.parametrize("writer", ["PNG", "TIFF", "LZW TIFF", "deflate TIFF"])
def test_a_16_bit_grey_file_is_scaled(writer: str) -> None:
    assert grey(open_image(written(Image.fromarray(GREYS_16), writer), SETTINGS)) == GREYS_8.tolist()


# The fourth combination Pillow does not read.
@pytest.mark.parametrize(("order", "white_is_zero"), [("<", False), ("<", True), (">", False)])
def test_a_16_bit_tiff_of_either_byte_order_and_polarity_is_scaled(order: str, white_is_zero: bool) -> None:
    tags = {256: 4, 257: 1, 258: 16, 259: 1, 262: 0 if white_is_zero else 1, 277: 1}
    photo = open_image(tiff(tags, GREYS_16.astype(order + "u2").tobytes(), order), SETTINGS)
    assert grey(photo) == (255 - GREYS_8 if white_is_zero else GREYS_8).tolist()


def test_a_12_bit_tiff_is_scaled_by_its_own_white() -> None:
    tags = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 277: 1}
    assert grey(open_image(tiff(tags, bytes([0xFF, 0xF8, 0x00])), SETTINGS)) == [[255, 128]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 100, 255], [0, 100, 255]),
        ([0, 65_535, 257], [0, 255, 1]),
        ([-100, 0, 155], [0, 100, 255]),
        ([0, 0, 70_000], [0, 0, 255]),
        ([-(2**31), 0, 2**31 - 1], [0, 128, 255]),
    ],
)
def test_32_bit_integers_are_scaled_by_what_holds_them(values: list[int], expected: list[int]) -> None:
    assert grey(open_image(Image.fromarray(np.array([values], np.int32)), SETTINGS)) == [expected]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([-3.0, 7.0, 17.0], [0, 128, 255]),
        ([1e-30, 2e-30, 3e-30], [0, 128, 255]),
        ([-3e38, 0.0, 3e38], [0, 128, 255]),
        ([np.nan, 10.0, 20.0], [0, 0, 255]),
        ([np.inf, 10.0, 20.0], [255, 0, 255]),
        ([-np.inf, 10.0, 20.0], [0, 0, 255]),
        ([np.nan, np.nan, np.inf], [0, 0, 255]),
        ([77.0, 77.0, 77.0], [77, 77, 77]),
        ([1e9, 1e9, np.nan], [255, 255, 0]),
    ],
    ids=str,
)
def test_a_float_image_is_scaled_by_its_finite_range(values: list[float], expected: list[int]) -> None:
    image = Image.fromarray(np.array([values], np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert grey(open_image(image, SETTINGS)) == [expected]
        assert grey(open_image(written(image, "TIFF"), SETTINGS)) == [expected]


def test_a_tall_float_image_is_scaled_as_a_whole() -> None:
    values = np.linspace(0, 1, 1000, dtype=np.float32)[:, None]
    assert (
        grey(open_image(Image.fromarray(values), SETTINGS)) == np.rint(values.astype(float) * 255).astype(int).tolist()
    )


@pytest.mark.parametrize(
    "mode", ["RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "P", "PA", "L", "LA", "La", "1"]
)
def test_every_mode_becomes_the_right_rgb(mode: str) -> None:
    colour = (255, 255, 255) if mode == "1" else (90, 90, 90) if mode in ("L", "LA", "La") else (200, 30, 60)
    image = Image.new("RGB", (8, 6), colour)
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB")
        assert converted is not None
        image = converted
    elif mode == "PA":
        image = image.quantize().convert("PA")
    else:
        for step in {"RGBa": ("RGBA", mode), "La": ("LA", mode)}.get(mode, (mode,)):
            image = image.convert(step, palette=Image.Palette.ADAPTIVE)
    assert image.mode == mode
    photo = open_image(image, SETTINGS)
    assert photo.image.mode == "RGB"
    assert photo.size == (8, 6)
    np.testing.assert_allclose(pixels(photo)[2, 3], colour, atol=4)


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La", "PA"])
def test_alpha_lies_over_white(mode: str) -> None:
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 128))
    image.putpixel((2, 0), (0, 0, 0, 0))
    if mode == "PA":
        image = Image.merge("PA", (Image.new("P", (3, 1)), image.getchannel("A")))
        image.putpalette([0, 0, 0] * 256)
    else:
        for step in {"La": ("LA", mode)}.get(mode, (mode,)):
            image = image.convert(step)
    assert grey(open_image(image, SETTINGS)) == [[0, 127, 255]]


@pytest.mark.parametrize("writer", ["PNG", "lossless WebP", "TIFF"])
def test_an_alpha_channel_in_a_file_lies_over_white(writer: str) -> None:
    image = Image.new("RGBA", (5, 5), (255, 0, 0, 51))
    assert open_image(written(image, writer), SETTINGS).image.getpixel((2, 2)) == (255, 204, 204)


def test_a_transparent_palette_entry_lies_over_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    for writer in ("PNG", "GIF"):
        photo = open_image(written(image, writer, transparency=1), SETTINGS)
        assert pixels(photo).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    photo = open_image(written(image, "PNG", transparency=bytes([255, 51])), SETTINGS)
    assert pixels(photo).tolist() == [[[10, 20, 30], [212, 214, 216]]]


@pytest.mark.parametrize(
    ("depth", "row", "transparent", "expected"),
    [
        (1, b"\x40", 0, [255, 255]),
        (2, b"\x60", 1, [255, 170]),
        (4, b"\x3c", 3, [255, 204]),
        (8, b"\x05\x06", 5, [255, 6]),
        (16, struct.pack(">HH", 40_000, 20_000), 40_000, [255, 78]),
    ],
)
def test_the_transparent_grey_of_a_png_lies_over_white(
    depth: int, row: bytes, transparent: int, expected: list[int]
) -> None:
    data = png(2, 1, depth, 0, b"\0" + row, png_chunk(b"tRNS", struct.pack(">H", transparent)))
    assert grey(open_image(data, SETTINGS)) == [expected]


@pytest.mark.parametrize(("depth", "letter"), [(8, "B"), (16, "H")])
def test_the_transparent_colour_of_a_png_lies_over_white(depth: int, letter: str) -> None:
    first, second = [value << (depth - 8) for value in (9, 8, 7)], [value << (depth - 8) for value in (3, 2, 1)]
    row = b"\0" + struct.pack(f">6{letter}", *first, *second)
    data = png(2, 1, depth, 2, row, png_chunk(b"tRNS", struct.pack(">3H", *first)))
    assert pixels(open_image(data, SETTINGS)).tolist() == [[[255, 255, 255], [3, 2, 1]]]


@pytest.mark.parametrize("writer", ["JPEG", "TIFF"])
def test_cmyk_files_get_their_colours_back(writer: str) -> None:
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    np.testing.assert_allclose(pixels(open_image(written(cmyk, writer), SETTINGS))[8, 8], (255, 0, 0), atol=4)


def test_a_broken_palette_is_an_image_error() -> None:
    image = Image.new("P", (2, 2))
    image.info["transparency"] = "nonsense"
    assert refusal(image) in (NOT_READABLE, CUT_OFF)


# EXIF

UNDONE_BY = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""Orientation to the turn that a camera held that way stores the scene with."""


def stored(orientation: int, writer: str) -> bytes:
    turn = UNDONE_BY[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = scene() if turn is None else scene().transpose(turn)
    return written(image, writer, exif=exif)


@pytest.mark.parametrize("writer", ["JPEG", "PNG", "lossless WebP", "TIFF", "LZW TIFF"])
def test_every_exif_orientation_comes_out_upright(writer: str) -> None:
    tolerance = 40 if writer == "JPEG" else 0
    for orientation in UNDONE_BY:
        data = stored(orientation, writer)
        # A file, and an image that somebody has opened already.
        for source in (data, Image.open(io.BytesIO(data))):
            photo = open_image(source, SETTINGS)
            assert photo.size == (96, 64), orientation
            np.testing.assert_allclose(
                pixels(photo).astype(int), np.asarray(scene()), atol=tolerance, err_msg=str(orientation)
            )


def test_a_photo_has_no_orientation_left_to_be_applied_again() -> None:
    photo = open_image(stored(6, "JPEG"), SETTINGS)
    assert not photo.image.getexif()
    assert photo.image.info == {}


@pytest.mark.parametrize("orientation", [0, 9, 65_535, "6", 6.5], ids=repr)
def test_an_invalid_orientation_is_ignored(orientation: Any) -> None:
    kind, count, value = {int: (3, 1, b""), str: (2, 2, b"6\0"), float: (12, 1, struct.pack("<d", 6.5))}[
        type(orientation)
    ]
    value = value or struct.pack("<H", orientation)
    inline = (
        value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", 26)
    )  # longer values lie behind the directory
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHI", 1, 0x0112, kind, count) + inline + b"\0" * 4 + value
    for writer in ("JPEG", "PNG"):
        photo = open_image(written(scene(), writer, exif=exif), SETTINGS)
        np.testing.assert_allclose(pixels(photo).astype(int), np.asarray(scene()), atol=40)


def test_damaged_exif_is_ignored() -> None:
    damaged = [b"", b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0" + b"\xff" * 60, b"\0" * 9, b"nonsense"]
    for exif, writer in itertools.product(damaged, ("JPEG", "PNG", "lossless WebP")):
        assert open_image(written(scene(), writer, exif=exif), SETTINGS).size == (96, 64), (exif, writer)


# Paths, data URLs, URLs


def test_a_file_opens_by_path_and_by_name_whatever_its_extension(tmp_path: Path) -> None:
    path = tmp_path / "scene.txt"
    path.write_bytes(written(scene()))
    for source in (path, str(path)):
        np.testing.assert_array_equal(pixels(open_image(source, SETTINGS)), np.asarray(scene()))


def test_a_missing_file_is_named_without_its_folder(tmp_path: Path) -> None:
    for source in (tmp_path / "cat.jpg", str(tmp_path / "cat.jpg")):
        assert refusal(source) == 'There is no file "cat.jpg". Check its name.'


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f'"{tmp_path.name}" is not a file. Choose an image file.'


def test_a_file_that_may_not_be_read_is_an_image_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(written(scene()))
    path.chmod(0)
    if os.access(path, os.R_OK):  # root reads everything

        def denied(*_: object) -> int:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(os, "open", denied)
    message = refusal(path)
    assert message == '"secret.png" may not be read. Change its permissions, or choose another file.'


def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for source in (pipe, Path("/dev/zero")):
        assert "is not a file" in refusal(source)


@pytest.mark.parametrize(
    "name", ["nul\0byte", "x" * 5000, "file.png/below", "line\nbreak", "../../etc/nothing"], ids=lambda n: n[:9]
)
def test_odd_names_get_a_message_without_a_path(name: str, tmp_path: Path) -> None:
    (tmp_path / "file.png").write_bytes(b"")
    message = refusal(str(tmp_path / name))
    assert str(tmp_path) not in message
    assert "\n" not in message
    assert len(message) < 200


@pytest.mark.parametrize("source", ["", "  ", None, 7, [1, 2]], ids=repr)
def test_what_is_nothing_at_all_is_an_image_error(source: object) -> None:
    assert "Give a file" in refusal(source)


@pytest.mark.parametrize(
    "head", ["data:image/png;base64,", "DATA:image/webp;BASE64,", "data:;base64,", "  data:image/png;name=a;base64,"]
)
def test_a_data_url_opens_by_its_content(head: str) -> None:
    text = base64.encodebytes(written(scene())).decode()
    for body in (text, text.replace("+", "%2B").replace("\n", "")):
        np.testing.assert_array_equal(pixels(open_image(head + body, SETTINGS)), np.asarray(scene()))


def test_a_data_url_without_an_image_is_not_readable() -> None:
    empty = ["data:", "data:,hello", "data:image/svg+xml,<svg/>", "data:image/png;base64,"]
    for url in (*empty, "data:text/plain;base64,aGVsbG8="):
        assert refusal(url) == NOT_READABLE, url


def test_a_data_url_that_ends_inside_its_base64_is_called_cut_off() -> None:
    assert refusal("data:image/png;base64,iVBORw0KG") == CUT_OFF


@pytest.mark.parametrize(
    "url", ["http://example.com/a.png", "HTTPS://example.com/a.png", " https://example.com/a.png\n"]
)
def test_urls_are_refused_where_they_are_switched_off(url: str) -> None:
    with pytest.raises(UrlError, match=r"^URLs are not fetched here\. Upload the image instead\.$"):
        open_image(url, Settings(url_input=False))


@pytest.mark.parametrize("url", ["ftp://example.com/a.png", "file:///etc/passwd", "gopher://x/", "http:///a.png"])
def test_other_schemes_are_not_web_urls(url: str) -> None:
    with pytest.raises(UrlError, match="not a web URL"):
        open_image(url, SETTINGS)


# Arrays


@pytest.mark.parametrize("channels", [(), (3,), (4,)])
def test_arrays_of_every_type_give_the_same_photo(channels: tuple[int, ...]) -> None:
    values = np.random.default_rng(3).integers(0, 256, (300, 5, *channels), np.uint8)
    if channels == (4,):
        values[..., 3] = 255
    expected = values[..., :3] if channels else np.repeat(values[..., None], 3, axis=-1)
    for kind in ("u1", "<u2", ">u2", "f2", "f4", "f8"):
        array = values / 255 if "f" in kind else values.astype(np.uint16) * 257 if "u2" in kind else values
        np.testing.assert_array_equal(pixels(open_image(array.astype(kind), SETTINGS)), expected, err_msg=kind)


def test_an_array_with_alpha_lies_over_white_and_a_strided_one_opens() -> None:
    array = np.zeros((4, 4, 4), np.uint8)
    assert grey(open_image(array, SETTINGS)) == [[255] * 4] * 4
    view = np.asarray(scene())[::-2, ::3]
    np.testing.assert_array_equal(pixels(open_image(view, SETTINGS)), view)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(5, np.uint8), "An array of 5 is not an image. Use H x W"),
        (np.zeros((), np.uint8), "Use H x W"),
        (np.zeros((2, 3, 2), np.uint8), "An array of 2 x 3 x 2"),
        (np.zeros((3, 20, 20), np.uint8), "Use H x W"),
        (np.zeros((1, 4, 4, 3), np.uint8), "Use H x W"),
        (np.zeros((0, 5), np.uint8), "5 x 0 pixels; the limit is 1 to 16384"),
        (np.zeros((2, 2), np.int64), "An array of int64 is not an image. Use uint8"),
        (np.zeros((2, 2), bool), "An array of bool"),
        (np.zeros((2, 2), complex), "An array of complex128"),
        (np.zeros((2, 2), object), "An array of object"),
        (np.full((2, 2), 200.0), "Scale them to 0..1"),
        (np.full((2, 2), -0.1), "Scale them to 0..1"),
        (np.full((2, 2), np.nan), "Scale them to 0..1"),
        (np.broadcast_to(np.uint8(0), (9000, 9000)), "81 MP; the limit is 25 MP."),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.dtype}{value.shape}",
)
def test_other_arrays_are_refused_with_the_way_out(array: np.ndarray, words: str) -> None:
    assert words in refusal(array)


# The photo


def test_the_same_pixels_have_the_same_digest_whatever_they_came_in() -> None:
    sources: list[Any] = [scene(), np.asarray(scene()), *(written(scene(), writer) for writer in LOSSLESS)]
    assert len({open_image(source, SETTINGS).digest for source in sources}) == 1


def test_other_pixels_or_another_shape_have_another_digest() -> None:
    arrays = [
        np.zeros((2, 6), np.uint8),
        np.zeros((6, 2), np.uint8),
        np.zeros((3, 4), np.uint8),
        np.ones((2, 6), np.uint8),
    ]
    assert len({open_image(array, SETTINGS).digest for array in arrays}) == 4
    assert all(len(open_image(array, SETTINGS).digest) == 64 for array in arrays)


def test_a_photo_shares_nothing_with_its_source() -> None:
    image, array = scene(), np.asarray(scene()).copy()
    photos = open_image(image, SETTINGS), open_image(array, SETTINGS)
    image.paste("white", (0, 0, 96, 64))
    array[:] = 255
    for photo in photos:
        np.testing.assert_array_equal(pixels(photo), np.asarray(scene()))


def test_the_source_image_keeps_its_mode_size_and_metadata() -> None:
    image = Image.open(io.BytesIO(stored(6, "PNG")))
    open_image(image, SETTINGS)
    assert (image.mode, image.size, image.getexif()[ExifTags.Base.Orientation]) == ("RGB", (64, 96), 6)


def test_the_environment_sets_the_limits_where_no_settings_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITDEMO_MAX_SIDE", "50")
    with pytest.raises(ImageError, match="the limit is 1 to 50 pixels a side"):
        open_image(scene())


# Decoders that fail in their own ways

FAILURES = [
    *(
        kind("x")
        for kind in (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError)
    ),
    *(kind("x") for kind in (AttributeError, AssertionError, RecursionError, struct.error, zlib.error)),
    *(kind("x") for kind in (Image.DecompressionBombError, Image.DecompressionBombWarning)),
    UnicodeDecodeError("ascii", b"", 0, 1, "x"),
]


def test_whatever_a_decoder_raises_is_an_image_error(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[tuple[Any, str, Any, str]] = [
        (BmpImagePlugin.BmpImageFile, "_open", written(scene(), "BMP"), NOT_READABLE),
        (JpegImagePlugin.JpegImageFile, "load_read", written(scene(), "JPEG"), CUT_OFF),
        (Image.Image, "convert", scene(), NOT_READABLE),
    ]
    for failure, (owner, name, source, message) in itertools.product(FAILURES, places):

        def fail(*_: object, failure: Exception = failure) -> None:
            raise failure

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            assert refusal(source) == message, failure


def test_running_out_of_memory_is_an_image_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    for plugin in ("_open", "load_prepare"):
        with monkeypatch.context() as patch:
            patch.setattr(PngImagePlugin.PngImageFile, plugin, fail)
            assert refusal(written(scene())) == NO_MEMORY


def test_many_threads_get_what_one_gets() -> None:
    files = [written(scene(), writer) for writer in WRITERS] + [b"nothing", png_of_81_megapixels()]

    def outcome(data: bytes) -> str:
        try:
            return open_image(data, SETTINGS).digest
        except ImageError as error:
            return str(error)

    alone = [outcome(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        for together in pool.map(lambda _: [outcome(data) for data in files], range(16)):
            assert together == alone


# Corpus


@pytest.fixture(scope="session")
def pillow_sdist(pytestconfig: pytest.Config) -> Path:
    """Pillow's source distribution, fetched once into pytest's cache by pip. Nothing of it is kept in the project."""
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("pillow-sdist")
    if not (found := list(folder.glob("pillow-*.tar.gz"))):
        command = [
            sys.executable,
            *("-m", "pip", "download", "--no-deps", "--no-binary=pillow", "pillow==12.3.0", "-d"),
            str(folder),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip("pip took longer than 120 s to fetch pillow's source distribution")
        if done.returncode or not (found := list(folder.glob("pillow-*.tar.gz"))):
            pytest.skip(f"pip cannot fetch pillow's source distribution: {(done.stderr or done.stdout).strip()[-200:]}")
    return found[0]


def corpus(sdist: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(sdist) as archive:
        for member in archive:
            file = archive.extractfile(member) if "/Tests/images/" in member.name else None
            if file is not None:
                yield member.name.split("/Tests/images/")[1], file.read()


@pytest.mark.corpus
def test_every_image_of_pillows_own_tests_ends_in_a_photo_or_an_image_error(pillow_sdist: Path) -> None:
    photos, refused, slow = 0, 0, []
    for name, data in corpus(pillow_sdist):
        start = time.process_time()
        try:
            photo = open_image(data, SETTINGS)
        except ImageError as error:
            refused += 1
            assert str(error).endswith("."), name
            assert not isinstance(error, UrlError), name
        else:
            photos += 1
            assert photo.image.mode == "RGB", name
            assert photo.size[0] * photo.size[1] <= 25e6, name
        if time.process_time() - start > 5:
            slow.append(name)
    assert photos > 600
    assert refused > 300
    assert not slow


@pytest.mark.corpus
def test_truncated_images_of_pillows_own_tests_end_in_a_photo_or_an_image_error(pillow_sdist: Path) -> None:
    known = [data for _, data in corpus(pillow_sdist) if len(data) < 20_000][::4]
    for data, quarter in itertools.product(known, (1, 2, 3)):
        try:
            open_image(data[: len(data) * quarter // 4], SETTINGS)
        except ImageError as error:
            assert str(error).endswith(".")
