"""What a masked autoencoder saw of a photo, and its reconstruction, side by side."""

from __future__ import annotations

import base64
import html
import io

import gradio as gr
from PIL import Image

from vitdemo.types import Photo, Reconstruction


def reconstruction(elem_id: str) -> gr.HTML:
    """The component; its values are results of `reconstruction_html`."""
    return gr.HTML("", apply_default_css=False, elem_id=elem_id)


def reconstruction_html(photo: Photo, found: Reconstruction) -> str:
    """Three pictures with captions."""
    hidden, patches = int(found.hidden.sum()), found.hidden.size
    size = found.seen.size
    shown = photo.image.crop(found.view.crop).resize(size, Image.Resampling.LANCZOS)
    pictures = (
        (shown, "The photo, as the model is given it"),
        (found.seen, f"Visible: {patches - hidden} of {patches} patches"),
        (found.filled, f"Reconstruction ({found.milliseconds:.0f} ms, {found.device}, {found.dtype})"),
    )
    figures = "".join(_figure(image, caption) for image, caption in pictures)
    notes = f"<p>{html.escape(' '.join(found.notes))}</p>" if found.notes else ""
    return f'<div class="vd-rebuilt">{figures}</div>{notes}'


def _figure(image: Image.Image, caption: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    text = html.escape(caption)
    return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'
