"""The attention explorer: all layers and heads go to the browser once, which computes every display control itself."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Sequence
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitdemo.attribution.describe import READOUT_WORDS
from vitdemo.methods import METHODS
from vitdemo.rendering import COLOUR_MAPS, colour_table
from vitdemo.serialise import comparison_json
from vitdemo.settings import ASSETS
from vitdemo.types import Comparison, Explanation, Photo

PHOTO_SIDE = 800
"""Long side, in pixels, of the photo that is sent to the browser."""

_ids = itertools.count(1)


def explorer(value: dict[str, Any] | None, elem_id: str) -> gr.HTML:
    """The component; its values are results of `explorer_value`, or None for an empty page."""
    return gr.HTML(
        value,
        html_template=(ASSETS / "explorer.html").read_text(encoding="utf-8"),
        css_template=(ASSETS / "explorer.css").read_text(encoding="utf-8"),
        js_on_load=(ASSETS / "explorer.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id=elem_id,
    )


def explorer_value(
    photo: Photo, explanations: Sequence[Explanation], comparison: Comparison | None = None
) -> dict[str, Any]:
    """Everything the browser needs to draw any layer and head of these explanations of one photo."""
    width, height = photo.size
    return {
        "id": str(next(_ids)),
        "photo": {"src": _data_url(photo.image), "width": width, "height": height},
        "panels": [_panel(explanation, width, height) for explanation in explanations],
        "tables": {name: _base64(colour_table(name)) for name in COLOUR_MAPS},
        "agreement": comparison_json(comparison)["agreement"] if comparison else [],
    }


def _panel(explanation: Explanation, width: int, height: int) -> dict[str, Any]:
    prediction, spec = explanation.prediction, explanation.prediction.spec
    left, top, right, bottom = explanation.view.crop
    attribution = explanation.map
    method = METHODS[attribution.method] if attribution is not None and attribution.method != "attention" else None
    # The read-out that is shown by default comes first.
    readouts = [
        {"name": name, "label": READOUT_WORDS[name], **_quantised(explanation.rows[name])}
        for name in spec.readouts
        if name in explanation.rows
    ]
    if method is not None and attribution is not None:
        # One map of all layers and heads.
        readouts = [{"name": method.name, "label": method.title, **_quantised(attribution.values[None, None])}]
    return {
        "model": spec.name,
        "family": spec.family,
        "layers": spec.num_layers if method is None else 1,
        "heads": spec.num_heads if method is None else 1,
        "method": None
        if method is None
        else {
            "title": method.title,
            "description": explanation.description,
            "says": f"{method.title}: {method.says} {method.paper}.",
            "pick": method.name == "similarity",
        },
        "grid": list(explanation.patch_grid),
        "crop": [left / width, top / height, right / width, bottom / height],
        "readouts": readouts,
        "labels": [{"label": label.label, "score": label.score} for label in prediction.labels],
        "uncovered": prediction.uncovered,
        "classes": list(spec.labels) if prediction.uncovered else [],
        "notes": [*explanation.notes],
        "ms": prediction.milliseconds,
        "cached": prediction.from_cache,
        "device": prediction.device,
        "dtype": prediction.dtype,
        "parameters": spec.parameters,
        "revision": spec.revision,
    }


def _quantised(rows: NDArray[np.float32]) -> dict[str, Any]:
    """`[L, H, h, w]` as bytes from 0, or a lowest value below that, to each map's own peak: at most 0.2% wrong."""
    peaks, floor = rows.max(axis=(2, 3)), float(min(0.0, rows.min()))
    scaled = np.rint((rows - floor) / np.maximum(peaks - floor, 1e-12)[:, :, None, None] * 255)
    return {
        "data": _base64(scaled.astype(np.uint8)),
        "peaks": [float(f"{peak:.6g}") for peak in peaks.ravel()],
        "floor": float(f"{floor:.6g}"),
    }


def _data_url(image: Image.Image) -> str:
    # `thumbnail` would turn a 1 x 5000 photo into one of 0 columns.
    scale = min(1.0, PHOTO_SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(buffer, format="JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _base64(values: NDArray[np.uint8]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
