"""Decoded photos in one file that is mapped into memory: a run that begins again decodes nothing, and shares the pages.

Labelled archives give classes. Unlabelled ones give photos to be taught about by a teacher alone; of these, folders that fit a
class can be named.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from vitdemo.datasets import BACKGROUND, label_of, read_files
from vitdemo.errors import ImageError, InputError, TrainingError
from vitdemo.images import open_image
from vitdemo.training.data import PhotoSet, shrunk

PIXELS, INDEX = "photos.u8", "photos.npz"


def keep_photos(
    folder: Path,
    classes: Sequence[str],
    labelled: Sequence[Path],
    unlabelled: Sequence[Path] = (),
    named: Mapping[str, str] | None = None,
) -> PhotoSet:
    """The photos of these archives or folders, decoded once: if `folder` has them already, nothing else is read.

    Args:
        classes: in the order of their numbers.
        named: folder of an unlabelled archive, such as `flowers/sunflowers`, to the class that its photos are of.

    Raises:
        InputError: an archive cannot be read, or has no photo.
        TrainingError: the file cannot be written.
    """
    if not (folder / INDEX).exists():
        _decode(folder, list(classes), labelled, unlabelled, named or {})
    return kept_photos(folder)


def kept_photos(folder: Path) -> PhotoSet:
    """What `keep_photos` left in the folder.

    Raises:
        TrainingError: there is nothing, or not all of it.
    """
    try:
        with np.load(folder / INDEX) as index:
            shapes, labels, classes = index["shapes"], index["labels"], tuple(map(str, index["classes"]))
        pixels = np.memmap(folder / PIXELS, np.uint8, "r")
    except (OSError, KeyError, ValueError) as error:
        raise TrainingError(f"There are no decoded photos in {folder.name}.") from error
    lengths = shapes.prod(axis=1) * 3
    ends = lengths.cumsum()
    if len(pixels) < ends[-1]:
        raise TrainingError(f"The decoded photos in {folder.name} are cut off.")
    images = tuple(
        np.asarray(pixels[end - length : end]).reshape(*shape, 3)
        for shape, length, end in zip(shapes, lengths, ends, strict=True)
    )
    return PhotoSet(images, labels.astype(np.int64), classes)


def _decode(
    folder: Path, classes: list[str], labelled: Sequence[Path], unlabelled: Sequence[Path], named: Mapping[str, str]
) -> None:
    shapes: list[tuple[int, int]] = []
    labels: list[int] = []
    part = folder / (PIXELS + ".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as pixels:
            for path in (*labelled, *unlabelled):
                for name, data in read_files(path):
                    above = str(PurePosixPath(name).parent)
                    known = label_of(name) if path in labelled else named.get(above, BACKGROUND).replace("_", " ")
                    if path in labelled and known != BACKGROUND and known not in classes:
                        continue
                    try:
                        image = shrunk(np.asarray(open_image(data).image))
                    except ImageError:
                        continue
                    pixels.write(image.tobytes())
                    shapes.append(image.shape[:2])
                    labels.append(classes.index(known) if known in classes else -1)
        if not shapes:
            raise InputError(f"No photo was found in {', '.join(path.name for path in labelled)}.")
        os.replace(part, folder / PIXELS)
        # The index comes last: without it the pixels count for nothing.
        with (folder / (INDEX + ".part")).open("wb") as file:
            np.savez(file, shapes=np.array(shapes), labels=np.array(labels), classes=np.array(classes))
        os.replace(folder / (INDEX + ".part"), folder / INDEX)
    except OSError as error:
        raise TrainingError(f"The photos cannot be written to {folder.name}: {error.strerror}.") from error
