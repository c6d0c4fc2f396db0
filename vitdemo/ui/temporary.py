"""Uploads and results as files: in a folder of this process, within a quota, deleted by age, and all of them at the end."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import anyio
from gradio.utils import get_upload_folder
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vitdemo.errors import InputError

if TYPE_CHECKING:
    from gradio.blocks import Blocks

try:
    import fcntl
except ImportError:  # Windows: folders of processes that were killed stay
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("vitdemo")

AGE = 7200.0
"""Seconds after which a file is deleted."""
STALE = 60.0
"""Seconds after which an upload that does not grow is taken for given up."""
STEP = 4_000_000
"""Bytes of an upload after which room is made for more of it."""

_PREFIX, _NEW, _LOCK, _FILES = "vitdemo-", "new-vitdemo-", "lock", "files"


@dataclass(frozen=True)
class _File:
    path: str
    size: int
    changed: float


def folder_beside_uploads(prefix: str, close: Callable[[], None]) -> Path:
    """A new folder beside Gradio's uploads, which are deleted by age and for room.

    Args:
        close: deletes it; also called as the process ends, should the page not be closed in order.

    Raises:
        InputError: the disk has no place for it.
    """
    beside = Path(get_upload_folder()).resolve().parent
    try:
        beside.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=beside))
    except OSError as error:
        raise InputError(f"The server has no place for photos: {error.strerror or 'its disk failed'}.") from None
    atexit.register(close)
    return folder


class TemporaryFiles:
    """The files below `folder`, which belongs to this process alone.

    Args:
        folder: where Gradio is told to keep uploads and results.
        quota: bytes that they may take together; the oldest are deleted for new ones.
    """

    def __init__(self, folder: Path, quota: int) -> None:
        self.folder, self.quota = folder, quota
        self.kept: Collection[str] = ()
        self.lists: list[set[str]] = []
        """Gradio's own notes of its files, from which deleted ones are removed."""
        self._guard = threading.Lock()
        self._used = 0
        """At the last look, and what was announced since."""

    def keep_those_of(self, page: Blocks) -> None:
        """Never delete the files with which a page opens."""
        self.kept = {path for block in page.blocks.values() for path in getattr(block, "keep_in_cache", ())}
        self.lists = page.temp_file_sets

    def delete_old(self, age: float = AGE) -> None:
        """Delete files that have not changed for `age` seconds, and the oldest ones over the quota."""
        with self._guard:
            before = time.time() - age
            self._delete([file for file in self._files() if file.changed < before])
            self._fit()

    def make_room(self, size: int) -> bool:
        """Called for every `size` bytes that come in: delete the oldest files over the quota.

        Returns:
            False if that does not help: the quota is full of uploads under way.
        """
        with self._guard:
            self._used += size
            if self._used > self.quota:
                self._fit(size)
            return self._used <= self.quota

    def _fit(self, coming: int = 0) -> None:
        files = sorted(self._files(), key=lambda file: file.changed)
        self._used = sum(file.size for file in files) + coming
        if self._used <= self.quota:
            return
        unwanted, recently = [], time.time() - STALE
        for file in files:
            # Not just below it, so that not every further upload has to look.
            if self._used <= 0.9 * self.quota:
                break
            # An upload under way lies in the folder itself, and grows.
            if os.path.dirname(file.path) != str(self.folder) or file.changed < recently:
                unwanted.append(file)
                self._used -= file.size
        self._delete(unwanted)

    def _files(self) -> list[_File]:
        found = []
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = os.path.join(folder, name)
                try:
                    status = os.lstat(path)
                except FileNotFoundError:
                    continue
                if path not in self.kept:
                    found.append(_File(path, status.st_size, status.st_ctime))
        return found

    def _delete(self, files: list[_File]) -> None:
        for file in files:
            try:
                os.unlink(file.path)
                # Whoever stores a file makes its folder first: a new one is left alone for a while.
                parent = Path(file.path).parent
                if parent != self.folder and time.time() - file.changed > STALE:
                    parent.rmdir()
            except OSError:
                continue
        gone = {file.path for file in files}
        for noted in self.lists:
            noted -= gone


class UploadRoom:
    """Makes room for uploads while they come in, and answers 503 to one for which there is none."""

    def __init__(self, app: ASGIApp, files: TemporaryFiles) -> None:
        self.app, self.files = app, files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].rstrip("/").endswith("/upload"):
            await self.app(scope, receive, send)
            return
        unannounced, begun = 0, False

        async def counted() -> Message:
            nonlocal unannounced
            message = await receive()
            unannounced += len(message.get("body", b""))
            if unannounced > STEP or not message.get("more_body"):
                if not await anyio.to_thread.run_sync(self.files.make_room, unannounced):
                    raise _NoRoomError
                unannounced = 0
            return message

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, counted, noted)
        except _NoRoomError:
            if not begun:
                text = f"The server keeps at most {self.files.quota / 1e6:g} MB of files, and they are all in use."
                await PlainTextResponse(f"{text} Send fewer, or try again in a minute.", 503)(scope, receive, send)


class _NoRoomError(Exception):
    """The quota is full."""


@contextmanager
def temporary_files(quota: int) -> Iterator[TemporaryFiles]:
    """A new folder for this process, for as long as the block lasts; folders of processes that have ended are deleted first.

    It lies in Gradio's own (`GRADIO_TEMP_DIR`), which is set to it, so call this before the page is built.
    """
    base = Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir(), "gradio")).resolve()
    base.mkdir(parents=True, exist_ok=True)
    _delete_left(base)
    # Locked before it gets the name under which others look for it.
    new = Path(tempfile.mkdtemp(prefix=_NEW, dir=base))
    own = new.with_name(_PREFIX + new.name.removeprefix(_NEW))
    with _locked(new):
        new.rename(own)
        (own / _FILES).mkdir()
        before = os.environ.get("GRADIO_TEMP_DIR")
        os.environ["GRADIO_TEMP_DIR"] = str(own / _FILES)
        try:
            yield TemporaryFiles(own / _FILES, quota)
        finally:
            os.environ.pop("GRADIO_TEMP_DIR")
            if before is not None:
                os.environ["GRADIO_TEMP_DIR"] = before
            delete_all(own)


def delete_all(folder: Path) -> None:
    """Delete a folder, also while something is still written to it."""
    for _ in range(10):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.02)
    logger.error("Some temporary files could not be deleted; they will be when the app is started again.")


def _delete_left(base: Path) -> None:
    """Delete the folders whose process has ended, however it did: its lock went with it."""
    for folder in base.glob(f"{_PREFIX}*"):
        try:
            with open(folder / _LOCK) as lock:
                free = _lock(lock)
        except FileNotFoundError:  # a job wrote once more after its server had deleted everything
            free = True
        except OSError:  # another user's
            continue
        if free:
            delete_all(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with open(folder / _LOCK, "w") as lock:
        _lock(lock)
        yield


def _lock(file: IO[str]) -> bool:
    """Lock a file for as long as it is open; False if another process has, or if there are no such locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
