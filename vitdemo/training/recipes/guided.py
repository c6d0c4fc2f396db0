"""Distillation from a view store, and from a small CNN that sees the student's own pixels.

The student sees a stored view or its mirror image, in other colours, and in some photos a rectangle of another view (CutMix: Yun
et al. 2019, arXiv:1905.04899). Each of its patches or cells predicts the teacher's feature at its place; what the classifier
reads predicts the teacher's summary; the logits learn the teacher's and the label.

A transformer can also have a guide, a trained CNN: tokens of early and middle blocks predict the CNN's feature maps, so that they
learn local relations from few photos (locality guidance: Li et al. 2022, arXiv:2207.10026), and the logits learn the CNN's for
the mixed pixels. A DeiT's distillation token learns the guide's most probable class (hard-label distillation: Touvron et al.
2021, arXiv:2012.12877), or without a guide the teacher's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from vitdemo.errors import OptionError
from vitdemo.models.layers import blocks
from vitdemo.models.loading import size_options
from vitdemo.training.augment import Augmentation
from vitdemo.training.data import Batches, PhotoSet
from vitdemo.training.features import accuracy, knn_score, predict
from vitdemo.training.recipes.base import (
    Recipe,
    StepContext,
    cosine_distance,
    cross_entropy,
    soft_targets,
    softened_cross_entropy,
)
from vitdemo.training.recipes.guide import Guide, guide_loss, resize_map
from vitdemo.training.recipes.mim import block_mask
from vitdemo.training.view_batches import ViewBatches, ViewSchedule
from vitdemo.training.views import ViewStore


@dataclass(frozen=True)
class LossWeights:
    """Weight of each term of the loss."""

    cells: float = 1.0
    """The teacher's feature map."""
    summary: float = 1.0
    logits: float = 1.0
    """The teacher's logits, averaged with the guide's."""
    labels: float = 0.5
    guide: float = 1.0
    """The guide's feature maps."""


@dataclass(frozen=True)
class GuidedOptions:
    """What may be varied in the recipe."""

    loss_weights: LossWeights = LossWeights()
    cutmix: float = 0.5
    """Share of the photos that get a rectangle of another one."""
    mask_ratio: float = 0.0
    """Share of the patches that are replaced by the student's mask token."""
    temperature: float = 1.0
    """At which the teacher's probabilities are learned; its classifier is sure of the photos that it was fitted to."""
    smoothing: float = 0.1
    whitening: float = 0.5
    """0 leaves the features as they are, 1 scales every component to the same variance."""


@dataclass(frozen=True)
class StudentOutput:
    """What a student computes from some pixels."""

    output: Any
    """Of transformers, with the logits if there are any."""
    cells: Tensor
    """Patch tokens, or cells of a CNN's feature map: `[B, h, w, D]`."""
    whole: Tensor
    """What the classifier reads, `[B, D]`."""
    guided: list[Tensor]
    """Patch tokens after the guided blocks, `[B, h, w, D]` each."""


class Guided(Recipe):
    """Trains a network of any family, with or without a classifier. The heads that predict features are not exported."""

    needs_labels = False
    feature_scale: Tensor
    summary_scale: Tensor

    def __init__(
        self,
        student: PreTrainedModel,
        store: ViewStore,
        allowed: NDArray[np.bool_],
        schedule: ViewSchedule,
        guide: Guide | None = None,
        options: GuidedOptions | None = None,
    ) -> None:
        """
        Args:
            allowed: `[N]`: photos of the store to train on.

        Raises:
            OptionError: a CNN is given a guide.
        """
        super().__init__()
        if guide is not None and student.config.model_type == "resnet":
            raise OptionError("A guide is for transformers.")
        self.student: PreTrainedModel = student
        self.store, self.allowed, self.schedule = store, allowed, schedule
        self.options = options or GuidedOptions()
        self.classes = len(store.photos.classes)
        self.mean_class_accuracy: float | None = None
        """Of the last evaluation of a classifier."""
        self.size = schedule.final_size
        """Resolution of the last step, at which the student is evaluated."""
        name = type(student).__name__
        self.classifies = name.endswith("Classification") or "WithTeacher" in name
        self.score_name = "accuracy" if self.classifies else "k-NN accuracy"
        self.mean_pooling = bool(getattr(student.config, "use_mean_pooling", False))
        basis, whitening = store.basis(), self.options.whitening
        # Stored features are divided by their deviations already, the summary is not.
        self.register_buffer("feature_scale", basis["deviations"] ** (1 - whitening), persistent=False)
        self.register_buffer("summary_scale", basis["summary_deviations"] ** -whitening, persistent=False)
        width = self._student_width()
        self.cell_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, store.plan.width))
        self.summary_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, store.plan.summary))
        # Under this name it stays out of the saved state: the guide has a file of its own.
        self.teacher = guide
        if guide is not None:
            depth = len(blocks(student))
            self.guided_blocks = [max(1, round(depth * quarter / 4)) - 1 for quarter in (1, 2, 3)]
            self.guide_heads = nn.ModuleList(
                nn.Sequential(nn.LayerNorm(width), nn.Linear(width, channels)) for channels in guide.widths
            )

    def batches(self, photos: PhotoSet, batch: int, size: int, seed: int) -> Batches:
        classifier = self.store.fit_classifier(self.allowed, self.schedule.first_parts)
        return ViewBatches(self.store, classifier, self.allowed, batch, self.schedule, seed)

    def augmentations(self, size: int) -> Sequence[Augmentation]:
        return (Augmentation(size),)

    def forward(
        self, views: Sequence[Tensor], labels: Tensor, context: StepContext, targets: Sequence[Tensor] = ()
    ) -> tuple[Tensor, dict[str, Tensor]]:
        self.size = views[0].shape[-1]
        features, summary, logits = targets
        # Photos without a label have all-zero targets.
        known = (labels >= 0).float()[:, None]
        truth = soft_targets(labels.clamp(min=0), self.classes, self.options.smoothing) * known
        pixels, features, (summary, teacher, truth) = self._mix(
            views[0],
            features * self.feature_scale,
            (summary * self.summary_scale, logits.softmax(dim=-1), truth),
            context,
        )
        student = self._run_student(pixels, context)
        at_cells = resize_map(features.permute(0, 3, 1, 2), student.cells.shape[1:3])
        terms = {
            "cells": cosine_distance(self.cell_head(student.cells), at_cells),
            "summary": cosine_distance(self.summary_head(student.whole), summary),
        }
        decider = teacher
        if isinstance(self.teacher, Guide):
            guide_logits, maps = self.teacher(pixels)
            decider = guide_logits.softmax(dim=-1)
            teacher = (teacher + decider) / 2
            terms["guide"] = guide_loss(self.guide_heads, student.guided, maps)
        figures = {}
        if self.classifies:
            output = student.output
            class_logits = getattr(output, "cls_logits", output.logits)
            terms["labels"] = cross_entropy(class_logits, truth)
            terms["logits"] = softened_cross_entropy(class_logits, teacher, self.options.temperature)
            if hasattr(output, "distillation_logits"):
                hard = soft_targets(decider.argmax(dim=-1), self.classes, 0.0)
                terms["logits"] = (terms["logits"] + cross_entropy(output.distillation_logits, hard)) / 2
            figures["agreement"] = (output.logits.argmax(dim=-1) == teacher.argmax(dim=-1)).float().mean()
        weights = self.options.loss_weights
        loss = torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()
        return loss, {name: term.detach() for name, term in terms.items()} | figures

    def score(self, network: nn.Module, train: PhotoSet, test: PhotoSet) -> float:
        """Top-1 accuracy, or k-NN accuracy of the class token if there is no classifier, at the resolution of the last step."""
        model: Any = network

        def run(pixels: Tensor) -> Any:
            return model(pixels, **size_options(model, pixels))

        if not self.classifies:
            return knn_score(network, lambda pixels: run(pixels).last_hidden_state[:, 0], train, test, self.size)
        training, device = network.training, next(network.parameters()).device
        network.eval()
        logits = predict(test, self.size, lambda pixels: run(pixels).logits, device, batch=16)
        network.train(training)
        correct = logits.argmax(dim=-1).numpy() == test.labels
        present = np.unique(test.labels[test.labels >= 0])
        self.mean_class_accuracy = float(np.mean([correct[test.labels == label].mean() for label in present]))
        return accuracy(logits, test)

    def _mix(
        self, pixels: Tensor, features: Tensor, targets: tuple[Tensor, ...], context: StepContext
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """CutMix in whole cells of the feature map; targets of the whole view are mixed by area."""
        rng, side = context.rng(), features.shape[1]
        pasted = np.zeros((len(pixels), side, side), bool)
        for cells in pasted:
            if rng.random() < self.options.cutmix:
                height, width = (int(extent) for extent in rng.integers(1, side, 2))
                top, left = rng.integers(0, side - height + 1), rng.integers(0, side - width + 1)
                cells[top : top + height, left : left + width] = True
        other = torch.from_numpy(rng.permutation(len(pixels))).to(pixels.device)
        mask = torch.from_numpy(pasted).to(pixels.device)
        pixel_mask = nn.functional.interpolate(mask[:, None].float(), pixels.shape[2:]).bool()
        share = mask.float().mean(dim=(1, 2))[:, None]
        return (
            torch.where(pixel_mask, pixels[other], pixels),
            torch.where(mask[..., None], features[other], features),
            [target.lerp(target[other], share) for target in targets],
        )

    @torch.no_grad()
    def _student_width(self) -> int:
        # In evaluation mode, running statistics stay as they are.
        self.student.eval()
        size = self.schedule.final_size
        width = self._run_student(torch.zeros(1, 3, size, size)).whole.shape[-1]
        self.student.train()
        return width

    def _run_student(self, pixels: Tensor, context: StepContext | None = None) -> StudentOutput:
        """Forward pass.

        Args:
            context: of a training step, which records guided blocks and may mask patches.
        """
        base: Any = self.student.base_model
        config: Any = self.student.config
        patch = int(getattr(config, "patch_size", 1)) * int(getattr(config, "feature_stride", 1))
        grid = (pixels.shape[2] // patch, pixels.shape[3] // patch)
        recorded: list[Tensor] = []
        guided: list[Tensor] = []
        hooks = [base.register_forward_hook(lambda module, args, output: recorded.append(output.last_hidden_state))]
        masks = {}
        if context is not None and self.teacher is not None:
            layers = blocks(self.student)
            hooks += [
                layers[index].register_forward_hook(lambda module, args, output: guided.append(_tokens(output)))
                for index in self.guided_blocks
            ]
        if context is not None and self.options.mask_ratio:
            masked = block_mask(len(pixels), grid, self.options.mask_ratio, context)
            masks = {"bool_masked_pos": masked.to(pixels.device)}
        try:
            output = self.student(pixels, **masks, **size_options(self.student, pixels))
        finally:
            for hook in hooks:
                hook.remove()
        hidden = recorded[0]
        if hidden.ndim == 4:  # a convolutional network's feature map
            return StudentOutput(output, hidden.permute(0, 2, 3, 1), hidden.mean(dim=(2, 3)), [])
        count = grid[0] * grid[1]
        patches = hidden[:, -count:]
        whole = patches.mean(dim=1) if self.mean_pooling else hidden[:, 0]
        return StudentOutput(
            output, patches.unflatten(1, grid), whole, [tokens[:, -count:].unflatten(1, grid) for tokens in guided]
        )


def _tokens(output: Any) -> Tensor:
    tokens: Tensor = output if isinstance(output, Tensor) else output[0]
    return tokens
