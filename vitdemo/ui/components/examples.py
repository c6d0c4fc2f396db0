"""The example photos as a row of named buttons."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import gradio as gr
from PIL import Image, ImageOps

from vitdemo.ui.examples import Example

SIDE = 160
"""Side of a thumbnail, in pixels."""

_SCRIPT = """
element.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) trigger("select", { index: Number(button.dataset.index) });
});
"""


def example_buttons(examples: Sequence[Example], elem_id: str) -> gr.HTML:
    """One button per example, a square thumbnail over its title; `select` fires with the `index` of the chosen one."""
    buttons = [(example.fools, _button(index, example)) for index, example in enumerate(examples)]
    plain, fooling = ("".join(button for fools, button in buttons if fools is wanted) for wanted in (False, True))
    heading = '<h2 id="vd-fooling">Fool the models</h2>' if fooling else ""
    return gr.HTML(
        html_template=f'<div class="vd-example-groups"><div class="vd-examples" role="group" aria-label="Examples">{plain}</div>'
        f'{heading}<div class="vd-examples" role="group" aria-labelledby="vd-fooling">{fooling}</div></div>',
        js_on_load=_SCRIPT,
        apply_default_css=False,
        elem_id=elem_id,
    )


def _button(index: int, example: Example) -> str:
    picture = f'<img src="{_thumbnail(example)}" alt="">'
    return f'<button type="button" data-index="{index}">{picture}<span>{html.escape(example.title)}</span></button>'


def _thumbnail(example: Example) -> str:
    with Image.open(example.path) as image:
        square = ImageOps.fit(image.convert("RGB"), (SIDE, SIDE))
    buffer = io.BytesIO()
    square.save(buffer, format="JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
