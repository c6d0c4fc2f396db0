"""What becomes the page's photo: files that the browser's script uploaded, and image URLs."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import gradio as gr

from vitdemo.ui.components.intake import note_value
from vitdemo.ui.components.photo import PagePhoto
from vitdemo.ui.errors import user_errors
from vitdemo.ui.given import uploaded
from vitdemo.ui.photos import DecodedPhotos
from vitdemo.ui.state import PageState, Values


class PhotoIntake:
    """Wires the components of the photo; a URL that cannot be used is answered in the line under its field."""

    def __init__(
        self, photos: DecodedPhotos, photo: PagePhoto, taken: gr.HTML, address: gr.Textbox, answer: gr.HTML
    ) -> None:
        self.photos, self.photo = photos, photo
        self.taken, self.address, self.answer = taken, address, answer

    def connect(self, state: gr.State, options: dict[str, Any]) -> None:
        """Let files and URLs become the photo; `options` are those of private events."""
        # A slow URL must not keep the others waiting.
        several: dict[str, Any] = {**options, "concurrency_limit": 8, "show_progress_on": self.address}
        outputs = [self.photo, self.address, self.answer]
        self.address.submit(self.on_url, [self.address, state], outputs, **several)
        self.taken.select(self.on_taken, state, outputs, **several)

    def on_url(self, url: str, state: PageState) -> Values:
        url = url.strip()
        try:
            with user_errors():
                path = self.photos.download(url, self.photo.GRADIO_CACHE)
                state.urls[self.photos.open(Path(path)).digest] = url
        except gr.Error as error:
            return {self.answer: note_value(html.unescape(error.message))}
        return {self.photo: path, self.answer: note_value("")}

    def on_taken(self, state: PageState, event: gr.EventData) -> Values:
        with user_errors():
            taken = event._data or {}
            if url := str(taken.get("url") or ""):
                return {self.address: url, **self.on_url(url, state)}
            return {self.photo: uploaded(str(taken.get("path") or "")), self.answer: note_value("")}
