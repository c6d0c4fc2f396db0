"""A bank of views: what a teacher says of some views of each photo, asked once and kept on disk.

A teacher costs as much as a small student. Shen & Xing 2022, arXiv:2112.01528 (FKD), and Wu et al. 2022, arXiv:2207.10666
(TinyViT), ask it once and keep its answers beside the random numbers of each view; a student then learns for many epochs
at its own speed. Here an answer is the logits and a small map of features, rotated to its main directions and cut
(principal components), as fp16. A view is named by photo and number: the same crop can be drawn again at any size.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitdemo.errors import OptionError, TrainingError
from vitdemo.training.augment import Augmentation, normalised, random_view
from vitdemo.training.data import PhotoSet, Pixels
from vitdemo.training.teachers import Teacher, channels_last

SETTINGS, BASIS = "bank.json", "basis.safetensors"
GRID = 7
"""Cells a side of a kept map: those of stride 32 at 224 px."""
WIDTH = 256
"""Directions that are kept of the features."""
BASIS_PHOTOS = 1024
"""Photos whose first views the directions are found on."""
AUGMENTATION = Augmentation(224, scale=(0.3, 1.0), colour=0.3)


def identity(image: Pixels) -> int:
    """Of a photo's pixels and shape, 63 bits: it names the photo in whatever set and order."""
    found = hashlib.blake2b(image.tobytes(), digest_size=8, person=str(image.shape).encode()[:16])
    return int.from_bytes(found.digest(), "big") >> 1


def banked_view(image: Pixels, photo: int, number: int, how: Augmentation, seed: int) -> Pixels:
    """View `number` of a photo: `[S, S, 3]`. The same crop and colours at every size."""
    return random_view(image, how, np.random.default_rng((seed, photo, number)))


@dataclass(frozen=True)
class Bank:
    """The answers of a teacher."""

    folder: Path
    teacher: str
    classes: tuple[str, ...]
    seed: int
    augmentation: Augmentation
    photos: tuple[int, ...]
    """Identities, in the order of the rows."""
    logits: tuple[Tensor, ...]
    """One `[N, K]` a view, fp16."""
    features: tuple[Tensor, ...]
    """One `[N, GRID * GRID, D]` a view, fp16, row by row of the map; main direction first, the mean taken off."""

    @property
    def views(self) -> int:
        """Of each photo."""
        return len(self.features)

    @property
    def width(self) -> int:
        """D of the features."""
        return int(self.features[0].shape[-1])

    def rows(self, photos: PhotoSet) -> NDArray[np.int64]:
        """Where each photo's answers are.

        Raises:
            OptionError: one of the photos is not in the bank.
        """
        places = {photo: row for row, photo in enumerate(self.photos)}
        try:
            return np.array([places[identity(image)] for image in photos.images], dtype=np.int64)
        except KeyError:
            raise OptionError(f"The bank {self.folder.name} was made of other photos.") from None

    def view(self, image: Pixels, row: int, number: int, size: int) -> Pixels:
        """The pixels that the answers `[number][row]` are about, `[size, size, 3]`."""
        how = replace(self.augmentation, size=size)
        return banked_view(image, self.photos[row], number, how, self.seed)

    def deviations(self) -> Tensor:
        """`[D]`: how much each direction varies."""
        found: Tensor = load_file(self.folder / BASIS)["deviations"]
        return found


def open_bank(folder: Path, views: int | None = None, classes: Sequence[str] | None = None) -> Bank:
    """The bank in a folder, with its first `views` views, or all that are there.

    Args:
        classes: the order that the logits are to have; that of the bank if not given.

    Raises:
        TrainingError: there is none, it is damaged, or has fewer views.
    """
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        there = sum(1 for _ in _finished(folder))
        count = there if views is None else views
        if not 0 < count <= there:
            raise TrainingError(f"The bank {folder.name} has {there} views, not {count}.")
        parts = [load_file(_view_file(folder, number)) for number in range(count)]
        names = list(settings["classes"])
        order = [names.index(name) for name in (names if classes is None else classes)]
        return Bank(
            folder,
            settings["teacher"],
            tuple(names[place] for place in order),
            settings["seed"],
            _augmentation(settings),
            tuple(settings["photos"]),
            tuple(part["logits"][:, order] for part in parts),
            tuple(part["features"] for part in parts),
        )
    except FileNotFoundError:
        raise TrainingError(f"There is no bank of views in {folder.name}.") from None
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"The bank in {folder.name} is damaged.") from error


def fill_bank(
    folder: Path,
    photos: PhotoSet,
    teacher: Callable[[], Teacher],
    name: str,
    views: int,
    seed: int = 0,
    how: Augmentation = AUGMENTATION,
    half: bool = False,
    report: Callable[[int, int], None] = lambda done, views: None,
) -> Bank:
    """Ask the teacher about the views that are not in the folder yet. A fill that was cut off goes on with the next view.

    Args:
        teacher: makes it; not called if nothing is left to ask.
        name: what the bank is to say of its teacher.
        half: let the teacher reckon in bf16; a little off, and twice as fast where the processor has it.
        report: called with the number of views that are done, and of all.

    Raises:
        OptionError: the folder holds another bank, or the teacher has no features.
        TrainingError: there is no room.
    """
    # Two equal photos have one row.
    unique = {identity(image): place for place, image in reversed(list(enumerate(photos.images)))}
    settings: dict[str, Any] = {
        "teacher": name,
        # By name: a network that a run begins with may have another order.
        "classes": sorted(photos.classes),
        "seed": seed,
        "half": half,
        "augmentation": asdict(how),
        "photos": sorted(unique),
    }
    _settle(folder, settings)
    order = [photos.classes.index(name) for name in settings["classes"]]
    images = [photos.images[unique[photo]] for photo in sorted(unique)]
    asked: _Asked | None = None
    for number in range(views):
        if _view_file(folder, number).exists():
            continue
        if asked is None:
            asked = _Asked(teacher(), half)
            if not (folder / BASIS).exists():
                _write(folder / BASIS, _directions(asked, images, sorted(unique), how, seed))
        basis = load_file(folder / BASIS)
        logits, features = [], []
        for some_logits, some_features in asked.about(images, sorted(unique), number, how, seed):
            logits.append(some_logits[:, order].half())
            features.append(((some_features - basis["mean"]) @ basis["directions"]).half())
        _write(_view_file(folder, number), {"logits": torch.cat(logits), "features": torch.cat(features)})
        report(number + 1, views)
    return open_bank(folder, views, photos.classes)


class _Asked:
    """A teacher at work."""

    def __init__(self, teacher: Teacher, half: bool) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.teacher = channels_last(teacher.to(self.device))
        self.half = half

    @torch.no_grad()
    def about(
        self, images: list[Pixels], photos: list[int], number: int, how: Augmentation, seed: int, batch: int = 32
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits `[B, K]` and features `[B, GRID * GRID, D]` of view `number` of every photo, in order."""
        for start in range(0, len(images), batch):
            some = zip(images[start : start + batch], photos[start : start + batch], strict=True)
            views = np.stack([banked_view(image, photo, number, how, seed) for image, photo in some])
            pixels = normalised(torch.from_numpy(views).permute(0, 3, 1, 2).to(self.device))
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                logits, features = self.teacher.answer(pixels, (GRID, GRID))
            yield logits.float().cpu(), features.float().cpu()


def _directions(
    asked: _Asked, images: list[Pixels], photos: list[int], how: Augmentation, seed: int
) -> dict[str, Tensor]:
    """Mean and principal components of the features of a part of the photos' first views."""
    count = min(len(images), BASIS_PHOTOS)
    chosen = np.random.default_rng(seed).permutation(len(images))[:count]
    some = asked.about([images[i] for i in chosen], [photos[i] for i in chosen], 0, how, seed)
    cells = torch.cat([features.flatten(0, 1) for _, features in some])
    mean = cells.mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov((cells - mean).T))
    kept = min(WIDTH, len(values))
    return {
        "mean": mean,
        "directions": vectors.flip(-1)[:, :kept].contiguous(),
        "deviations": values.flip(-1)[:kept].clamp(min=1e-12).sqrt(),
        "share": values.flip(-1)[:kept].sum()[None] / values.sum(),
    }


def _settle(folder: Path, settings: dict[str, Any]) -> None:
    path = folder / SETTINGS
    if path.exists():
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TrainingError(f"The bank in {folder.name} is damaged.") from error
        ours = json.loads(json.dumps(settings))
        differing = [key for key in ours if theirs.get(key) != ours[key]]
        if differing:
            raise OptionError(
                f"The bank {folder.name} was made otherwise: {', '.join(differing)}. Name another folder."
            )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(settings), encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise TrainingError(f"The bank cannot be written to {folder.name}: {error.strerror}.") from error


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    """Whole or not at all: a kill in the middle leaves nothing under this name."""
    part = path.with_suffix(".part")
    try:
        save_file({name: value.contiguous() for name, value in tensors.items()}, part)
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise TrainingError(f"The bank cannot be written to {path.parent.name}: {error}.") from error


def _view_file(folder: Path, number: int) -> Path:
    return folder / f"view-{number:04d}.safetensors"


def _finished(folder: Path) -> Iterator[int]:
    number = 0
    while _view_file(folder, number).exists():
        yield number
        number += 1


def _augmentation(settings: dict[str, Any]) -> Augmentation:
    pairs: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in settings["augmentation"].items()
    }
    return Augmentation(**pairs)
