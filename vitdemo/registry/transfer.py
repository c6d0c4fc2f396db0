"""Resumable, cancellable download of one file.

`huggingface_hub` 2 deletes a partial file when a download fails, and reports progress only every 10 MB.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx

from vitdemo.errors import DownloadError

RETRIES = 4
"""Consecutive attempts without progress."""
PAUSE = 1.0
"""Seconds between attempts."""
TIMEOUT = httpx.Timeout(10, read=20)
SLOWEST, PATIENCE = 1000, 60.0
"""Minimum rate in bytes per second, measured over this many seconds."""


class HubAnswerError(Exception):
    """An error status that retrying would not change."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"{status} {code}")
        self.status, self.code = status, code


def transfer(url: str, target: Path, size: int, headers: Mapping[str, str], tick: Callable[[int], None]) -> None:
    """Download a file of `size` bytes, resuming a partial one.

    Args:
        target: only the bytes that it lacks are requested.
        tick: called with the number of new bytes, negative if bytes were discarded; an exception from it ends the transfer.

    Raises:
        HubAnswerError: the Hub refused.
        DownloadError: no connection, or too slow a one; the disk is full.
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
                raise _disk_error(error) from None
            else:
                last = "the connection was closed early"
            after = _length(target)
            if after == size:
                return
            if after > size:
                last = "it sent more bytes than announced"
            failures = 0 if before < after < size else failures + 1
            if failures > RETRIES:
                raise DownloadError(
                    f"The Hub cannot be reached, or breaks off ({last}). Try again later: the download resumes where it left off."
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
    headers = {**headers, "Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code in (408, 429) or response.status_code >= 500:
            raise _BusyError(f"it answered {response.status_code}")
        if response.status_code >= 400:
            raise HubAnswerError(response.status_code, response.headers.get("X-Error-Code", ""))
        if start and response.status_code != 206:
            # The server ignored the range: start over.
            _discard(target, tick)
        with target.open("ab") as file:
            # Not in chunks of a fixed size: a partial last chunk would be lost if the connection breaks off.
            for chunk in response.iter_raw():
                file.write(chunk)
                tick(len(chunk))
                pace.check(len(chunk))
                if file.tell() > size:
                    return


class _BusyError(Exception):
    """An error status worth retrying."""


class _Pace:
    """Detects a connection that stays open and delivers almost nothing."""

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
                "Try again later: the download resumes where it left off."
            )
        self._since, self._bytes = time.monotonic(), 0


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _discard(target: Path, tick: Callable[[int], None]) -> int:
    """Delete a partial file; returns its new length."""
    length = _length(target)
    target.unlink()
    tick(-length)
    return 0


def _disk_error(error: OSError) -> DownloadError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DownloadError("The disk is full. Free some space and try again: the download resumes where it left off.")
    return DownloadError(f"The file cannot be written: {error.strerror or error}.")
