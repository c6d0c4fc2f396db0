"""A model from the Hub into the cache: asked about first, checked for room, fetched, verified, and only then listed."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vitdemo.errors import DownloadError, NotDownloadedError, UnknownModelError
from vitdemo.registry import hub_cache
from vitdemo.registry.checkpoints import INDEX, PICKLE, WEIGHTS, parts
from vitdemo.registry.hub_errors import as_download_errors
from vitdemo.registry.lookup import check_snapshot, find_spec, hub_spec, named, spec_from_snapshot
from vitdemo.registry.official import OFFICIAL
from vitdemo.registry.transfer import transfer
from vitdemo.settings import VERSION
from vitdemo.types import ModelSpec

RESERVE = 100_000_000
"""Bytes of the disk that a download leaves free."""

LARGEST_TEXT = 10_000_000
"""Bytes of a file that is read before it is known what the repository holds."""

ASK_TIMEOUT = 10.0
"""Seconds for the question what a repository holds."""


@dataclass(frozen=True)
class Progress:
    """How far a download is."""

    done: int
    """Bytes that are here, those of earlier attempts included."""
    total: int
    speed: float
    """Bytes a second in this attempt."""

    @property
    def remaining(self) -> float | None:
        """Seconds, or None while nothing can be said."""
        return (self.total - self.done) / self.speed if self.speed > 0 else None


@dataclass(frozen=True)
class _File:
    name: str
    size: int
    digest: str
    """SHA-256, or git's SHA-1 of small files; also the name that the cache gives the contents."""


def download(
    name: str, report: Callable[[Progress], None] = lambda progress: None, cancel: threading.Event | None = None
) -> ModelSpec:
    """The model of that name on the Hub, fetched if it is not here.

    Args:
        name: `organisation/model` or `organisation/model@revision`.
        report: told of the progress, from this thread, a few times a second.
        cancel: when set, the download stops; what has come is kept for the next one.

    Raises:
        OptionError: that is no name of the Hub.
        CheckpointError: it is a kind of model that cannot be loaded.
        DownloadError: no such model, no access, no network, no room, or cancelled.
    """
    repo, revision = hub_cache.split(name)
    known = OFFICIAL.get(repo)
    spec = hub_spec(name)
    if spec is not None and spec.ready:
        return spec
    if _offline():
        raise DownloadError(
            f"{name} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it. Use an embedded model, or unset it."
        )
    with as_download_errors(name, known):
        commit, files = _ask(repo, revision)
        folder = hub_cache.folder(repo)
        snapshot = folder / "snapshots" / commit
        meter = _Meter(report, cancel)
        small = [_text(files, "config.json", name), _text(files, "preprocessor_config.json", name)]
        small += [file for file in files if file.name == "README.md" and file.size < LARGEST_TEXT]
        _fetch_all(repo, commit, small, meter)
        # Whether it can be loaded at all shows before anything large is fetched.
        check_snapshot(snapshot, name)
        if _find(files, WEIGHTS) is None and _find(files, INDEX) is not None:
            _fetch_all(repo, commit, [_text(files, INDEX, name)], meter)
        weights = _weights(name, files, snapshot, pickle=known is not None)
        _check_room(name, folder, weights)
        meter.total = sum(file.size for file in weights)
        _fetch_all(repo, commit, weights, meter)
        spec = spec_from_snapshot(snapshot, name)
        _write_reference(folder, revision, commit)
    return spec


def _ask(repo: str, revision: str) -> tuple[str, list[_File]]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    try:
        info = HfApi(endpoint=_endpoint()).model_info(repo, revision=revision, files_metadata=True, timeout=ASK_TIMEOUT)
    except HFValidationError:
        raise
    except (LookupError, TypeError, ValueError):
        raise DownloadError(
            f"What the Hub says of {repo} cannot be read. Something else may answer in its place."
        ) from None
    files = [
        _File(entry.rfilename, entry.size or 0, entry.lfs.sha256 if entry.lfs else entry.blob_id or "")
        for entry in info.siblings or []
    ]
    # These become names of files here.
    named = [info.sha or "", *(file.digest for file in files)]
    if not all(hub_cache.DIGEST.fullmatch(digest) for digest in named):
        raise DownloadError(f"What the Hub says of {repo} cannot be read: a checksum is missing.")
    return named[0], files


def _weights(name: str, files: list[_File], snapshot: Path, pickle: bool) -> list[_File]:
    """The files with the weights: safetensors, whole or in parts; pickled ones only of the table's own models."""
    if (whole := _find(files, WEIGHTS)) is not None:
        return [whole]
    if (snapshot / INDEX).exists():
        with named(snapshot, name):
            return [_named(files, part, name) for part in parts(snapshot)]
    if pickle:
        return [_named(files, PICKLE, name)]
    if _find(files, PICKLE) is not None:
        raise DownloadError(
            f"{name} has only pickled weights, and unpickling can run any code. Ask its owner for safetensors."
        )
    raise DownloadError(f"{name} has no weights in the form of safetensors.")


def _fetch_all(repo: str, commit: str, files: list[_File], meter: _Meter) -> None:
    from huggingface_hub import get_token, hf_hub_url

    folder = hub_cache.folder(repo)
    token = get_token()
    headers = {"User-Agent": f"vitdemo/{VERSION}", **({"Authorization": f"Bearer {token}"} if token else {})}
    for file in files:
        blob = folder / "blobs" / file.digest
        pointer = folder / "snapshots" / commit / file.name
        partial = blob.with_name(f"{blob.name}.incomplete")
        for place in (blob.parent, pointer.parent):
            place.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "blobs" / f"{file.digest}.lock", meter):
            if blob.exists() and hub_cache.checksum(blob, file.digest) != file.digest:
                blob.unlink()  # damaged since it came
            if not blob.exists():
                meter.add(partial.stat().st_size if partial.exists() else 0, new=False)
                url = hf_hub_url(repo, file.name, revision=commit, endpoint=_endpoint())
                transfer(url, partial, file.size, headers, meter.add)
                if not partial.exists():
                    partial.touch()  # an empty file is complete before anything is asked
                if hub_cache.checksum(partial, file.digest) != file.digest:
                    partial.unlink()
                    raise DownloadError(
                        f"{file.name} of {repo} came damaged (its checksum is wrong) and was removed. Try again."
                    )
                partial.replace(blob)
            else:
                meter.add(file.size, new=False)
            _point(pointer, blob)


@contextmanager
def _locked(path: Path, meter: _Meter) -> Iterator[None]:
    """Wait until nobody else fetches the same file, in this process or another; can be cancelled."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    while True:
        try:
            lock.acquire(timeout=0.5)
            break
        except Timeout:
            meter.add(0)
    try:
        yield
    finally:
        lock.release()
    path.unlink(missing_ok=True)


def _point(pointer: Path, blob: Path) -> None:
    if pointer.exists():
        return
    pointer.unlink(missing_ok=True)
    try:
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:
        shutil.copyfile(blob, pointer)


def _write_reference(folder: Path, revision: str, commit: str) -> None:
    """Last of all: a revision is listed once everything that it needs is here."""
    if revision == commit:
        return
    reference = folder / "refs" / revision
    reference.parent.mkdir(parents=True, exist_ok=True)
    # Of its own name: another thread or process may write the same.
    temporary = reference.with_name(f"{reference.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    temporary.write_text(commit, encoding="utf-8")
    temporary.replace(reference)


def _check_room(name: str, folder: Path, files: list[_File]) -> None:
    needed = 0
    for file in files:
        blob = folder / "blobs" / file.digest
        partial = blob.with_name(f"{blob.name}.incomplete")
        here = partial.stat().st_size if partial.exists() else 0
        needed += 0 if blob.exists() else max(0, file.size - here)
    free = shutil.disk_usage(folder).free
    if needed + RESERVE > free:
        raise DownloadError(
            f"{name} needs {(needed + RESERVE) / 1e6:.0f} MB on the disk, and {free / 1e6:.0f} MB are free. "
            "Remove models in the Models tab, or set HF_HOME to a larger disk."
        )


class _Meter:
    """Adds up bytes, reports them a few times a second, and stops the download when asked."""

    def __init__(self, report: Callable[[Progress], None], cancel: threading.Event | None) -> None:
        self.total = 0
        self._report, self._cancel = report, cancel
        self._start, self._told = time.monotonic(), 0.0
        self._done = self._new = 0

    def add(self, count: int, new: bool = True) -> None:
        if self._cancel is not None and self._cancel.is_set():
            raise DownloadError("The download was stopped. What has come is kept for the next time.")
        if not self.total:
            return
        self._done += count
        self._new += count if new else 0
        now = time.monotonic()
        if now - self._told > 0.2 or self._done >= self.total:
            self._told = now
            self._report(
                Progress(min(self._done, self.total), self.total, max(0, self._new) / max(now - self._start, 1e-6))
            )


def _find(files: list[_File], name: str) -> _File | None:
    return next((file for file in files if file.name == name), None)


def _named(files: list[_File], name: str, model: str) -> _File:
    found = _find(files, name)
    if found is None:
        raise DownloadError(f"{model} on the Hub has no {name}, which is needed to run it.")
    return found


def _text(files: list[_File], name: str, model: str) -> _File:
    found = _named(files, name, model)
    if found.size > LARGEST_TEXT:
        raise DownloadError(f"{name} of {model} is {found.size / 1e6:.0f} MB large, which such a file never is.")
    return found


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def obtain(name: str, report: Callable[[Progress], None] = lambda progress: None) -> ModelSpec:
    """The model of that name or folder, fetched if it is on the Hub and not here. Not for names that strangers give.

    Raises:
        UnknownModelError: there is none.
        CheckpointError, DownloadError: as `spec_from_folder` and `download`.
    """
    try:
        return find_spec(name)
    except NotDownloadedError:
        return download(name, report)
    except UnknownModelError:
        if not hub_cache.is_hub_name(name):
            raise
        return download(name, report)
