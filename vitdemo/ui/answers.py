"""What programs can ask of the app, over HTTP or MCP: the same JSON as the command line, a picture and a file.

Clients of both read these docstrings: each one has to tell all by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import PIL.Image

from vitdemo.errors import ImageError
from vitdemo.evaluation.faithfulness import faithfulness as measured
from vitdemo.export.inspection import ablation_json, ablation_npz
from vitdemo.export.results import (
    comparison_json,
    explanation_json,
    faithfulness_json,
    model_json,
    npz,
    prediction_json,
    reconstruction_json,
    segmentation_json,
)
from vitdemo.export.segmentation import archive
from vitdemo.options.explain import ExplainRequest, parse_point
from vitdemo.options.knockout import parse_fill, parse_heads, parse_numbers, resolve_ranking
from vitdemo.options.segment import RESOLUTION, SegmentRequest, parse_head
from vitdemo.pipeline import Pipeline
from vitdemo.pipeline.ablate import ablate as ablated
from vitdemo.pipeline.segment import segment as segment_photos
from vitdemo.registry import (
    available_models,
    default_models,
    get_spec,
    ready_models,
    reconstructing_model,
    segmenting_model,
)
from vitdemo.rendering.figures import comparison_figure, reconstruction_figure
from vitdemo.rendering.masks import segmentation_overlay
from vitdemo.rendering.overlay import overlay
from vitdemo.types import Knockout, Photo
from vitdemo.ui.choices import specs_of


@dataclass(frozen=True)
class Answer:
    """JSON, and what stands beside it."""

    entry: Any
    picture: PIL.Image.Image | None = None
    file: Callable[[], bytes] | None = None


def answers(pipeline: Pipeline) -> dict[str, Callable[..., Answer]]:
    """The functions, by name."""

    def models() -> Answer:
        """Every model; only those with "offline": true are on this server and can be used.

        Of each: name, family, source, number of parameters, image size [height, width] and patch size in pixels, number of
        classes, bytes of its weights, the attribution methods that apply to it, licence and revision.
        """
        return Answer([model_json(spec) for spec in available_models()])

    def classify(image: Photo | None, models: list[str] | None = None, top_k: int | None = 5) -> Answer:
        """What is in a photo: the best labels of one or several Vision Transformers, with their probabilities (0 to 1).

        The embedded models know 100 everyday classes; "note" says where the photo probably shows none of them.

        Args:
            image: an image URL (http or https) or a data URL, as text; over HTTP an uploaded file too.
            models: names from /models; empty means the first one.
            top_k: how many labels of each model, from 1.
        """
        photo = required(image)
        specs = specs_of(models or (), pipeline.settings) or [ready_models()[0]]
        found = pipeline.classify_each(photo, specs, top_k=max(1, int(top_k or 5)))
        return Answer([{"image": photo.name, "results": [prediction_json(prediction) for prediction in found]}])

    def explain(
        image: Photo | None,
        model: str | None = None,
        method: str = "attention",
        layer: int | None = -1,
        head: str = "mean",
        readout: str | None = None,
        target: str | None = None,
        resolution: int | None = None,
        discard: float | None = 0.0,
        point: str | None = None,
        faithfulness: bool = False,
        variant: str | None = None,
    ) -> Answer:
        """Where one model looked in a photo: the facts as JSON and in words, its labels, and the map in colour over the photo.

        "attention", "rollout" and "similarity" are the same for every class; the other methods explain one class, `target`.
        Attention shows where information was read, not why a class was chosen.

        Args:
            image: an image URL (http or https) or a data URL, as text; over HTTP an uploaded file too.
            model: a name from /models; empty means the first one.
            method: one of the "methods" that /models lists for the model.
            layer: for attention, counted from 0, or from the last as -1, -2, ...
            head: for attention, "mean", "max" or "min" of all heads, or one's number from 0; for rollout, how heads are fused.
            readout: for attention, whose attention: "class", "distillation", "mean" or "patch"; empty means the model's own.
            target: a label, an index or "top:K", for methods that explain a class; empty means the predicted class.
            resolution: long side in pixels to enlarge the photo to, for a finer map; empty means the model's own input.
            discard: for rollout, share of the smallest attention that is left out, from 0, below 1.
            point: for similarity and the readout "patch", "X,Y" in pixels of the upright photo; empty means its middle.
            faithfulness: also measure how the score falls and rises with the patches that the map names; takes longer.
            variant: for rollout, "by-row" or "vit-explain"; for legrad, "last-layers" or "all-layers"; empty means the first.
        """
        photo = required(image)
        spec = get_spec(model) if model else ready_models()[0]
        request = _request(method, layer, head, readout, target, resolution, discard, point, variant)
        explanation = pipeline.explain(photo, spec, request)
        entry = {"image": photo.name, **explanation_json(explanation)}
        if faithfulness:
            entry["faithfulness"] = faithfulness_json(measured(pipeline, photo, spec, request))
        picture = overlay(photo, explanation.view, explanation.map) if explanation.map is not None else None
        return Answer(entry, picture, lambda: npz(explanation, entry))

    def compare(
        image: Photo | None,
        models: list[str] | None = None,
        layer: int | None = -1,
        head: str = "mean",
        method: str = "attention",
        target: str | None = None,
        readout: str | None = None,
        resolution: int | None = None,
        discard: float | None = 0.0,
        point: str | None = None,
        variant: str | None = None,
    ) -> Answer:
        """Several models on one photo: the labels and the map of each, how far each pair agrees, and a figure of all maps.

        Agreement of a pair: whether both have the same best label, rank correlation of the maps (-1 to 1), and IoU (0 to 1) of
        the patches that hold the top fifth of each map. A model to which the method does not apply has no map, and says why.

        Args:
            image: an image URL (http or https) or a data URL, as text; over HTTP an uploaded file too.
            models: names from /models; empty means every embedded one.
            layer: for attention, counted from 0, or from the last as -1, -2, ...
            head: for attention, "mean", "max" or "min" of all heads, or one's number from 0; for rollout, how heads are fused.
            method: one of the "methods" that /models lists.
            target: a label, an index or "top:K", for methods that explain a class; empty means each model's predicted class.
            readout: for attention, "class", "distillation", "mean" or "patch"; empty means each model's own.
            resolution: long side in pixels to enlarge the photo to, for finer maps; empty means each model's own input.
            discard: for rollout, share of the smallest attention that is left out, from 0, below 1.
            point: for similarity and the readout "patch", "X,Y" in pixels of the upright photo; empty means its middle.
            variant: for rollout, "by-row" or "vit-explain"; for legrad, "last-layers" or "all-layers"; empty means the first.
        """
        photo = required(image)
        specs = specs_of(models or (), pipeline.settings) or list(default_models(pipeline.settings))
        request = _request(method, layer, head, readout, target, resolution, discard, point, variant)
        comparison = pipeline.compare(photo, specs, request)
        figure = comparison_figure(photo, comparison.explanations)
        return Answer({"image": photo.name, **comparison_json(comparison)}, figure)

    def reconstruct(image: Photo | None, model: str | None = None, ratio: float = 0.75, seed: int = 0) -> Answer:
        """What a masked autoencoder makes up for hidden patches: the facts as JSON; crop, input and result as a picture.

        Args:
            image: an image URL (http or https) or a data URL, as text; over HTTP an uploaded file too.
            model: a masked autoencoder from /models; empty means the first one that is on the server.
            ratio: share of the patches that is hidden, above 0 and below 1.
            seed: which ones.
        """
        photo = required(image)
        spec = get_spec(model) if model else reconstructing_model()
        found = pipeline.reconstruct(photo, spec, ratio=ratio, seed=int(seed))
        entry = {"image": photo.name, **reconstruction_json(found, ratio, int(seed))}
        return Answer(entry, reconstruction_figure(photo, found))

    def ablate(
        image: Photo | None,
        model: str | None = None,
        heads: str | None = None,
        attention: str | None = None,
        mlp: str | None = None,
        patches: str | None = None,
        fill: str = "grey",
        rank: str | None = None,
        top: int | None = 10,
        target: str | None = None,
        method: str = "attention",
        layer: int | None = -1,
        head: str = "mean",
        resolution: int | None = None,
    ) -> Answer:
        """What changes while parts of a network are off or patches hidden: scores and map before and after, side by side.

        "score" is the probability of one class (0 to 1), `target`, before and after. Attention maps leave out heads that are
        off. With `rank`, every head or block is switched off by itself, and those that change the score most are listed.

        Args:
            image: an image URL (http or https) or a data URL, as text; over HTTP an uploaded file too.
            model: a name from /models; empty means the first one.
            heads: heads that are off, as "LAYER:HEAD,...", from 0.
            attention: layers whose attention block is off, as "0,4-6".
            mlp: layers whose MLP block is off, as "0,4-6".
            patches: hidden patches, row by row from 0, as "0,14-16".
            fill: what hides them: "grey", "mean" (of the visible patch tokens) or "mae" (what a masked autoencoder makes up).
            rank: "heads" or "blocks"; empty means no ranking.
            top: how many parts of the ranking are listed, from 1.
            target: a label, an index or "top:K"; empty means the class predicted before.
            method: one of the "methods" that /models lists for the model.
            layer: for attention, counted from 0, or from the last as -1, -2, ...
            head: for attention, "mean", "max" or "min" of all heads, or one's number from 0; for rollout, how heads are fused.
            resolution: long side in pixels to enlarge the photo to, for a finer map; empty means the model's own input.
        """
        photo = required(image)
        spec = get_spec(model) if model else ready_models()[0]
        layers = (parse_numbers(attention, "layer"), parse_numbers(mlp, "layer"))
        off = Knockout(parse_heads(heads), *layers, parse_numbers(patches, "patch"), parse_fill(fill))
        request = _request(method, layer, head, None, target, resolution, None, None, None)
        found = ablated(pipeline, photo, spec, off, request, rank=resolve_ranking(rank))
        entry = {"image": photo.name, **ablation_json(found, max(1, int(top or 10)))}
        figure = comparison_figure(photo, (found.before, found.after))
        return Answer(entry, figure, lambda: ablation_npz(found, entry))

    def segment(
        image: Photo | None,
        model: str | None = None,
        method: str = "foreground",
        threshold: float | None = 0.6,
        head: str = "mean",
        objects: int | None = 1,
        tau: float | None = None,
        parts: int | None = 4,
        within: bool = True,
        point: str | None = None,
        matches: int | None = 5,
        refine: bool = False,
        clip: bool = False,
        resolution: int | None = RESOLUTION,
    ) -> Answer:
        """Unsupervised segmentation of a photo by one model: areas and boxes of the masks as JSON, and the masks over the photo.

        Methods: "foreground" (the main objects), "parts" (parts that are alike), "attention" (what most of the attention is on),
        "pca" (three components as colours), "similarity" (what is like the patch at `point`). Areas are
        shares of the crop (0 to 1); boxes are left, top, right, bottom in pixels of the upright photo.

        Args:
            image: an image URL (http or https) or a data URL, as text; over HTTP an uploaded file too.
            model: a name from /models; empty means the first DINO.
            method: "attention", "foreground", "parts", "pca" or "similarity".
            threshold: for attention, share of it that is kept, above 0 and up to 1.
            head: for attention, "mean", "max", "min", a number from 0, or "all" for a mask of each.
            objects: for foreground, at most so many, 1 to 10.
            tau: cosine from which patches count as alike, from -1, below 1; empty means what suits model and photo; not for
                attention.
            parts: for parts, how many, 1 to 20.
            within: for parts and pca, only inside the foreground.
            point: for similarity, "X,Y" in pixels of the upright photo; empty means its middle.
            matches: for similarity, best places that are boxed, 1 to 50.
            refine: whether masks follow the edges of the photo.
            clip: whether patches of huge features are smoothed over.
            resolution: long side in pixels to enlarge the photo to; empty means the model's own input.
        """
        photo = required(image)
        given: dict[str, Any] = {"method": method, "threshold": threshold, "head": parse_head(head), "objects": objects}
        given |= {"tau": tau, "parts": parts, "within": within, "point": parse_point(point), "matches": matches}
        given |= {"refine": refine, "clip": clip}
        # Clients send nothing, or an empty text, for what they leave open.
        asked = SegmentRequest(
            **{name: value for name, value in given.items() if value not in (None, "")}, resolution=resolution or None
        )
        (found,) = segment_photos(pipeline, [photo], get_spec(model) if model else segmenting_model(), asked)
        entry = {"image": photo.name, **segmentation_json(found)}
        return Answer(entry, segmentation_overlay(photo, found), lambda: archive([photo], [found]))

    return {
        "models": models,
        "classify": classify,
        "explain": explain,
        "reconstruct": reconstruct,
        "compare": compare,
        "ablate": ablate,
        "segment": segment,
    }


def required(photo: Photo | None) -> Photo:
    """The photo.

    Raises:
        ImageError: there is none.
    """
    if photo is None:
        raise ImageError("No picture was given.")
    return photo


def _request(
    method: str,
    layer: int | None,
    head: str,
    readout: str | None,
    target: str | None,
    resolution: int | None,
    discard: float | None,
    point: str | None,
    variant: str | None,
) -> ExplainRequest:
    """Clients send nothing, or an empty text, for what they leave open."""
    return ExplainRequest(
        method or "attention",
        -1 if layer is None else layer,
        head or "mean",
        readout or None,
        target or None,
        int(resolution) if resolution else None,
        discard or 0.0,
        parse_point(point),
        variant or None,
    )
