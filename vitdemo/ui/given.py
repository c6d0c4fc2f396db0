"""What a page sends is not to be believed: Gradio takes anything of a file's form for a file, and fetches it."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder, is_in_or_equal
from gradio_client import utils as client_utils

from vitdemo.errors import ImageError

NOT_UPLOADED = "That file was not uploaded to this server. Upload it, and try again."


def uploaded(path: str) -> str:
    """The path, if it is one that Gradio gave to an upload.

    Raises:
        ImageError: another file of this machine.
    """
    if not path or not is_in_or_equal(path, get_upload_folder()):
        raise ImageError(NOT_UPLOADED)
    return path


def files_in(value: Any) -> list[str]:
    """Paths and URLs of everything in a value that Gradio would take for a file.

    >>> files_in([1, {"a": {"path": "http://example.com/a.png", "meta": {"_type": "gradio.FileData"}}}])
    ['http://example.com/a.png']
    """
    found: list[str] = []
    client_utils.traverse(value, lambda file: found.append(str(file.get("path") or "")), client_utils.is_file_obj)
    return found


def number_of(event: gr.EventData) -> float | None:
    """By which a component knows its answer: what goes back as it came must be nothing else."""
    number = getattr(event, "number", None)
    return number if isinstance(number, (int, float)) else None
