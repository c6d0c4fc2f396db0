"""The attention explorer: all layers and heads go to the browser once, which computes every display control itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import gradio as gr

from vitdemo.attribution.describe import READOUT_WORDS, why_flat
from vitdemo.options.explain import reason_against
from vitdemo.options.methods import METHODS
from vitdemo.rendering.overlay import COLOUR_MAPS, colour_table
from vitdemo.types import Explanation, ModelSpec, Photo
from vitdemo.ui import STATIC
from vitdemo.ui.components.quantise import base64_of, photo_url, quantised
from vitdemo.ui.examples import label_of

PHOTO_SIDE = 800
"""Long side, in pixels, of the photo that is sent to the browser."""

FOLDER = STATIC / "explorer"
NAMES = ("head", "maps", "draw", "query", "heads", "box", "board", "take", "panels", "page")
SCRIPTS = (STATIC / "common.js", STATIC / "maps.js", *(FOLDER / f"{name}.js" for name in NAMES))
"""In the order in which they are joined: what starts the page comes last."""


def explorer(
    value: dict[str, Any] | None, functions: list[Callable[[dict[str, Any]], dict[str, Any]]], elem_id: str
) -> gr.HTML:
    """The component; its values are results of `explorer_value`, None without a photo, or `{"refused": why}`.

    Args:
        functions: what its script may ask the server for, by name: see `vitdemo.ui.result_store`.
    """
    return gr.HTML(
        value,
        html_template=(FOLDER / "explorer.html").read_text(encoding="utf-8"),
        css_template=(FOLDER / "explorer.css").read_text(encoding="utf-8"),
        js_on_load="\n".join(path.read_text(encoding="utf-8") for path in SCRIPTS),
        server_functions=functions,
        apply_default_css=False,
        elem_id=elem_id,
    )


def grey_if_unanswered(event: Any, *explorers: gr.HTML) -> None:
    """Where an event gives no result, what they show is that of something else: it is greyed, with the reason above it."""
    refused = '({ refused: window.vitdemoRefusal("This could not be computed.") })'
    script = f"() => {refused}" if len(explorers) == 1 else f"() => [{', '.join([refused] * len(explorers))}]"
    event.failure(None, None, list(explorers), js=script, api_visibility="private", show_progress="hidden")


def explorer_value(
    identity: str,
    photo: Photo,
    explanations: Sequence[Explanation],
    link: dict[str, str],
    calls: dict[str, dict[str, str]],
    start: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything the browser needs to draw any layer and head of these explanations of one photo.

    Args:
        identity: by which the server finds the result again.
        link: what the page's address says of it, without what the browser knows better.
        calls: by "rows" and "patch": texts of the calls that give the same.
        start: layer, head, read-out and patch to begin with, where a link asks for them.
    """
    width, height = photo.size
    return {
        "id": identity,
        "name": photo.name,
        "photo": {"src": photo_url(photo.image, PHOTO_SIDE), "width": width, "height": height},
        "panels": [_panel(explanation, photo) for explanation in explanations],
        "tables": _tables(),
        "link": link,
        "calls": calls,
        "start": start,
        "truth": label_of(photo),
    }


def _panel(explanation: Explanation, photo: Photo) -> dict[str, Any]:
    width, height = photo.size
    prediction, spec = explanation.prediction, explanation.prediction.spec
    left, top, right, bottom = explanation.view.crop
    attribution = explanation.map
    method = METHODS[attribution.method] if attribution is not None and attribution.method != "attention" else None
    target = "" if attribution is None or attribution.target is None else spec.labels[attribution.target]
    flat = why_flat(attribution, target, spec.methods) if attribution is not None else ""
    # The read-out that is shown by default comes first.
    readouts = [
        {"name": name, "label": READOUT_WORDS[name], **quantised(explanation.rows[name])}
        for name in spec.readouts
        if name in explanation.rows
    ]
    if method is not None and attribution is not None:
        # One map of all layers and heads.
        readouts = [{"name": method.name, "label": method.title, **quantised(attribution.values[None, None])}]
    return {
        "model": spec.name,
        "family": spec.family,
        "layers": spec.num_layers if method is None else 1,
        "heads": spec.num_heads if method is None else 1,
        "method": None
        if method is None or attribution is None
        else {
            "title": method.title,
            "description": explanation.description,
            "says": f"{method.title}: {method.says} {method.paper}.",
            "pick": method.name == "similarity",
            "aims": method.class_specific,
            "target": target,
            "flat": flat,
        },
        "absent": "" if readouts else explanation.description,
        "grid": list(explanation.patch_grid),
        "crop": [left / width, top / height, right / width, bottom / height],
        "readouts": readouts,
        "labels": [{"label": label.label, "score": label.score, "index": label.index} for label in prediction.labels],
        "vocabulary": _vocabulary(spec.labels),
        "uncovered": prediction.uncovered,
        "knows": label_of(photo) in spec.labels,
        "embedded": spec.source == "embedded",
        "classes": list(spec.labels) if spec.source == "embedded" else [],
        "notes": [*(note for note in explanation.notes if note != flat), *_absent_methods(spec)],
        "ms": prediction.milliseconds,
        "cached": prediction.from_cache,
        "device": prediction.device,
        "dtype": prediction.dtype,
        "parameters": spec.parameters,
        "revision": spec.revision,
    }


def _absent_methods(spec: ModelSpec) -> list[str]:
    """Which methods do not apply to a model, and why."""
    reasons: dict[str, list[str]] = {}
    for method in METHODS.values():
        if reason := reason_against(method.name, spec):
            reasons.setdefault(reason, []).append(method.title)
    return [f"Not for this model: {', '.join(titles)}: {reason}." for reason, titles in reasons.items()]


@lru_cache(maxsize=256)
def _vocabulary(labels: tuple[str, ...]) -> str:
    """Models of the same classes have the same one."""
    return hashlib.sha256("\n".join(labels).encode()).hexdigest()[:12]


@lru_cache(maxsize=1)
def _tables() -> dict[str, str]:
    return {name: base64_of(colour_table(name)) for name in COLOUR_MAPS}
