"""The Compare tab: several models on the same photo, under one set of controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gradio as gr

from vitdemo.export.snippets import reproduce_compare
from vitdemo.options.methods import METHODS
from vitdemo.pipeline import Pipeline
from vitdemo.registry import get_spec
from vitdemo.types import ModelSpec, Photo
from vitdemo.ui.components.explorer import explorer, explorer_value
from vitdemo.ui.components.photo import Refused
from vitdemo.ui.errors import user_errors
from vitdemo.ui.links import Addresses, image_of, typed
from vitdemo.ui.models import choices
from vitdemo.ui.result_store import Results

HOST = "@HOST@"
"""Stands for the server's address in texts whose last words the browser writes."""

PREDICTED = ""
"""The target that means the class that a model predicts."""

OFFERED = 2000
"""Classes up to which a list offers all; any other is typed."""


class Asked(NamedTuple):
    """What the controls of the tab ask for."""

    models: Sequence[str]
    method: str
    target: str
    addresses: Addresses


class CompareTab:
    """Built inside an open `gr.Tab`; `connect` wires what concerns this tab alone."""

    def __init__(
        self, pipeline: Pipeline, results: Results, photo: Photo, models: list[str], addresses: gr.State
    ) -> None:
        self.pipeline, self.results, self.default = pipeline, results, tuple(models)
        with gr.Row(equal_height=True):
            self.models = gr.Dropdown(
                choices(), value=models, multiselect=True, label="Models", scale=3, min_width=300, elem_id="models"
            )
            self.method = gr.Dropdown(
                [(method.title, name) for name, method in METHODS.items() if name != "similarity"],
                value="attention",
                label="Method",
                info=_cost("attention"),
                min_width=200,
                elem_id="compare-method",
            )
            self.target = gr.Dropdown(
                **_targets([get_spec(name) for name in models]),
                label="Class that is explained",
                visible=False,
                allow_custom_value=True,
                min_width=200,
                elem_id="compare-target",
            )
        first = Asked(models, "attention", PREDICTED, {})
        self.compared = explorer(self.compare(photo, *first), results.functions(), elem_id="compared")
        self.inputs = [self.models, self.method, self.target, addresses]
        self.last = gr.State(models)

    def connect(self, photo: gr.Image, options: dict[str, Any]) -> None:
        """Events of this tab's own controls; `options` are those of events that run a model."""
        # Not only what a person chooses: a model that is removed leaves the choice, too.
        self.models.change(
            self.on_models, [photo, self.last, *self.inputs], [self.compared, self.target, self.last], **options
        )
        self.method.change(self.on_method, [photo, *self.inputs], [self.compared, self.target, self.method], **options)
        self.target.change(self.compare, [photo, *self.inputs], self.compared, **options)
        self.compared.select(self.on_label, None, self.target, api_visibility="private", show_progress="hidden")

    def compare(
        self, photo: Photo | Refused | None, *controls: Any, start: dict[str, Any] | None = None
    ) -> dict[str, Any] | None:
        """What the explorer shows."""
        asked = Asked(*controls)
        with user_errors():
            if not isinstance(photo, Photo):
                return nothing(photo)
            options: dict[str, Any] = {"method": asked.method}
            if METHODS[asked.method].class_specific and asked.target:
                options["target"] = asked.target
            specs = [get_spec(name) for name in asked.models]
            comparison = self.pipeline.compare(photo, specs, **options, keep=True)
            link = {
                "tab": "compare",
                "models": "" if tuple(asked.models) == self.default else ",".join(asked.models),
                "method": "" if asked.method == "attention" else asked.method,
                "target": str(options.get("target", "")),
                "image": image_of(photo, asked.addresses),
            }
            name = typed(photo, asked.addresses)
            calls = {
                "rows": reproduce_compare(name, asked.models, options, HOST),
                "patch": reproduce_compare(name, asked.models, {**options, "readout": "patch"}, HOST),
            }
            found = comparison.explanations
            return explorer_value(self.results.keep(photo, found), photo, found, link, calls, start)

    def controls(self, specs: Sequence[ModelSpec], method: str, target: str) -> tuple[Any, Any]:
        """The lists of methods and of classes, set."""
        shown = METHODS[method].class_specific
        return gr.update(value=method, info=_cost(method)), gr.update(**_targets(specs, target), visible=shown)

    def on_models(self, photo: Photo | Refused | None, last: list[str], *controls: Any) -> tuple[Any, Any, Any]:
        """Other models may have other classes. The list also tells of changes of what it offers: those change nothing here."""
        asked = Asked(*controls)
        if list(asked.models) == last:
            return gr.skip(), gr.skip(), gr.skip()
        with user_errors():
            offered = _targets([get_spec(name) for name in asked.models], asked.target)
        return self.compare(photo, *controls), gr.update(**offered), list(asked.models)

    def on_method(self, photo: Photo | Refused | None, *controls: Any) -> tuple[Any, Any, Any]:
        method = Asked(*controls).method
        shown = METHODS[method].class_specific
        return self.compare(photo, *controls), gr.update(visible=shown), gr.update(info=_cost(method))

    def on_label(self, event: gr.EventData) -> str:
        """A label that is pressed is the class that is explained from then on, in every model that has it."""
        return str(event.label or PREDICTED)


def nothing(photo: Refused | None) -> dict[str, Any] | None:
    """What the explorer is given where there is no photo to look at."""
    return None if photo is None else {"refused": photo.message}


def _cost(method: str) -> str:
    """How slow it is, before it runs."""
    return METHODS[method].cost[:1].upper() + METHODS[method].cost[1:]


def _targets(specs: Sequence[ModelSpec], value: str = PREDICTED) -> dict[str, Any]:
    """Each model's own prediction, its next ones, then every class that one of the models has."""
    ranks = [(f"each model's number {rank}", f"top:{rank}") for rank in range(2, 6)]
    named = list(dict.fromkeys(label for spec in specs for label in spec.labels))[:OFFERED]
    known = [PREDICTED, *(rank for _, rank in ranks), *named]
    return {
        "choices": [("each model's best", PREDICTED), *ranks, *((label, label) for label in named)],
        "value": value if value in known else PREDICTED,
    }
