"""The Explain tab: one model, one map of any method, for any class, at any resolution, and how faithful that map is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import gradio as gr
from gradio.blocks import Block

from vitdemo.evaluation.faithfulness import faithfulness
from vitdemo.export.snippets import reproduce_explain
from vitdemo.options.explain import ExplainRequest
from vitdemo.options.methods import METHODS
from vitdemo.pipeline import Pipeline
from vitdemo.registry import get_spec
from vitdemo.types import FUSIONS, Capture, ModelSpec, Photo
from vitdemo.ui.choices import (
    DISCARDS,
    PREDICTED,
    RESOLUTIONS,
    Share,
    fitting,
    method_choices,
    pixels_of,
    request_of,
    target_choices,
    variant_choices,
)
from vitdemo.ui.compare import HOST, nothing
from vitdemo.ui.components.choice import DependentChoice
from vitdemo.ui.components.curve import curve_html
from vitdemo.ui.components.explorer import explorer, explorer_value, grey_if_unanswered
from vitdemo.ui.components.photo import RejectedImage
from vitdemo.ui.components.reconstruction import reconstruction, reconstruction_html
from vitdemo.ui.errors import user_errors
from vitdemo.ui.links import LinkState, explain_link, image_of, typed
from vitdemo.ui.models import choices
from vitdemo.ui.picker import more_models
from vitdemo.ui.result_store import Results
from vitdemo.ui.state import EXPLAIN, NOTHING, PageState, Values


class ExplainTab:
    """Built inside an open `gr.Tab`; `connect` wires what concerns this tab alone.

    Args:
        photo: what the tab shows first.
        state: of the page, a `PageState`.
    """

    def __init__(self, pipeline: Pipeline, results: Results, photo: Photo, model: str, state: gr.State) -> None:
        self.pipeline, self.results, self.state, self.default = pipeline, results, state, model
        spec = get_spec(model)
        first = fitting("attention", spec)
        with gr.Row(equal_height=True, elem_classes="vd-toolbar"):
            self.model = gr.Dropdown(choices(), value=model, label="Model", elem_id="model")
            self.method = DependentChoice(**method_choices(spec, first), label="Method", elem_id="method")
            self.target = gr.Dropdown(
                **target_choices(spec),
                label="Explain class",
                visible=METHODS[first].class_specific,
                allow_custom_value=True,
                elem_id="target",
            )
            self.resolution = gr.Dropdown(
                [("model default", ""), *((f"{side} px", str(side)) for side in RESOLUTIONS)],
                value="",
                label="Resolution",
                allow_custom_value=True,
                elem_id="resolution",
            )
            self.fusion = gr.Dropdown(
                [(f"{name} of all", name) for name in FUSIONS],
                value="mean",
                label="Heads",
                visible=first == "rollout",
                elem_id="fusion",
            )
            self.discard = gr.Dropdown(
                [("nothing", 0.0), *((f"lowest {share:.0%}", share) for share in DISCARDS)],
                value=0.0,
                label="Discard",
                visible=first == "rollout",
                elem_id="discard",
            )
            self.variant = gr.Dropdown(**variant_choices(first), label="Variant", elem_id="variant")
            self.more = more_models(pipeline.settings)
        self.point = gr.State(None)
        opening = self.explain(photo, model, ExplainRequest(first), None, {})
        self.explained = explorer(results.pinned(opening), results.functions(), elem_id="explained")
        with gr.Row():
            self.measure = gr.Button(
                "Measure faithfulness", visible=bool(spec.labels), size="sm", elem_id="measure", scale=0, min_width=240
            )
        self.curve = gr.HTML("", apply_default_css=False, elem_id="curve")
        with gr.Column(visible=False, elem_id="masked") as self.masked:
            with gr.Row(equal_height=True):
                self.share = gr.Slider(0.1, 0.95, 0.75, step=0.05, label="Share of hidden patches", scale=4)
                self.again = gr.Button("New random mask", scale=1, min_width=120)
            self.rebuilt = reconstruction(elem_id="rebuilt")
        self.seed = gr.State(0)
        self.tuning = (self.fusion, self.discard, self.variant)
        """Options of some methods."""
        self.lists = (self.model, self.method, self.target, self.resolution, *self.tuning)
        self.controls: set[Block] = {*self.lists, self.point, state}
        """What an explanation depends on, beside the photo."""

    def connect(self, photo: gr.Image, options: dict[str, Any]) -> None:
        """Events of this tab's own controls; `options` are those of events that run a model."""

        def on(control: Block) -> Callable[[Values], Values]:
            """For controls that change the map alone."""

            def on_change(values: Values) -> Values:
                return NOTHING if values[self.state].is_linked(control, values) else self.update(values[photo], values)

            return on_change

        def on_model(values: Values) -> Values:
            """The new model may have other methods, and other classes."""
            if values[self.state].is_linked(self.model, values):
                return NOTHING
            with user_errors():
                spec = get_spec(values[self.model])
            method = fitting(values[self.method], spec)
            found = self.update(values[photo], {**values, self.method: method, self.target: PREDICTED})
            return {**found, **self._lists(spec, method, PREDICTED), self.measure: gr.update(visible=bool(spec.labels))}

        def on_method(values: Values) -> Values:
            if values[self.state].is_linked(self.method, values):
                return NOTHING
            found = self.update(values[photo], values)
            spec = get_spec(values[self.model])
            method = fitting(values[self.method], spec)
            return {
                **found,
                **self._fitting_controls(method),
                self.method: gr.update(info=method_choices(spec, method)["info"]),
            }

        def on_point(values: Values, event: gr.EventData) -> Values:
            """A click on the picture: the patch that `similarity` compares with. It makes another map, without a curve yet.

            A click on a label: the class that is explained from then on, as if it were chosen in the list.
            """
            if hasattr(event, "label"):
                return {self.target: str(event.index)}
            with user_errors():
                point = (min(max(float(event.x), 0.0), 1.0), min(max(float(event.y), 0.0), 1.0))
            return {**self.update(values[photo], {**values, self.point: point}), self.point: point, self.curve: ""}

        def on_measure(values: Values) -> str:
            with user_errors():
                found = values[photo]
                if not isinstance(found, Photo):
                    return ""
                return self._measured(found, values)

        def on_share(values: Values) -> Values:
            return self.rebuild(values[photo], values)

        def on_again(values: Values) -> Values:
            seed = values[self.seed] + 1
            return {**self.rebuild(values[photo], {**values, self.seed: seed}), self.seed: seed}

        inputs: set[Block] = {photo, *self.controls}
        masked: set[Block] = {photo, self.state, self.model, self.share, self.seed}
        rebuilt, quiet = [self.masked, self.rebuilt], {**options, "show_progress": "hidden"}
        shown = [self.explained, self.method, self.target, *self.tuning, self.measure]
        modelled = self.model.change(on_model, inputs, shown, **options)
        self.follow_up(modelled, photo, options)
        # Not `input`: a choice by mouse fires that twice.
        fitted = [self.target, *self.tuning, self.method]
        changed = [modelled, self.method.change(on_method, inputs, [self.explained, *fitted], **options)]
        for one in (self.target, self.resolution, *self.tuning):
            changed.append(one.change(on(one), inputs, self.explained, **options))
        for event in changed:
            grey_if_unanswered(event, self.explained)
        self.share.release(on_share, masked, rebuilt, **quiet)
        self.again.click(on_again, masked, [*rebuilt, self.seed], **quiet)
        # A curve belongs to the map that it was measured on, and must not come late under another one.
        measured = self.measure.click(on_measure, inputs, self.curve, **options)
        quick: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
        for control in (photo, *self.lists):
            control.change(None, None, self.curve, js="() => ''", cancels=[measured], **quick)
        shown = [self.explained, self.point, self.curve, self.target]
        self.explained.select(on_point, inputs, shown, cancels=[measured], **options)

    def follow_up(self, event: Any, photo: gr.Image, options: dict[str, Any]) -> None:
        """Fill in hidden patches after an event that made a new explanation."""
        event.success(
            lambda values: self.rebuild(values[photo], values),
            {photo, self.state, self.model, self.share, self.seed},
            [self.masked, self.rebuilt],
            **options,
        )

    def update(self, photo: Photo | RejectedImage | None, values: Values) -> Values:
        """What the tab shows of a photo, with the values of its controls."""
        model, state = values[self.model], values[self.state]
        with user_errors():
            point = values[self.point]
            request = self._request(photo, values) if isinstance(photo, Photo) else ExplainRequest()
        return {self.explained: self.explain(photo, model, request, point, state.urls)}

    def explain(
        self,
        photo: Photo | RejectedImage | None,
        model: str,
        request: ExplainRequest,
        point: Share | None,
        urls: Mapping[str, str],
        start: dict[str, Any] | None = None,
    ) -> dict[str, Any] | None:
        """What the explorer shows.

        Args:
            point: that of the request, as shares of the photo's width and height.
        """
        with user_errors():
            if not isinstance(photo, Photo):
                return nothing(photo)
            explanation = self.pipeline.explain(photo, get_spec(model), request, capture=Capture(queries=True))
            link = explain_link(model, request, point, image_of(photo, urls))
            name = typed(photo, urls)
            calls = {
                "rows": reproduce_explain(name, model, request, HOST),
                "patch": reproduce_explain(name, model, replace(request, readout="patch"), HOST),
            }
            return explorer_value(self.results.keep(photo, [explanation]), photo, [explanation], link, calls, start)

    def follow(self, link: LinkState, photo: Photo, state: PageState) -> Values:
        """The controls and the result that a link asks for."""
        model = link.model or self.default
        spec = get_spec(model)
        method = fitting(link.method, spec)
        point = link.patch if method == "similarity" else None
        request = request_of(photo, spec, method, link.target, link.resolution, point)
        if method == "rollout":
            request = replace(request, head=link.fusion, discard=link.discard)
        variant = variant_choices(method, link.variant)
        request = replace(request, variant=variant["value"] or None)
        updates: Values = {
            self.model: model,
            **self._lists(spec, method, link.target),
            self.resolution: str(link.resolution or ""),
            self.fusion: gr.update(value=link.fusion, visible=method == "rollout"),
            self.discard: gr.update(value=link.discard, visible=method == "rollout"),
            self.variant: gr.update(**variant),
        }
        found = self.explain(photo, model, request, point, state.urls, link.start)
        state.expect(self.lists, updates)
        return {**updates, self.point: point, self.explained: found}

    def rebuild(self, photo: Photo | RejectedImage | None, values: Values) -> Values:
        """What a masked autoencoder fills in; for other models there is nothing to show."""
        with user_errors():
            spec = get_spec(values[self.model])
            if values[self.state].tab != EXPLAIN or not isinstance(photo, Photo) or not spec.reconstructs:
                return {self.masked: gr.update(visible=False)}
            found = self.pipeline.reconstruct(photo, spec, ratio=values[self.share], seed=values[self.seed])
            return {self.masked: gr.update(visible=True), self.rebuilt: reconstruction_html(photo, found)}

    def _request(self, photo: Photo, values: Values) -> ExplainRequest:
        names = (self.method, self.target, self.resolution, self.point)
        method, target, resolution, point = (values[one] for one in names)
        request = request_of(photo, get_spec(values[self.model]), method, target, pixels_of(resolution), point)
        request = replace(request, variant=variant_choices(request.method, values[self.variant])["value"] or None)
        if request.method != "rollout":
            return request
        return replace(request, head=values[self.fusion], discard=float(values[self.discard] or 0))

    def _lists(self, spec: ModelSpec, method: str, target: str) -> Values:
        """The lists of methods and of classes, set."""
        classes = {**target_choices(spec), "value": target}
        return {
            self.method: gr.update(**method_choices(spec, method)),
            **self._fitting_controls(method),
            self.target: gr.update(**classes, visible=METHODS[method].class_specific),
        }

    def _fitting_controls(self, method: str) -> Values:
        """Which controls a method has."""
        rollout = gr.update(visible=method == "rollout")
        return {
            self.target: gr.update(visible=METHODS[method].class_specific),
            self.fusion: rollout,
            self.discard: rollout,
            self.variant: gr.update(**variant_choices(method)),
        }

    def _measured(self, photo: Photo, values: Values) -> str:
        spec, request = get_spec(values[self.model]), self._request(photo, values)
        found = faithfulness(self.pipeline, photo, spec, request)
        # The display controls of attention are the browser's: they do not reach this.
        which = " of the last layer, mean of heads" if request.method == "attention" else ""
        return curve_html(found, spec.labels[found.target], METHODS[request.method].title + which)
