"""The Inside tab: how a network works, step by step, on the chosen photo and models; and a bench to take it apart."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import gradio as gr

from vitdemo.errors import VitDemoError
from vitdemo.pipeline import Pipeline
from vitdemo.registry import get_spec, ready_models
from vitdemo.types import ModelSpec, Photo
from vitdemo.ui.components.inside import inside
from vitdemo.ui.components.photo import RejectedImage
from vitdemo.ui.components.segmenter import photo_value, table
from vitdemo.ui.errors import user_errors
from vitdemo.ui.given import number_of
from vitdemo.ui.inside_bench import apart_view, effects_json, perturbed_views
from vitdemo.ui.inside_settings import InsideSettings, models_offered, read_settings
from vitdemo.ui.inside_views import View, emergence_view, view_of
from vitdemo.ui.links import LinkState, image_of
from vitdemo.ui.segment import UNANSWERED
from vitdemo.ui.state import Values

TAUGHT = ("DeiT", "BEiT", "MAE", "DINO")
"""Families whose ways to learn differ from a ViT's."""


class InsideTab:
    """Built inside an open `gr.Tab`; nothing runs before it is opened. `connect` wires it.

    Args:
        state: of the page, a `PageState`.
    """

    def __init__(self, pipeline: Pipeline, model: str, state: gr.State) -> None:
        self.pipeline, self.model, self.state = pipeline, model, state
        settings, _ = read_settings({}, model)
        self.view = inside(settings.json, models_offered(model), elem_id="inside")

    def connect(self, photo: gr.Image, options: dict[str, Any]) -> None:
        """One event for everything that needs the server. The component asks for one thing at a time, the newest."""

        def on_select(values: Values, event: gr.EventData) -> Values:
            number = number_of(event)
            try:
                with user_errors():
                    found = self.answer(values[photo], values[self.state].urls, event)
            except gr.Error as error:
                # In its place on the page: it is text there.
                return {self.view: {"number": number, "error": html.unescape(error.message)}}
            return {self.view: {"number": number, **found}}

        quiet = {**options, "show_progress": "hidden", "trigger_mode": "multiple"}
        asked = self.view.select(on_select, {photo, self.state}, [self.view], **quiet)
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        asked.failure(None, None, self.view, js=UNANSWERED, **private)

    def answer(
        self, photo: Photo | RejectedImage | None, urls: Mapping[str, str], event: gr.EventData
    ) -> dict[str, Any]:
        """What the component takes: see `vitdemo.ui.components.inside`."""
        if not isinstance(photo, Photo):
            return {"refused": "Drop a photo, or choose an example." if photo is None else photo.message}
        given = getattr(event, "settings", None)
        settings, notes = read_settings(given if isinstance(given, dict) else {}, self.model)
        ranked = getattr(event, "rank", None)
        if isinstance(ranked, dict):
            spec = get_spec(str(ranked.get("model") or settings.model))
            return {"ranked": {"model": spec.name, **effects_json(self.pipeline, photo, spec, settings, ranked)}}
        return {
            "settings": settings.json,
            "models": models_offered(settings.model, settings.beside),
            "photo": photo_value(photo, known=str(getattr(event, "shown", "") or "")),
            "image": image_of(photo, urls),
            "views": self.views(photo, settings),
            "notes": notes,
            "table": table(),
        }

    def views(self, photo: Photo, settings: InsideSettings) -> list[View]:
        """What a step shows of each model."""
        specs = [get_spec(name) for name in dict.fromkeys((settings.model, settings.beside)) if name]
        if len(specs) == 1:
            specs += _companions(settings.step, specs[0])
        if settings.step == "cnn":
            return perturbed_views(self.pipeline, photo, specs, settings)
        found = []
        for spec in specs:
            view = view_of(self.pipeline, photo, spec, settings)
            if settings.step == "apart":
                try:
                    view |= apart_view(self.pipeline, photo, spec, settings)
                except VitDemoError as error:
                    view["refused"] = str(error)
            found.append(view)
        if settings.step == "training":
            found.append(emergence_view(self.pipeline))
        return found

    def joined(self) -> Values:
        """Models have arrived: they are offered."""
        return {self.view: {"models": models_offered()}}

    def follow(self, link: LinkState) -> Values:
        """The settings that a link asks for; the component asks for what they make when it is open."""
        settings, notes = read_settings(link.inside, self.model)
        models = models_offered(settings.model, settings.beside)
        return {self.view: {"start": settings.json, "models": models, "notes": notes}}


def _companions(step: str, spec: ModelSpec) -> list[ModelSpec]:
    """What a step shows beside a model where nothing is chosen: a ViT beside a CNN, or one of each way to learn."""
    others = [one for one in ready_models() if one.source == "embedded"]
    if step in ("distance", "cnn"):
        return [one for one in others if bool(one.readouts) != bool(spec.readouts)][:1]
    if step == "training":
        ways = {one.family: one for one in reversed(others) if one.family in TAUGHT}
        return [ways[family] for family in TAUGHT if family in ways and family != spec.family]
    return []
