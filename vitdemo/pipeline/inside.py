"""What a model consists of and computes, for one photo where it needs one: ready to be drawn."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from vitdemo.attribution import patch_attention
from vitdemo.engine import ModelRun
from vitdemo.errors import OptionError
from vitdemo.inspection import (
    Cost,
    HeadSteps,
    attention_distance,
    bias_pictures,
    costs,
    filter_pictures,
    head_steps,
    position_similarity,
    receptive_field,
)
from vitdemo.models.interventions import shuffled_pixels
from vitdemo.models.parts import bias_tables, convolutions, feature_maps, first_filters, position_table, sizes_of
from vitdemo.models.preprocess import preprocess
from vitdemo.options.explain import ExplainRequest, Point, resolve_layer
from vitdemo.pipeline.outputs import prediction_of
from vitdemo.pipeline.pipeline import Pipeline
from vitdemo.pipeline.prepare import Prepared, prepare
from vitdemo.types import Capture, LayerQueries, ModelSpec, Photo, Prediction, Shuffle


def positions(pipeline: Pipeline, spec: ModelSpec) -> Tensor:
    """`[h * w, h, w]`: see `vitdemo.inspection.position_similarity`.

    Raises:
        OptionError: the model has no position embeddings.
    """
    return position_similarity(*pipeline.backend.look(spec, position_table))


def biases(pipeline: Pipeline, spec: ModelSpec) -> Tensor:
    """`[L, H, 2h - 1, 2w - 1]`: see `vitdemo.inspection.bias_pictures`; L is 1 where all layers share one.

    Raises:
        OptionError: the model has no relative position bias.
    """
    tables, grid = pipeline.backend.look(spec, bias_tables)
    return torch.stack([bias_pictures(table, grid) for table in tables])


def filters(pipeline: Pipeline, spec: ModelSpec) -> Tensor:
    """`[D, h, w, 3]` RGB in 0..1: the filters that pixels meet first."""
    return filter_pictures(pipeline.backend.look(spec, first_filters))


def maps_of_convolutions(pipeline: Pipeline, spec: ModelSpec, pixels: Tensor) -> list[tuple[str, Tensor]]:
    """What the first layer and each stage of convolutions make of `[1, 3, H, W]`: names and `[D, h, w]`."""
    return pipeline.backend.look(spec, partial(feature_maps, pixels=pixels))


def distances(pipeline: Pipeline, photo: Photo, spec: ModelSpec, *, dtype: str = "auto") -> Tensor:
    """`[L, H]`: mean attention distance in pixels of the model's input.

    Raises:
        OptionError: the model has no attention.
    """
    prepared = prepare(photo, spec, ExplainRequest())
    layers = _queries(pipeline, prepared, Capture(queries=True), dtype)
    rows = [torch.from_numpy(patch_attention(layer, prepared.grid)) for layer in layers]
    return torch.stack([attention_distance(layer, spec.patch_size) for layer in rows])


def receptive_fields(pipeline: Pipeline, spec: ModelSpec) -> tuple[int, ...]:
    """Side in pixels, after each layer of a CNN.

    Raises:
        OptionError: the model is no CNN.
    """
    return receptive_field(pipeline.backend.look(spec, convolutions))


def steps(
    pipeline: Pipeline,
    photo: Photo,
    spec: ModelSpec,
    *,
    layer: int | str = -1,
    head: int = 0,
    point: Point | None = None,
    dtype: str = "auto",
) -> HeadSteps:
    """One head of one layer, for the patch at a point of the photo; without a point, for the first token.

    Raises:
        OptionError: the model has no such layer, head or attention, or does not see that point.
    """
    prepared = prepare(photo, spec, ExplainRequest(point=point))
    layers = _queries(pipeline, prepared, Capture(queries=True, values=True), dtype)
    token = 0 if point is None else spec.num_prefix_tokens + prepared.patch
    return head_steps(layers[resolve_layer(layer, spec.num_layers)], head, token)


def costs_of(pipeline: Pipeline, spec: ModelSpec, height: int, width: int, patch: int) -> tuple[Cost, ...]:
    """What a network of this model's sizes holds and computes at another resolution and patch size.

    Raises:
        OptionError: the model is no plain ViT, or the image is smaller than a patch.
    """
    return costs(pipeline.backend.look(spec, sizes_of), height, width, patch)


def shuffled(
    pipeline: Pipeline,
    photo: Photo,
    spec: ModelSpec,
    *,
    seed: int = 0,
    along: bool = False,
    top_k: int = 5,
    dtype: str = "auto",
) -> tuple[Prediction, Shuffle]:
    """What a model answers when the patches of its input change places, and their order.

    Args:
        seed: of the order.
        along: whether patches take their positions along: see `vitdemo.types.Shuffle`.
    """
    shuffle = _order(spec, seed, along)
    pixels = preprocess([photo], spec.processor).pixel_values
    (output,) = pipeline.backend.run(spec, pixels, Capture(shuffle=shuffle), dtype)
    return prediction_of(spec, output, top_k), shuffle


def shuffle_test(
    pipeline: Pipeline, photo: Photo, spec: ModelSpec, *, seed: int = 0, dtype: str = "auto"
) -> tuple[Prediction, Prediction, Prediction, Tensor]:
    """All scores for a photo as it is, with its patches moved, and with their positions taken along, in one call of the backend.

    Returns:
        The three predictions, and pixels `[1, 3, H, W]` with the patches moved.
    """
    moved, along = _order(spec, seed, False), _order(spec, seed, True)
    pixels = preprocess([photo], spec.processor).pixel_values
    captures = (Capture(), Capture(shuffle=moved), Capture(shuffle=along))
    answers = pipeline.backend.run_many([ModelRun(spec, pixels, capture, dtype) for capture in captures])
    plain, other, kept = (prediction_of(spec, output, len(spec.labels)) for (output,) in answers)
    return plain, other, kept, shuffled_pixels(pixels, torch.tensor(moved.order), spec.patch_grid, spec.patch_size)


def _order(spec: ModelSpec, seed: int, along: bool) -> Shuffle:
    count = spec.patch_grid[0] * spec.patch_grid[1]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return Shuffle(tuple(order), along)


def _queries(pipeline: Pipeline, prepared: Prepared, capture: Capture, dtype: str) -> tuple[LayerQueries, ...]:
    spec = prepared.spec
    if not spec.readouts:
        raise OptionError(f"{spec.name} is a convolutional network: it has no attention. Choose a Vision Transformer.")
    pixels = preprocess([prepared.photo], prepared.processor).pixel_values
    (output,) = pipeline.backend.run(spec, pixels, capture, dtype)
    return output.queries
