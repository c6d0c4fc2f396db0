"""The Hub cache on disk, in the layout shared by the Hugging Face libraries."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from vitdemo.errors import CheckpointError, OptionError
from vitdemo.registry.checkpoints import PICKLE, has_safetensors, weight_files

_HUB_NAME = re.compile(r"(?P<repo>\w[\w.-]{0,95}/\w[\w.-]{0,95})(@(?P<revision>\w[\w./-]{0,95}))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""A git SHA-1 or a SHA-256."""


def split(name: str) -> tuple[str, str]:
    """`org/model@revision` to repository and revision, which defaults to `main`.

    Raises:
        OptionError: not a valid Hub name.
    """
    found = _HUB_NAME.fullmatch(name)
    if found is None or ".." in name or "--" in found["repo"]:
        raise OptionError(
            f"{name!r} is not the name of a model on the Hub: organisation/model, or organisation/model@revision."
        )
    return found["repo"], found["revision"] or "main"


def is_hub_name(name: str) -> bool:
    """Whether this is a valid Hub name."""
    try:
        split(name)
    except OptionError:
        return False
    return True


def root() -> Path:
    """The cache folder: `HF_HUB_CACHE`, else `HF_HOME/hub`, else Hugging Face's default."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if named:
        return Path(named).expanduser()
    general = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("HF_HOME") or Path(general) / "huggingface").expanduser() / "hub"


def folder(repo: str) -> Path:
    """The folder of one repository."""
    return root() / f"models--{repo.replace('/', '--')}"


def snapshot(name: str, pickle: bool = False) -> Path | None:
    """The snapshot folder of a model, if complete.

    Args:
        pickle: whether pickled weights are accepted if there are no others.
    """
    repo, revision = split(name)
    commit = revision
    if not _COMMIT.fullmatch(revision):
        try:
            commit = (folder(repo) / "refs" / revision).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
    found = folder(repo) / "snapshots" / commit
    return found if is_complete(found, pickle) else None


def is_complete(found: Path, pickle: bool) -> bool:
    """Whether a snapshot has configuration, processor and weights."""
    if not all((found / file).exists() for file in ("config.json", "preprocessor_config.json")):
        return False
    if pickle and not has_safetensors(found):
        return (found / PICKLE).exists()
    try:
        return bool(weight_files(found))
    except CheckpointError:
        return False


def repositories() -> Iterator[str]:
    """Names of all repositories in the cache, complete or not."""
    for path in sorted(root().glob("models--*--*")):
        repo = "/".join(path.name.split("--")[1:])
        if is_hub_name(repo):
            yield repo


def remove(name: str) -> int:
    """Delete all files of a model; returns the freed bytes."""
    repo, _ = split(name)
    target = folder(repo)
    freed = sum(file.stat().st_size for file in target.rglob("*") if file.is_file() and not file.is_symlink())
    shutil.rmtree(target, ignore_errors=True)
    return freed


def remove_damaged(found: Path) -> list[str]:
    """Delete the files of a snapshot whose checksum is wrong; returns their names."""
    damaged = []
    for pointer in sorted(found.iterdir()):
        if not pointer.is_symlink():
            continue
        # Only one level of links is resolved: a blob may itself be a link to a file of another name.
        blob = pointer.parent / pointer.readlink()
        if DIGEST.fullmatch(blob.name) and blob.exists() and checksum(blob, blob.name) != blob.name:
            blob.unlink()
            pointer.unlink()
            damaged.append(pointer.name)
    return damaged


def checksum(path: Path, like: str) -> str:
    """SHA-256 of a file, or its git SHA-1 if `like` has that length."""
    digest = hashlib.sha256() if len(like) == 64 else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
