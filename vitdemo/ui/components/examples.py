"""The example photos as a row of named buttons: `select` fires with the `index` of the chosen one."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import gradio as gr
from PIL import Image, ImageOps

from vitdemo.ui.examples import Example

SIDE = 160
"""Pixels a side of a thumbnail."""


class ExampleButtons(gr.HTML):
    """One button an example: a square thumbnail over its title."""

    is_template = True

    def __init__(self, examples: Sequence[Example], **options: object) -> None:
        super().__init__(
            html_template=f'<div class="vd-examples" role="group" aria-label="Examples">{"".join(map(_button, examples))}</div>',
            js_on_load="""
                element.addEventListener("click", (event) => {
                    const button = event.target.closest("button[data-index]");
                    if (button) trigger("select", { index: Number(button.dataset.index) });
                });
                element.querySelectorAll("button").forEach((button, index) => { button.dataset.index = index; });
            """,
            apply_default_css=False,
            **options,
        )


def _button(example: Example) -> str:
    title = html.escape(example.title)
    return f'<button type="button"><img src="{_thumbnail(example)}" alt=""><span>{title}</span></button>'


def _thumbnail(example: Example) -> str:
    with Image.open(example.path) as image:
        square = ImageOps.fit(image.convert("RGB"), (SIDE, SIDE))
    buffer = io.BytesIO()
    square.save(buffer, format="JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
