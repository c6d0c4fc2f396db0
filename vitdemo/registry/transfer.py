"""One file from the Hub to the disk: resumed where it broke off, watched, and stopped when asked.

`huggingface_hub` 2 throws a half-written file away when a download fails, and reports only every 10 MB; this keeps what is
there for the next attempt.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx

from vitdemo.errors import DownloadError

RETRIES = 4
"""Attempts in a row that may bring nothing."""
PAUSE = 1.0
"""Seconds between attempts."""
TIMEOUT = httpx.Timeout(10, read=20)
SLOWEST, PATIENCE = 1000, 60.0
"""Fewer bytes a second than this, over so many seconds, is given up."""


class HubAnswerError(Exception):
    """The Hub answered with an error that another attempt would not change."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"{status} {code}")
        self.status, self.code = status, code


def transfer(url: str, target: Path, size: int, headers: Mapping[str, str], tick: Callable[[int], None]) -> None:
    """Write what is missing of a file of `size` bytes.

    Args:
        target: what is there already is kept, and only the rest is asked for.
        tick: called with the number of new bytes, negative where bytes had to be thrown away; what it raises ends the transfer.

    Raises:
        HubAnswerError: the Hub refused.
        DownloadError: no connection, or one too slow; the disk is full.
    """
    failures = 0
    pace = _Pace()
    with httpx.Client(follow_redirects=True, timeout=TIMEOUT) as client:
        while True:
            before = _length(target)
            if before == size:
                return
            tick(0)
            if before > size:
                before = _discard(target, tick)
            try:
                _attempt(client, url, target, size, headers, tick, pace)
            except httpx.TransportError as error:
                last = f"{type(error).__name__}"
            except _BusyError as error:
                last = str(error)
            except OSError as error:
                raise _disk(error) from None
            else:
                last = "the connection was closed early"
            after = _length(target)
            if after == size:
                return
            if after > size:
                last = "more came than was announced"
            failures = 0 if before < after < size else failures + 1
            if failures > RETRIES:
                raise DownloadError(
                    f"The Hub cannot be reached, or breaks off ({last}). What has come is kept; try again later."
                )
            time.sleep(PAUSE)


def _attempt(
    client: httpx.Client,
    url: str,
    target: Path,
    size: int,
    headers: Mapping[str, str],
    tick: Callable[[int], None],
    pace: _Pace,
) -> None:
    start = _length(target)
    asked = {**headers, "Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
    with client.stream("GET", url, headers=asked) as response:
        if response.status_code in (408, 429) or response.status_code >= 500:
            raise _BusyError(f"it answered {response.status_code}")
        if response.status_code >= 400:
            raise HubAnswerError(response.status_code, response.headers.get("X-Error-Code", ""))
        if start and response.status_code != 206:
            # It does not resume: from the start.
            _discard(target, tick)
        with target.open("ab") as file:
            # Not in pieces of a set size: of those, what has come of the last one is lost where the connection breaks off.
            for chunk in response.iter_raw():
                file.write(chunk)
                tick(len(chunk))
                pace.check(len(chunk))
                if file.tell() > size:
                    return


class _BusyError(Exception):
    """An answer that another attempt may change."""


class _Pace:
    """Notices a connection that stays open and brings almost nothing."""

    def __init__(self) -> None:
        self._since, self._bytes = time.monotonic(), 0

    def check(self, new: int) -> None:
        self._bytes += new
        seconds = time.monotonic() - self._since
        if seconds < PATIENCE:
            return
        if self._bytes < SLOWEST * seconds:
            raise DownloadError(
                f"The connection is too slow: {self._bytes} bytes in {seconds:.0f} seconds. "
                "What has come is kept; try again later."
            )
        self._since, self._bytes = time.monotonic(), 0


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _discard(target: Path, tick: Callable[[int], None]) -> int:
    """Throw away what is there; returns the length that is left."""
    gone = _length(target)
    target.unlink()
    tick(-gone)
    return 0


def _disk(error: OSError) -> DownloadError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DownloadError("The disk is full. What has come is kept; make room and try again.")
    return DownloadError(f"The file cannot be written: {error.strerror or error}.")
