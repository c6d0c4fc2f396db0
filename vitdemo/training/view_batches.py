"""Batches of stored views, at resolutions and from parts of the store that follow a schedule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vitdemo.training.augment import Augmentation, random_view
from vitdemo.training.data import Batch, Batches
from vitdemo.training.views import ViewStore


@dataclass(frozen=True)
class ViewSchedule:
    """Which views a student sees, and when."""

    steps: int
    """Steps of the run."""
    sizes: tuple[tuple[float, int], ...]
    """Share of the steps from which on a resolution is used, and that resolution."""
    reuse: float = 4.0
    """Average number of times that a view is used before the next part is computed."""
    first_parts: int = 8
    """Parts at the start of the run; the teacher's classifier is fitted to them."""
    max_parts: int = 128
    """Parts at which the store stops growing."""
    labelled: float | None = None
    """Share of the views in a batch that show photos with a label; None draws them as they are stored."""

    @property
    def final_size(self) -> int:
        """Resolution at the end of the run."""
        return self.sizes[-1][1]

    def size(self, step: int) -> int:
        """Resolution at a step."""
        return [size for share, size in self.sizes if step >= share * self.steps][-1]

    def parts(self, step: int, batch: int, views: int) -> int:
        """Parts in use at a step, with `views` views each."""
        return min(self.max_parts, self.first_parts + int(step * batch / (views * self.reuse)))


class ViewBatches(Batches):
    """Batches of views with targets: features `[B, n, n, D]` in standard deviations, summary `[B, W]`, logits `[B, K]`.

    They are not prefetched: a run in the background uses one thread.
    """

    def __init__(
        self,
        store: ViewStore,
        classifier: nn.Linear,
        allowed: NDArray[np.bool_],
        batch: int,
        schedule: ViewSchedule,
        seed: int,
    ) -> None:
        """
        Args:
            classifier: the teacher's, from summaries to logits.
            allowed: `[N]`: photos of the store to train on.
        """
        super().__init__(store.photos, batch, (Augmentation(schedule.size(0)),), seed)
        self.size = batch
        self.store, self.classifier, self.allowed, self.schedule = store, classifier, allowed, schedule
        self._rows: dict[tuple[int, bool | None], NDArray[np.int64]] = {}

    @property
    def per_epoch(self) -> int:
        """Batches that hold as many views as there are photos to train on."""
        return max(1, int(self.allowed.sum()) // self.size)

    def batch(self, step: int) -> Batch:
        """The batch of this step; batches can be drawn in any order."""
        rng = np.random.default_rng((self.seed, step, 3))
        parts = self.schedule.parts(step, self.size, self.store.plan.views)
        chosen = []
        for number in rng.integers(parts, size=self.size):
            labelled = None if self.schedule.labelled is None else bool(rng.random() < self.schedule.labelled)
            rows = self._allowed_rows(int(number), labelled)
            chosen.append(self.store.part(int(number))[rows[rng.integers(len(rows))]])
        views = np.array(chosen)
        features, pixels, size = self.store.features(views), [], self.schedule.size(step)
        for row, view in enumerate(views):
            image = self.store.crop(view)
            if rng.random() < 0.5:
                image, features[row] = image[:, ::-1], features[row, :, ::-1].copy()
            # The whole crop, squeezed into a square as for the teacher, with other colours.
            ratio = (image.shape[1] / image.shape[0],) * 2
            pixels.append(random_view(image, Augmentation(size, (1.0, 1.0), ratio, flip=False), rng))
        summary = torch.from_numpy(views["summary"].astype(np.float32))
        with torch.no_grad():
            logits = self.classifier(summary)
        return Batch(
            (torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(),),
            torch.from_numpy(self.photos.labels[views["photo"]]),
            torch.from_numpy(views["photo"].astype(np.int64)),
            (torch.from_numpy(features), summary, logits),
        )

    def __iter__(self) -> Iterator[Batch]:
        step = self.start
        while True:
            yield self.batch(step)
            step += 1

    def _allowed_rows(self, number: int, labelled: bool | None) -> NDArray[np.int64]:
        """Views of a part that show photos to train on, with or without a label; all of those where there are none."""
        if (number, labelled) not in self._rows:
            shown = self.store.part(number)["photo"]
            rows = np.flatnonzero(self.allowed[shown])
            of_kind = rows if labelled is None else rows[(self.photos.labels[shown[rows]] >= 0) == labelled]
            self._rows[number, labelled] = of_kind if len(of_kind) else rows
        return self._rows[number, labelled]
