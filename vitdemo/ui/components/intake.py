"""The line under the photo: what was done to it on its way, and where the browser's script hands over what it took."""

from __future__ import annotations

import time
from typing import Any

import gradio as gr

from vitdemo.images.decode import max_bytes
from vitdemo.settings import Settings


def intake(settings: Settings, elem_id: str) -> gr.HTML:
    """The component; `select` fires with the `path` of an uploaded file, or with a `url`.

    The script is `static/intake.js`: what is over the limits is reduced before it is sent.
    """
    pixels = f"{settings.max_megapixels * 1e6:.0f}"
    limits = f'data-bytes="{max_bytes(settings)}" data-pixels="{pixels}" data-side="{settings.max_side}"'
    return gr.HTML(
        "",
        html_template=f'<p class="vd-intake vd-note" role="status" {limits}></p>',
        js_on_load='element.querySelector(".vd-intake").addEventListener("vd-take", (event) => trigger("select", event.detail));',
        apply_default_css=False,
        elem_id=elem_id,
    )


def note(elem_id: str) -> gr.HTML:
    """A line that is empty, and takes no room, until there is something to say. Its value is a `note_value`."""
    return gr.HTML(
        note_value(""),
        html_template='<p class="vd-note vd-wrong" role="status"></p>',
        js_on_load="""const line = element.querySelector(".vd-note");
            const show = () => { line.textContent = props.value.text; };
            watch("value", show);
            show();""",
        apply_default_css=False,
        elem_id=elem_id,
    )


def note_value(text: str) -> dict[str, Any]:
    """The same words twice are said twice: what is typed in between takes them away, and the server does not hear of it."""
    return {"text": text, "said": time.time_ns()}
