"""The public endpoints: the same JSON as the command line, plus files."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import gradio as gr

from vitdemo.evaluation.faithfulness import faithfulness as measured
from vitdemo.export.results import (
    comparison_json,
    explanation_json,
    faithfulness_json,
    model_json,
    prediction_json,
    reconstruction_json,
    save_npz,
)
from vitdemo.options.explain import ExplainRequest, parse_point
from vitdemo.pipeline import Pipeline
from vitdemo.registry import available_models, default_models, get_spec, ready_models, reconstructing_model
from vitdemo.rendering.figures import comparison_figure, reconstruction_figure
from vitdemo.rendering.overlay import overlay
from vitdemo.types import ModelSpec, Photo
from vitdemo.ui.api_segment import add_segment
from vitdemo.ui.components.photo import PhotoInput, required
from vitdemo.ui.errors import user_errors

INFERENCE: dict[str, Any] = {"concurrency_id": "inference", "concurrency_limit": 4}
"""Shared by everything that runs a model."""


def add_endpoints(pipeline: Pipeline) -> None:
    """Define `/models`, `/classify`, `/explain`, `/compare`, `/reconstruct` and `/segment` inside an open `gr.Blocks`."""

    def models() -> list[dict[str, Any]]:
        """Every model: name, family, source, parameters, image and patch size, classes, bytes, licence, whether it is here."""
        return [model_json(spec) for spec in available_models()]

    def classify(image: Photo | None, models: list[str] | None = None, top_k: int = 5) -> list[dict[str, Any]]:
        """The best labels of each model for one picture.

        Args:
            image: a picture file, its address, or a data URL.
            models: names from /models; empty means the first one.
            top_k: how many labels a model.
        """
        with user_errors():
            photo = required(image)
            specs = _specs(models) or [ready_models()[0]]
            found = pipeline.classify_each(photo, specs, top_k=max(1, int(top_k)))
            return [{"image": photo.name, "results": [prediction_json(prediction) for prediction in found]}]

    def explain(
        image: Photo | None,
        model: str | None = None,
        method: str = "attention",
        layer: int = -1,
        head: str = "mean",
        readout: str | None = None,
        target: str | None = None,
        resolution: int | None = None,
        discard: float | None = 0.0,
        point: str | None = None,
        faithfulness: bool = False,
        variant: str | None = None,
    ) -> tuple[dict[str, Any], str | None, str]:
        """Where one model looked: the numbers as JSON, the overlay as PNG, the raw arrays as NPZ.

        Args:
            image: a picture file, its address, or a data URL.
            model: a name from /models; empty means the first one.
            method: one of the `methods` that /models lists for the model.
            layer: for attention, from 0, or -1 for the last.
            head: for attention, "mean", "max", "min", or a number from 0; for rollout, how heads are fused.
            readout: for attention, "class", "distillation", "mean" or "patch"; empty means the model's own.
            target: a label, an index or "top:K", for methods that explain a class; empty means the predicted one.
            resolution: long side in pixels to enlarge the photo to; empty means the model's own input.
            discard: for rollout, share of the smallest attention that is left out, from 0, below 1.
            point: for similarity and the read-out "patch", "X,Y" in pixels of the upright photo; empty means the middle.
            faithfulness: also measure how the score falls and rises with the patches that the map names.
            variant: for rollout, "by-row" or "vit-explain"; for legrad, "last-layers" or "all-layers"; empty means the first.
        """
        with user_errors():
            photo = required(image)
            spec = get_spec(model) if model else ready_models()[0]
            request = _request(method, layer, head, readout, target, resolution, discard, point, variant)
            explanation = pipeline.explain(photo, spec, request)
            entry = {"image": photo.name, **explanation_json(explanation)}
            if faithfulness:
                entry["faithfulness"] = faithfulness_json(measured(pipeline, photo, spec, request))
            folder = _folder()
            save_npz(folder / "attention.npz", explanation, entry)
            png = None
            if explanation.map is not None:
                png = str(folder / "overlay.png")
                overlay(photo, explanation.view, explanation.map).save(png)
            return entry, png, str(folder / "attention.npz")

    def compare(
        image: Photo | None,
        models: list[str] | None = None,
        layer: int = -1,
        head: str = "mean",
        method: str = "attention",
        target: str | None = None,
        readout: str | None = None,
        resolution: int | None = None,
        discard: float | None = 0.0,
        point: str | None = None,
        variant: str | None = None,
    ) -> tuple[dict[str, Any], str]:
        """Several models on one picture: each one's labels and map, how far they agree, and a figure as PNG.

        Args:
            image: a picture file, its address, or a data URL.
            models: names from /models; empty means every embedded one.
            layer: for attention, from 0, or -1 for the last.
            head: for attention, "mean", "max", "min", or a number from 0; for rollout, how heads are fused.
            method: as for /explain; a model to which it does not apply has no map, and says why.
            target: a label, an index or "top:K", for methods that explain a class; empty means each model's predicted one.
            readout: as for /explain; a model that has no such read-out shows its own.
            resolution: as for /explain.
            discard: as for /explain.
            point: as for /explain.
            variant: as for /explain.
        """
        with user_errors():
            photo = required(image)
            specs = _specs(models) or list(default_models(pipeline.settings))
            request = _request(method, layer, head, readout, target, resolution, discard, point, variant)
            comparison = pipeline.compare(photo, specs, request)
            png = _folder() / "comparison.png"
            comparison_figure(photo, comparison.explanations).save(png)
            return {"image": photo.name, **comparison_json(comparison)}, str(png)

    def reconstruct(
        image: Photo | None, model: str | None = None, ratio: float = 0.75, seed: int = 0
    ) -> tuple[dict[str, Any], str]:
        """What a masked autoencoder makes up for hidden patches: the facts as JSON; crop, what it saw, and the result as PNG.

        Args:
            image: a picture file, its address, or a data URL.
            model: a masked autoencoder from /models; empty means the first one that is on the server.
            ratio: share of the patches that is hidden, above 0 and below 1.
            seed: which ones.
        """
        with user_errors():
            photo = required(image)
            spec = get_spec(model) if model else reconstructing_model()
            found = pipeline.reconstruct(photo, spec, ratio=ratio, seed=int(seed))
            png = _folder() / "reconstruction.png"
            reconstruction_figure(photo, found).save(png)
            return {"image": photo.name, **reconstruction_json(found, ratio, int(seed))}, str(png)

    def _folder() -> Path:
        """A new folder where Gradio keeps uploads, so that it deletes ours with them."""
        folder = Path(picture.GRADIO_CACHE) / uuid.uuid4().hex
        folder.mkdir(parents=True)
        return folder

    # Components only give the endpoints their types: nobody sees them.
    with gr.Column(visible=False):
        photo, names, top_k = (
            PhotoInput(label="image"),
            _names(multiselect=True),
            gr.Number(5, precision=0, label="top_k"),
        )
        model, method = _names(), gr.Textbox("attention", label="method")
        layer, head = gr.Number(-1, precision=0, label="layer"), gr.Textbox("mean", label="head")
        readout, target = gr.Textbox(label="readout"), gr.Textbox(label="target")
        resolution = gr.Number(None, precision=0, label="resolution")
        discard, point = gr.Number(0, label="discard"), gr.Textbox(label="point")
        faithfulness, variant = gr.Checkbox(False, label="faithfulness"), gr.Textbox(label="variant")
        result, picture, numbers = (
            gr.JSON(label="result"),
            gr.Image(format="png", label="overlay"),
            gr.File(label="arrays"),
        )
        trigger = gr.Button()
        trigger.click(models, None, result, api_name="models")
        trigger.click(classify, [photo, names, top_k], result, api_name="classify", **INFERENCE)
        trigger.click(
            explain,
            [photo, model, method, layer, head, readout, target, resolution, discard, point, faithfulness, variant],
            [result, picture, numbers],
            api_name="explain",
            **INFERENCE,
        )
        ratio, seed = gr.Number(0.75, label="ratio"), gr.Number(0, precision=0, label="seed")
        trigger.click(reconstruct, [photo, model, ratio, seed], [result, picture], api_name="reconstruct", **INFERENCE)
        trigger.click(
            compare,
            [photo, names, layer, head, method, target, readout, resolution, discard, point, variant],
            [result, picture],
            api_name="compare",
            **INFERENCE,
        )
        add_segment(pipeline, _folder, trigger, [photo, model], [result, picture, numbers], INFERENCE)


def _request(
    method: str,
    layer: int,
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
        layer,
        head or "mean",
        readout or None,
        target or None,
        int(resolution) if resolution else None,
        discard or 0.0,
        parse_point(point),
        variant or None,
    )


def _names(multiselect: bool = False) -> gr.Dropdown:
    choices = [spec.name for spec in ready_models()]
    # Our own message names the choices; a custom value must reach it.
    return gr.Dropdown(
        choices, value=[] if multiselect else None, multiselect=multiselect, allow_custom_value=True, label="models"
    )


def _specs(names: list[str] | None) -> list[ModelSpec]:
    return [get_spec(name) for name in names or []]
