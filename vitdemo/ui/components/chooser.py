"""The Choose tab as one component: controls, table and drawings are the browser's, which asks the server for numbers and for the
pictures of photos that are seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from vitdemo.ui import STATIC

FOLDER = STATIC / "choose"
NAMES = ("head", "scatter", "table", "photos", "map", "views", "clusters", "page")
SCRIPTS = (
    *(STATIC / f"{name}.js" for name in ("common", "pieces")),
    *(FOLDER / f"{name}.js" for name in NAMES),
)
"""In the order in which they are joined: what starts the page comes last."""


def chooser(offered: dict[str, Any], function: Callable[[dict[str, Any]], dict[str, Any]], elem_id: str) -> gr.HTML:
    """The component.

    It tells of `begin` with the `settings`, the chosen `data` and the page's `token`, of `probe` and `pack` with a `model`, whose
    probe is to be made or downloaded, and of `show` with the number of a `photo`; and takes answers of the same `number`.

    Args:
        offered: see `vitdemo.ui.choose_settings.offers`.
        function: what it asks for how far a comparison is, and for what it has left.
    """
    return gr.HTML(
        {"offered": offered},
        html_template=(FOLDER / "choose.html").read_text(encoding="utf-8"),
        css_template=(FOLDER / "choose.css").read_text(encoding="utf-8"),
        js_on_load="\n".join(path.read_text(encoding="utf-8") for path in SCRIPTS),
        server_functions=[function],
        apply_default_css=False,
        elem_id=elem_id,
    )
