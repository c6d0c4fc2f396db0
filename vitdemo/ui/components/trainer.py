"""The Train tab as one component: controls, curves and the strip are drawn in the browser, which asks how far the training is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gradio as gr
import numpy as np

from vitdemo.rendering.overlay import DEFAULT_COLOUR_MAP, colour_table
from vitdemo.training.strip import Strip
from vitdemo.types import Photo
from vitdemo.ui import STATIC
from vitdemo.ui.components.quantise import base64_of, photo_url, quantised

PHOTO_SIDE = 560
"""Long side, in pixels, of the watched photo as it is sent to the browser."""

FOLDER = STATIC / "train"
SCRIPTS = (
    STATIC / "common.js",
    STATIC / "maps.js",
    STATIC / "pieces.js",
    *(FOLDER / f"{name}.js" for name in ("head", "strip", "curves", "page")),
)
"""In the order in which they are joined: what starts the page comes last."""


def trainer(offered: dict[str, Any], function: Callable[[dict[str, Any]], dict[str, Any]], elem_id: str) -> gr.HTML:
    """The component.

    It tells of `begin` with all `settings`, the chosen `data` and the page's `token`, of `pack` with the token, when the model is
    to be downloaded, and of `join` with the `name` of a model that has been trained; and takes answers of the same `number`.

    Args:
        offered: see `vitdemo.ui.train_settings.offers`.
        function: what it asks for how far a training is.
    """
    return gr.HTML(
        {"offered": {**offered, "table": base64_of(colour_table(DEFAULT_COLOUR_MAP))}},
        html_template=(FOLDER / "train.html").read_text(encoding="utf-8"),
        css_template=(FOLDER / "train.css").read_text(encoding="utf-8"),
        js_on_load="\n".join(path.read_text(encoding="utf-8") for path in SCRIPTS),
        server_functions=[function],
        apply_default_css=False,
        elem_id=elem_id,
    )


def strip_value(strip: Strip, photo: Photo | None, known: int = 0) -> dict[str, Any]:
    """A strip, without what the browser has.

    Args:
        photo: the watched one; None where the browser has it.
        known: the last step that it has.
    """
    new = [index for index, step in enumerate(strip.steps) if step > known]
    value: dict[str, Any] = {
        "grid": list(strip.rows.shape[3:]),
        "layers": strip.rows.shape[1],
        "heads": strip.rows.shape[2],
        "frames": [
            {
                "step": strip.steps[index],
                "loss": _finite(strip.losses[index]),
                "score": _finite(strip.scores[index]),
                **quantised(strip.rows[index].astype(np.float32)),
            }
            for index in new
        ],
    }
    if photo is not None:
        width, height = photo.size
        left, top, right, bottom = strip.crop
        value["photo"] = photo_url(photo.image, PHOTO_SIDE)
        value["crop"] = [left / width, top / height, right / width, bottom / height]
        value["name"] = photo.name
    return value


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
