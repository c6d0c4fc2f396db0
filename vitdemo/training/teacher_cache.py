"""A teacher cache: a teacher's targets for some views of each photo, computed once and kept on disk.

A teacher costs as much as a small student. Shen & Xing 2022, arXiv:2112.01528 (FKD), and Wu et al. 2022, arXiv:2207.10666
(TinyViT), run it once and store its outputs with the random seeds of each view; the student then trains for many epochs at its
own speed. Here the targets are logits and a small feature map, reduced to its principal components, in fp16. A view is identified
by photo and number: the same crop can be drawn again at any resolution.
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
"""Side of a cached feature map in cells: stride 32 at 224 px."""
WIDTH = 256
"""Principal components of the features that are cached."""
BASIS_PHOTOS = 1024
"""Photos whose first views the principal components are computed from."""
AUGMENTATION = Augmentation(224, scale=(0.3, 1.0), colour=0.3)


def photo_id(image: Pixels) -> int:
    """63-bit hash of a photo's pixels and shape: identifies it in any set and order."""
    digest = hashlib.blake2b(image.tobytes(), digest_size=8, person=str(image.shape).encode()[:16])
    return int.from_bytes(digest.digest(), "big") >> 1


def cached_view(image: Pixels, photo: int, number: int, augmentation: Augmentation, seed: int) -> Pixels:
    """View `number` of a photo: `[S, S, 3]`. The same crop and colours at every resolution."""
    return random_view(image, augmentation, np.random.default_rng((seed, photo, number)))


@dataclass(frozen=True)
class TeacherCache:
    """Cached targets of a teacher."""

    folder: Path
    teacher: str
    classes: tuple[str, ...]
    seed: int
    augmentation: Augmentation
    photos: tuple[int, ...]
    """Their `photo_id`, in the order of the rows."""
    logits: tuple[Tensor, ...]
    """One `[N, K]` per view, fp16."""
    features: tuple[Tensor, ...]
    """One `[N, GRID * GRID, D]` per view, fp16, in row-major order; centred, largest component first."""

    @property
    def views(self) -> int:
        """Views per photo."""
        return len(self.features)

    @property
    def width(self) -> int:
        """D of the features."""
        return int(self.features[0].shape[-1])

    def rows(self, photos: PhotoSet) -> NDArray[np.int64]:
        """The row of each photo.

        Raises:
            OptionError: one of the photos is not in the cache.
        """
        rows = {photo: row for row, photo in enumerate(self.photos)}
        try:
            return np.array([rows[photo_id(image)] for image in photos.images], dtype=np.int64)
        except KeyError:
            raise OptionError(f"The teacher cache {self.folder.name} was computed for other photos.") from None

    def view(self, image: Pixels, row: int, number: int, size: int) -> Pixels:
        """The view that the targets `[number][row]` belong to, `[size, size, 3]`."""
        augmentation = replace(self.augmentation, size=size)
        return cached_view(image, self.photos[row], number, augmentation, self.seed)

    def deviations(self) -> Tensor:
        """`[D]`: standard deviation of each component."""
        deviations: Tensor = load_file(self.folder / BASIS)["deviations"]
        return deviations


def open_teacher_cache(folder: Path, views: int | None = None, classes: Sequence[str] | None = None) -> TeacherCache:
    """The cache in a folder, with its first `views` views, or all of them.

    Args:
        classes: order of the logits; that of the cache by default.

    Raises:
        TrainingError: there is none, it is damaged, or it has fewer views.
    """
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        available = sum(1 for _ in _finished(folder))
        count = available if views is None else views
        if not 0 < count <= available:
            raise TrainingError(f"The teacher cache {folder.name} has {available} views, not {count}.")
        parts = [load_file(_view_file(folder, number)) for number in range(count)]
        names = list(settings["classes"])
        order = [names.index(name) for name in (names if classes is None else classes)]
        return TeacherCache(
            folder,
            settings["teacher"],
            tuple(names[index] for index in order),
            settings["seed"],
            _augmentation(settings),
            tuple(settings["photos"]),
            tuple(part["logits"][:, order] for part in parts),
            tuple(part["features"] for part in parts),
        )
    except FileNotFoundError:
        raise TrainingError(f"There is no teacher cache in {folder.name}.") from None
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"The teacher cache in {folder.name} is damaged.") from error


@dataclass(frozen=True)
class CacheSettings:
    """What the targets of a cache depend on, beside its photos."""

    teacher: str
    """Its name."""
    seed: int = 0
    half: bool = False
    """Run the teacher in bf16: slightly less exact, and twice as fast where the processor supports it."""
    augmentation: Augmentation = AUGMENTATION


def fill_teacher_cache(
    folder: Path,
    photos: PhotoSet,
    teacher: Callable[[], Teacher],
    wanted: CacheSettings,
    views: int,
    *,
    report: Callable[[int, int], None] = lambda done, views: None,
) -> TeacherCache:
    """Run the teacher on the views that are not cached yet. An interrupted fill resumes at the next view.

    Args:
        teacher: loads it; not called if nothing is missing.
        report: called with the number of finished views, and of all.

    Raises:
        OptionError: the folder holds a cache with other settings, or the teacher has no feature map.
        TrainingError: the disk is full.
    """
    # Identical photos share a row.
    unique = {photo_id(image): index for index, image in reversed(list(enumerate(photos.images)))}
    # Sorted: initial weights may impose another order on a run.
    settings = {**asdict(wanted), "classes": sorted(photos.classes), "photos": sorted(unique)}
    _check_settings(folder, settings)
    order = [photos.classes.index(name) for name in settings["classes"]]
    images = [photos.images[unique[photo]] for photo in sorted(unique)]
    source: _ViewTargets | None = None
    for number in range(views):
        if _view_file(folder, number).exists():
            continue
        if source is None:
            source = _ViewTargets(teacher(), images, sorted(unique), wanted)
            if not (folder / BASIS).exists():
                _write(folder / BASIS, _principal_components(source))
        basis = load_file(folder / BASIS)
        logits, features = [], []
        for batch_logits, batch_features in source.batches(number):
            logits.append(batch_logits[:, order].half())
            features.append(((batch_features - basis["mean"]) @ basis["directions"]).half())
        _write(_view_file(folder, number), {"logits": torch.cat(logits), "features": torch.cat(features)})
        report(number + 1, views)
    return open_teacher_cache(folder, views, photos.classes)


class _ViewTargets:
    """A teacher's targets for the views of some photos."""

    def __init__(self, teacher: Teacher, images: list[Pixels], photos: list[int], settings: CacheSettings) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.teacher = channels_last(teacher.to(self.device))
        self.images, self.photos, self.settings = images, photos, settings

    @torch.no_grad()
    def batches(
        self, number: int, indices: Sequence[int] | None = None, batch: int = 32
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits `[B, K]` and features `[B, GRID * GRID, D]` of view `number` of these photos, or of all, in order."""
        indices = range(len(self.images)) if indices is None else indices
        for start in range(0, len(indices), batch):
            views = np.stack(
                [
                    cached_view(self.images[i], self.photos[i], number, self.settings.augmentation, self.settings.seed)
                    for i in indices[start : start + batch]
                ]
            )
            pixels = normalised(torch.from_numpy(views).permute(0, 3, 1, 2).to(self.device))
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.half):
                logits, features = self.teacher.logits_and_features(pixels, (GRID, GRID))
            yield logits.float().cpu(), features.float().cpu()


def _principal_components(source: _ViewTargets) -> dict[str, Tensor]:
    """Mean and principal components of the features of some photos' first views."""
    count = min(len(source.images), BASIS_PHOTOS)
    chosen = np.random.default_rng(source.settings.seed).permutation(len(source.images))[:count]
    cells = torch.cat([features.flatten(0, 1) for _, features in source.batches(0, chosen.tolist())])
    mean = cells.mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov((cells - mean).T))
    kept = min(WIDTH, len(values))
    return {
        "mean": mean,
        "directions": vectors.flip(-1)[:, :kept].contiguous(),
        "deviations": values.flip(-1)[:kept].clamp(min=1e-12).sqrt(),
    }


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Compare the settings with those of the cache in the folder; write them if there is none."""
    path = folder / SETTINGS
    if path.exists():
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TrainingError(f"The teacher cache in {folder.name} is damaged.") from error
        ours = json.loads(json.dumps(settings))
        differing = [key for key in ours if saved.get(key) != ours[key]]
        if differing:
            raise OptionError(
                f"The teacher cache {folder.name} has other settings: {', '.join(differing)}. Choose another folder."
            )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(settings), encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise TrainingError(f"The teacher cache cannot be written to {folder.name}: {error.strerror}.") from error


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    """Atomic: an interruption leaves no partial file under this name."""
    part = path.with_suffix(".part")
    try:
        save_file({name: value.contiguous() for name, value in tensors.items()}, part)
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise TrainingError(f"The teacher cache cannot be written to {path.parent.name}: {error}.") from error


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
