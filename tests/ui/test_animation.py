"""Frames of a page, joined to a GIF."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from tests.hostile import encode
from vitdemo.errors import OptionError
from vitdemo.ui import animation as module
from vitdemo.ui.animation import animation


def frame(colour: str, size: tuple[int, int] = (40, 30)) -> str:
    return base64.b64encode(encode(Image.new("RGB", size, colour), "JPEG")).decode()


def test_every_frame_is_in_the_file_in_its_order_and_repeats() -> None:
    made = Image.open(io.BytesIO(animation([frame(colour) for colour in ("red", "lime", "blue")])))
    seen = []
    for number in range(made.n_frames):  # type: ignore[attr-defined]
        made.seek(number)
        seen.append(max(range(3), key=lambda channel: made.convert("RGB").getpixel((20, 15))[channel]))  # type: ignore[index]
    assert (seen, made.info["loop"], made.info["duration"]) == ([0, 1, 2], 0, module.PACE)


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([], "1 to 64 frames"),
        (["A"] * 65, "1 to 64 frames"),
        (["not base64"], "not a JPEG"),
        ([base64.b64encode(b"GIF89a").decode()], "not a JPEG"),
        ([base64.b64encode(base64.b64decode(frame("red"))[:400]).decode()], "not a JPEG"),
        ([frame("red"), frame("red", (41, 30))], "one size"),
        ([frame("red", (4000, 4000))] * 5, "64 megapixels"),
    ],
    ids=["none", "too many", "no base64", "a GIF", "cut off", "two sizes", "few bytes of many pixels"],
)
def test_what_is_no_animation_is_refused_in_words(frames: list[str], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        animation(frames)
