"""The Segment tab: objects and parts of a photo, from a transformer that was never taught to segment."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from vitdemo.pipeline import Pipeline
from vitdemo.registry import get_spec
from vitdemo.types import Photo
from vitdemo.ui.components.photo import RejectedImage
from vitdemo.ui.components.segmenter import head_values, other_values, photo_value, segmenter, table, view_value
from vitdemo.ui.errors import user_errors
from vitdemo.ui.examples import example_to_open, opened
from vitdemo.ui.given import number_of, uploaded
from vitdemo.ui.links import LinkState, image_of, segment_link
from vitdemo.ui.segment_settings import LAYERED, Settings, models_offered, read_settings
from vitdemo.ui.segment_views import Found, Segmenter, zip_file
from vitdemo.ui.state import SEGMENT, Values

PHOTO_CHANGED = "() => { window.dispatchEvent(new Event('vitdemo-photo')); }"
"""The component asks anew when its tab is open, or when it is opened."""

UNANSWERED = "() => ({ failed: Date.now() })"


class SegmentTab:
    """Built inside an open `gr.Tab`; nothing runs before it is opened. `connect` wires it.

    Args:
        state: of the page, a `PageState`.
    """

    def __init__(self, pipeline: Pipeline, model: str, state: gr.State) -> None:
        self.pipeline, self.segmenter, self.model, self.state = pipeline, Segmenter(pipeline), model, state
        settings, _ = read_settings({}, model)
        self.view = segmenter(settings.json, models_offered(model), elem_id="segmented")

    def connect(self, photo: gr.Image, options: dict[str, Any]) -> None:
        """One event for everything that needs the server. The component asks for one thing at a time, the newest."""

        def on_select(values: Values, event: gr.EventData) -> Values:
            number, state, found = number_of(event), values[self.state], values[photo]
            other: Values = {}
            if example := example_to_open(SEGMENT, found, state.touched):
                found, other = opened(self.pipeline, example), {photo: str(example.path)}
            try:
                with user_errors():
                    return {**other, self.view: {"number": number, **self.answer(found, state.urls, event)}}
            except gr.Error as error:
                # In its place on the page: it is text there.
                return {self.view: {"number": number, "error": html.unescape(error.message)}}

        quiet = {**options, "show_progress": "hidden", "trigger_mode": "multiple"}
        asked = self.view.select(on_select, {photo, self.state}, [self.view, photo], **quiet)
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        asked.failure(None, None, self.view, js=UNANSWERED, **private)
        photo.change(None, None, None, js=PHOTO_CHANGED, **private)

    def answer(
        self, photo: Photo | RejectedImage | None, urls: Mapping[str, str], event: gr.EventData
    ) -> dict[str, Any]:
        """What the component takes: see `vitdemo.ui.components.segmenter`."""
        if not isinstance(photo, Photo):
            return {"refused": "Drop a photo, or choose an example." if photo is None else photo.message}
        given = dict(getattr(event, "settings", None) or {})
        shown = str(getattr(event, "shown", "") or "")
        if shown and shown != photo.digest[:16]:
            given["point"] = None
        settings, notes = read_settings(given, self.model)
        found = self.segmenter.find(photo, _uploaded(getattr(event, "others", None)), settings)
        if getattr(event, "zip", False):
            path = zip_file(found, self.view.GRADIO_CACHE)
            return {"file": {"path": path, "orig_name": Path(path).name, "meta": {"_type": "gradio.FileData"}}}
        return answer_value(found, [*notes, *found.notes], image_of(photo, urls), shown)

    def joined(self, name: str) -> Values:
        """A model that has just arrived: it is offered, and chosen if it has patches to tell apart."""
        chosen = {"chosen": name} if get_spec(name).readouts else {}
        return {self.view: {"models": models_offered(), **chosen}}

    def follow(self, link: LinkState) -> Values:
        """The settings that a link asks for; the component asks for what they make when it is open."""
        settings, notes = read_settings(link.segment, self.model)
        return {
            self.view: {
                "start": settings.json,
                "models": models_offered(settings.model, settings.beside),
                "notes": notes,
            }
        }


def answer_value(found: Found, notes: list[str], image: str, shown: str = "") -> dict[str, Any]:
    """Everything that the component shows of a segmentation.

    Args:
        image: what a link calls the photo.
        shown: the id of the photo that the browser has already.
    """
    settings: Settings = found.settings
    photo = found.photos[0]
    views = [view_value(photo, one) for one in (found.first, found.second) if one is not None]
    return {
        "settings": settings.json,
        "models": models_offered(settings.model, settings.beside),
        "photo": photo_value(photo, known=shown),
        "views": views,
        "heads": head_values(found.heads) if found.heads else [],
        "others": other_values(found.photos, found.results),
        "notes": notes,
        "link": segment_link(image, settings.link),
        "refined": settings.request.refine and settings.request.method in LAYERED,
        "table": table(),
    }


def _uploaded(given: Any) -> list[tuple[str, str]]:
    """Names and paths of the files that a page says it has uploaded.

    Raises:
        ImageError: another file of this machine.
    """
    return [(str(one["name"]), uploaded(str(one["path"]))) for one in given] if isinstance(given, list) else []
