"""`gr.Image` whose pictures pass the image door: upload, drop, paste, snapshot and API calls get the same answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio
import gradio as gr
from gradio import processing_utils
from gradio.data_classes import ImageData
from gradio_client import utils as client_utils

from vitdemo.fetch import fetch_url
from vitdemo.images import open_image
from vitdemo.settings import get_settings
from vitdemo.types import Photo
from vitdemo.ui.errors import user_errors, worded


class PhotoInput(gr.Image):
    """Gives handlers a `Photo`, or None when it is empty; takes the path of a picture."""

    is_template = True

    def preprocess(self, payload: ImageData | None) -> Photo | None:  # type: ignore[override]
        if payload is None:
            return None
        with user_errors():
            if payload.url and payload.url.startswith("data:"):
                return open_image(payload.url)
            if not payload.path:
                return None
            return replace(open_image(Path(payload.path)), name=payload.orig_name or "")

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """Addresses that API clients give are fetched through our own guards, not through Gradio's."""
        text = str(url_or_file_path or "")
        if client_utils.is_http_url_like(text):
            path = await anyio.to_thread.run_sync(fetch_to_cache, text, self.GRADIO_CACHE)
            self.temp_files.add(path)
            return path
        return await super().async_move_resource_to_block_cache(url_or_file_path)


def fetch_to_cache(url: str, cache: str) -> str:
    """Fetch a picture, see that it is one, and keep it where Gradio keeps uploads and deletes them again."""
    settings = get_settings()
    with user_errors():
        if not settings.url_input:
            raise worded("This server does not fetch pictures from addresses. Upload the picture instead.")
        data = fetch_url(url, settings)
        open_image(data, settings)
    return str(processing_utils.save_bytes_to_cache(data, "picture.jpg", cache_dir=cache))
