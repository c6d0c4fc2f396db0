"""What each step of the walk shows of one model, as values for the page: pictures as files, numbers as bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vitdemo.errors import OptionError, VitDemoError
from vitdemo.inspection import costs, filter_pictures, principal_filters, tokens_of
from vitdemo.models.masking import to_image
from vitdemo.models.parts import first_filters, sizes_of
from vitdemo.models.preprocess import preprocess
from vitdemo.options.explain import ExplainRequest
from vitdemo.pipeline import Pipeline, inside, learning
from vitdemo.pipeline.lens import lens
from vitdemo.pipeline.prepare import Prepared, prepare
from vitdemo.settings import ASSETS
from vitdemo.training.strip import shipped_strip
from vitdemo.types import Label, ModelSpec, Photo
from vitdemo.ui.components.quantise import base64_of, data_url
from vitdemo.ui.components.trainer import strip_value
from vitdemo.ui.inside_settings import InsideSettings

RESOLUTIONS = (96, 160, 224, 288, 336, 384, 448, 512, 640, 768, 1024)
PATCHES = (8, 14, 16, 32)
"""Sides in pixels, of pictures and of patches, whose cost is told."""

SHOWN_MAPS = 8
"""Channels of a feature map that are shown: those that vary most over the photo."""

MOST_QUERIES = 200
"""Position embeddings whose similarities are sent; of a finer grid every second one, or third, and so on."""

View = dict[str, Any]


def view_of(pipeline: Pipeline, photo: Photo, spec: ModelSpec, settings: InsideSettings) -> View:
    """One model's part of a step; with `refused` in words where the step does not apply to it."""
    prepared = prepare(photo, spec, ExplainRequest())
    left, top, right, bottom = prepared.view.crop
    width, height = photo.size
    known = {
        "model": spec.name,
        "family": spec.family,
        "grid": list(prepared.grid),
        "crop": [left / width, top / height, right / width, bottom / height],
        "patch": spec.patch_size,
        "layers": spec.num_layers,
        "heads": spec.num_heads,
        "prefix": spec.num_prefix_tokens,
    }
    try:
        step = _STEPS.get(settings.step)
        return {**known, **(step(pipeline, prepared, settings) if step else {})}
    except VitDemoError as error:
        return {**known, "refused": str(error)}


def labels_json(labels: Sequence[Label]) -> list[dict[str, Any]]:
    """Names and scores, for bars."""
    return [{"label": one.label, "score": round(one.score, 5)} for one in labels]


def bytes_json(values: NDArray[np.float32], low: float | None = None, high: float | None = None) -> dict[str, Any]:
    """Values of any shape as bytes between two ends, by default their own."""
    least = float(np.nanmin(values)) if low is None else low
    most = float(np.nanmax(values)) if high is None else high
    shares = np.nan_to_num((np.asarray(values, np.float64) - least) / max(most - least, 1e-12))
    return {"data": base64_of(np.rint(shares.clip(0, 1) * 255).astype(np.uint8)), "low": least, "high": most}


def even_json(values: NDArray[np.float32]) -> dict[str, Any]:
    """Values around 0 as bytes, in which 128 is 0."""
    most = float(np.abs(values).max())
    return bytes_json(values, -most * 128 / 127, most)


def _patches(pipeline: Pipeline, prepared: Prepared, settings: InsideSettings) -> View:
    photo, spec = prepared.photo, prepared.spec
    pixels = preprocess([photo], prepared.processor).pixel_values
    weight = pipeline.backend.look(spec, first_filters)
    count, _, high, wide = weight.shape
    principal = spec.family not in ("hybrid", "CNN")
    filters = principal_filters(weight, min(28, count, 3 * high * wide)) if principal else filter_pictures(weight)
    maps = [_sheet_of_maps(name, one) for name, one in inside.maps_of_convolutions(pipeline, spec, pixels)]
    rows, columns = prepared.grid
    return {
        "input": data_url(to_image(pixels[0], prepared.processor), "PNG"),
        "size": list(pixels.shape[2:]),
        "numbers": 3 * spec.patch_size**2,
        "width": count if principal else 0,
        "tokens": rows * columns + spec.num_prefix_tokens if spec.readouts else 0,
        "filters": {"src": _sheet(filters.numpy()), "count": len(filters), "of": count, "side": [high, wide]},
        "principal": principal,
        "maps": maps,
    }


def _positions(pipeline: Pipeline, prepared: Prepared, settings: InsideSettings) -> View:
    spec, found = prepared.spec, View()
    try:
        maps = inside.positions(pipeline, spec).numpy()
        step = 1
        while len(range(0, spec.patch_grid[0], step)) * len(range(0, spec.patch_grid[1], step)) > MOST_QUERIES:
            step += 1
        rows, columns = spec.patch_grid
        queries = [row * columns + column for row in range(0, rows, step) for column in range(0, columns, step)]
        found = {"similar": bytes_json(maps[queries], -1, 1), "step": step}
    except OptionError as error:
        found = {"without": str(error)}
    if spec.model_type == "beit":
        pictures = inside.biases(pipeline, spec).numpy()
        number = settings.layer % len(pictures)
        found |= {"bias": even_json(pictures[number]), "biased": list(pictures.shape[1:]), "layer": number}
    return {**found, **_shuffled(pipeline, prepared, settings)}


def _shuffled(pipeline: Pipeline, prepared: Prepared, settings: InsideSettings) -> View:
    """What the model says of shuffled patches; nothing of one without classes."""
    spec = prepared.spec
    if not spec.labels:
        return {}
    plain, moved, along, picture = inside.shuffle_test(pipeline, prepared.photo, spec, seed=settings.seed)
    scores = {one.index: one.score for one in plain.labels}
    return {
        "plain": labels_json(plain.labels[:3]),
        "moved": labels_json(moved.labels[:3]),
        "along": labels_json(along.labels[:3]),
        "apart": max(abs(one.score - scores[one.index]) for one in along.labels),
        "shuffled": data_url(to_image(picture[0], spec.processor), "PNG"),
    }


def _attention(pipeline: Pipeline, prepared: Prepared, settings: InsideSettings) -> View:
    photo, spec = prepared.photo, prepared.spec
    point = _seen(settings.point, prepared)
    layer, head = _within(settings.layer, spec.num_layers), min(settings.head, max(0, spec.num_heads - 1))
    steps = inside.steps(pipeline, photo, spec, layer=layer, head=head, point=point)
    prefix = spec.num_prefix_tokens
    best = torch.argsort(steps.weights, descending=True)[:5].tolist()

    def on_grid(values: Tensor) -> NDArray[np.float32]:
        return values[prefix:].view(prepared.grid).numpy()

    sizes = {"values": steps.values.norm(dim=-1), "contributions": steps.weighted.norm(dim=-1)}
    return {
        "layer": layer % spec.num_layers,
        "head": head,
        "width": len(steps.query),
        "vectors": {
            "query": even_json(steps.query.numpy()),
            "key": even_json(steps.keys[best[0]].numpy()),
            "value": even_json(steps.values[best[0]].numpy()),
            "output": even_json(steps.output.numpy()),
        },
        "maps": {
            "scores": bytes_json(on_grid(steps.scores)),
            "weights": bytes_json(on_grid(steps.weights), 0),
            **{name: bytes_json(on_grid(one), 0) for name, one in sizes.items()},
        },
        "best": [
            {
                "token": token - prefix if token >= prefix else -1 - token,
                "score": float(steps.scores[token]),
                "weight": float(steps.weights[token]),
            }
            for token in best
        ],
        "outside": float(steps.weights[:prefix].sum()),
    }


def _distance(pipeline: Pipeline, prepared: Prepared, settings: InsideSettings) -> View:
    spec, side = prepared.spec, max(prepared.spec.image_size)
    if not spec.readouts:
        return {"fields": list(inside.receptive_fields(pipeline, spec)), "side": side}
    return {"distances": inside.distances(pipeline, prepared.photo, spec).round(decimals=2).tolist(), "side": side}


def _layers(pipeline: Pipeline, prepared: Prepared, settings: InsideSettings) -> View:
    spec = prepared.spec
    found = lens(pipeline, prepared.photo, spec, top_k=3)
    names, best = np.unique(found.best, return_inverse=True)
    return {
        "target": spec.labels[found.target],
        "scores": [round(score, 5) for score in found.scores],
        "answers": [labels_json(one) for one in found.labels],
        "patches": bytes_json(found.patches, 0, 1),
        "best": base64_of(best.reshape(-1).astype("<u2").view(np.uint8)),
        "names": [spec.labels[index] for index in names.tolist()],
    }


def _cost(pipeline: Pipeline, prepared: Prepared, settings: InsideSettings) -> View:
    spec = prepared.spec
    sizes, table = pipeline.backend.look(spec, sizes_of), {}
    for patch in sorted({*PATCHES, spec.patch_size}):
        for side in sorted({*RESOLUTIONS, max(spec.image_size)}):
            parts = costs(sizes, side, side, patch)
            tokens = tokens_of(side, side, patch, spec.num_prefix_tokens)
            table[f"{side}/{patch}"] = [tokens, [[one.part, one.parameters, one.flops] for one in parts]]
    return {"table": table, "own": [max(spec.image_size), spec.patch_size], "parameters": spec.parameters}


def _training(pipeline: Pipeline, prepared: Prepared, settings: InsideSettings) -> View:
    photo, spec, found = prepared.photo, prepared.spec, View()
    if "distillation" in spec.readouts and spec.labels:
        both = learning.two_tokens(pipeline, photo, spec, top_k=3)
        found["answers"] = {name: labels_json(labels) for name, labels in both.items()}
    if spec.reconstructs:
        filled = pipeline.reconstruct(photo, spec, seed=settings.seed)
        found |= {"seen": data_url(filled.seen, "PNG"), "filled": data_url(filled.filled, "PNG")}
    elif spec.family == "BEiT":
        told = learning.masked(pipeline, photo, spec, seed=settings.seed)
        known = told.similarity[told.hidden]
        found |= {"seen": data_url(told.seen, "PNG"), "told": float(known.mean())}
        found["similarity"] = bytes_json(told.similarity.nan_to_num(1.0).numpy(), high=1)
    elif spec.family == "DINO":
        found["crops"] = [
            {"src": data_url(one.image.resize((112, 112)), "PNG"), "large": one.large, "similarity": one.similarity}
            for one in learning.crops(pipeline, photo, spec, seed=settings.seed)
        ]
    elif not found and spec.labels:
        (plain,) = pipeline.classify_each(photo, [spec], top_k=3)
        found["plain"] = labels_json(plain.labels)
    return found


def emergence_view(pipeline: Pipeline) -> View:
    """The attention of a training of ours, at steps 1, 2, 4 and so on."""
    strip = shipped_strip()
    photo = pipeline.open(ASSETS / "examples" / strip.photo)
    return {**strip_value(strip, photo), "model": "", "family": "Watch it learn", "about": strip.about}


_STEPS: dict[str, Callable[[Pipeline, Prepared, InsideSettings], View]] = {
    "patches": _patches,
    "positions": _positions,
    "attention": _attention,
    "distance": _distance,
    "layers": _layers,
    "cost": _cost,
    "training": _training,
}


def _seen(point: tuple[float, float] | None, prepared: Prepared) -> tuple[float, float] | None:
    """A point of the photo in pixels, or the nearest to it that the model sees: it was chosen on another photo, perhaps."""
    if point is None:
        return None
    left, top, right, bottom = prepared.view.crop
    width, height = prepared.photo.size
    return min(max(point[0] * width, left), right - 1), min(max(point[1] * height, top), bottom - 1)


def _within(layer: int, count: int) -> int:
    """The layer, or the last one where there are not so many."""
    return layer if -count <= layer < count else -1


def _sheet_of_maps(name: str, maps: Tensor) -> View:
    """The channels that vary most, each from its lowest to its highest value, beside each other."""
    chosen = maps.flatten(1).std(dim=1).argsort(descending=True)[:SHOWN_MAPS]
    some = maps[chosen]
    low, high = some.amin(dim=(1, 2), keepdim=True), some.amax(dim=(1, 2), keepdim=True)
    grey = ((some - low) / (high - low).clamp_min(1e-12))[..., None].expand(-1, -1, -1, 3)
    return {
        "name": name,
        "of": len(maps),
        "side": list(maps.shape[1:]),
        "count": len(some),
        "src": _sheet(grey.numpy()),
    }


def _sheet(pictures: NDArray[np.float32]) -> str:
    """Pictures `[N, h, w, 3]` in 0..1 beside each other, as PNG."""
    row = np.concatenate([*pictures], axis=1)
    return data_url(Image.fromarray(np.rint(row * 255).astype(np.uint8)), "PNG")
