"""The Explain tab: one model, one map of any method, for any class, at any resolution, and how faithful that map is."""

from __future__ import annotations

from typing import Any

import gradio as gr

from vitdemo.faithfulness import faithfulness
from vitdemo.methods import METHODS, obstacle
from vitdemo.pipeline import Pipeline
from vitdemo.preprocess import view_of
from vitdemo.registry import get_spec
from vitdemo.types import ModelSpec, Photo
from vitdemo.ui.components.curve import curve_html
from vitdemo.ui.components.explorer import explorer, explorer_value
from vitdemo.ui.components.reconstruction import reconstruction, reconstruction_html
from vitdemo.ui.errors import user_errors
from vitdemo.ui.models import choices

PREDICTED = ""
"""The target that means the class that the model predicts."""

MANY = 2000
"""Classes above which the list offers only the first ones, and any other is typed."""

Point = tuple[float, float] | None
"""Shares of the photo's width and height."""


class ExplainTab:
    """Built inside an open `gr.Tab`; `connect` wires what concerns this tab alone."""

    def __init__(self, pipeline: Pipeline, photo: Photo, model: str) -> None:
        self.pipeline = pipeline
        spec = get_spec(model)
        first = _kept("attention", spec)
        with gr.Row(equal_height=True):
            self.model = gr.Dropdown(choices(), value=model, label="Model", elem_id="model")
            self.method = gr.Dropdown(**_methods(spec, first), label="Method", elem_id="method")
            self.target = gr.Dropdown(
                **_targets(spec),
                label="Class that is explained",
                visible=METHODS[first].class_specific,
                allow_custom_value=True,
                elem_id="target",
            )
            self.resolution = gr.Slider(
                0,
                1024,
                0,
                step=32,
                label="Resolution",
                info="Long side in pixels; 0 is the model's own",
                elem_id="resolution",
            )
        self.point = gr.State(None)
        self.explained = explorer(self.explain(photo, model, first, PREDICTED, 0, None), elem_id="explained")
        with gr.Row():
            self.measure = gr.Button(
                "How faithful is this map?",
                visible=bool(spec.labels),
                size="sm",
                elem_id="measure",
                scale=0,
                min_width=240,
            )
        self.curve = gr.HTML("", apply_default_css=False, elem_id="curve")
        with gr.Column(visible=False, elem_id="masked") as self.masked:
            with gr.Row(equal_height=True):
                self.share = gr.Slider(0.1, 0.95, 0.75, step=0.05, label="Share of hidden patches", scale=4)
                self.again = gr.Button("Hide others", scale=1, min_width=120)
            self.rebuilt = reconstruction(elem_id="rebuilt")
        self.seed = gr.State(0)
        self.inputs = [self.model, self.method, self.target, self.resolution, self.point]

    def connect(self, photo: gr.Image, tab: gr.State, options: dict[str, Any]) -> None:
        """Events of this tab's own controls; `options` are those of events that run a model."""
        self.model.change(
            self.on_model, [photo, *self.inputs], [self.explained, self.method, self.target, self.measure], **options
        ).success(
            self.on_rebuild, [photo, tab, self.model, self.share, self.seed], [self.masked, self.rebuilt], **options
        )
        # Not `input`: a choice by mouse fires that twice.
        self.method.change(self.on_method, [photo, *self.inputs], [self.explained, self.target, self.method], **options)
        self.target.change(self.explain, [photo, *self.inputs], self.explained, **options)
        self.resolution.release(self.explain, [photo, *self.inputs], self.explained, **options)
        hidden = [photo, tab, self.model, self.share, self.seed]
        quiet = {**options, "show_progress": "hidden"}
        self.share.release(self.on_rebuild, hidden, [self.masked, self.rebuilt], **quiet)
        self.again.click(self.on_again, hidden, [self.masked, self.rebuilt, self.seed], **quiet)
        # A curve belongs to the map that it was measured on, and must not come late under another one.
        measured = self.measure.click(self.on_measure, [photo, *self.inputs], self.curve, **options)
        quick: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
        for control in (photo, self.model, self.method, self.target, self.resolution):
            control.change(lambda: "", None, self.curve, cancels=[measured], **quick)
        shown = [self.explained, self.point, self.curve]
        self.explained.select(self.on_point, [photo, *self.inputs], shown, cancels=[measured], **options)

    def explain(
        self, photo: Photo | None, model: str, method: str, target: str, resolution: float, point: Point
    ) -> dict[str, Any] | None:
        """What the explorer shows."""
        with user_errors():
            if photo is None:
                return None
            explanation = self.pipeline.explain(
                photo, get_spec(model), **self._options(photo, model, method, target, resolution, point)
            )
            return explorer_value(photo, [explanation])

    def on_model(
        self, photo: Photo | None, model: str, method: str, target: str, resolution: float, point: Point
    ) -> tuple[Any, ...]:
        """The new model may have other methods, and other classes."""
        with user_errors():
            spec = get_spec(model)
        kept = _kept(method, spec)
        shown = METHODS[kept].class_specific
        value = self.explain(photo, model, kept, PREDICTED, resolution, point)
        return (
            value,
            gr.update(**_methods(spec, kept)),
            gr.update(**_targets(spec), visible=shown),
            gr.update(visible=bool(spec.labels)),
        )

    def on_method(
        self, photo: Photo | None, model: str, method: str, target: str, resolution: float, point: Point
    ) -> tuple[Any, Any, Any]:
        value = self.explain(photo, model, method, target, resolution, point)
        info = _methods(get_spec(model), method)["info"]
        return value, gr.update(visible=METHODS[method].class_specific), gr.update(info=info)

    def on_point(
        self,
        photo: Photo | None,
        model: str,
        method: str,
        target: str,
        resolution: float,
        point: Point,
        event: gr.EventData,
    ) -> tuple[Any, Point, str]:
        """A click on the picture: the patch that `similarity` compares with. It makes another map, without a curve yet."""
        with user_errors():
            chosen = (min(max(float(event.x), 0.0), 1.0), min(max(float(event.y), 0.0), 1.0))
        return self.explain(photo, model, method, target, resolution, chosen), chosen, ""

    def on_measure(
        self, photo: Photo | None, model: str, method: str, target: str, resolution: float, point: Point
    ) -> str:
        with user_errors():
            if photo is None:
                return ""
            spec = get_spec(model)
            options = self._options(photo, model, method, target, resolution, point)
            found = faithfulness(self.pipeline, photo, spec, **options)
            # The display controls of attention are the browser's: they do not reach this.
            which = " of the last layer, mean of heads" if method == "attention" else ""
            return curve_html(found, spec.labels[found.target], METHODS[method].title + which)

    def on_rebuild(self, photo: Photo | None, tab: str, model: str, share: float, seed: int) -> tuple[Any, Any]:
        """Only a masked autoencoder fills in patches; for others there is nothing to show."""
        with user_errors():
            spec = get_spec(model)
            if tab != "explain" or photo is None or not spec.reconstructs:
                return gr.update(visible=False), gr.skip()
            found = self.pipeline.reconstruct(photo, spec, ratio=share, seed=seed)
            return gr.update(visible=True), reconstruction_html(photo, found)

    def on_again(self, photo: Photo | None, tab: str, model: str, share: float, seed: int) -> tuple[Any, Any, int]:
        return (*self.on_rebuild(photo, tab, model, share, seed + 1), seed + 1)

    def _options(
        self, photo: Photo, model: str, method: str, target: str, resolution: float, point: Point
    ) -> dict[str, Any]:
        """As `Pipeline.explain` wants them."""
        spec = get_spec(model)
        found: dict[str, Any] = {"method": method, "resolution": int(resolution) or None}
        if METHODS.get(method) and METHODS[method].class_specific:
            found["target"] = target or None
        if method == "similarity" and point is not None:
            width, height = photo.size
            left, top, right, bottom = (0, 0, width, height) if resolution else view_of(photo.size, spec.processor).crop
            x, y = point[0] * width, point[1] * height
            found["point"] = (min(max(x, left), right - 0.01), min(max(y, top), bottom - 0.01))
        return found


def _kept(method: str, spec: ModelSpec) -> str:
    """The method, or the first one of a model to which it does not apply."""
    return method if method in spec.methods else next(iter(spec.methods), "attention")


def _methods(spec: ModelSpec, value: str) -> dict[str, Any]:
    """What the list of methods offers, and why others are absent."""
    offered = [(METHODS[name].title, name) for name in spec.methods]
    reasons: dict[str, list[str]] = {}
    for method in METHODS.values():
        reason = obstacle(method, bool(spec.readouts), bool(spec.labels))
        if reason:
            reasons.setdefault(reason, []).append(method.title)
    absent = [f"not {', '.join(titles)}: {reason}" for reason, titles in reasons.items()]
    slow = METHODS[value].cost[:1].upper() + METHODS[value].cost[1:]
    return {"choices": offered, "value": value, "info": "; ".join([slow, *absent])}


def _targets(spec: ModelSpec) -> dict[str, Any]:
    """The predicted class, the next best ones, then all by name."""
    ranks = [(f"number {rank} of the scores", f"top:{rank}") for rank in range(2, min(5, len(spec.labels)) + 1)]
    named = [(label, str(index)) for index, label in enumerate(spec.labels[:MANY])]
    return {"choices": [("the predicted one", PREDICTED), *ranks, *named], "value": PREDICTED}
