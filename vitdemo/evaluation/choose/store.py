"""Features on disk, under the photo's digest and the model's checkpoint, revision and dtype, within a size.

One SQLite file: 10,000 photos of five models are 50,000 short vectors, for which as many files would take ten times the room.
What is written is kept whatever ends the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitdemo.errors import InputError
from vitdemo.settings import Settings
from vitdemo.types import ModelSpec

logger = logging.getLogger("vitdemo")

FILE = "features.sqlite3"

_TABLES = """
CREATE TABLE IF NOT EXISTS features (
    digest BLOB, model BLOB, vector BLOB, answer INTEGER, score REAL, used INTEGER, PRIMARY KEY (digest, model)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_age ON features (used);
CREATE TABLE IF NOT EXISTS photos (
    content BLOB PRIMARY KEY, digest BLOB, width INTEGER, height INTEGER, thumbnail BLOB, used INTEGER
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS photos_by_age ON photos (used);
CREATE INDEX IF NOT EXISTS photos_by_digest ON photos (digest);
"""


@dataclass(frozen=True)
class Feature:
    """What a model made of a photo."""

    vector: NDArray[np.float32]
    """`[D]`."""
    answer: int = -1
    """Class of its own classifier, or -1 without one."""
    score: float = 0.0
    """Probability of that class."""


@dataclass(frozen=True)
class KnownPhoto:
    """What is known of a file without decoding it."""

    digest: str
    size: tuple[int, int]
    thumbnail: bytes


class FeatureStore:
    """One file, which may be lost at any time. Safe for several threads and processes.

    Where the disk is full or the file cannot be written, it stops to keep what comes, and says why in `refusal`.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        """`limit` in bytes; the entries that were not used for longest go first.

        Raises:
            InputError: the folder cannot be written.
        """
        self.folder, self.limit = folder, limit
        self.refusal = ""
        """Why nothing is kept any more; empty while it is."""
        self.evicted = 0
        """Features that were removed for later ones."""
        self._guard = threading.RLock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._base = self._opened()
        except (OSError, sqlite3.Error) as error:
            raise InputError(
                f"Features cannot be kept on this disk: {getattr(error, 'strerror', None) or error}. Free some space, or give "
                "another folder in XDG_CACHE_HOME."
            ) from None

    @classmethod
    def default(cls, settings: Settings) -> FeatureStore:
        """In the user's cache folder (`XDG_CACHE_HOME`, else `~/.cache`) / `vitdemo`, `VITDEMO_FEATURES_MB` large."""
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return cls(Path(cache).expanduser() / "vitdemo", int(settings.features_mb * 1e6))

    def _opened(self) -> sqlite3.Connection:
        path = self.folder / FILE
        try:
            return self._connected(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            logger.warning("The file of kept features was damaged and is made anew: %s", error)
            for one in (path, *(path.with_name(FILE + end) for end in ("-wal", "-shm"))):
                one.unlink(missing_ok=True)
            return self._connected(path)

    def _connected(self, path: Path) -> sqlite3.Connection:
        base = sqlite3.connect(path, timeout=30, check_same_thread=False)
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = NORMAL")
        base.execute("PRAGMA auto_vacuum = INCREMENTAL")
        base.executescript(_TABLES)
        return base

    def close(self) -> None:
        """Afterwards it cannot be used."""
        with self._guard:
            self._base.close()

    @property
    def size(self) -> int:
        """What the entries take."""
        with self._guard:
            (pages,), (free,), (size,) = (
                self._base.execute(f"PRAGMA {name}").fetchone()
                for name in ("page_count", "freelist_count", "page_size")
            )
        return int((pages - free) * size)

    def photo(self, content: bytes) -> KnownPhoto | None:
        """What is known of a file whose content has this SHA-256."""
        found = self._row("SELECT digest, width, height, thumbnail FROM photos WHERE content = ?", (content,))
        return None if found is None else KnownPhoto(found[0].hex(), (found[1], found[2]), found[3])

    def thumbnail(self, digest: str) -> bytes:
        """A small picture of the photo; empty if there is none."""
        found = self._row("SELECT thumbnail FROM photos WHERE digest = ?", (bytes.fromhex(digest),))
        return b"" if found is None else bytes(found[0])

    def get(self, digest: str, model: str) -> Feature | None:
        """What this model made of this photo, if it is here."""
        found = self._row(
            "SELECT vector, answer, score FROM features WHERE digest = ? AND model = ?",
            (bytes.fromhex(digest), bytes.fromhex(model)),
        )
        return None if found is None else Feature(np.frombuffer(found[0], "<f4"), found[1], found[2])

    def has(self, digest: str, model: str) -> bool:
        """Whether it is here."""
        question = "SELECT 1 FROM features WHERE digest = ? AND model = ?"
        return self._row(question, (bytes.fromhex(digest), bytes.fromhex(model))) is not None

    def put_photos(self, photos: Sequence[tuple[bytes, KnownPhoto]]) -> None:
        """Keep what is known of files, each with the SHA-256 of its content."""
        now = int(time.time())
        rows = [(content, bytes.fromhex(one.digest), *one.size, one.thumbnail, now) for content, one in photos]
        self._write("INSERT OR REPLACE INTO photos VALUES (?, ?, ?, ?, ?, ?)", rows)

    def put(self, model: str, features: Sequence[tuple[str, Feature]]) -> None:
        """Keep what a model made of photos, each with its digest."""
        now, key = int(time.time()), bytes.fromhex(model)
        rows = [
            (bytes.fromhex(digest), key, one.vector.astype("<f4").tobytes(), one.answer, one.score, now)
            for digest, one in features
        ]
        self._write("INSERT OR REPLACE INTO features VALUES (?, ?, ?, ?, ?, ?)", rows)

    def touch(self, model: str, digests: Sequence[str]) -> None:
        """They were used now."""
        now, key = int(time.time()), bytes.fromhex(model)
        rows = [(now, bytes.fromhex(digest), key) for digest in digests]
        self._write("UPDATE features SET used = ? WHERE digest = ? AND model = ?", rows)

    def _row(self, question: str, values: tuple[bytes, ...]) -> tuple[Any, ...] | None:
        with self._guard, contextlib.suppress(sqlite3.Error):
            found: tuple[Any, ...] | None = self._base.execute(question, values).fetchone()
            return found
        return None

    def _write(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if self.refusal or not rows:
            return
        with self._guard:
            try:
                with self._base:
                    self._base.executemany(statement, rows)
                if self.size > self.limit:
                    self._evict()
            except sqlite3.Error as error:
                self.refusal = f"Features are no longer kept on the disk: {error}."
                logger.warning("%s", self.refusal)

    def _evict(self) -> None:
        """Down to nine tenths of the limit, so that not every write has to."""
        while self.size > 0.9 * self.limit:
            with self._base:
                gone = 0
                for table in ("features", "photos"):
                    key = "digest, model" if table == "features" else "content"
                    oldest = f"SELECT {key} FROM {table} ORDER BY used LIMIT 500"
                    gone += self._base.execute(f"DELETE FROM {table} WHERE ({key}) IN ({oldest})").rowcount
                    if table == "features":
                        self.evicted += gone
            if not gone:
                break
        self._base.execute("PRAGMA incremental_vacuum")


def model_key(spec: ModelSpec, dtype: str) -> str:
    """What features of a model are kept under, in hex: another revision or dtype has others.

    The files of a folder can change without its revision: their size and time count, too.
    """
    parts = [spec.checkpoint, spec.revision, dtype, spec.pooling]
    if spec.source != "hub":
        parts += [
            f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in _weights(Path(spec.checkpoint))
        ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _weights(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from sorted(folder.glob("*.safetensors"))
        yield folder / "config.json"
