"""`gr.Image` that opens images with our own limits: upload, drop, paste, snapshot and API calls get the same answers."""

from __future__ import annotations

import html
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import gradio as gr
from gradio.data_classes import ImageData
from gradio_client import utils as client_utils

from vitdemo.types import Photo
from vitdemo.ui.errors import user_errors, worded
from vitdemo.ui.photos import current

GONE = (
    "The photo is no longer on the server, which keeps photos for two hours and not when it restarts. Choose it again."
)


class PhotoInput(gr.Image):
    """Gives handlers a `Photo`, or None when it is empty; takes the path of an image."""

    is_template = True

    def preprocess(self, payload: ImageData | None) -> Photo | None:  # type: ignore[override]
        if payload is None:
            return None
        with user_errors():
            if payload.url and payload.url.startswith("data:"):
                return current().open(payload.url)
            if not payload.path:
                return None
            if not Path(payload.path).is_file():
                raise worded(GONE)
            return replace(current().open(Path(payload.path)), name=payload.orig_name or "")

    @staticmethod
    def in_one_form(value: Any) -> Any:
        """What a client sends for a photo: a URL or a data URL may be a plain text, and a URL may stand in either field.

        Gradio looks only into values with `meta` for files that were not uploaded: without it, any image of this machine could be
        named.
        """
        if isinstance(value, str):
            value = {"url" if value[:5].lower() == "data:" else "path": value}
        if not isinstance(value, dict):
            return value
        url = value.get("url")
        if not value.get("path") and isinstance(url, str) and client_utils.is_http_url_like(url):
            value = {**value, "path": url}
        return {**value, "meta": {"_type": "gradio.FileData"}} if value.get("path") else value

    def example_payload(self) -> Any:
        """What the description of the endpoints shows."""
        return {"path": "https://example.com/photo.jpg", "meta": {"_type": "gradio.FileData"}}

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """URLs that API clients give are fetched through our own checks, not through Gradio's."""
        text = str(url_or_file_path or "")
        if client_utils.is_http_url_like(text):
            with user_errors():
                path = await anyio.to_thread.run_sync(current().download, text, self.GRADIO_CACHE)
            self.temp_files.add(path)
            return path
        # `preprocess` has words for what is no file; a folder among the temporary files would end Gradio's deleting of them.
        if url_or_file_path and not Path(text).is_file():
            return text
        return await super().async_move_resource_to_block_cache(url_or_file_path)


@dataclass(frozen=True)
class RejectedImage:
    """An image that could not be opened."""

    message: str


class PagePhoto(PhotoInput):
    """The page's own: a rejection is a value, so that handlers can show it in its place beside the last good result."""

    is_template = True

    def get_block_name(self) -> str:
        # Gradio looks for the part of the page under the parent's name: that of `gr.Image`, not of `PhotoInput`.
        return "image"

    def postprocess(self, value: str | None) -> ImageData | None:  # type: ignore[override]
        # Whatever it is: stock `gr.Image` would read an SVG here, and write its text into the page.
        return ImageData(path=value, orig_name=Path(value).name) if value else None

    def preprocess(self, payload: ImageData | None) -> Photo | RejectedImage | None:  # type: ignore[override]
        try:
            return super().preprocess(payload)
        except gr.Error as error:
            return RejectedImage(html.unescape(error.message))
