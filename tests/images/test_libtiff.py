"""libtiff's own lines on standard error: none while an image is opened, and as ever afterwards."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from vitdemo.errors import ImageError
from vitdemo.images.libtiff import _setters, quiet_libtiff
from vitdemo.images.open import open_image
from vitdemo.settings import Settings

pytestmark = pytest.mark.skipif(not _setters(), reason="Pillow's libtiff cannot be reached here")

SAID = "Using code not yet in table"


@pytest.fixture(scope="module")
def odd() -> bytes:
    """A TIFF file whose pixels are not what LZW could have made."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "TIFF", compression="tiff_lzw")
    data = buffer.getvalue()
    (start,) = Image.open(buffer).tag_v2[273]
    return data[:start] + b"\xff" * 20 + data[start + 20 :]


def decode(data: bytes) -> None:
    with contextlib.suppress(OSError):
        Image.open(io.BytesIO(data)).load()


def test_a_file_that_libtiff_complains_of_is_refused_without_a_line(
    odd: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    decode(odd)
    assert SAID in capfd.readouterr().err
    for source in (odd, Image.open(io.BytesIO(odd))):
        with pytest.raises(ImageError, match="damaged"):
            open_image(source, Settings())
    assert capfd.readouterr().err == ""
    decode(odd)
    assert SAID in capfd.readouterr().err


def test_other_output_is_left_alone(odd: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with quiet_libtiff():
        os.write(2, b"mine\n")
        decode(odd)
    assert capfd.readouterr().err == "mine\n"


def test_of_several_threads_the_last_one_puts_the_handlers_back(odd: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    both, first_left = threading.Barrier(2), threading.Event()

    def one(first: bool) -> None:
        with quiet_libtiff():
            both.wait(10)
            assert first or first_left.wait(10)
            decode(odd)
        first_left.set()

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(one, (True, False))) == [None, None]
    assert capfd.readouterr().err == ""
    decode(odd)
    assert SAID in capfd.readouterr().err
