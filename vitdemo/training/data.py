"""Labelled photos in memory, and reproducible batches of them.

Every random choice about a photo depends only on the seed, the epoch and the photo's index: a resumed run sees the batches that
an uninterrupted one would have seen.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitdemo.errors import ImageError, InputError
from vitdemo.images.class_folders import BACKGROUND, label_of, read_files
from vitdemo.images.open import open_image
from vitdemo.training.augment import Augmentation, random_view
from vitdemo.types.labels import class_called

Pixels = NDArray[np.uint8]

STORED_SIDE = 256
"""Shorter side, in pixels, that photos are shrunk to in memory; no recipe trains at a higher resolution."""


@dataclass(frozen=True)
class PhotoSet:
    """Photos of named classes. Background photos have the label -1."""

    images: tuple[Pixels, ...]
    """`[H, W, 3]` each."""
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    """Unreadable files, each with the reason."""

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> PhotoSet:
        """The photos at these indices, with the same classes."""
        chosen = np.asarray(indices, dtype=np.int64)
        return replace(self, images=tuple(self.images[i] for i in chosen), labels=self.labels[chosen], skipped=())

    def labelled(self) -> PhotoSet:
        """Without background photos."""
        return self.subset(np.flatnonzero(self.labels >= 0))

    def split(self, share: float, seed: int) -> tuple[PhotoSet, PhotoSet]:
        """Stratified split: the second set holds about `share` of each class; both have at least one photo of each.

        Raises:
            InputError: a class has a single photo.
        """
        single = [
            self.classes[label] for label, count in Counter(self.labels.tolist()).items() if count < 2 and label >= 0
        ]
        if single:
            raise InputError(
                f"Class {single[0]!r} has one photo, which cannot be split{_others(single)}. Add photos, remove the class, "
                "or give a separate test set."
            )
        generator = np.random.default_rng(seed)
        held_out: list[int] = []
        for label in range(len(self.classes)):
            members = generator.permutation(np.flatnonzero(self.labels == label))
            held_out += members[: min(max(1, round(len(members) * share)), len(members) - 1)].tolist()
        rest = np.setdiff1d(np.arange(len(self)), held_out)
        return self.subset(rest), self.subset(sorted(held_out))


def load_photos(paths: Sequence[Path], classes: Sequence[str] | None = None, most: int | None = None) -> PhotoSet:
    """Read class folders, zip or tar archives; the folder `_background` holds photos of no class.

    Args:
        classes: in this order; by default the sorted names of the folders. Photos of other classes are skipped.
        most: bytes that the photos may take in memory.

    Raises:
        InputError: nothing can be read, there is only one class, no photo belongs to any of the classes, or they take too much
            memory.
    """
    images: list[Pixels] = []
    names: list[str] = []
    skipped: list[str] = []
    taken = 0
    for path in paths:
        for name, data in read_files(path):
            try:
                photo = open_image(data)
            except ImageError as error:
                skipped.append(f"{name}: {error}")
                continue
            images.append(shrunk(np.asarray(photo.image)))
            taken += images[-1].nbytes
            if most is not None and taken > most:
                raise InputError(
                    f"These photos take more than the {most / 1e9:.1f} GB of memory that a training may fill with photos here. "
                    "Give fewer."
                )
            names.append(class_called(label_of(name), classes or ()))
    found = tuple(classes) if classes is not None else tuple(sorted(set(names) - {BACKGROUND}))
    if not images:
        unreadable = f" {len(skipped)} files were not readable, the first: {skipped[0]}" if skipped else ""
        raise InputError(f"No photo was found in {', '.join(path.name for path in paths)}.{unreadable}")
    if len(found) < 2:
        raise InputError(f"At least two classes are needed, one folder per class; found: {', '.join(found) or 'none'}.")
    index = {name: number for number, name in enumerate(found)}
    known = [number for number, name in enumerate(names) if name in index or name == BACKGROUND]
    skipped += [f"class {name!r} is not one of the model's" for name in sorted(set(names) - set(index) - {BACKGROUND})]
    labels = np.array([index.get(names[number], -1) for number in known], dtype=np.int64)
    if not (labels >= 0).any():
        raise InputError(
            f"No photo in {', '.join(path.name for path in paths)} belongs to one of the {len(found)} classes."
        )
    return PhotoSet(tuple(images[number] for number in known), labels, found, tuple(skipped))


def shrunk(image: Pixels) -> Pixels:
    """The photo with its shorter side at most `STORED_SIDE` pixels long: `[H, W, 3]`."""
    height, width = image.shape[:2]
    scale = STORED_SIDE / min(height, width)
    if scale >= 1:
        return np.ascontiguousarray(image)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _others(names: Sequence[str]) -> str:
    return f" ({len(names)} such classes)" if len(names) > 1 else ""


@dataclass(frozen=True)
class Batch:
    """Augmented views of some photos, one tensor per view."""

    views: tuple[Tensor, ...]
    """`[B, 3, S, S]` uint8 each; S may differ between views."""
    labels: Tensor
    """`[B]` int64; -1 for background photos."""
    indices: Tensor
    """`[B]` int64, into the photo set."""
    targets: tuple[Tensor, ...] = ()
    """Cached targets of these very views, for recipes that have some."""


class Batches:
    """Endless batches from step `start` on, prefetched by a background thread."""

    def __init__(
        self,
        photos: PhotoSet,
        size: int,
        augmentations: Sequence[Augmentation],
        seed: int,
        start: int = 0,
        prefetch: int = 4,
    ) -> None:
        if len(photos) == 0:
            raise InputError("There is no photo to train on.")
        self.photos, self.size, self.seed = photos, min(size, len(photos)), seed
        self.augmentations = tuple(augmentations)
        self.start, self.prefetch = start, prefetch
        self.shard = (0, 1)
        """Rank of this process, and the number of processes that share each batch."""

    @property
    def per_epoch(self) -> int:
        """Batches per epoch; an incomplete last batch is dropped."""
        return len(self.photos) // self.size

    def indices_at(self, step: int) -> tuple[int, NDArray[np.int64]]:
        """The epoch of a step, and the indices of this process's photos."""
        epoch, number = divmod(step, self.per_epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.photos))
        process, processes = self.shard
        return epoch, order[number * self.size : (number + 1) * self.size][process::processes]

    def batch(self, step: int) -> Batch:
        """The batch of this step; batches can be drawn in any order."""
        epoch, indices = self.indices_at(step)
        views = []
        for number, augmentation in enumerate(self.augmentations):
            pixels = np.stack(
                [
                    random_view(
                        self.photos.images[i], augmentation, np.random.default_rng((self.seed, epoch, int(i), number))
                    )
                    for i in indices
                ]
            )
            views.append(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous())
        return Batch(tuple(views), torch.from_numpy(self.photos.labels[indices]), torch.from_numpy(indices))

    def __iter__(self) -> Iterator[Batch]:
        ready: queue.Queue[Batch | BaseException] = queue.Queue(self.prefetch)
        stop = threading.Event()

        def produce() -> None:
            step = self.start
            while not stop.is_set():
                try:
                    item: Batch | BaseException = self.batch(step)
                except BaseException as error:
                    item = error
                while not stop.is_set():
                    try:
                        ready.put(item, timeout=0.1)
                        break
                    except queue.Full:
                        continue
                step += 1

        thread = threading.Thread(target=produce, name="vitdemo-batches", daemon=True)
        thread.start()
        try:
            while True:
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
