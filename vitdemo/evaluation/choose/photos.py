"""The photos of a choice, one by one: never all of them in memory."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from PIL import Image

from vitdemo.errors import ImageError, InputError
from vitdemo.evaluation.choose.store import FeatureStore, KnownPhoto
from vitdemo.evaluation.choose.types import ChooseRequest, PhotoEntry
from vitdemo.evaluation.labelled_inputs import Geometry, geometry_of, input_of
from vitdemo.evaluation.perturb import Pixels
from vitdemo.images.class_folders import BACKGROUND, file_names, label_of, read_file, read_files
from vitdemo.images.open import open_image
from vitdemo.settings import Settings
from vitdemo.types import Photo, Processor

THUMBNAIL = 96
"""Longest side, in pixels."""

CHUNK = 48_000_000
"""Bytes of pixels that are decoded ahead: three chunks are in memory at most."""

FIRST_PHOTOS, MOST_PHOTOS = 32, 1024
"""Photos of the first chunk, for which the models wait; each one after it may have twice as many."""


@dataclass(frozen=True)
class Listed:
    """A file of the data that may be a photo."""

    source: Path
    name: str
    label: str | None


@dataclass
class Item:
    """A photo on its way to the models."""

    entry: PhotoEntry
    label: str | None
    pixels: Mapping[Geometry, Pixels] = field(default_factory=dict)
    """Input of the models that have not seen it, before normalisation."""
    missing: frozenset[str] = frozenset()
    """Their keys in the store."""


@dataclass
class Chunk:
    """Some photos, and files that are none."""

    items: list[Item] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    files: int = 0

    @property
    def bytes(self) -> int:
        return sum(pixels.nbytes for item in self.items for pixels in item.pixels.values())


def listed(request: ChooseRequest) -> tuple[list[Listed], list[str]]:
    """The files of the data with their labels, and notes about what is left out.

    Where there are labels, photos of `_background`, which show none of the classes, are left out.

    Raises:
        InputError: a path is missing or damaged, or there is no file.
    """
    found = [Listed(path, name, _label(name)) for path in request.data for name in file_names(path, loose=True)]
    notes = []
    if request.labels is not None:
        names = request.labels
        found = [Listed(one.source, one.name, names.get(one.name) or None) for one in found]
        unknown = len(set(names) - {one.name for one in found})
        if unknown:
            notes.append(f"{unknown} labels are of files that are not among these photos.")
    elif request.ignore_labels:
        found = [Listed(one.source, one.name, None) for one in found]
    elif len({one.label for one in found} - {None, BACKGROUND}) > 1:
        kept = [one for one in found if one.label != BACKGROUND]
        if len(kept) < len(found):
            notes.append(f"{len(found) - len(kept)} photos of no class ({BACKGROUND}) are left out.")
        found = kept
    if not found:
        raise InputError(
            f"{', '.join(path.name for path in request.data)} holds no file. Give a folder, zip or tar of photos."
        )
    if request.most is not None and len(found) > request.most:
        notes.append(f"{request.most:,} of {len(found):,} files were drawn.")
        drawn = sorted(found, key=lambda one: hashlib.sha256(f"{request.seed}:{one.name}".encode()).digest())
        chosen = {(one.source, one.name) for one in drawn[: request.most]}
        found = [one for one in found if (one.source, one.name) in chosen]
    return found, notes


def _label(name: str) -> str | None:
    return label_of(name) if len(PurePosixPath(name).parts) > 1 else None


def usable(labels: Sequence[str | None]) -> tuple[tuple[str, ...], list[str]]:
    """Classes that can be cross-validated, sorted, and notes about those that cannot.

    >>> usable(["cup", "cup", "crab", "crab", "yak", None])[0]
    ('crab', 'cup')
    """
    counts = Counter(label for label in labels if label is not None)
    classes = tuple(sorted(name for name, count in counts.items() if count > 1))
    single = sorted(name for name, count in counts.items() if count == 1)
    if len(classes) > 1:
        left_out = f"{len(single)} classes with one photo each are left out of the accuracies: {_some(single)}."
        return classes, [left_out] if single else []
    if len(counts) == 1:
        return (), [
            f"All photos are of one class ({next(iter(counts))}), so there is no accuracy to compare. Give one folder per class, "
            "or look at clusters, duplicates and outliers."
        ]
    if counts:
        return (), [
            f"There are {len(counts)} classes, but fewer than two of them have two photos: nothing could be answered by a model "
            "that has not seen it. Give more photos of each class, or look at clusters, duplicates and outliers."
        ]
    return (), []


def _some(names: Sequence[str], number: int = 5) -> str:
    return ", ".join(names[:number]) + (" and others" if len(names) > number else "")


def chunks(
    files: Sequence[Listed],
    processors: Mapping[str, Processor],
    store: FeatureStore,
    settings: Settings,
    stopped: Callable[[], bool],
) -> Iterator[Chunk]:
    """Photos in the order of the data, decoded only if a model has not seen them.

    Args:
        processors: by a model's key in the store.

    Raises:
        InputError: an archive is damaged.
    """
    wanted = {(one.source, one.name): one.label for one in files}
    chunk, known, size, most = Chunk(), list[tuple[bytes, KnownPhoto]](), 0, FIRST_PHOTOS
    for source in dict.fromkeys(one.source for one in files):
        for name, content in read_files(source, True, lambda name, source=source: (source, name) in wanted):  # type: ignore[misc]
            if stopped():
                return
            chunk.files += 1
            content_hash = hashlib.sha256(content).digest()
            try:
                item, fresh = _item(
                    source, name, wanted[source, name], content, store.photo(content_hash), processors, store, settings
                )
            except ImageError as error:
                chunk.skipped.append(f"{name}: {error}")
                continue
            if fresh is not None:
                known.append((content_hash, fresh))
            chunk.items.append(item)
            size += sum(pixels.nbytes for pixels in item.pixels.values())
            if size >= CHUNK or len(chunk.items) >= most:
                store.put_photos(known)
                yield chunk
                chunk, known, size, most = Chunk(), [], 0, min(2 * most, MOST_PHOTOS)
    store.put_photos(known)
    yield chunk


def _item(
    source: Path,
    name: str,
    label: str | None,
    content: bytes,
    known: KnownPhoto | None,
    processors: Mapping[str, Processor],
    store: FeatureStore,
    settings: Settings,
) -> tuple[Item, KnownPhoto | None]:
    """The photo, and what is new about its file.

    Raises:
        ImageError: it is none.
    """
    photo: Photo | None = None
    fresh: KnownPhoto | None = None
    if known is None:
        photo = open_image(content, settings)
        known = fresh = KnownPhoto(photo.digest, photo.size, thumbnail(photo.image))
    digest = known.digest
    missing = frozenset(key for key in processors if not store.has(digest, key))
    pixels: dict[Geometry, Pixels] = {}
    if missing:
        photo = photo or open_image(content, settings)
        for processor in {geometry_of(processors[key]): processors[key] for key in missing}.values():
            pixels[geometry_of(processor)] = input_of(photo, processor)
    return Item(PhotoEntry(name, digest, known.size, source), label, pixels, missing), fresh


def thumbnail(image: Image.Image) -> bytes:
    """A small picture as JPEG."""
    small = image.copy() if max(image.size) <= THUMBNAIL else image.reduce(max(1, max(image.size) // (2 * THUMBNAIL)))
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def thumbnail_of(entry: PhotoEntry) -> bytes:
    """The same of a photo that is read once more; empty where it is gone."""
    try:
        return thumbnail(open_image(read_file(entry.source, entry.name)).image)
    except InputError:
        return b""
