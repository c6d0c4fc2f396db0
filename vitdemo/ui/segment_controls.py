"""The controls of the Segment tab: how they look, what they ask for, and what of them a link holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from vitdemo.options.segment import OWN, RESOLUTION, SegmentRequest, default_tau
from vitdemo.registry import get_spec, ready_models
from vitdemo.ui.links import LinkState
from vitdemo.ui.state import PageState, Values

TITLES = {
    "foreground": "Foreground: what stands out",
    "attention": "Attention: patches that hold most of it",
    "parts": "Parts: patches that are alike",
    "pca": "Colours: three principal components",
    "similarity": "Similarity: click on the picture",
}
LAYERED = ("attention", "foreground", "parts")
"""Methods whose masks can follow the edges of the photo."""

SHARED = ("parts", "pca", "similarity")
"""Methods that take several photos together."""

HEADS = ["mean", "max", "min", "all"]


@dataclass(frozen=True)
class Choice:
    """What the controls of the tab are set to."""

    model: str
    beside: str
    """The other model; "" for none."""
    opacity: float
    others: list[tuple[str, str]]
    """Names and paths of other photos."""
    request: SegmentRequest

    @property
    def refined(self) -> bool:
        """Whether masks follow the edges of the photo."""
        return self.request.refine and self.request.method in LAYERED


class SegmentControls:
    """Built inside an open `gr.Tab`."""

    def __init__(self, model: str) -> None:
        tau = default_tau(get_spec(model).parameters)
        with gr.Row(equal_height=True):
            self.model = gr.Dropdown(
                _models(), value=model, label="Model", elem_id="segment-model", scale=3, min_width=190
            )
            self.beside = gr.Dropdown(
                _others(), value="", label="Beside it", elem_id="segment-beside", scale=3, min_width=190
            )
            self.method = gr.Dropdown(
                [(title, name) for name, title in TITLES.items()],
                value="foreground",
                label="Method",
                elem_id="segment-method",
                scale=5,
                min_width=240,
            )
            self.resolution = gr.Slider(
                *(0, 640, RESOLUTION),
                step=32,
                label="Long side",
                info="pixels; 0: the model's own",
                scale=4,
                min_width=200,
            )
        with gr.Row(equal_height=True):
            self.threshold = gr.Slider(0.05, 1, 0.6, step=0.05, label="Attention kept", visible=False, min_width=100)
            self.head = gr.Dropdown(HEADS, value="mean", label="Heads", visible=False, min_width=100)
            self.objects = gr.Slider(1, 5, 1, step=1, label="Objects", min_width=100)
            self.parts = gr.Slider(2, 8, 4, step=1, label="Parts", visible=False, min_width=100)
            self.tau = gr.Slider(0, 0.8, tau, step=0.05, label="Alike from cosine", min_width=100)
            self.matches = gr.Slider(1, 10, 5, step=1, label="Best matches", visible=False, min_width=100)
            with gr.Column(min_width=200):
                self.within = gr.Checkbox(True, label="Only in the foreground", visible=False)
                self.refine = gr.Checkbox(True, label="Follow the photo's edges")
                self.clip = gr.Checkbox(False, label="Clip outlier patches")
            self.opacity = gr.Slider(0, 1, 0.6, step=0.05, label="Opacity", min_width=200)
        self.point = gr.State(None)
        self.own = {
            "threshold": self.threshold,
            "head": self.head,
            "objects": self.objects,
            "tau": self.tau,
            "parts": self.parts,
            "within": self.within,
            "matches": self.matches,
        }
        self.settings: dict[str, Any] = {
            "model": self.model,
            "beside": self.beside,
            "method": self.method,
            "resolution": self.resolution,
            "refine": self.refine,
            "clip": self.clip,
            "opacity": self.opacity,
            **self.own,
        }
        """Controls by the names that links have for them."""
        self.fitted = [self.model, self.beside, *self.own.values(), self.refine]
        """Controls that `fit` updates."""

    def choice(self, values: Values, others: list[tuple[str, str]] | None) -> Choice:
        """What they are set to."""
        own = {name: values[control] for name, control in self.settings.items()}
        model, beside, opacity = own.pop("model"), own.pop("beside"), own.pop("opacity")
        whole = {name: int(own[name]) for name in ("objects", "parts", "matches")}
        resolution = int(own["resolution"]) or None
        request = SegmentRequest(**{**own, **whole, "resolution": resolution, "point": values[self.point]})
        return Choice(model, beside, opacity, others or [], request)

    def fit(self, chosen: Choice) -> Values:
        """Models that can be had by now, and the controls that the method has, with the heads of the model."""
        method = chosen.request.method
        own: dict[str, dict[str, Any]] = {name: {"visible": name in OWN[method]} for name in self.own}
        own["head"] |= {"choices": heads_offered(chosen.model), "value": str(chosen.request.head)}
        own["tau"] |= {"value": chosen.request.tau}
        return {
            self.model: gr.update(choices=_models()),
            self.beside: gr.update(choices=_others()),
            self.refine: gr.update(visible=method in LAYERED),
            **{self.own[name]: gr.update(**update) for name, update in own.items()},
        }

    def follow(self, link: LinkState, state: PageState) -> Values:
        """The controls that a link asks for; the tab computes what they ask for when it is open."""
        given = link.segment
        model = given.get("model", self.model.value)
        method = given["method"] if given.get("method") in TITLES else "foreground"
        head = given["head"] if given.get("head") in heads_offered(model) else "mean"
        tau = default_tau(get_spec(model).parameters)
        wanted = {"tau": tau, **given, "method": method, "model": model, "head": head}
        state.segmented = (model, method, "")
        updates: Values = {control: wanted[name] for name, control in self.settings.items() if name in wanted}
        state.expect(self.settings.values(), updates)
        return {**updates, self.point: given.get("point")}

    def linked(self, chosen: Choice) -> Mapping[str, Any]:
        """What a link says: the controls that the method has."""
        request = chosen.request
        values = {"model": chosen.model, "beside": chosen.beside, **vars(request)}
        left = {name for name in self.own if name not in OWN[request.method]}
        if request.method not in LAYERED:
            left.add("refine")
        if request.method != "similarity":
            values["point"] = None
        values["resolution"] = request.resolution or 0
        names = (*self.settings, "point")
        return {name: values[name] for name in names if name in values and name not in left}


def heads_offered(model: str) -> list[str]:
    """Fusions, all of them, and each."""
    return [*HEADS, *(str(head) for head in range(get_spec(model).num_heads))]


def _models() -> list[tuple[str, str]]:
    """Those with patches."""
    return [(f"{spec.family} ({spec.name})", spec.name) for spec in ready_models() if spec.readouts]


def _others() -> list[tuple[str, str]]:
    return [("none", ""), *_models()]
