"""Download of a Hub model into the cache: list the files, check disk space, fetch, verify, then register the revision."""

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
from vitdemo.registry.checkpoints import INDEX, PICKLE, WEIGHTS, shard_names
from vitdemo.registry.hub_errors import as_download_errors
from vitdemo.registry.lookup import check_snapshot, errors_name_model, find_spec, hub_spec, spec_from_snapshot
from vitdemo.registry.official import OFFICIAL
from vitdemo.registry.transfer import transfer
from vitdemo.settings import VERSION
from vitdemo.types import ModelSpec

RESERVE = 100_000_000
"""Bytes of disk space that a download leaves free."""

LARGEST_TEXT = 10_000_000
"""Bytes of a configuration file, which is fetched before the model is checked."""

METADATA_TIMEOUT = 10.0
"""Seconds for listing a repository's files."""


@dataclass(frozen=True)
class Progress:
    """Progress of a download."""

    done: int
    """Bytes on disk, including those of earlier attempts."""
    total: int
    speed: float
    """Bytes per second in this attempt."""

    @property
    def remaining(self) -> float | None:
        """Estimated seconds, or None while unknown."""
        return (self.total - self.done) / self.speed if self.speed > 0 else None


@dataclass(frozen=True)
class _File:
    name: str
    size: int
    digest: str
    """SHA-256, or the git SHA-1 of a small file; also the name of its blob in the cache."""


def download(
    name: str, report: Callable[[Progress], None] = lambda progress: None, cancel: threading.Event | None = None
) -> ModelSpec:
    """The Hub model of this name, downloaded if necessary.

    Args:
        name: `organisation/model` or `organisation/model@revision`.
        report: called with the progress, in this thread, a few times per second.
        cancel: when set, the download stops; partial files are kept for the next attempt.

    Raises:
        OptionError: not a valid Hub name.
        CheckpointError: the type of model is not supported.
        DownloadError: no such model, no access, no network, no disk space, or cancelled.
    """
    repo, revision = hub_cache.split(name)
    known = OFFICIAL.get(repo)
    spec = hub_spec(name)
    if spec is not None and spec.ready:
        return spec
    if _offline():
        raise DownloadError(
            f"{name} is not on this machine, and HF_HUB_OFFLINE forbids downloads. Use an embedded model, or unset it."
        )
    with as_download_errors(name, known):
        commit, files = _list_files(repo, revision)
        folder = hub_cache.folder(repo)
        snapshot = folder / "snapshots" / commit
        meter = _Meter(report, cancel)
        small = [_text(files, "config.json", name), _text(files, "preprocessor_config.json", name)]
        small += [file for file in files if file.name == "README.md" and file.size < LARGEST_TEXT]
        _fetch_all(repo, commit, small, meter)
        # Unsupported models are rejected before anything large is fetched.
        check_snapshot(snapshot, name)
        if _find(files, WEIGHTS) is None and _find(files, INDEX) is not None:
            _fetch_all(repo, commit, [_text(files, INDEX, name)], meter)
        weights = _weights(name, files, snapshot, pickle=known is not None)
        _check_disk_space(name, folder, weights)
        meter.total = sum(file.size for file in weights)
        _fetch_all(repo, commit, weights, meter)
        spec = spec_from_snapshot(snapshot, name)
        _write_reference(folder, revision, commit)
    return spec


def _list_files(repo: str, revision: str) -> tuple[str, list[_File]]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    try:
        info = HfApi(endpoint=_endpoint()).model_info(
            repo, revision=revision, files_metadata=True, timeout=METADATA_TIMEOUT
        )
    except HFValidationError:
        raise
    except (LookupError, TypeError, ValueError):
        raise DownloadError(
            f"The Hub's response about {repo} cannot be read. It may come from another server, such as a proxy."
        ) from None
    files = [
        _File(entry.rfilename, entry.size or 0, entry.lfs.sha256 if entry.lfs else entry.blob_id or "")
        for entry in info.siblings or []
    ]
    # These become file names in the cache.
    digests = [info.sha or "", *(file.digest for file in files)]
    if not all(hub_cache.DIGEST.fullmatch(digest) for digest in digests):
        raise DownloadError(f"The Hub's response about {repo} cannot be read: a checksum is missing.")
    return digests[0], files


def _weights(name: str, files: list[_File], snapshot: Path, pickle: bool) -> list[_File]:
    """The files with the weights: safetensors, whole or in shards; pickled ones only for official checkpoints."""
    if (whole := _find(files, WEIGHTS)) is not None:
        return [whole]
    if (snapshot / INDEX).exists():
        with errors_name_model(snapshot, name):
            return [_require(files, shard, name) for shard in shard_names(snapshot)]
    if pickle:
        return [_require(files, PICKLE, name)]
    if _find(files, PICKLE) is not None:
        raise DownloadError(
            f"{name} has only pickled weights, and unpickling can run any code. Ask its owner for safetensors."
        )
    raise DownloadError(f"{name} has no safetensors weights.")


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
                blob.unlink()  # damaged after its download
            if not blob.exists():
                meter.add(partial.stat().st_size if partial.exists() else 0, new=False)
                url = hf_hub_url(repo, file.name, revision=commit, endpoint=_endpoint())
                transfer(url, partial, file.size, headers, meter.add)
                if not partial.exists():
                    partial.touch()  # an empty file is complete without a request
                if hub_cache.checksum(partial, file.digest) != file.digest:
                    partial.unlink()
                    raise DownloadError(
                        f"{file.name} of {repo} arrived damaged (its checksum is wrong) and was removed. Try again."
                    )
                partial.replace(blob)
            else:
                meter.add(file.size, new=False)
            _link(pointer, blob)


@contextmanager
def _locked(path: Path, meter: _Meter) -> Iterator[None]:
    """Wait until no other thread or process fetches the same file; can be cancelled."""
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


def _link(pointer: Path, blob: Path) -> None:
    if pointer.exists():
        return
    pointer.unlink(missing_ok=True)
    try:
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:
        shutil.copyfile(blob, pointer)


def _write_reference(folder: Path, revision: str, commit: str) -> None:
    """Register a revision, as the last step: all its files are in the cache."""
    if revision == commit:
        return
    reference = folder / "refs" / revision
    reference.parent.mkdir(parents=True, exist_ok=True)
    # A unique name: another thread or process may write the same reference.
    temporary = reference.with_name(f"{reference.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    temporary.write_text(commit, encoding="utf-8")
    temporary.replace(reference)


def _check_disk_space(name: str, folder: Path, files: list[_File]) -> None:
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
    """Counts bytes, reports them a few times per second, and stops the download when cancelled."""

    def __init__(self, report: Callable[[Progress], None], cancel: threading.Event | None) -> None:
        self.total = 0
        self._report, self._cancel = report, cancel
        self._start, self._last_report = time.monotonic(), 0.0
        self._done = self._new = 0

    def add(self, count: int, new: bool = True) -> None:
        if self._cancel is not None and self._cancel.is_set():
            raise DownloadError("The download was stopped. It will resume where it left off.")
        if not self.total:
            return
        self._done += count
        self._new += count if new else 0
        now = time.monotonic()
        if now - self._last_report > 0.2 or self._done >= self.total:
            self._last_report = now
            self._report(
                Progress(min(self._done, self.total), self.total, max(0, self._new) / max(now - self._start, 1e-6))
            )


def _find(files: list[_File], name: str) -> _File | None:
    return next((file for file in files if file.name == name), None)


def _require(files: list[_File], name: str, model: str) -> _File:
    found = _find(files, name)
    if found is None:
        raise DownloadError(f"{model} on the Hub has no {name}, which is needed to run it.")
    return found


def _text(files: list[_File], name: str, model: str) -> _File:
    found = _require(files, name, model)
    if found.size > LARGEST_TEXT:
        raise DownloadError(f"{name} of {model} is larger than {LARGEST_TEXT / 1e6:.0f} MB, the limit for such a file.")
    return found


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def obtain(name: str, report: Callable[[Progress], None] = lambda progress: None) -> ModelSpec:
    """The model of this name or folder, downloaded from the Hub if necessary. Never pass untrusted names.

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
