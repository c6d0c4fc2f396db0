"""An animated GIF of pictures that a page has drawn."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence

from PIL import Image

from vitdemo.errors import OptionError

FRAMES, SIDE, BYTES = 64, 4000, 16_000_000
"""Most frames, most pixels of a side, and most bytes of all of them as they are sent."""

PACE = 700
"""Milliseconds that each is shown."""


def animation(frames: Sequence[str]) -> bytes:
    """A GIF that repeats.

    Args:
        frames: JPEG files in base64, of one size.

    Raises:
        OptionError: there are none, too many, too large ones, or something else than pictures.
    """
    if not 0 < len(frames) <= FRAMES or sum(map(len, frames)) > BYTES:
        raise OptionError(f"An animation has 1 to {FRAMES} frames of at most {BYTES // 1_000_000} MB together.")
    first, *others = [_opened(frame) for frame in frames]
    if any(other.size != first.size for other in others):
        raise OptionError("The frames of an animation have one size.")
    buffer = io.BytesIO()
    first.save(buffer, format="GIF", save_all=True, append_images=others, duration=PACE, loop=0)
    return buffer.getvalue()


def _opened(frame: str) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(frame, validate=True)), formats=["JPEG"])
        if max(picture.size) > SIDE:
            raise OptionError(f"A frame of an animation has at most {SIDE:,} pixels on a side.")
        return picture.convert("P", palette=Image.Palette.ADAPTIVE)
    except (OSError, binascii.Error, Image.DecompressionBombError) as error:
        raise OptionError("A frame of the animation is not a JPEG file.") from error
