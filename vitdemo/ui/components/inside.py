"""The Inside tab as one component: text, controls and drawings are the browser's, which asks the server for numbers alone."""

from __future__ import annotations

from typing import Any

import gradio as gr

from vitdemo.ui import STATIC

FOLDER = STATIC / "inside"
NAMES = ("head", "draw", "steps", "bench", "page")
SCRIPTS = (STATIC / "common.js", STATIC / "maps.js", STATIC / "asking.js", *(FOLDER / f"{name}.js" for name in NAMES))
"""In the order in which they are joined: what starts the page comes last."""


def inside(settings: dict[str, Any], models: list[dict[str, Any]], elem_id: str) -> gr.HTML:
    """The component, with what its controls start with.

    It tells of `select` with all `settings`, a `number` that counts its requests, the id of the photo that it has `shown`, and,
    where parts are ranked, which model's and from which on (`rank`); and takes an answer of the same number.
    """
    return gr.HTML(
        {"start": settings, "models": models, "notes": []},
        html_template=(FOLDER / "inside.html").read_text(encoding="utf-8"),
        css_template=(FOLDER / "inside.css").read_text(encoding="utf-8"),
        js_on_load="\n".join(path.read_text(encoding="utf-8") for path in SCRIPTS),
        apply_default_css=False,
        elem_id=elem_id,
    )
