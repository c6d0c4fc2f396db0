"""The classifier of a network, read off after each of its blocks.

The tokens after a block go through the final normalisation and the head as those of the last block do, so that a layer's answer
is that of the network cut off after it (nostalgebraist 2020, "interpreting GPT: the logit lens"; for ViTs Vilas et al. 2023,
arXiv:2310.18969).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vitdemo.engine.attribute import targets_of
from vitdemo.engine.outputs import finite
from vitdemo.models.layers import blocks, head_of, watching
from vitdemo.models.loading import Classifier
from vitdemo.types import Attribution, LayerReadings, Lens


def read_off(model: Classifier, pixels: Tensor, request: Lens) -> tuple[Tensor, list[LayerReadings], list[int]]:
    """Logits `[B, K]`, readings and target of images `[B, 3, H, W]`; of a model with blocks and a classifier.

    A patch is read as if its token were all that the classifier reads: the class token, or the mean of all patches.

    Raises:
        OptionError: there is no such class, or none of that rank.
        InvalidScoresError: scores are not finite.
    """
    spec = model.spec
    prefix, grid = spec.num_prefix_tokens, spec.grid_of(pixels.shape[2], pixels.shape[3])
    head = head_of(model.network, model.probe, prefix, spec.pooling == "mean")
    with torch.no_grad():
        with watching(blocks(model.network), inputs=False) as seen:
            logits = model(pixels)
        assert logits is not None
        targets = targets_of(logits, Attribution("lens", request.target, request.rank))
        columns = torch.tensor(targets, device=pixels.device)
        layers, patches, best = [], [], []
        # A copy of the list: a head must not be watched.
        for tokens in list(seen):
            layers.append(head(tokens).float())
            alone = tokens[:, prefix:].flatten(0, 1)[:, None].expand(-1, prefix + 1, -1)
            scores = (head(alone).float() / spec.temperature).softmax(dim=-1).unflatten(0, (len(pixels), -1))
            patches.append(scores.gather(2, columns[:, None, None].expand(-1, scores.shape[1], 1))[..., 0])
            best.append(scores.argmax(dim=-1))
    read = finite(torch.stack(layers, dim=1).cpu(), "scores", spec, pixels.dtype)
    alone, winners = (torch.stack(part, dim=1).unflatten(2, grid).cpu() for part in (patches, best))
    alone = finite(alone, "scores", spec, pixels.dtype)
    return (
        logits,
        [LayerReadings(*(part[row].clone() for part in (read, alone, winners))) for row in range(len(pixels))],
        targets,
    )
