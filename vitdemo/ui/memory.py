"""Memory that large jobs leave behind: glibc keeps what was freed, 2 GB after a gradient method at 1,024 pixels."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable

EVERY = 15.0
"""Seconds between two looks."""

WORK = 0.5
"""Seconds of computing since the last look without which there is nothing to give back."""


class FreedMemory:
    """Gives freed memory back to the system. Does nothing where the C library is not glibc.

    The page's own thread looks in fixed intervals, so that no job waits for it; it takes some 50 ms after large jobs.
    """

    def __init__(self) -> None:
        self._trim = _malloc_trim()
        self._worked = 0.0

    def give_back(self) -> None:
        """Give back what is free now, if something was computed since the last time."""
        worked = time.process_time()
        if self._trim is not None and worked - self._worked > WORK:
            self._worked = worked
            self._trim(0)


def _malloc_trim() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
