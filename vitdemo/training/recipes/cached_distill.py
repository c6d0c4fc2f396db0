"""Learning from a bank of views: a teacher's answers that were kept beside the views (see `vitdemo.training.teacher_cache`).

The student sees a banked view, or its mirror image. Each patch token is to tell the teacher's feature at its place, what the
student classifies from (the class token, or the mean of the patches) their mean, and the logits the teacher's and the label.
Shen & Xing 2022, arXiv:2112.01528 (FKD); features of a teacher: Wei et al. 2022, arXiv:2205.14141.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vitdemo.errors import OptionError
from vitdemo.training.augment import Augmentation
from vitdemo.training.data import Batch, Batches, PhotoSet
from vitdemo.training.features import refit
from vitdemo.training.recipes.base import STATE, Moment, Recipe, cross_entropy, soft_targets
from vitdemo.training.recipes.mim import block_mask
from vitdemo.training.recipes.supervised import classifier_score
from vitdemo.training.teacher_cache import GRID, Bank


@dataclass(frozen=True)
class Weights:
    """What each part of the loss counts."""

    patches: float = 1.0
    """Features at the places of the patches."""
    whole: float = 1.0
    """The mean feature."""
    logits: float = 1.0
    labels: float = 0.5


class BankedBatches(Batches):
    """Batches of banked views with the teacher's answers as targets: logits `[B, K]`, features `[B, GRID * GRID, D]`.

    In each epoch a photo shows the next of its views, and every other time, at random, the mirror image of it.
    """

    def __init__(self, photos: PhotoSet, bank: Bank, batch: int, size: int, seed: int) -> None:
        super().__init__(photos, batch, (bank.augmentation,), seed)
        self.bank, self.pixels = bank, size
        self.rows = bank.rows(photos)

    def batch(self, step: int) -> Batch:
        """The batch of this step, whichever was asked for before."""
        epoch, indices = self.places(step)
        random = np.random.default_rng((self.seed, step, 3))
        mirrored = random.random(len(indices)) < 0.5
        views, logits, features = [], [], []
        for i, mirror in zip(indices, mirrored, strict=True):
            row = int(self.rows[i])
            number = (epoch + row) % self.bank.views
            pixels = self.bank.view(self.photos.images[i], row, number, self.pixels)
            found = self.bank.features[number][row]
            if mirror:
                pixels, found = pixels[:, ::-1], found.unflatten(0, (GRID, GRID)).flip(1).flatten(0, 1)
            views.append(pixels)
            logits.append(self.bank.logits[number][row])
            features.append(found)
        stacked = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).contiguous()
        return Batch(
            (stacked,),
            torch.from_numpy(self.photos.labels[indices]),
            torch.from_numpy(indices),
            (torch.stack(logits).float(), torch.stack(features).float()),
        )


class Banked(Recipe):
    """A network with a classifier, and heads that tell features; the heads are left behind in the end."""

    needs_labels = False
    scale: Tensor

    def __init__(
        self,
        student: nn.Module,
        bank: Bank,
        classes: int,
        size: int,
        weights: Weights | None = None,
        smoothing: float = 0.1,
        temperature: float = 1.0,
        evenness: float = 0.5,
        hidden: float = 0.0,
        keep: float = 1.0,
        mix: float = 0.0,
    ) -> None:
        """
        Args:
            evenness: 0 takes the features as they are, 1 gives every direction the same weight (whitening).
            hidden: share of the patches in whose place a student with a mask token has that token.
            keep: share of the patches that enter the layers at all (Li et al. 2023, arXiv:2212.00794): fewer cost less, and
                cannot be learned by heart.
            mix: share of the photos that have a rectangle of another one, and its answers there (CutMix).
        """
        super().__init__()
        if not isinstance(student, PreTrainedModel):
            raise OptionError("A bank teaches the architectures of transformers: take vit instead of scratch.")
        if keep < 1 and student.config.model_type not in ("vit", "deit", "vit-hybrid"):
            raise OptionError("Patches can be left out of vit, deit and hybrid alone.")
        self.student, self.bank = student, bank
        self.classes, self.size = classes, size
        self.weights = weights or Weights()
        self.smoothing, self.temperature, self.hidden, self.keep, self.mix = smoothing, temperature, hidden, keep, mix
        scale = bank.deviations() ** -evenness
        self.register_buffer("scale", scale / scale[0], persistent=False)
        self.means = bool(getattr(student.config, "use_mean_pooling", False))
        width = self._read(torch.zeros(1, 3, size, size))[1].shape[-1]
        self.patch_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, bank.width))
        self.whole_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, bank.width))

    def batches(self, photos: PhotoSet, batch: int, size: int, seed: int) -> Batches:
        return BankedBatches(photos, self.bank, batch, size, seed)

    def augmentations(self, size: int) -> Sequence[Augmentation]:
        return (self.bank.augmentation,)

    def forward(
        self, views: Sequence[Tensor], labels: Tensor, moment: Moment, targets: Sequence[Tensor] = ()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits, features = targets
        known = (labels >= 0).float()[:, None]
        # A photo of no class pulls towards no class: its row of targets is empty.
        truth = soft_targets(labels.clamp(min=0), self.classes, self.smoothing) * known
        taught = (logits / self.temperature).softmax(dim=-1)
        pixels, features, taught, truth = self._mixed(views[0], features, taught, truth, moment)
        output, patches, whole, chosen, grid = self._read(pixels, moment if self.training else None)
        wanted = features * self.scale
        at_patches = self._resized(wanted, grid)
        if chosen is not None:
            at_patches = at_patches.gather(1, chosen[:, :, None].expand(-1, -1, at_patches.shape[-1]))
        parts = {
            "patches": _distance(self.patch_head(patches), at_patches),
            "whole": _distance(self.whole_head(whole), wanted.mean(dim=1)),
        }
        if hasattr(output, "distillation_logits"):
            parts["labels"] = cross_entropy(output.cls_logits, truth)
            parts["logits"] = nn.functional.cross_entropy(output.distillation_logits.float(), taught.argmax(dim=-1))
        else:
            parts["labels"] = cross_entropy(output.logits, truth)
            parts["logits"] = cross_entropy(output.logits / self.temperature, taught) * self.temperature**2
        agreement = (output.logits.argmax(dim=-1) == taught.argmax(dim=-1)).float().mean()
        loss = torch.stack([getattr(self.weights, name) * part for name, part in parts.items()]).sum()
        return loss, {name: part.detach() for name, part in parts.items()} | {"agreement": agreement}

    def finish(self, network: nn.Module, train: PhotoSet) -> bool:
        """The classifier is fitted anew."""
        refit(network, train, self.size)
        return True

    def score(self, network: nn.Module, train: PhotoSet, test: PhotoSet) -> float:
        return classifier_score(network, test, self.size)

    def take_heads(self, folder: Path) -> bool:
        """Take over the heads of a banked run that ended in this folder, at whatever size of photos; whether they fit."""
        try:
            found = torch.load(folder / STATE, map_location="cpu", weights_only=True)["recipe"]
        except Exception:  # no run, or another kind of run: the heads are learned anew
            return False
        heads = {key: value for key, value in found.items() if key.startswith(("patch_head.", "whole_head."))}
        own = self.state_dict()
        if not heads or any(key not in own or own[key].shape != value.shape for key, value in heads.items()):
            return False
        self.load_state_dict({**own, **heads})
        return True

    def _mixed(
        self, pixels: Tensor, features: Tensor, taught: Tensor, truth: Tensor, moment: Moment
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Each photo with a rectangle of cells from another one, and all that is known of them alike."""
        if not self.mix or not self.training:
            return pixels, features, taught, truth
        random = moment.random()
        pasted = np.zeros((len(pixels), GRID, GRID), bool)
        for cells in pasted:
            if random.random() < self.mix:
                side = float(np.sqrt(random.random()))
                down, across = (min(GRID - 1, max(1, round(GRID * side))) for _ in range(2))
                top, left = random.integers(0, GRID - down + 1), random.integers(0, GRID - across + 1)
                cells[top : top + down, left : left + across] = True
        other = torch.from_numpy(random.permutation(len(pixels))).to(pixels.device)
        mask = torch.from_numpy(pasted).to(pixels.device)
        there = nn.functional.interpolate(mask[:, None].float(), pixels.shape[2:]).bool()
        share = mask.float().mean(dim=(1, 2))[:, None]
        return (
            torch.where(there, pixels[other], pixels),
            torch.where(mask.flatten(1)[:, :, None], features[other], features),
            taught.lerp(taught[other], share),
            truth.lerp(truth[other], share),
        )

    def _read(
        self, pixels: Tensor, moment: Moment | None = None
    ) -> tuple[Any, Tensor, Tensor, Tensor | None, tuple[int, int]]:
        """Output, patch tokens `[B, n, D]`, what is classified from `[B, D]`, which patches these are `[B, n]`, grid.

        Args:
            moment: of a step that hides patches or leaves them out.
        """
        kept: list[Tensor] = []
        base: Any = self.student.base_model
        config: Any = self.student.config
        patch = int(getattr(config, "patch_size", 1)) * int(getattr(config, "feature_stride", 1))
        grid = (pixels.shape[2] // patch, pixels.shape[3] // patch)
        more, chosen = {}, None
        hooks = [base.register_forward_hook(lambda module, inputs, output: kept.append(output.last_hidden_state))]
        if moment is not None and self.hidden:
            more = {"bool_masked_pos": block_mask(len(pixels), grid, self.hidden, moment).to(pixels.device)}
        if moment is not None and self.keep < 1:
            order = moment.random().random((len(pixels), grid[0] * grid[1])).argsort(axis=1)
            chosen = torch.from_numpy(order[:, : max(1, round(order.shape[1] * self.keep))]).to(pixels.device)
            hooks.append(base.embeddings.register_forward_hook(_Chosen(chosen, grid[0] * grid[1])))
        try:
            output = self.student(pixels, **more)
        finally:
            for hook in hooks:
                hook.remove()
        found = kept[0]
        if found.ndim == 4:
            patches = found.flatten(2).transpose(1, 2)
            return output, patches, patches.mean(dim=1), None, (found.shape[2], found.shape[3])
        patches = found[:, -(grid[0] * grid[1] if chosen is None else chosen.shape[1]) :]
        return output, patches, patches.mean(dim=1) if self.means else found[:, 0], chosen, grid

    @staticmethod
    def _resized(features: Tensor, grid: tuple[int, int]) -> Tensor:
        if grid == (GRID, GRID):
            return features
        maps = features.transpose(1, 2).unflatten(2, (GRID, GRID))
        resized = nn.functional.interpolate(maps, grid, mode="bilinear", align_corners=False)
        return resized.flatten(2).transpose(1, 2)


class _Chosen:
    """A hook on embeddings: the prefix tokens and the chosen patches `[B, n]` alone go on."""

    def __init__(self, chosen: Tensor, patches: int) -> None:
        self.chosen, self.patches = chosen, patches

    def __call__(self, module: nn.Module, inputs: Any, tokens: Tensor) -> Tensor:
        prefix, patches = tokens[:, : -self.patches], tokens[:, -self.patches :]
        some = patches.gather(1, self.chosen[:, :, None].expand(-1, -1, tokens.shape[-1]))
        return torch.cat([prefix, some], dim=1)


def _distance(told: Tensor, wanted: Tensor) -> Tensor:
    """One less the cosine, meaned."""
    return 1 - nn.functional.cosine_similarity(told.float(), wanted, dim=-1).mean()
