"""libtiff, which Pillow decodes most TIFF files with, writes what is wrong with a file to standard error itself."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from PIL import _imaging

_HANDLERS = ("TIFFSetWarningHandler", "TIFFSetErrorHandler")

_guard = threading.Lock()
_inside = 0
_before: list[Any] = []


@contextmanager
def quiet_libtiff() -> Iterator[None]:
    """Let libtiff say nothing during the block; Pillow raises what is an error. Other output is left alone.

    The handlers are those of the process: the first thread takes them away, and the last one puts them back.
    """
    global _inside, _before
    with _guard:
        if not _inside:
            _before = [setter(None) for setter in _setters()]
        _inside += 1
    try:
        yield
    finally:
        with _guard:
            _inside -= 1
            if not _inside:
                for setter, handler in zip(_setters(), _before, strict=True):
                    setter(handler)


@cache
def _setters() -> tuple[Any, ...]:
    """libtiff's functions, found through Pillow's own module; none where it is linked in such a way that they are not seen."""
    try:
        library = ctypes.CDLL(_imaging.__file__)
        setters = tuple(getattr(library, name) for name in _HANDLERS)
    except (AttributeError, OSError):
        return ()
    for setter in setters:
        setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
    return setters
