"""Decoded photos in one memory-mapped file: a run that is restarted decodes nothing, and processes share the pages.

Photos without labels can be added: they have targets from a teacher only. Folders of them that fit a class can be assigned to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from vitdemo.errors import ImageError, InputError, TrainingError
from vitdemo.images.class_folders import BACKGROUND, label_of, read_files
from vitdemo.images.open import open_image
from vitdemo.training.data import PhotoSet, Pixels, shrunk
from vitdemo.types.labels import class_called

PIXELS, INDEX = "photos.u8", "photos.npz"


def fill_photo_cache(
    folder: Path,
    classes: Sequence[str],
    labelled: Sequence[Path],
    unlabelled: Sequence[Path] = (),
    assigned: Mapping[str, str] | None = None,
) -> PhotoSet:
    """The photos of these class folders or archives. They are decoded only if `folder` holds none yet.

    Args:
        classes: in the order of the labels. Labelled photos of other classes are skipped.
        unlabelled: class folders or archives whose folder names are not labels.
        assigned: class of the photos in a folder of `unlabelled`, such as `flowers/sunflowers`.

    Raises:
        InputError: one of the inputs cannot be read, or there is no photo.
        TrainingError: the disk is full, or the folder cannot be written.
    """
    if not (folder / INDEX).exists():
        photos = [_labelled(labelled, classes), _unlabelled(unlabelled, classes, assigned or {})]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            count = _write(folder, classes, (photo for source in photos for photo in source))
        except OSError as error:
            raise TrainingError(f"The photos cannot be written to {folder.name}: {error.strerror}.") from error
        if not count:
            raise InputError(f"No photo was found in {', '.join(path.name for path in labelled)}.")
    return open_photo_cache(folder)


def open_photo_cache(folder: Path) -> PhotoSet:
    """The photos that `fill_photo_cache` has decoded.

    Raises:
        TrainingError: there are none, or the file is incomplete.
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
        raise TrainingError(f"The decoded photos in {folder.name} are incomplete.")
    images = tuple(
        np.asarray(pixels[end - length : end]).reshape(*shape, 3)
        for shape, length, end in zip(shapes, lengths, ends, strict=True)
    )
    return PhotoSet(images, labels.astype(np.int64), classes)


def _labelled(paths: Sequence[Path], classes: Sequence[str]) -> Iterator[tuple[bytes, int]]:
    """File and label of the photos of these classes, and of the background."""
    for path in paths:
        for name, data in read_files(path):
            label = class_called(label_of(name), classes)
            if label in classes or label == BACKGROUND:
                yield data, _index(classes, label)


def _unlabelled(
    paths: Sequence[Path], classes: Sequence[str], assigned: Mapping[str, str]
) -> Iterator[tuple[bytes, int]]:
    for path in paths:
        for name, data in read_files(path):
            label = assigned.get(str(PurePosixPath(name).parent), BACKGROUND)
            yield data, _index(classes, class_called(label, classes))


def _index(classes: Sequence[str], label: str) -> int:
    return list(classes).index(label) if label in classes else -1


def _write(folder: Path, classes: Sequence[str], photos: Iterator[tuple[bytes, int]]) -> int:
    """Decode into the two files; returns the number of photos. Unreadable ones are skipped."""
    shapes: list[tuple[int, ...]] = []
    labels: list[int] = []
    part = folder / (PIXELS + ".part")
    with part.open("wb") as file:
        for data, label in photos:
            try:
                image: Pixels = shrunk(np.asarray(open_image(data).image))
            except ImageError:
                continue
            file.write(image.tobytes())
            shapes.append(image.shape[:2])
            labels.append(label)
    if not shapes:
        part.unlink()
        return 0
    os.replace(part, folder / PIXELS)
    # The index is written last: pixels without one are ignored.
    part = folder / (INDEX + ".part")
    with part.open("wb") as file:
        np.savez(file, shapes=np.array(shapes), labels=np.array(labels), classes=np.array(classes))
    os.replace(part, folder / INDEX)
    return len(shapes)
