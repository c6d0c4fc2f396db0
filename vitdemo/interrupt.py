"""Ctrl-C: the first one ends a command in order, the next one at once, and neither with a traceback."""

from __future__ import annotations

import os
import signal
import threading

INTERRUPTED = 130
"""The exit status that shells use for a command that Ctrl-C ended."""


def end_at_once_next_time() -> None:
    """While a command ends, another Ctrl-C ends the process without further ado. Call it from the main thread."""
    if threading.current_thread() is threading.main_thread():
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, lambda *_: os._exit(INTERRUPTED))
