"""Learning from a growing store of views, and of a small CNN that looks at the very pixels of the step.

The student sees a view as the store's teacher saw it, or its mirror image, in other colours, and in a part of the photos with a
rectangle of another view (CutMix: Yun et al. 2019, arXiv:1905.04899). Each of its cells is to tell the teacher's feature at its
place, what it classifies from the teacher's summary, and its logits the teacher's classes and the label.

A transformer may have a guide besides, a trained CNN: early and middle blocks tell the CNN's maps, so that they learn from few
photos what lies close together (locality guidance: Li et al. 2022, arXiv:2207.10026), and the logits tell the CNN's classes for
the mixed pixels themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel, ResNetForImageClassification

from vitdemo.errors import OptionError
from vitdemo.nn.heads import blocks
from vitdemo.training.augment import Augmentation, random_view
from vitdemo.training.data import Batch, Batches, PhotoSet
from vitdemo.training.features import neighbour_score, over
from vitdemo.training.recipes.base import Moment, Recipe, cross_entropy, logits_of, soft_targets
from vitdemo.training.recipes.mim import block_mask
from vitdemo.training.teachers import channels_last
from vitdemo.training.views import REACH, ViewStore

GUIDING = (1, 2, 3)
"""Stages of the CNN, from 0, that guide the blocks at one, two and three quarters of the depth."""


@dataclass(frozen=True)
class Shares:
    """What each part of the loss counts."""

    cells: float = 1.0
    """The teacher's features at the places of the student's cells."""
    summary: float = 1.0
    logits: float = 1.0
    labels: float = 0.5
    guide: float = 1.0
    """The CNN's maps."""


@dataclass(frozen=True)
class Diet:
    """Which views a student is given, and when."""

    steps: int
    """Of the run."""
    sizes: tuple[tuple[float, int], ...]
    """Pixels a side, each from a share of the steps on."""
    reuse: float = 4.0
    """How often a view is used before the next part of the store is asked for."""
    first: int = 8
    """Parts that the run begins with, and that the teacher's classifier is fitted to."""
    most: int = 128
    """Parts that it ends with."""

    def size(self, step: int) -> int:
        """Pixels a side at a step."""
        return [size for share, size in self.sizes if step >= share * self.steps][-1]

    def parts(self, step: int, batch: int, views: int) -> int:
        """Parts that are there at a step."""
        return min(self.most, self.first + int(step * batch / (views * self.reuse)))


class ViewBatches(Batches):
    """Batches of views with the teacher's answers: features `[B, n, n, D]` in deviations, summary `[B, W]`, logits `[B, K]`.

    They are made in turn with the steps, not beside them: one thread is all that a run in the background takes.
    """

    def __init__(
        self,
        photos: PhotoSet,
        store: ViewStore,
        head: nn.Linear,
        allowed: NDArray[np.bool_],
        batch: int,
        diet: Diet,
        seed: int,
    ) -> None:
        """
        Args:
            allowed: `[N]`: photos of the store that are trained on.
        """
        super().__init__(photos, batch, (Augmentation(diet.size(0)),), seed)
        self.size = batch
        self.store, self.head, self.allowed, self.diet = store, head, allowed, diet
        self._rows: dict[int, NDArray[np.int64]] = {}

    @property
    def per_epoch(self) -> int:
        """Batches in which there are as many views as photos are allowed."""
        return max(1, int(self.allowed.sum()) // self.size)

    def batch(self, step: int) -> Batch:
        """The batch of this step, whichever was asked for before."""
        random = np.random.default_rng((self.seed, step, 3))
        parts = self.diet.parts(step, self.size, self.store.plan.views)
        chosen = []
        for number in random.integers(parts, size=self.size):
            rows = self._allowed(int(number))
            chosen.append(self.store.part(int(number))[rows[random.integers(len(rows))]])
        views = np.array(chosen)
        side, pixels = self.diet.size(step), []
        steps = views["features"].astype(np.float32) * (REACH / 127)
        features = steps.reshape(len(views), self.store.plan.cells, self.store.plan.cells, -1)
        for place, view in enumerate(views):
            image = self.store.pixels(view)
            if random.random() < 0.5:
                image, features[place] = image[:, ::-1], features[place, :, ::-1].copy()
            whole = (image.shape[1] / image.shape[0],) * 2
            pixels.append(random_view(image, Augmentation(side, (1.0, 1.0), whole, flip=False), random))
        summary = torch.from_numpy(views["summary"].astype(np.float32))
        stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
        labels = torch.from_numpy(self.store.photos.labels[views["photo"]])
        with torch.no_grad():
            logits = self.head(summary)
        return Batch(
            (stacked,),
            labels,
            torch.from_numpy(views["photo"].astype(np.int64)),
            (torch.from_numpy(features), summary, logits),
        )

    def __iter__(self) -> Iterator[Batch]:
        step = self.start
        while True:
            yield self.batch(step)
            step += 1

    def _allowed(self, number: int) -> NDArray[np.int64]:
        if number not in self._rows:
            self._rows[number] = np.flatnonzero(self.allowed[self.store.part(number)["photo"]])
        return self._rows[number]


class Guide(nn.Module):
    """A trained CNN: its maps and logits, never trained itself."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        network = ResNetForImageClassification.from_pretrained(folder, dtype=torch.float32)
        self.network = channels_last(network).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Guide:
        return super().train(False)

    @property
    def widths(self) -> list[int]:
        """Channels of the maps."""
        return [int(self.network.config.hidden_sizes[stage]) for stage in GUIDING]

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits `[B, K]` and maps `[B, C, h, w]`."""
        output = self.network(pixels, output_hidden_states=True)
        return output.logits.float(), [output.hidden_states[1 + stage].float() for stage in GUIDING]


class Guided(Recipe):
    """A network of any family, with a classifier or without; heads that tell features are left behind in the end."""

    needs_labels = False

    def __init__(
        self,
        student: PreTrainedModel,
        store: ViewStore,
        allowed: NDArray[np.bool_],
        diet: Diet,
        size: int,
        guide: Guide | None = None,
        shares: Shares | None = None,
        mix: float = 0.5,
        hidden: float = 0.0,
        smoothing: float = 0.1,
        evenness: float = 0.5,
    ) -> None:
        """
        Args:
            allowed: `[N]`: photos of the store that are trained on.
            mix: share of the photos that get a rectangle of another one.
            hidden: share of the patches in whose place a student with a mask token has that token.
            evenness: 0 takes the features as they are, 1 gives every direction the same weight.
        """
        super().__init__()
        self.student: PreTrainedModel = student
        self.store, self.allowed, self.diet, self.size = store, allowed, diet, size
        self.shares = shares or Shares()
        self.mix, self.hidden, self.smoothing = mix, hidden, smoothing
        self.classes = len(store.photos.classes)
        self.said: dict[str, float] = {}
        """More about the last score."""
        kind = getattr(student.config, "model_type", "")
        self.classifies = type(student).__name__.endswith("Classification") or "WithTeacher" in type(student).__name__
        self.means = bool(getattr(student.config, "use_mean_pooling", False))
        if guide is not None and kind == "resnet":
            raise OptionError("A guide is for transformers.")
        basis = store.basis()
        self.register_buffer("even", basis["deviations"] ** (1 - evenness), persistent=False)
        self.register_buffer("even_summary", basis["summary_deviations"] ** -evenness, persistent=False)
        with torch.no_grad():
            # Not in training: the means of normalisations stay as they are.
            student.eval()
            width = self._read(torch.zeros(1, 3, size, size), None)[2].shape[-1]
            student.train()
        self.cell_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, store.plan.width))
        self.summary_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, store.plan.summary))
        self.teacher = guide
        # Not a part of its state: the guide itself is a file.
        if guide is not None:
            depth = len(blocks(student))
            self.guided = [max(1, round(depth * part / 4)) - 1 for part in range(1, 1 + len(GUIDING))]
            self.guide_heads = nn.ModuleList(
                nn.Sequential(nn.LayerNorm(width), nn.Linear(width, channels)) for channels in guide.widths
            )

    def batches(self, photos: PhotoSet, batch: int, size: int, seed: int) -> Batches:
        head = self.store.head(self.allowed, self.diet.first)
        return ViewBatches(photos, self.store, head, self.allowed, batch, self.diet, seed)

    def augmentations(self, size: int) -> Sequence[Augmentation]:
        return (Augmentation(size),)

    def forward(
        self, views: Sequence[Tensor], labels: Tensor, moment: Moment, targets: Sequence[Tensor] = ()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        features, summary, logits = targets
        assert isinstance(self.even, Tensor)
        assert isinstance(self.even_summary, Tensor)
        features, summary = features * self.even, summary * self.even_summary
        # A photo of no class pulls towards no class: its row of targets is empty.
        known = (labels >= 0).float()[:, None]
        truth = soft_targets(labels.clamp(min=0), self.classes, self.smoothing) * known
        taught = logits.softmax(dim=-1)
        pixels, (features, summary, taught, truth) = self._mixed(views[0], features, (summary, taught, truth), moment)
        output, cells, whole, middle = self._read(pixels, moment)
        parts = {
            "cells": _distance(self.cell_head(cells), _resized(features.permute(0, 3, 1, 2), cells.shape[1:3])),
            "summary": _distance(self.summary_head(whole), summary),
        }
        figures = {}
        if isinstance(self.teacher, Guide):
            guiding, maps = self.teacher(pixels)
            taught = (taught + guiding.softmax(dim=-1)) / 2
            parts["guide"] = torch.stack(
                [
                    _distance(head(tokens), _resized(_standard(found), tokens.shape[1:3]))
                    for head, tokens, found in zip(self.guide_heads, middle, maps, strict=True)
                ]
            ).mean()
        if self.classifies:
            if hasattr(output, "distillation_logits"):
                parts["labels"] = cross_entropy(output.cls_logits, truth)
                parts["logits"] = cross_entropy(output.distillation_logits, taught)
            else:
                parts["labels"] = cross_entropy(output.logits, truth)
                parts["logits"] = cross_entropy(output.logits, taught)
            figures["agreement"] = (output.logits.argmax(dim=-1) == taught.argmax(dim=-1)).float().mean()
        loss = torch.stack([getattr(self.shares, name) * part for name, part in parts.items()]).sum()
        return loss, {name: part.detach() for name, part in parts.items()} | figures

    def score(self, network: nn.Module, train: PhotoSet, test: PhotoSet) -> float:
        """Top-1, with the mean per class beside it in `said`; of a network that names no classes, that of nearest neighbours."""
        if not self.classifies:

            def token(pixels: Tensor) -> Tensor:
                found: Tensor = network(pixels).last_hidden_state[:, 0]
                return found

            return neighbour_score(
                network, token, train.subset(np.flatnonzero(self.allowed)).labelled(), test, self.size
            )
        training, device = network.training, next(network.parameters()).device
        network.eval()
        best = over(test, self.size, lambda pixels: logits_of(network, pixels), device, batch=16).argmax(dim=-1).numpy()
        network.train(training)
        right = best == test.labels
        each = [right[test.labels == label].mean() for label in np.unique(test.labels)]
        self.said = {"per_class": float(np.mean(each))}
        return float(right.mean())

    def _mixed(
        self, pixels: Tensor, features: Tensor, others: tuple[Tensor, ...], moment: Moment
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Rectangles of other views, cut along the cells of the map; what is told of a whole view is mixed by area."""
        random, side = moment.random(), features.shape[1]
        pasted = np.zeros((len(pixels), side, side), bool)
        for cells in pasted:
            if random.random() < self.mix:
                down, across = (int(extent) for extent in random.integers(1, side, 2))
                top, left = random.integers(0, side - down + 1), random.integers(0, side - across + 1)
                cells[top : top + down, left : left + across] = True
        other = torch.from_numpy(random.permutation(len(pixels))).to(pixels.device)
        mask = torch.from_numpy(pasted).to(pixels.device)
        there = nn.functional.interpolate(mask[:, None].float(), pixels.shape[2:]).bool()
        share = mask.float().mean(dim=(1, 2))[:, None]
        pixels = torch.where(there, pixels[other], pixels)
        features = torch.where(mask[..., None], features[other], features)
        first, second, third = (value.lerp(value[other], share) for value in others)
        return pixels, (features, first, second, third)

    def _read(self, pixels: Tensor, moment: Moment | None) -> tuple[Any, Tensor, Tensor, list[Tensor]]:
        """Output, cells `[B, h, w, D]`, what is classified from `[B, D]`, and the cells after the guided blocks."""
        base: Any = self.student.base_model
        config: Any = self.student.config
        patch = int(getattr(config, "patch_size", 1)) * int(getattr(config, "feature_stride", 1))
        grid = (pixels.shape[2] // patch, pixels.shape[3] // patch)
        kept: list[Any] = []
        middle: list[Tensor] = []
        hooks = [base.register_forward_hook(lambda module, inputs, output: kept.append(output.last_hidden_state))]
        if moment is not None and getattr(self, "teacher", None) is not None:
            layers = blocks(self.student)
            hooks += [
                layers[place].register_forward_hook(lambda module, inputs, output: middle.append(_first(output)))
                for place in self.guided
            ]
        more = {}
        if moment is not None and self.hidden:
            more = {"bool_masked_pos": block_mask(len(pixels), grid, self.hidden, moment).to(pixels.device)}
        try:
            output = self.student(pixels, **more)
        finally:
            for hook in hooks:
                hook.remove()
        found = kept[0]
        if found.ndim == 4:
            return output, found.permute(0, 2, 3, 1), found.mean(dim=(2, 3)), []
        count = grid[0] * grid[1]
        patches = found[:, -count:]
        whole = patches.mean(dim=1) if self.means else found[:, 0]
        return output, patches.unflatten(1, grid), whole, [tokens[:, -count:].unflatten(1, grid) for tokens in middle]


def _first(output: Any) -> Tensor:
    found: Tensor = output if isinstance(output, Tensor) else output[0]
    return found


def _standard(found: Tensor) -> Tensor:
    """Each channel of `[B, C, h, w]` with mean 0 and deviation 1 over the batch: a strong channel is not all that is told."""
    mean = found.mean(dim=(0, 2, 3), keepdim=True)
    return (found - mean) / (found.std(dim=(0, 2, 3), keepdim=True) + 1e-5)


def _resized(found: Tensor, grid: Sequence[int]) -> Tensor:
    """`[B, D, n, m]` to `[B, h, w, D]`: averaged where cells become fewer, interpolated where they become more."""
    size = (int(grid[0]), int(grid[1]))
    if found.shape[2] > size[0]:
        found = nn.functional.adaptive_avg_pool2d(found, size)
    elif tuple(found.shape[2:]) != size:
        found = nn.functional.interpolate(found, size, mode="bilinear", align_corners=False)
    return found.permute(0, 2, 3, 1)


def _distance(told: Tensor, wanted: Tensor) -> Tensor:
    """One less the cosine, meaned."""
    return 1 - nn.functional.cosine_similarity(told.float(), wanted, dim=-1).mean()
