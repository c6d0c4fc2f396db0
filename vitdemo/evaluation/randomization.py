"""Do maps depend on what a model has learned? Its weights are randomised, as in Adebayo et al. 2018, arXiv:1810.03292."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from vitdemo.attribution import rank_correlation
from vitdemo.engine import LocalBackend
from vitdemo.models.layers import blocks
from vitdemo.models.loading import Classifier, load_model
from vitdemo.options.explain import ExplainRequest
from vitdemo.options.methods import METHODS
from vitdemo.pipeline import Pipeline
from vitdemo.settings import Settings
from vitdemo.types import ModelSpec, Photo


def randomisation(
    spec: ModelSpec,
    photos: Sequence[Photo],
    methods: Sequence[str],
    settings: Settings,
    seed: int = 0,
    variant: str | None = None,
) -> dict[str, list[float | None]]:
    """Rank correlation of each method's map with that of the same model whose last blocks have random weights.

    Args:
        variant: of the methods that have it; the others are measured as usual.

    Returns:
        By method: one number for each quarter of the blocks that are randomised, from the head backwards, then for all of the
        network; mean over the photos, None where the maps are flat. A method that depends on what was learned falls towards 0.
    """
    trained = Pipeline(settings)
    classes = [trained.classify([photo], spec)[0].labels for photo in photos]
    found: dict[str, list[float | None]] = {method: [] for method in methods}
    for quarter in (1, 2, 3, 4):
        random = Pipeline(settings, LocalBackend(settings, load=_randomised(quarter / 4, seed)))
        for method in methods:
            values = []
            for photo, labels in zip(photos, classes, strict=True):
                # Both explain the class that the trained model predicts.
                own = variant if variant in METHODS[method].variant_names else None
                request = ExplainRequest(method, target=labels[0].index if labels else None, variant=own)
                first, second = (pipeline.explain(photo, spec, request) for pipeline in (trained, random))
                if first.map is not None and second.map is not None:
                    values.append(rank_correlation(first.map, first.view, second.map, second.view))
            known = [value for value in values if value is not None]
            found[method].append(float(np.mean(known)) if known else None)
    return found


def _randomised(share: float, seed: int) -> Callable[..., Classifier]:
    def load(spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> Classifier:
        model = load_model(spec, torch.device("cpu"), torch.float32)
        layers = blocks(model.network) or list(model.network.base_model.get_submodule("encoder.stages").children())
        count = max(1, round(share * len(layers)))
        parts: list[nn.Module] = [model.network] if share == 1 else layers[len(layers) - count :]
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for part in parts:
                for weights in part.parameters():
                    # Of the same spread, so that nothing grows or dies: only what was learned is gone.
                    spread = weights.std() if weights.numel() > 1 else weights.abs().mean()
                    weights.copy_(weights.mean() + spread * torch.randn(weights.shape))
        return model.to(device, dtype)

    return load
