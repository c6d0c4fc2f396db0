"""Photos in class folders, read from a folder, zip or tar archive without unpacking."""

from __future__ import annotations

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from vitdemo.errors import InputError
from vitdemo.images.decode import max_bytes
from vitdemo.settings import get_settings

BACKGROUND = "_background"
"""Folder of photos without a class."""


def label_of(name: str) -> str:
    """The class of a file: the name of its folder, with underscores as spaces.

    >>> label_of("train/sea_horse/image_0001.jpg")
    'sea horse'
    """
    folder = PurePosixPath(name).parts[-2]
    return folder if folder == BACKGROUND else folder.replace("_", " ")


def read_files(
    path: Path, loose: bool = False, wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every file in a class folder, sorted by name, or in the order of the archive.

    Of a file in an archive that is larger than an image may be, one byte more than the limit: a small archive can hold gigabytes.

    Args:
        loose: also of files that are in no folder.
        wanted: whether a file of this name is read; others are passed over.

    Raises:
        InputError: the path is neither a folder nor a readable archive, or is damaged or encrypted.
    """
    limit = max_bytes(get_settings()) + 1
    with _readable(path):
        for name, read in _entries(path, loose):
            if wanted(name):
                yield name, read(limit)


def file_names(path: Path, loose: bool = False) -> list[str]:
    """What `read_files` would read, in its order, without reading it.

    Raises:
        InputError: as `read_files`.
    """
    with _readable(path):
        return [name for name, _ in _entries(path, loose)]


def read_file(path: Path, name: str) -> bytes:
    """One file of those, by its name.

    Raises:
        InputError: as `read_files`, or there is no such file.
    """
    for _, content in read_files(path, True, lambda one: one == name):
        return content
    raise InputError(f"{PurePosixPath(name).name} is no longer in {path.name}.")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, RuntimeError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError):
        raise InputError(f"{path.name} is missing, damaged, or neither a folder nor a zip or tar archive.") from None


def _entries(path: Path, loose: bool) -> Iterator[tuple[str, Callable[[int], bytes]]]:
    """Name of each file, and what reads so many bytes of it, as long as the next one is not asked for."""
    if path.is_dir():
        for file in sorted(path.glob("**/*")):
            name = file.relative_to(path).as_posix()
            if file.is_file() and _counts(name, loose):
                yield name, lambda limit, file=file: file.read_bytes()  # type: ignore[misc]
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if not entry.is_dir() and _counts(entry.filename, loose):

                    def from_zip(limit: int, entry: zipfile.ZipInfo = entry) -> bytes:
                        with archive.open(entry) as file:
                            return file.read(limit)

                    yield entry.filename, from_zip
    else:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isfile() and _counts(member.name, loose):

                    def from_tar(limit: int, member: tarfile.TarInfo = member) -> bytes:
                        content = tar.extractfile(member)
                        return b"" if content is None else content.read(limit)

                    yield member.name, from_tar


def _counts(name: str, loose: bool) -> bool:
    parts = PurePosixPath(name).parts
    # Left behind by file managers: `__MACOSX/`, `._photo.jpg`, `.DS_Store`.
    return len(parts) > (0 if loose else 1) and not any(part.startswith((".", "__MACOSX")) for part in parts)
