"""`gr.File` for several photos, none of which is opened yet: each is opened when its turn comes."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from gradio.data_classes import FileData, ListFiles
from gradio_client import utils as client_utils

from vitdemo.ui.errors import worded


class PhotoFiles(gr.File):
    """Gives handlers `(name, path)` a file. Stock `gr.File` would refuse all of them for one whose name is not an image's."""

    is_template = True

    def preprocess(self, payload: ListFiles | FileData | None) -> list[tuple[str, str]]:  # type: ignore[override]
        files = payload.root if isinstance(payload, ListFiles) else [payload] if payload else []
        return [(file.orig_name or Path(file.path).name, file.path) for file in files]

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """The page sends files only; a URL would be fetched by Gradio, past our own checks."""
        if client_utils.is_http_url_like(str(url_or_file_path or "")):
            raise worded("Several photos are taken as files, not as addresses.")
        # One that was deleted meanwhile is answered for itself, in its place among the others.
        if url_or_file_path and not Path(url_or_file_path).is_file():
            return str(url_or_file_path)
        return await super().async_move_resource_to_block_cache(url_or_file_path)
