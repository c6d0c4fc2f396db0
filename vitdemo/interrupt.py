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


class FirstInterruption:
    """Lets the first Ctrl-C end long work after the step under way, with what is done kept; the next one ends it at once."""

    def __init__(self) -> None:
        self.came = False
        self._caught = False

    def catch(self) -> None:
        """From now on. Not where several processes share a training: they would not end after the same step."""
        if self._caught or "WORLD_SIZE" in os.environ or threading.current_thread() is not threading.main_thread():
            return
        self._caught = True
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, self._come)

    def _come(self, *_: object) -> None:
        self.came = True
        end_at_once_next_time()
