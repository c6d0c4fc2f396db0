"""The Compare tab: several models on the same photo, under one set of controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
from gradio.blocks import Block

from vitdemo.export.snippets import reproduce_compare
from vitdemo.options.explain import ExplainRequest
from vitdemo.options.methods import METHODS
from vitdemo.pipeline import Pipeline
from vitdemo.registry import get_spec
from vitdemo.types import Capture, ModelSpec, Photo
from vitdemo.types.labels import class_called
from vitdemo.ui.choices import OFFERED, ORDINALS, PREDICTED, cost_of, specs_of
from vitdemo.ui.components.explorer import explorer, explorer_value, grey_if_unanswered
from vitdemo.ui.components.photo import RejectedImage
from vitdemo.ui.errors import user_errors
from vitdemo.ui.links import LinkState, image_of, typed
from vitdemo.ui.models import choices
from vitdemo.ui.picker import more_models
from vitdemo.ui.result_store import Results
from vitdemo.ui.state import NOTHING, PageState, Values

HOST = "@HOST@"
"""Stands for the server's URL in texts that the browser completes."""


class CompareTab:
    """Built inside an open `gr.Tab`; `connect` wires what concerns this tab alone.

    Args:
        photo: what the tab shows first.
        state: of the page, a `PageState`.
    """

    def __init__(self, pipeline: Pipeline, results: Results, photo: Photo, models: list[str], state: gr.State) -> None:
        self.pipeline, self.results, self.state, self.default = pipeline, results, state, tuple(models)
        with gr.Row(equal_height=True, elem_classes="vd-toolbar"):
            self.models = gr.Dropdown(
                choices(), value=models, multiselect=True, label="Models", scale=6, min_width=300, elem_id="models"
            )
            self.method = gr.Dropdown(
                [(method.title, name) for name, method in METHODS.items() if name != "similarity"],
                value="attention",
                label="Method",
                info=cost_of("attention"),
                min_width=200,
                scale=1,
                elem_id="compare-method",
            )
            self.target = gr.Dropdown(
                **_targets([get_spec(name) for name in models]),
                label="Explain class",
                visible=False,
                allow_custom_value=True,
                min_width=200,
                elem_id="compare-target",
            )
            self.more = more_models(pipeline.settings)
        first = self.compare(photo, models, "attention", PREDICTED, {})
        self.compared = explorer(results.pinned(first), results.functions(), elem_id="compared")
        self.controls: set[Block] = {self.models, self.method, self.target, state}
        """What a comparison depends on, beside the photo."""

    def connect(self, photo: gr.Image, options: dict[str, Any]) -> None:
        """Events of this tab's own controls; `options` are those of events that run a model."""

        def on_target(values: Values) -> Values:
            return NOTHING if values[self.state].is_linked(self.target, values) else self.update(values[photo], values)

        def on_models(values: Values) -> Values:
            """Other models may have other classes. The list also reports changes of its choices: those change nothing here."""
            state, models = values[self.state], list(values[self.models])
            if state.is_linked(self.models, values) or models == (state.compared or list(self.default)):
                return NOTHING
            with user_errors():
                offered = _targets([get_spec(name) for name in models], values[self.target])
            found = self.update(values[photo], values)
            state.compared = models
            return {**found, self.target: gr.update(**offered)}

        def on_method(values: Values) -> Values:
            if values[self.state].is_linked(self.method, values):
                return NOTHING
            method = values[self.method]
            return {
                **self.update(values[photo], values),
                self.target: gr.update(visible=METHODS[method].class_specific),
                self.method: gr.update(info=cost_of(method)),
            }

        inputs: set[Block] = {photo, *self.controls}
        shown = [self.compared, self.target, self.method]
        # Not only what a person chooses: a model that is removed leaves the choice, too.
        for event in (
            self.models.change(on_models, inputs, shown, **options),
            self.method.change(on_method, inputs, shown, **options),
            self.target.change(on_target, inputs, self.compared, **options),
        ):
            grey_if_unanswered(event, self.compared)
        self.compared.select(self.on_label, None, self.target, api_visibility="private", show_progress="hidden")

    def update(self, photo: Photo | RejectedImage | None, values: Values) -> Values:
        """What the tab shows of a photo, with the values of its controls."""
        models, method, target = (values[one] for one in (self.models, self.method, self.target))
        return {self.compared: self.compare(photo, models, method, target, values[self.state].urls)}

    def compare(
        self,
        photo: Photo | RejectedImage | None,
        models: Sequence[str],
        method: str,
        target: str,
        urls: Mapping[str, str],
        start: dict[str, Any] | None = None,
    ) -> dict[str, Any] | None:
        """What the explorer shows."""
        with user_errors():
            if not isinstance(photo, Photo):
                return nothing(photo)
            request = ExplainRequest(method, target=target if METHODS[method].class_specific and target else None)
            specs = specs_of(models, self.pipeline.settings)
            comparison = self.pipeline.compare(photo, specs, request, capture=Capture(queries=True))
            link = {
                "tab": "compare",
                "models": "" if tuple(models) == self.default else ",".join(models),
                "method": "" if method == "attention" else method,
                "target": str(request.target or ""),
                "image": image_of(photo, urls),
            }
            name = typed(photo, urls)
            calls = {
                "rows": reproduce_compare(name, models, request, HOST),
                "patch": reproduce_compare(name, models, replace(request, readout="patch"), HOST),
            }
            found = comparison.explanations
            return explorer_value(self.results.keep(photo, found), photo, found, link, calls, start)

    def follow(self, link: LinkState, photo: Photo, state: PageState) -> Values:
        """The controls and the result that a link asks for."""
        models = list(link.models) or list(self.default)
        specs = [get_spec(name) for name in models]
        method = link.method if link.method in METHODS and link.method != "similarity" else "attention"
        found = self.compare(photo, models, method, link.target, state.urls, link.start)
        state.compared = models
        updates: Values = {
            self.models: models,
            self.method: gr.update(value=method, info=cost_of(method)),
            self.target: gr.update(**_targets(specs, link.target), visible=METHODS[method].class_specific),
        }
        state.expect((self.models, self.method, self.target), updates)
        return {**updates, self.compared: found}

    def on_label(self, event: gr.EventData) -> str:
        """A label that is pressed is the class that is explained from then on, in every model that has it."""
        return str(event.label or PREDICTED)


def nothing(photo: RejectedImage | None) -> dict[str, Any] | None:
    """What the explorer is given where there is no photo."""
    return None if photo is None else {"refused": photo.message}


def _targets(specs: Sequence[ModelSpec], value: str = PREDICTED) -> dict[str, Any]:
    """Each model's own prediction, its next ones, then every class that one of the models has."""
    ranks = [(f"{ORDINALS[rank]} choice", f"top:{rank}") for rank in range(2, 6)]
    named = list(dict.fromkeys(label for spec in specs for label in spec.labels))[:OFFERED]
    known = [PREDICTED, *(rank for _, rank in ranks), *named]
    value = class_called(value, named)
    return {
        "choices": [("predicted class", PREDICTED), *ranks, *((label, label) for label in named)],
        "value": value if value in known else PREDICTED,
    }
