"""Distillation from cached targets (see `vitdemo.training.teacher_cache`).

The student sees a cached view, or its mirror image. Each patch token predicts the teacher's feature at its patch; what the
classifier reads (the class token, or the mean of the patch tokens) predicts their mean; the logits learn the teacher's and the
label.
Shen & Xing 2022, arXiv:2112.01528 (FKD); feature distillation: Wei et al. 2022, arXiv:2205.14141.
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
from vitdemo.training.config import STATE
from vitdemo.training.data import Batch, Batches, PhotoSet
from vitdemo.training.features import refit_classifier
from vitdemo.training.recipes.base import Recipe, StepContext, cosine_distance, cross_entropy, soft_targets
from vitdemo.training.recipes.mim import block_mask
from vitdemo.training.recipes.supervised import classifier_score
from vitdemo.training.teacher_cache import GRID, TeacherCache

LOSS_WEIGHTS = {"patches": 1.0, "whole": 1.0, "logits": 1.0, "labels": 0.5}
"""Terms of the loss: features at the patches, the mean feature, the teacher's logits, and the labels."""

WHITENING = 0.5
"""Exponent of the scaling of the features: 0 leaves them as they are, 1 scales every component to the same variance."""


@dataclass(frozen=True)
class StudentOutput:
    """What a student computes from some pixels."""

    output: Any
    """Of transformers, with the logits."""
    patches: Tensor
    """Patch tokens, `[B, n, D]`."""
    whole: Tensor
    """What the classifier reads, `[B, D]`."""
    kept: Tensor | None
    """Indices of the patches, `[B, n]`, if some were dropped."""
    grid: tuple[int, int]


class CachedBatches(Batches):
    """Batches of cached views with the teacher's logits `[B, K]` and features `[B, GRID * GRID, D]` as targets.

    Each epoch shows the next view of every photo, and half of the views, at random, mirrored.
    """

    def __init__(self, photos: PhotoSet, cache: TeacherCache, batch: int, resolution: int, seed: int) -> None:
        super().__init__(photos, batch, (cache.augmentation,), seed)
        self.cache, self.resolution = cache, resolution
        self.rows = cache.rows(photos)

    def batch(self, step: int) -> Batch:
        """The batch of this step; batches can be drawn in any order."""
        epoch, indices = self.indices_at(step)
        mirrored = np.random.default_rng((self.seed, step, 3)).random(len(indices)) < 0.5
        views, logits, features = [], [], []
        for i, mirror in zip(indices, mirrored, strict=True):
            row = int(self.rows[i])
            number = (epoch + row) % self.cache.views
            pixels = self.cache.view(self.photos.images[i], row, number, self.resolution)
            target = self.cache.features[number][row]
            if mirror:
                pixels, target = pixels[:, ::-1], target.unflatten(0, (GRID, GRID)).flip(1).flatten(0, 1)
            views.append(pixels)
            logits.append(self.cache.logits[number][row])
            features.append(target)
        stacked = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).contiguous()
        return Batch(
            (stacked,),
            torch.from_numpy(self.photos.labels[indices]),
            torch.from_numpy(indices),
            (torch.stack(logits).float(), torch.stack(features).float()),
        )


class CachedDistill(Recipe):
    """Trains a classifier with two heads that predict features; the heads are not exported."""

    needs_labels = False
    scale: Tensor

    def __init__(
        self,
        student: nn.Module,
        cache: TeacherCache,
        classes: int,
        size: int,
        *,
        mask_ratio: float = 0.0,
        keep_ratio: float = 1.0,
        cutmix: float = 0.0,
    ) -> None:
        """
        Args:
            mask_ratio: share of the patches that are replaced by the student's mask token.
            keep_ratio: share of the patches that enter the layers at all (Li et al. 2023, arXiv:2212.00794): training on fewer
                is cheaper and overfits less.
            cutmix: share of the photos in which a rectangle, targets included, is replaced by another photo's (CutMix).
        """
        super().__init__()
        if not isinstance(student, PreTrainedModel):
            raise OptionError("Cached targets train transformers architectures only: use vit instead of scratch.")
        if keep_ratio < 1 and student.config.model_type not in ("vit", "deit", "vit-hybrid"):
            raise OptionError("Patches can be dropped in vit, deit and hybrid only.")
        self.student, self.cache = student, cache
        self.classes, self.size = classes, size
        self.mask_ratio, self.keep_ratio, self.cutmix = mask_ratio, keep_ratio, cutmix
        scale = cache.deviations() ** -WHITENING
        self.register_buffer("scale", scale / scale[0], persistent=False)
        self.mean_pooling = bool(getattr(student.config, "use_mean_pooling", False))
        width = self._run_student(torch.zeros(1, 3, size, size)).whole.shape[-1]
        self.patch_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, cache.width))
        self.whole_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, cache.width))

    def batches(self, photos: PhotoSet, batch: int, size: int, seed: int) -> Batches:
        return CachedBatches(photos, self.cache, batch, size, seed)

    def augmentations(self, size: int) -> Sequence[Augmentation]:
        return (self.cache.augmentation,)

    def forward(
        self, views: Sequence[Tensor], labels: Tensor, context: StepContext, targets: Sequence[Tensor] = ()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits, features = targets
        known = (labels >= 0).float()[:, None]
        # Background photos have no label: their targets are all zero.
        truth = soft_targets(labels.clamp(min=0), self.classes) * known
        pixels, features, teacher, truth = self._mix(views[0], features, logits.softmax(dim=-1), truth, context)
        student = self._run_student(pixels, context if self.training else None)
        output, features = student.output, features * self.scale
        at_patches = self._resize(features, student.grid)
        if student.kept is not None:
            at_patches = at_patches.gather(1, student.kept[:, :, None].expand(-1, -1, at_patches.shape[-1]))
        terms = {
            "patches": cosine_distance(self.patch_head(student.patches), at_patches),
            "whole": cosine_distance(self.whole_head(student.whole), features.mean(dim=1)),
        }
        if hasattr(output, "distillation_logits"):
            terms["labels"] = cross_entropy(output.cls_logits, truth)
            terms["logits"] = nn.functional.cross_entropy(output.distillation_logits.float(), teacher.argmax(dim=-1))
        else:
            terms["labels"] = cross_entropy(output.logits, truth)
            terms["logits"] = cross_entropy(output.logits, teacher)
        agreement = (output.logits.argmax(dim=-1) == teacher.argmax(dim=-1)).float().mean()
        loss = torch.stack([LOSS_WEIGHTS[name] * term for name, term in terms.items()]).sum()
        return loss, {name: term.detach() for name, term in terms.items()} | {"agreement": agreement}

    def finish(self, network: nn.Module, train: PhotoSet) -> bool:
        """Refit the classifier."""
        refit_classifier(network, train, self.size)
        return True

    def score(self, network: nn.Module, train: PhotoSet, test: PhotoSet) -> float:
        return classifier_score(network, test, self.size)

    def load_heads(self, folder: Path) -> bool:
        """Load the heads of a finished run in this folder, at whatever resolution. Returns whether they fit."""
        try:
            state = torch.load(folder / STATE, map_location="cpu", weights_only=True)["recipe"]
        except Exception:  # no run, or another kind of run: the heads stay random
            return False
        heads = {key: value for key, value in state.items() if key.startswith(("patch_head.", "whole_head."))}
        own = self.state_dict()
        if not heads or any(key not in own or own[key].shape != value.shape for key, value in heads.items()):
            return False
        self.load_state_dict({**own, **heads})
        return True

    def _mix(
        self, pixels: Tensor, features: Tensor, teacher: Tensor, truth: Tensor, context: StepContext
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """CutMix in whole cells, of pixels and targets alike."""
        if not self.cutmix or not self.training:
            return pixels, features, teacher, truth
        rng = context.rng()
        pasted = np.zeros((len(pixels), GRID, GRID), bool)
        for cells in pasted:
            if rng.random() < self.cutmix:
                side = float(np.sqrt(rng.random()))
                height, width = (min(GRID - 1, max(1, round(GRID * side))) for _ in range(2))
                top, left = rng.integers(0, GRID - height + 1), rng.integers(0, GRID - width + 1)
                cells[top : top + height, left : left + width] = True
        other = torch.from_numpy(rng.permutation(len(pixels))).to(pixels.device)
        mask = torch.from_numpy(pasted).to(pixels.device)
        pixel_mask = nn.functional.interpolate(mask[:, None].float(), pixels.shape[2:]).bool()
        share = mask.float().mean(dim=(1, 2))[:, None]
        return (
            torch.where(pixel_mask, pixels[other], pixels),
            torch.where(mask.flatten(1)[:, :, None], features[other], features),
            teacher.lerp(teacher[other], share),
            truth.lerp(truth[other], share),
        )

    def _run_student(self, pixels: Tensor, context: StepContext | None = None) -> StudentOutput:
        """Forward pass.

        Args:
            context: of a training step, which may mask or drop patches.
        """
        recorded: list[Tensor] = []
        base: Any = self.student.base_model
        config: Any = self.student.config
        patch = int(getattr(config, "patch_size", 1)) * int(getattr(config, "feature_stride", 1))
        grid = (pixels.shape[2] // patch, pixels.shape[3] // patch)
        masks, kept = {}, None
        hooks = [base.register_forward_hook(lambda module, args, output: recorded.append(output.last_hidden_state))]
        if context is not None and self.mask_ratio:
            masks = {"bool_masked_pos": block_mask(len(pixels), grid, self.mask_ratio, context).to(pixels.device)}
        if context is not None and self.keep_ratio < 1:
            order = context.rng().random((len(pixels), grid[0] * grid[1])).argsort(axis=1)
            kept = torch.from_numpy(order[:, : max(1, round(order.shape[1] * self.keep_ratio))]).to(pixels.device)
            hooks.append(base.embeddings.register_forward_hook(_DropPatches(kept, grid[0] * grid[1])))
        try:
            output = self.student(pixels, **masks)
        finally:
            for hook in hooks:
                hook.remove()
        hidden = recorded[0]
        if hidden.ndim == 4:  # a convolutional network's feature map
            patches = hidden.flatten(2).transpose(1, 2)
            return StudentOutput(output, patches, patches.mean(dim=1), None, (hidden.shape[2], hidden.shape[3]))
        patches = hidden[:, -(grid[0] * grid[1] if kept is None else kept.shape[1]) :]
        return StudentOutput(output, patches, patches.mean(dim=1) if self.mean_pooling else hidden[:, 0], kept, grid)

    @staticmethod
    def _resize(features: Tensor, grid: tuple[int, int]) -> Tensor:
        if grid == (GRID, GRID):
            return features
        maps = features.transpose(1, 2).unflatten(2, (GRID, GRID))
        resized = nn.functional.interpolate(maps, grid, mode="bilinear", align_corners=False)
        return resized.flatten(2).transpose(1, 2)


class _DropPatches:
    """A hook on embeddings that keeps the prefix tokens and the patches `kept`, `[B, n]`."""

    def __init__(self, kept: Tensor, patches: int) -> None:
        self.kept, self.patches = kept, patches

    def __call__(self, module: nn.Module, args: Any, tokens: Tensor) -> Tensor:
        prefix, patches = tokens[:, : -self.patches], tokens[:, -self.patches :]
        return torch.cat([prefix, patches.gather(1, self.kept[:, :, None].expand(-1, -1, tokens.shape[-1]))], dim=1)
