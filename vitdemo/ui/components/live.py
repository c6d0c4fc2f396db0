"""A camera with a model's answers: the browser takes frames, and lays the newest map over its own video.

Not `gr.Image(streaming=True)`: that one keeps the camera on when it is stopped, reports no refused permission, cannot change
its camera, and sends 20 large frames per second whether or not they can be answered.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from vitdemo.rendering.overlay import DEFAULT_COLOUR_MAP, colour_table
from vitdemo.types import Explanation, Photo, Processor
from vitdemo.ui import STATIC
from vitdemo.ui.components.quantise import base64_of, quantised

NO_MAPS: dict[str, Any] = {"data": None, "peaks": [], "floor": 0.0}


def live_view(elem_id: str, every: float, limit: float) -> gr.HTML:
    """The component. Its `stream` event carries one frame, its `freeze` event the present picture; its values are answers.

    Args:
        every: shortest time between two frames, in seconds.
        limit: seconds after which a stream ends.
    """
    style = (STATIC / "live.css").read_text(encoding="utf-8")
    table = base64_of(colour_table(DEFAULT_COLOUR_MAP))
    script = "\n".join((STATIC / name).read_text(encoding="utf-8") for name in ("maps.js", "live.js"))
    return gr.HTML(
        None,
        # Not `css_template`: that one is rewritten, and the whole page restyled, at every answer.
        html_template=f"<style>{style}</style>" + (STATIC / "live.html").read_text(encoding="utf-8"),
        js_on_load=f'const TABLE = "{table}", EVERY = {every * 1000:g}, LIMIT = {limit:g};\n{script}',
        apply_default_css=False,
        elem_id=elem_id,
    )


def live_value(photo: Photo, explanation: Explanation) -> dict[str, Any]:
    """One answer: labels, and the attention of all layers and heads; `data` is None for a model without attention."""
    prediction, spec = explanation.prediction, explanation.prediction.spec
    (width, height), (left, top, right, bottom) = photo.size, explanation.view.crop
    rows = explanation.rows[spec.readouts[0]] if spec.readouts else None
    return {
        "model": spec.name,
        "labels": [{"label": label.label, "score": label.score} for label in prediction.labels],
        "uncovered": prediction.uncovered,
        "classes": len(spec.labels),
        "notes": [
            *explanation.notes,
            *([] if spec.readouts else ["A convolutional network: it has no attention to show."]),
        ],
        "layers": spec.num_layers,
        "heads": spec.num_heads,
        "grid": list(explanation.patch_grid),
        "crop": [left / width, top / height, right / width, bottom / height],
        **(NO_MAPS if rows is None else quantised(rows)),
        "side": shorter_side(spec.processor, spec.image_size),
        "ms": prediction.milliseconds,
        "device": prediction.device,
        "dtype": prediction.dtype,
    }


def shorter_side(processor: Processor, image_size: tuple[int, int]) -> int:
    """Pixels that a frame's shorter side needs: with fewer the model sees less than it could, more are wasted."""
    resize = processor.resize
    return resize if isinstance(resize, int) else max(resize or processor.crop or image_size)
