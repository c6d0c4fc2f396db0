"""A view store: crops of photos with a teacher's targets, which grows while a student trains.

A long training memorises a few stored views of every photo. A view store adds new ones part by part, oversamples rare classes,
and uses each view a few times before the teacher computes the next part. Teacher and student see the same crop, for many epochs,
as in Beyer et al. 2022, arXiv:2106.05237.

A view is a box in a photo. Of the teacher's feature map the principal components are stored, in 8 bits, and of its summary (the
mean of the map, of a transformer also its class tokens) in fp16. Nothing stored depends on labels: the teacher's logits come from
a linear probe on the summaries.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vitdemo.errors import OptionError, TrainingError
from vitdemo.training.augment import Augmentation, crop_box, normalised, resize
from vitdemo.training.data import PhotoSet, Pixels
from vitdemo.training.features import linear_probe

SETTINGS, BASIS = "views.json", "basis.safetensors"
REACH = 4.0
"""Standard deviations that the largest stored value, 127, stands for."""
BASIS_VIEWS = 1024
"""Views that the principal components are computed from."""
SAVE_EVERY = 256
"""Views after which an incomplete part is saved: with a slow teacher a part may take an hour."""
TEACHER_BATCH = 8
"""Views per forward pass of the teacher: small batches stay in the processor's cache."""

ViewTeacher = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Normalised pixels `[B, 3, S, S]` to features `[B, n, n, D]` and their summary `[B, W]`."""


@dataclass(frozen=True)
class ViewPlan:
    """How views are drawn, and what is stored of the targets. A store grows only under the plan that it was started with."""

    teacher: str
    size: int = 160
    """Side of the teacher's input in pixels."""
    cells: int = 5
    """Side of its feature map."""
    width: int = 96
    """Principal components of the features that are stored."""
    summary: int = 256
    """Principal components of the summary that are stored."""
    views: int = 2048
    """Views per part."""
    scale: tuple[float, float] = (0.25, 1.0)
    """Area of the crop as a share of the photo's."""
    labelled: float = 0.6
    """Share of the views that show photos with a label."""
    evenness: float = 0.6
    """0 draws labelled photos uniformly, 1 draws every class equally often."""
    seed: int = 0


class ViewStore:
    """Parts of views in a folder. A part depends only on the plan, not on when it was computed or how often interrupted."""

    def __init__(
        self,
        folder: Path,
        photos: PhotoSet,
        plan: ViewPlan,
        teacher: Callable[[], ViewTeacher],
        report: Callable[[int, int], None] = lambda part, views: None,
    ) -> None:
        """
        Args:
            teacher: loads it; not called if nothing is missing.
            report: called with the number of a part and of its finished views.

        Raises:
            OptionError: the folder holds views of other photos, or of another plan.
        """
        self.folder, self.photos, self.plan = folder, photos, plan
        self._load_teacher, self._report = teacher, report
        self._teacher: ViewTeacher | None = None
        self._parts: dict[int, NDArray[Any]] = {}
        self._check_settings()
        self.record = np.dtype(
            [
                ("photo", "<i4"),
                ("box", "<i2", (4,)),
                ("features", "i1", (plan.cells**2, plan.width)),
                ("summary", "<f2", (plan.summary,)),
            ]
        )
        self.probabilities = sampling_probabilities(photos, plan)

    def part(self, number: int) -> NDArray[Any]:
        """`[views]` records: index of the photo, box (top, left, height, width), features, summary. Computed if missing."""
        if number not in self._parts:
            path = self.folder / f"part-{number:05d}.npy"
            if not path.exists():
                self._fill(number, path)
            self._parts[number] = np.load(path, mmap_mode="r")
        return self._parts[number]

    def basis(self) -> dict[str, Tensor]:
        """Of features and summary: mean, `directions` `[D, width]`, `deviations` `[width]`, and share of explained variance."""
        path = self.folder / BASIS
        if not path.exists():
            self._compute_basis(path)
        return load_file(path)

    def crop(self, view: Any) -> Pixels:
        """The pixels in the box of a record, `[h, w, 3]`."""
        top, left, down, across = (int(value) for value in view["box"])
        return self.photos.images[int(view["photo"])][top : top + down, left : left + across]

    def features(self, views: NDArray[Any]) -> NDArray[np.float32]:
        """`[B, cells, cells, width]`: the features of some records, in standard deviations."""
        shape = (len(views), self.plan.cells, self.plan.cells, self.plan.width)
        return np.asarray(views["features"].astype(np.float32) * np.float32(REACH / 127)).reshape(shape)

    def fit_classifier(self, allowed: NDArray[np.bool_], parts: int, penalty: float = 1e-3) -> nn.Linear:
        """The teacher's classifier: a linear probe on the summaries of the first parts.

        Args:
            allowed: `[N]`: photos to fit it to, if they have a label.
        """
        views = [self.part(number) for number in range(parts)]
        known = [part[(self.photos.labels[part["photo"]] >= 0) & allowed[part["photo"]]] for part in views]
        labels = self.photos.labels[np.concatenate([part["photo"] for part in known])]
        summaries = torch.from_numpy(np.concatenate([part["summary"] for part in known]).astype(np.float32))
        return linear_probe(summaries, torch.from_numpy(labels), len(self.photos.classes), penalty, steps=60)

    def _draw(self, number: int) -> NDArray[Any]:
        """The records of a part, without targets."""
        rng = np.random.default_rng((self.plan.seed, number))
        views = np.zeros(self.plan.views, self.record)
        views["photo"] = rng.choice(len(self.photos), self.plan.views, p=self.probabilities)
        augmentation = Augmentation(self.plan.size, scale=self.plan.scale)
        for view in views:
            height, width = self.photos.images[view["photo"]].shape[:2]
            view["box"] = crop_box(height, width, augmentation, rng)
        return views

    def _fill(self, number: int, path: Path) -> None:
        basis, views = self.basis(), self._draw(number)
        incomplete = path.with_suffix(".part")
        saved = np.load(incomplete) if incomplete.exists() else views[:0]
        done = len(saved)
        views[:done] = saved
        for features, summary in self._targets(views[done:]):
            batch = views[done : done + len(summary)]
            components = (features.flatten(1, 2) - basis["mean"]) @ basis["directions"] / basis["deviations"]
            batch["features"] = (components * (127 / REACH)).round().clamp(-127, 127).to(torch.int8).numpy()
            batch["summary"] = ((summary - basis["summary_mean"]) @ basis["summary_directions"]).half().numpy()
            done += len(summary)
            if done % SAVE_EVERY == 0 and done < len(views):
                self._write(views[:done], incomplete)
                self._report(number, done)
        self._write(views, path)
        incomplete.unlink(missing_ok=True)
        self._report(number, done)

    def _write(self, views: NDArray[Any], path: Path) -> None:
        """Atomic: an interruption leaves no partial file under this name."""
        new = path.with_suffix(".new")
        try:
            with new.open("wb") as file:
                np.save(file, views)
            os.replace(new, path)
        except OSError as error:
            new.unlink(missing_ok=True)
            raise TrainingError(f"The views cannot be written to {self.folder.name}: {error.strerror}.") from error

    @torch.no_grad()
    def _targets(self, views: NDArray[Any]) -> Iterator[tuple[Tensor, Tensor]]:
        if self._teacher is None:
            self._teacher = self._load_teacher()
        for start in range(0, len(views), TEACHER_BATCH):
            crops = [resize(self.crop(view), self.plan.size) for view in views[start : start + TEACHER_BATCH]]
            features, summary = self._teacher(normalised(torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)))
            yield features.float(), summary.float()

    def _compute_basis(self, path: Path) -> None:
        targets = list(self._targets(self._draw(0)[:BASIS_VIEWS]))
        cells = torch.cat([features.flatten(0, 2) for features, _ in targets])
        summaries = torch.cat([summary for _, summary in targets])
        basis = {}
        for prefix, rows, kept in (("", cells, self.plan.width), ("summary_", summaries, self.plan.summary)):
            mean = rows.mean(dim=0)
            # In float32 this fails to converge where fewer rows than dimensions leave many eigenvalues at 0.
            values, vectors = (part.float() for part in torch.linalg.eigh(torch.cov((rows - mean).double().T)))
            variances = values.flip(-1)[:kept].clamp(min=1e-9)
            basis[prefix + "mean"] = mean
            basis[prefix + "directions"] = vectors.flip(-1)[:, :kept].contiguous()
            basis[prefix + "deviations"] = variances.sqrt().contiguous()
            basis[prefix + "share"] = variances.sum()[None] / values.sum()
        part = path.with_suffix(".part")
        save_file(basis, part)
        os.replace(part, path)

    def _check_settings(self) -> None:
        """Compare the settings with those of the store in the folder; write them if there is none."""
        path = self.folder / SETTINGS
        shapes = [image.shape[:2] for image in self.photos.images]
        ours = json.loads(
            json.dumps({**vars(self.plan), "photos": len(shapes), "pixels": sum(h * w for h, w in shapes)})
        )
        if path.exists():
            saved = json.loads(path.read_text(encoding="utf-8"))
            differing = [key for key in ours if saved.get(key) != ours[key]]
            if differing:
                raise OptionError(f"The view store {self.folder.name} has other settings: {', '.join(differing)}.")
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(ours, indent=1), encoding="utf-8")


def sampling_probabilities(photos: PhotoSet, plan: ViewPlan) -> NDArray[np.float64]:
    """`[N]`: how probable it is that a view shows each photo."""
    known = photos.labels >= 0
    counts = np.bincount(photos.labels[known], minlength=len(photos.classes)).clip(min=1)
    weights = np.ones(len(photos))
    weights[known] = counts[photos.labels[known]] ** -plan.evenness
    for group, share in ((known, plan.labelled), (~known, 1 - plan.labelled)):
        if group.any():
            weights[group] *= (share if not group.all() else 1.0) / weights[group].sum()
    return np.asarray(weights / weights.sum())
