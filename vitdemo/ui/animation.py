"""An animated GIF of pictures that a page has drawn."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Sequence

from PIL import Image

from vitdemo.errors import OptionError

FRAMES, PIXELS, BYTES = 64, 64_000_000, 16_000_000
"""Most frames, most pixels and most bytes of all of them as they are sent."""

NO_PICTURE = "A frame of the animation is not a JPEG file."

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
    files = [_opened(frame) for frame in frames]
    # Nothing is decoded yet: a picture of few bytes may have very many pixels.
    if sum(file.width * file.height for file in files) > PIXELS:
        raise OptionError(f"The frames of an animation have at most {PIXELS // 1_000_000} megapixels together.")
    if any(file.size != files[0].size for file in files):
        raise OptionError("The frames of an animation have one size.")
    first, *others = [_decoded(file) for file in files]
    buffer = io.BytesIO()
    first.save(buffer, format="GIF", save_all=True, append_images=others, duration=PACE, loop=0)
    return buffer.getvalue()


def _opened(frame: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(base64.b64decode(frame, validate=True)), formats=["JPEG"])
    except (OSError, binascii.Error, Image.DecompressionBombError) as error:
        raise OptionError(NO_PICTURE) from error


def _decoded(file: Image.Image) -> Image.Image:
    try:
        return file.convert("P", palette=Image.Palette.ADAPTIVE)
    except OSError as error:
        raise OptionError(NO_PICTURE) from error
