"""Photos for a training of the page: an archive that was uploaded in pieces, a folder of this machine, or the examples."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitdemo.errors import InputError, OptionError
from vitdemo.types import Photo
from vitdemo.ui.examples import examples
from vitdemo.ui.given import uploaded

CROPS = 16
"""Crops of each example in the tiny set."""

SIDE = 160
"""Of a crop, in pixels."""

WATCHED_SIDE = 1024
"""Longest side of the photo that a training watches."""

MOST_PIECES = 1000

PIECE = "photos.part"
"""What the page calls a piece of an archive."""


_CHOOSE = "Choose an archive with one folder per class"


def put_data(
    given: Mapping[str, Any],
    folder: Path,
    megabytes: float,
    folders: bool,
    instead: str = "Train on it with the command line.",
    crops: tuple[float, float] = (0.6, 1.0),
) -> str:
    """Put the chosen photos into the folder of a run; returns what the command calls them.

    Args:
        megabytes: limit of an archive, in 10^6 bytes.
        folders: whether a folder of the server may be named.
        instead: what to do with a larger archive.
        crops: of the examples, see `tiny_set`.

    Raises:
        ImageError: a piece is no upload of this server.
        InputError: the archive is incomplete or too large, or the disk is full.
        OptionError: nothing was chosen, or something that this server does not take.
    """
    kind = given.get("kind")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if kind == "examples":
            tiny_set(folder / "examples", crops)
            return "data/examples"
        if kind == "folder" and folders:
            return _local(str(given.get("folder", "")))
        if kind == "upload":
            return f"data/{joined(given, folder, megabytes, instead).name}"
    except OSError as error:
        raise InputError(
            f"The photos cannot be stored on the server: {error.strerror or 'a failure of its disk'}."
        ) from None
    raise OptionError(f"{_CHOOSE}, or the examples.")


def tiny_set(folder: Path, crops: tuple[float, float] = (0.6, 1.0)) -> None:
    """Overlapping crops of each example, a folder per class. Whoever learns them knows these photos, and no others.

    Args:
        crops: the smallest and the largest, as shares of the photo's shorter side.
    """
    random = np.random.default_rng(0)
    for example in examples():
        place = folder / (example.label or example.title)
        place.mkdir(parents=True)
        with Image.open(example.path) as opened:
            photo = opened.convert("RGB")
        for number in range(CROPS):
            side = int(min(photo.size) * random.uniform(*crops))
            left, top = (int(random.integers(0, length - side + 1)) for length in photo.size)
            crop = photo.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            crop.save(place / f"{number:02}.jpg", quality=90)


def put_photo(photo: Photo, folder: Path) -> str:
    """Put the photo that is watched beside them; returns what the command calls it."""
    folder.mkdir(parents=True, exist_ok=True)
    image = photo.image.copy()
    image.thumbnail((WATCHED_SIDE, WATCHED_SIDE))
    name = Path(safe_name(photo.name)).stem + ".jpg"
    image.save(folder / name, quality=92)
    return f"{folder.name}/{name}"


def safe_name(name: str) -> str:
    """A file's name, with nothing in it that a path or a command could take amiss.

    >>> safe_name("../../etc/my photos.tar"), safe_name("..")
    ('my_photos.tar', 'photos')
    """
    name = re.sub(r"[^\w.-]", "_", re.split(r"[/\\]", name)[-1])[-80:].lstrip(".-")
    return name or "photos"


def _local(text: str) -> str:
    path = Path(text.strip()).expanduser()
    if not text.strip() or not path.exists():
        raise OptionError("There is no such folder or archive on the server's machine. Type its whole path.")
    return str(path.absolute())


def joined(
    given: Mapping[str, Any], folder: Path, megabytes: float, instead: str, missing: str = f"{_CHOOSE}."
) -> Path:
    """The pieces of an upload as one file in a folder.

    Args:
        missing: what is said if there are none.

    Raises:
        ImageError: a piece is no upload of this server.
        InputError: the file is incomplete or too large.
        OptionError: there are no pieces.
    """
    pieces = given.get("pieces")
    if not isinstance(pieces, list) or not 0 < len(pieces) <= MOST_PIECES:
        raise OptionError(missing)
    limit, size = int(megabytes * 1e6), 0
    target = folder / safe_name(str(given.get("name", "")))
    with target.open("wb") as whole:
        for piece in pieces:
            path = Path(uploaded(str(piece)))
            if not path.is_file():
                raise InputError("A piece of the upload is no longer on the server. Choose the file again.")
            size += path.stat().st_size
            if size > limit:
                raise InputError(f"The file is larger than {megabytes:g} MB, the limit of this page. {instead}")
            with path.open("rb") as file:
                shutil.copyfileobj(file, whole)
            if path.name == PIECE:  # nothing else that lies there, such as a photo of another page
                path.unlink()
    return target
