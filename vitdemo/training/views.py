"""A growing store of views: crops of photos, and what a teacher says of each, asked when they are first needed.

Where a bank (`vitdemo.training.bank`) has the same few views of every photo, this has ever new ones, of rare classes as many as
is asked for, and a view is used a few times before the next part is asked about. So a slow teacher serves a long training, and
the student does not learn the views by heart (Beyer et al. 2022, arXiv:2106.05237: patience, and one crop for both).

A view is a box of a photo. What is kept of it are the teacher's map of features in its main directions, 8 bits each, and its
summary (the mean, or the class token), in fp16. Nothing kept depends on labels: the teacher's class scores are those of a linear
probe on the summaries.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vitdemo.errors import OptionError, TrainingError
from vitdemo.training.augment import Augmentation, crop_box, normalised
from vitdemo.training.data import PhotoSet, Pixels
from vitdemo.training.features import linear_probe

SETTINGS, BASIS = "views.json", "basis.safetensors"
REACH = 4.0
"""Deviations that the 127 steps of a byte reach to."""
BASIS_VIEWS = 1024
"""Views that the directions are found on."""
SAVE_EVERY = 256
"""Views of a part after which what is answered of it is saved: beside busy neighbours a part may take an hour."""

Answer = Callable[[Tensor], tuple[Tensor, Tensor]]
"""A teacher: normalised pixels `[B, 3, S, S]` to features `[B, n, n, D]` and their summary `[B, W]`."""


@dataclass(frozen=True)
class ViewPlan:
    """How views are drawn and what is kept of the answers. A store goes on only under the plan it was begun with."""

    teacher: str
    size: int = 160
    """Pixels a side that the teacher is given."""
    cells: int = 5
    """Cells a side of its map."""
    width: int = 96
    """Directions that are kept of a cell."""
    summary: int = 256
    """Directions that are kept of the summary."""
    views: int = 2048
    """In a part."""
    scale: tuple[float, float] = (0.25, 1.0)
    labelled: float = 0.6
    """Share of the views that are of photos with a class."""
    evenness: float = 0.6
    """0 draws labelled photos as they come, 1 every class equally often."""
    seed: int = 0


class ViewStore:
    """Parts of views in a folder. A part is the same whenever it is made, and whether or not it was made at one go."""

    def __init__(
        self,
        folder: Path,
        photos: PhotoSet,
        plan: ViewPlan,
        teacher: Callable[[], Answer],
        report: Callable[[int, int], None] = lambda part, views: None,
    ) -> None:
        """
        Args:
            teacher: makes the teacher when it is first needed.
            report: called with the number of a part and how many of its views are answered.

        Raises:
            OptionError: the folder has views of other photos, or drawn otherwise.
        """
        self.folder, self.photos, self.plan = folder, photos, plan
        self._make, self._report = teacher, report
        self._teacher: Answer | None = None
        self._parts: dict[int, NDArray[Any]] = {}
        self._settle()
        self.record = np.dtype(
            [
                ("photo", "<i4"),
                ("box", "<i2", (4,)),
                ("features", "i1", (plan.cells**2, plan.width)),
                ("summary", "<f2", (plan.summary,)),
            ]
        )
        self.weights = weights_of(photos, plan)

    def part(self, number: int) -> NDArray[Any]:
        """`[views]` records: a photo's place, a box (top, left, height, width), features, summary. Asked for if need be."""
        if number not in self._parts:
            path = self.folder / f"part-{number:05d}.npy"
            if not path.exists():
                self._ask(number, path)
            self._parts[number] = np.load(path, mmap_mode="r")
        return self._parts[number]

    @property
    def parts(self) -> int:
        """How many there are, without a gap."""
        number = 0
        while (self.folder / f"part-{number:05d}.npy").exists():
            number += 1
        return number

    def basis(self) -> dict[str, Tensor]:
        """Means, directions `[D, width]` and `[W, summary]`, and deviations `[width]` and `[summary]` along them."""
        path = self.folder / BASIS
        if not path.exists():
            self._find_directions(path)
        return load_file(path)

    def pixels(self, view: Any) -> Pixels:
        """The box of a record, cut out: `[h, w, 3]`."""
        top, left, down, across = (int(value) for value in view["box"])
        return self.photos.images[int(view["photo"])][top : top + down, left : left + across]

    def head(self, allowed: NDArray[np.bool_], parts: int, penalty: float = 1e-3) -> nn.Linear:
        """The teacher's classifier: a linear probe on the summaries of labelled views of the allowed photos, `[N]`."""
        views = [self.part(number) for number in range(parts)]
        kept = [part[(self.photos.labels[part["photo"]] >= 0) & allowed[part["photo"]]] for part in views]
        photos = np.concatenate([part["photo"] for part in kept])
        summaries = torch.from_numpy(np.concatenate([part["summary"] for part in kept]).astype(np.float32))
        return linear_probe(
            summaries, torch.from_numpy(self.photos.labels[photos]), len(self.photos.classes), penalty, 60
        )

    def _drawn(self, number: int) -> NDArray[Any]:
        random = np.random.default_rng((self.plan.seed, number))
        views = np.zeros(self.plan.views, self.record)
        views["photo"] = random.choice(len(self.photos), self.plan.views, p=self.weights)
        how = Augmentation(self.plan.size, scale=self.plan.scale)
        for view in views:
            height, width = self.photos.images[view["photo"]].shape[:2]
            view["box"] = crop_box(height, width, how, random)
        return views

    def _ask(self, number: int, path: Path) -> None:
        basis, views = self.basis(), self._drawn(number)
        part = path.with_suffix(".part")
        begun = np.load(part) if part.exists() else views[:0]
        start = len(begun)
        views[:start] = begun
        for features, summary in self._answers(views[start:]):
            some = views[start : start + len(summary)]
            along = (features.flatten(1, 2) - basis["mean"]) @ basis["directions"]
            steps = (along / basis["deviations"] * (127 / REACH)).round().clamp(-127, 127)
            some["features"] = steps.to(torch.int8).numpy()
            some["summary"] = ((summary - basis["summary_mean"]) @ basis["summary_directions"]).half().numpy()
            start += len(summary)
            if start % SAVE_EVERY == 0 and start < len(views):
                self._write(views[:start], part)
                self._report(number, start)
        self._write(views, path)
        part.unlink(missing_ok=True)
        self._report(number, start)

    def _write(self, views: NDArray[Any], path: Path) -> None:
        new = path.with_suffix(".new")
        try:
            with new.open("wb") as file:
                np.save(file, views)
            os.replace(new, path)
        except OSError as error:
            new.unlink(missing_ok=True)
            raise TrainingError(f"The views cannot be written to {self.folder.name}: {error.strerror}.") from error

    @torch.no_grad()
    def _answers(self, views: NDArray[Any], batch: int = 8) -> Any:
        # Small batches stay in the processor's cache.
        if self._teacher is None:
            self._teacher = self._make()
        for start in range(0, len(views), batch):
            seen = [scaled(self.pixels(view), self.plan.size) for view in views[start : start + batch]]
            features, summary = self._teacher(normalised(torch.from_numpy(np.stack(seen)).permute(0, 3, 1, 2)))
            yield features.float(), summary.float()

    def _find_directions(self, path: Path) -> None:
        answers = list(self._answers(self._drawn(0)[:BASIS_VIEWS]))
        cells = torch.cat([features.flatten(0, 2) for features, _ in answers])
        summaries = torch.cat([summary for _, summary in answers])
        found = {}
        for prefix, seen, kept in (("", cells, self.plan.width), ("summary_", summaries, self.plan.summary)):
            mean = seen.mean(dim=0)
            values, vectors = torch.linalg.eigh(torch.cov((seen - mean).T))
            found[prefix + "mean"] = mean
            found[prefix + "directions"] = vectors.flip(-1)[:, :kept].contiguous()
            found[prefix + "deviations"] = values.flip(-1)[:kept].clamp(min=1e-9).sqrt().contiguous()
            found[prefix + "share"] = found[prefix + "deviations"].square().sum()[None] / values.sum()
        part = path.with_suffix(".part")
        save_file(found, part)
        os.replace(part, path)

    def _settle(self) -> None:
        path = self.folder / SETTINGS
        shapes = [image.shape[:2] for image in self.photos.images]
        ours = json.loads(
            json.dumps({**vars(self.plan), "photos": len(shapes), "pixels": sum(h * w for h, w in shapes)})
        )
        if path.exists():
            theirs = json.loads(path.read_text(encoding="utf-8"))
            differing = [key for key in ours if theirs.get(key) != ours[key]]
            if differing:
                raise OptionError(f"The views in {self.folder.name} were drawn otherwise: {', '.join(differing)}.")
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(ours, indent=1), encoding="utf-8")


def weights_of(photos: PhotoSet, plan: ViewPlan) -> NDArray[np.float64]:
    """`[N]` probabilities of drawing each photo."""
    known = photos.labels >= 0
    counts = np.bincount(photos.labels[known], minlength=len(photos.classes)).clip(min=1)
    weights = np.ones(len(photos))
    weights[known] = counts[photos.labels[known]] ** -plan.evenness
    for group, share in ((known, plan.labelled), (~known, 1 - plan.labelled)):
        if group.any():
            weights[group] *= (share if not group.all() else 1.0) / weights[group].sum()
    return np.asarray(weights / weights.sum())


def scaled(pixels: Pixels, size: int) -> Pixels:
    """`[size, size, 3]`: averaged where it shrinks, interpolated where it grows."""
    way = cv2.INTER_AREA if min(pixels.shape[:2]) >= size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(np.ascontiguousarray(pixels), (size, size), interpolation=way), np.uint8)
