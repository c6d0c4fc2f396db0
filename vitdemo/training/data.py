"""Labelled photos in memory, and batches of them that come in the same order and shape whenever they are asked for.

Every random choice about a photo comes from the seed, the epoch and the photo's place in the set. A run that is cut off and
resumed sees what it would have seen.
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

from vitdemo.datasets import BACKGROUND, label_of, read_files
from vitdemo.errors import ImageError, InputError
from vitdemo.images import open_image
from vitdemo.training.augment import Augmentation, random_view

Pixels = NDArray[np.uint8]

STORED_SIDE = 256
"""Pixels of the shorter side that are kept of a photo: memory is bounded, and no recipe trains at more."""


@dataclass(frozen=True)
class PhotoSet:
    """Photos of named classes. Photos of no class have the label -1."""

    images: tuple[Pixels, ...]
    """`[H, W, 3]` each."""
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    """Files that could not be read, with the reason."""

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> PhotoSet:
        """The photos at these places, of the same classes."""
        chosen = np.asarray(indices, dtype=np.int64)
        return replace(self, images=tuple(self.images[i] for i in chosen), labels=self.labels[chosen], skipped=())

    def labelled(self) -> PhotoSet:
        """Without the photos of no class."""
        return self.subset(np.flatnonzero(self.labels >= 0))

    def split(self, share: float, seed: int) -> tuple[PhotoSet, PhotoSet]:
        """Two sets, the second with about `share` of each class and at least one photo of it, the first with at least one too.

        Raises:
            InputError: a class has a single photo, which cannot be on both sides.
        """
        single = [
            self.classes[label] for label, count in Counter(self.labels.tolist()).items() if count < 2 and label >= 0
        ]
        if single:
            raise InputError(
                f"Class {single[0]!r} has one photo, which cannot be split{_others(single)}. Add photos, remove the class, "
                "or give a test set of its own."
            )
        generator = np.random.default_rng(seed)
        held: list[int] = []
        for label in range(len(self.classes)):
            places = generator.permutation(np.flatnonzero(self.labels == label))
            held += places[: min(max(1, round(len(places) * share)), len(places) - 1)].tolist()
        rest = np.setdiff1d(np.arange(len(self)), held)
        return self.subset(rest), self.subset(sorted(held))


def load_photos(paths: Sequence[Path], classes: Sequence[str] | None = None) -> PhotoSet:
    """Read class folders, zip or tar archives; `_background` is the folder of photos that belong to no class.

    Args:
        classes: the order of the classes; the sorted names of the folders if not given. Photos of other classes are skipped.

    Raises:
        InputError: nothing can be read, there is only one class, or no photo is of one of the classes.
    """
    images: list[Pixels] = []
    names: list[str] = []
    skipped: list[str] = []
    for path in paths:
        for name, data in read_files(path):
            try:
                photo = open_image(data)
            except ImageError as error:
                skipped.append(f"{name}: {error}")
                continue
            images.append(shrunk(np.asarray(photo.image)))
            names.append(label_of(name))
    found = tuple(classes) if classes is not None else tuple(sorted(set(names) - {BACKGROUND}))
    if not images:
        listed = f" {len(skipped)} files were not readable, the first: {skipped[0]}" if skipped else ""
        raise InputError(f"No photo was found in {', '.join(path.name for path in paths)}.{listed}")
    if len(found) < 2:
        raise InputError(f"At least two classes are needed, a folder each; found: {', '.join(found) or 'none'}.")
    index = {name: place for place, name in enumerate(found)}
    known = [place for place, name in enumerate(names) if name in index or name == BACKGROUND]
    skipped += [f"class {name!r} is not one of the model's" for name in sorted(set(names) - set(index) - {BACKGROUND})]
    labels = np.array([index.get(names[place], -1) for place in known], dtype=np.int64)
    if not (labels >= 0).any():
        raise InputError(f"No photo in {', '.join(path.name for path in paths)} is of one of the {len(found)} classes.")
    return PhotoSet(tuple(images[place] for place in known), labels, found, tuple(skipped))


def shrunk(image: Pixels) -> Pixels:
    """The photo with its shorter side at `STORED_SIDE` at most: `[H, W, 3]`."""
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
    """Views of some photos: one tensor a view."""

    views: tuple[Tensor, ...]
    """`[B, 3, S, S]` uint8 each; S may differ from view to view."""
    labels: Tensor
    """`[B]` int64; -1 for photos of no class."""
    indices: Tensor
    """`[B]` int64: places in the set."""
    targets: tuple[Tensor, ...] = ()
    """What a recipe keeps about these very views."""


class Batches:
    """Endless batches from `start` on, made in a thread of its own while the last one is trained on."""

    def __init__(
        self,
        photos: PhotoSet,
        size: int,
        augmentations: Sequence[Augmentation],
        seed: int,
        start: int = 0,
        ahead: int = 4,
    ) -> None:
        if len(photos) == 0:
            raise InputError("There is no photo to train on.")
        self.photos, self.size, self.augmentations, self.seed = (
            photos,
            min(size, len(photos)),
            tuple(augmentations),
            seed,
        )
        self.start, self.ahead = start, ahead
        self.shard = (0, 1)
        """This process and the number of processes that share each batch."""

    @property
    def per_epoch(self) -> int:
        """Batches an epoch; what is left over of a shuffled epoch is left out."""
        return len(self.photos) // self.size

    def places(self, step: int) -> tuple[int, NDArray[np.int64]]:
        """The epoch of a step, and which photos it shows to this process."""
        epoch, place = divmod(step, self.per_epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.photos))
        process, processes = self.shard
        return epoch, order[place * self.size : (place + 1) * self.size][process::processes]

    def batch(self, step: int) -> Batch:
        """The batch of this step, whichever was asked for before."""
        epoch, indices = self.places(step)
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
        ready: queue.Queue[Batch | BaseException] = queue.Queue(self.ahead)
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
