"""Photos in class folders, read from a folder, zip or tar archive without unpacking."""

from __future__ import annotations

import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
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


def read_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every file in a class folder, sorted by name, or in the order of the archive.

    Of a file in an archive that is larger than an image may be, one byte more than the limit: a small archive can hold gigabytes.

    Raises:
        InputError: the path is neither a folder nor a readable archive, or is damaged or encrypted.
    """
    limit = max_bytes(get_settings()) + 1
    try:
        if path.is_dir():
            yield from _read_folder(path)
            return
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    if not entry.is_dir() and _in_class_folder(entry.filename):
                        with archive.open(entry) as file:
                            yield entry.filename, file.read(limit)
            return
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isfile() and _in_class_folder(member.name) else None
                if content is not None:
                    yield member.name, content.read(limit)
    except (OSError, EOFError, RuntimeError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError):
        raise InputError(f"{path.name} is missing, damaged, or neither a folder nor a zip or tar archive.") from None


def _read_folder(path: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted(path.glob("**/*")):
        name = file.relative_to(path).as_posix()
        if file.is_file() and _in_class_folder(name):
            yield name, file.read_bytes()


def _in_class_folder(name: str) -> bool:
    parts = PurePosixPath(name).parts
    # Left behind by file managers: `__MACOSX/`, `._photo.jpg`, `.DS_Store`.
    return len(parts) > 1 and not any(part.startswith((".", "__MACOSX")) for part in parts)
