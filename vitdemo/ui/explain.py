"""The Explain tab: one model, one map of any method, for any class, at any resolution, and how faithful that map is."""

from __future__ import annotations

from typing import Any, NamedTuple

import gradio as gr

from vitdemo.evaluation.faithfulness import faithfulness
from vitdemo.export.snippets import reproduce_explain
from vitdemo.models.preprocess import view_of
from vitdemo.options.explain import reason_against
from vitdemo.options.methods import METHODS
from vitdemo.pipeline import Pipeline
from vitdemo.registry import get_spec
from vitdemo.types import ModelSpec, Photo
from vitdemo.ui.compare import HOST, OFFERED, PREDICTED, nothing
from vitdemo.ui.components.choice import DependentChoice
from vitdemo.ui.components.curve import curve_html
from vitdemo.ui.components.explorer import explorer, explorer_value
from vitdemo.ui.components.photo import Refused
from vitdemo.ui.components.reconstruction import reconstruction, reconstruction_html
from vitdemo.ui.errors import user_errors
from vitdemo.ui.links import Addresses, image_of, typed
from vitdemo.ui.models import choices
from vitdemo.ui.result_store import Results

Point = tuple[float, float] | None
"""Shares of the photo's width and height."""


class Asked(NamedTuple):
    """What the controls of the tab ask for."""

    model: str
    method: str
    target: str
    resolution: float
    point: Point
    addresses: Addresses


class ExplainTab:
    """Built inside an open `gr.Tab`; `connect` wires what concerns this tab alone."""

    def __init__(self, pipeline: Pipeline, results: Results, photo: Photo, model: str, addresses: gr.State) -> None:
        self.pipeline, self.results, self.default = pipeline, results, model
        spec = get_spec(model)
        first = fitting("attention", spec)
        with gr.Row(equal_height=True):
            self.model = gr.Dropdown(choices(), value=model, label="Model", elem_id="model")
            self.method = DependentChoice(**_methods(spec, first), label="Method", elem_id="method")
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
        self.explained = explorer(
            self.explain(photo, *Asked(model, first, PREDICTED, 0, None, {})), results.functions(), elem_id="explained"
        )
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
        self.inputs = [self.model, self.method, self.target, self.resolution, self.point, addresses]

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
            control.change(None, None, self.curve, js="() => ''", cancels=[measured], **quick)
        shown = [self.explained, self.point, self.curve, self.target]
        self.explained.select(self.on_point, [photo, *self.inputs], shown, cancels=[measured], **options)

    def explain(
        self, photo: Photo | Refused | None, *controls: Any, start: dict[str, Any] | None = None
    ) -> dict[str, Any] | None:
        """What the explorer shows."""
        with user_errors():
            if not isinstance(photo, Photo):
                return nothing(photo)
            asked = _asked(*controls)
            options = _options(photo, asked)
            explanation = self.pipeline.explain(photo, get_spec(asked.model), **options, keep=True)
            link = {
                "tab": "explain",
                "model": asked.model,
                "method": "" if asked.method == "attention" else asked.method,
                "target": str(options.get("target") or ""),
                "resolution": str(options["resolution"] or ""),
                "patch": ",".join(f"{share:.3f}" for share in asked.point or ()) if "point" in options else "",
                "image": image_of(photo, asked.addresses),
            }
            name = typed(photo, asked.addresses)
            calls = {
                "rows": reproduce_explain(name, asked.model, options, HOST),
                "patch": reproduce_explain(name, asked.model, {**options, "readout": "patch"}, HOST),
            }
            key = self.results.keep(photo, [explanation])
            return explorer_value(key, photo, [explanation], link, calls, start)

    def controls(self, spec: ModelSpec, method: str, target: str) -> tuple[Any, Any]:
        """The lists of methods and of classes, set."""
        classes = {**_targets(spec), "value": target}
        return gr.update(**_methods(spec, method)), gr.update(**classes, visible=METHODS[method].class_specific)

    def on_model(self, photo: Photo | Refused | None, *controls: Any) -> tuple[Any, ...]:
        """The new model may have other methods, and other classes."""
        asked = Asked(*controls)
        with user_errors():
            spec = get_spec(asked.model)
        kept = fitting(asked.method, spec)
        value = self.explain(photo, *asked._replace(method=kept, target=PREDICTED))
        return (value, *self.controls(spec, kept, PREDICTED), gr.update(visible=bool(spec.labels)))

    def on_method(self, photo: Photo | Refused | None, *controls: Any) -> tuple[Any, Any, Any]:
        value = self.explain(photo, *controls)
        with user_errors():
            asked = _asked(*controls)
        info = _methods(get_spec(asked.model), asked.method)["info"]
        return value, gr.update(visible=METHODS[asked.method].class_specific), gr.update(info=info)

    def on_point(self, event: gr.EventData, photo: Photo | Refused | None, *controls: Any) -> tuple[Any, Any, Any, Any]:
        """A click on the picture: the patch that `similarity` compares with. It makes another map, without a curve yet.

        A click on a label: the class that is explained from then on, as if it were chosen in the list.
        """
        if hasattr(event, "label"):
            return gr.skip(), gr.skip(), gr.skip(), str(event.index)
        with user_errors():
            chosen = (min(max(float(event.x), 0.0), 1.0), min(max(float(event.y), 0.0), 1.0))
        return self.explain(photo, *Asked(*controls)._replace(point=chosen)), chosen, "", gr.skip()

    def on_measure(self, photo: Photo | Refused | None, *controls: Any) -> str:
        with user_errors():
            if not isinstance(photo, Photo):
                return ""
            asked = _asked(*controls)
            spec = get_spec(asked.model)
            found = faithfulness(self.pipeline, photo, spec, **_options(photo, asked))
            # The display controls of attention are the browser's: they do not reach this.
            which = " of the last layer, mean of heads" if asked.method == "attention" else ""
            return curve_html(found, spec.labels[found.target], METHODS[asked.method].title + which)

    def on_rebuild(
        self, photo: Photo | Refused | None, tab: str, model: str, share: float, seed: int
    ) -> tuple[Any, Any]:
        """Only a masked autoencoder fills in patches; for others there is nothing to show."""
        with user_errors():
            spec = get_spec(model)
            if tab != "explain" or not isinstance(photo, Photo) or not spec.reconstructs:
                return gr.update(visible=False), gr.skip()
            found = self.pipeline.reconstruct(photo, spec, ratio=share, seed=seed)
            return gr.update(visible=True), reconstruction_html(photo, found)

    def on_again(
        self, photo: Photo | Refused | None, tab: str, model: str, share: float, seed: int
    ) -> tuple[Any, Any, int]:
        return (*self.on_rebuild(photo, tab, model, share, seed + 1), seed + 1)


def _asked(*controls: Any) -> Asked:
    """The method may still be that of the model before."""
    asked = Asked(*controls)
    return asked._replace(method=fitting(asked.method, get_spec(asked.model)))


def _options(photo: Photo, asked: Asked) -> dict[str, Any]:
    """As `Pipeline.explain` wants them."""
    spec = get_spec(asked.model)
    found: dict[str, Any] = {"method": asked.method, "resolution": int(asked.resolution) or None}
    if METHODS.get(asked.method) and METHODS[asked.method].class_specific:
        found["target"] = asked.target or None
    if asked.method == "similarity" and asked.point is not None:
        width, height = photo.size
        whole = (0, 0, width, height)
        left, top, right, bottom = whole if asked.resolution else view_of(photo.size, spec.processor).crop
        x, y = asked.point[0] * width, asked.point[1] * height
        found["point"] = (min(max(x, left), right - 0.01), min(max(y, top), bottom - 0.01))
    return found


def fitting(method: str, spec: ModelSpec) -> str:
    """The method, or, of a model to which it does not apply, the first one that does."""
    return method if method in spec.methods else next(iter(spec.methods), "attention")


def _methods(spec: ModelSpec, value: str) -> dict[str, Any]:
    """What the list of methods offers, and why others are absent."""
    offered = [(METHODS[name].title, name) for name in spec.methods]
    reasons: dict[str, list[str]] = {}
    for method in METHODS.values():
        if reason := reason_against(method.name, spec):
            reasons.setdefault(reason, []).append(method.title)
    absent = [f"not {', '.join(titles)}: {reason}" for reason, titles in reasons.items()]
    slow = METHODS[value].cost[:1].upper() + METHODS[value].cost[1:]
    return {"choices": offered, "value": value, "info": "; ".join([slow, *absent])}


def _targets(spec: ModelSpec) -> dict[str, Any]:
    """The predicted class, the next best ones, then all by name."""
    ranks = [(f"number {rank} of the scores", f"top:{rank}") for rank in range(2, min(5, len(spec.labels)) + 1)]
    named = [(label, str(index)) for index, label in enumerate(spec.labels[:OFFERED])]
    return {"choices": [("the predicted one", PREDICTED), *ranks, *named], "value": PREDICTED}
