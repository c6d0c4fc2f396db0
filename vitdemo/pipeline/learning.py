"""What each family's training asks of a photo, answered by the finished model: two tokens, hidden patches, crops."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from PIL import Image

from vitdemo.models.masking import grey_out, hidden_patches, to_image
from vitdemo.models.parts import image_features, token_answers
from vitdemo.models.preprocess import preprocess
from vitdemo.pipeline.outputs import labels_of
from vitdemo.pipeline.pipeline import Pipeline
from vitdemo.types import Box, Capture, Knockout, Label, ModelSpec, Photo

LARGE, SMALL = (0.4, 1.0), (0.05, 0.4)
"""Shares of a photo's area that DINO's crops have: of those that teacher and student see, and of those for the student alone
(Caron et al. 2021, arXiv:2104.14294, section 3.1)."""


@dataclass(frozen=True)
class CropSimilarity:
    """One crop, as DINO's student would see it."""

    image: Image.Image
    crop: Box
    """In pixels of the photo."""
    large: bool
    similarity: float
    """Cosine of its class token to the mean of the large crops', -1 to 1."""


@dataclass(frozen=True)
class HiddenPatches:
    """What is left to see, and how well the rest is told from it."""

    seen: Image.Image
    hidden: torch.Tensor
    """`[h, w]` bool."""
    similarity: torch.Tensor
    """`[h, w]`: cosine of each hidden patch's last feature, told from the visible ones, to that with the patch in sight;
    NaN where nothing was hidden."""


def two_tokens(pipeline: Pipeline, photo: Photo, spec: ModelSpec, top_k: int = 5) -> dict[str, tuple[Label, ...]]:
    """The answers of a distilled DeiT's class and distillation tokens apart: Touvron et al. 2021, arXiv:2012.12877.

    Raises:
        OptionError: the model has no distillation token.
    """
    pixels = preprocess([photo], spec.processor).pixel_values
    answers = pipeline.backend.look(spec, partial(token_answers, pixels=pixels))
    return {name: labels_of(spec, logits, top_k) for name, logits in answers.items()}


def masked(
    pipeline: Pipeline, photo: Photo, spec: ModelSpec, *, ratio: float = 0.4, seed: int = 0, dtype: str = "auto"
) -> HiddenPatches:
    """Hide patches as BEiT's training does (Bao et al. 2022, arXiv:2106.08254), though not in blocks, and compare features.

    A hidden patch's token is the mean of the visible ones, which every ViT can take; its position embedding stays.
    """
    hidden = hidden_patches(spec.patch_grid, ratio, seed)
    pixels = preprocess([photo], spec.processor).pixel_values
    knockout = Knockout(patches=tuple(torch.nonzero(hidden.flatten()).flatten().tolist()), fill="mean")
    wanted = Capture(features=True)
    (whole,) = pipeline.backend.run(spec, pixels, wanted, dtype)
    (told,) = pipeline.backend.run(spec, pixels, replace(wanted, knockouts=(knockout,)), dtype)
    assert whole.features is not None
    assert told.features is not None
    similarity = torch.nn.functional.cosine_similarity(whole.features.values, told.features.values, dim=-1)
    similarity = similarity.view(spec.patch_grid).masked_fill(~hidden, torch.nan)
    return HiddenPatches(grey_out(to_image(pixels[0], spec.processor), hidden), hidden, similarity)


def crops(pipeline: Pipeline, photo: Photo, spec: ModelSpec, *, small: int = 6, seed: int = 0) -> list[CropSimilarity]:
    """Two large crops and some small ones, and how alike the model finds them: DINO is trained to answer alike for all."""
    numbers = torch.Generator().manual_seed(seed)
    boxes = [_crop(photo.size, LARGE if index < 2 else SMALL, numbers) for index in range(2 + small)]
    parts = [photo.image.crop(box) for box in boxes]
    square = replace(spec.processor, resize=spec.image_size, crop=None)
    pixels = preprocess([replace(photo, image=part) for part in parts], square).pixel_values
    features = torch.nn.functional.normalize(
        pipeline.backend.look(spec, partial(image_features, pixels=pixels)), dim=-1
    )
    shared = torch.nn.functional.normalize(features[:2].mean(dim=0), dim=-1)
    return [
        CropSimilarity(to_image(pixels[index], square), box, index < 2, float(features[index] @ shared))
        for index, box in enumerate(boxes)
    ]


def _crop(size: tuple[int, int], shares: tuple[float, float], numbers: torch.Generator) -> Box:
    """A random box of such a share of the area, of a shape between 3:4 and 4:3."""
    share, shape, across, down = torch.rand(4, generator=numbers).tolist()
    area = (shares[0] + share * (shares[1] - shares[0])) * size[0] * size[1]
    ratio = (3 / 4) ** (1 - 2 * shape)
    width, height = (round((area * one) ** 0.5) for one in (ratio, 1 / ratio))
    width, height = min(max(1, width), size[0]), min(max(1, height), size[1])
    left, top = round(across * (size[0] - width)), round(down * (size[1] - height))
    return left, top, left + width, top + height
