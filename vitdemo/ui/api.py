"""The public endpoints: what `answers` says, as JSON, PNG and a file."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

from vitdemo.options.segment import SegmentRequest
from vitdemo.pipeline import Pipeline
from vitdemo.registry import ready_models
from vitdemo.ui.answers import Answer, answers
from vitdemo.ui.components.photo import PhotoInput
from vitdemo.ui.errors import user_errors

Named = TypeVar("Named", gr.Textbox, gr.Number)

INFERENCE: dict[str, Any] = {"concurrency_id": "inference", "concurrency_limit": 4}
"""Shared by everything that runs a model."""

OFF = (("heads", "3:0,3:1"), ("attention", "5"), ("mlp", "7"), ("patches", "90-93"))
"""What may be off, with an example."""


def add_endpoints(pipeline: Pipeline) -> None:
    """Define the endpoints of `answers` inside an open `gr.Blocks`."""
    asked = answers(pipeline)

    # Components only give the endpoints their types: nobody sees them.
    with gr.Column(visible=False):
        photo, names, top_k = (
            PhotoInput(label="image"),
            _names(multiselect=True),
            _number("top_k", 5, precision=0),
        )
        model, method = _names(), _text("method", "attention")
        layer, head = _number("layer", -1, precision=0), _text("head", "mean")
        readout, target = _text("readout", None, "class"), _text("target", None, "top:1")
        resolution = _number("resolution", None, 448, precision=0)
        discard, point = _number("discard", 0), _text("point", None, "112,80")
        faithfulness, variant = gr.Checkbox(False, label="faithfulness"), _text("variant", None)
        off = [_text(name, None, example) for name, example in OFF]
        rank, top = _text("rank", None, "heads"), _number("top", 10, precision=0)
        ratio, seed = _number("ratio", 0.75), _number("seed", 0, precision=0)
        result, picture = gr.JSON(label="result"), gr.Image(format="png", label="overlay")
        numbers = gr.File(label="arrays")
        trigger = gr.Button()

        def add(name: str, inputs: Sequence[Any], *files: tuple[Any, str], **options: Any) -> None:
            """An endpoint: JSON, and beside it for each of `files` a component and the name of the file that it gets."""
            answer = asked[name]
            trigger.click(
                _endpoint(answer, [file for _, file in files], str(picture.GRADIO_CACHE)),
                list(inputs),
                [result, *(component for component, _ in files)],
                api_name=name,
                api_description=inspect.getdoc(answer),
                **options,
            )

        add("models", [])
        add("classify", [photo, names, top_k], **INFERENCE)
        add(
            "explain",
            [photo, model, method, layer, head, readout, target, resolution, discard, point, faithfulness, variant],
            (picture, "overlay.png"),
            (numbers, "attention.npz"),
            **INFERENCE,
        )
        add(
            "ablate",
            [photo, model, *off, _text("fill", "grey"), rank, top, target, method, layer, head, resolution],
            (picture, "before and after.png"),
            (numbers, "maps.npz"),
            **INFERENCE,
        )
        add("reconstruct", [photo, model, ratio, seed], (picture, "reconstruction.png"), **INFERENCE)
        add(
            "compare",
            [photo, names, layer, head, method, target, readout, resolution, discard, point, variant],
            (picture, "comparison.png"),
            **INFERENCE,
        )
        add(
            "segment",
            [photo, model, *_segment_inputs()],
            (picture, "overlay.png"),
            (numbers, "segmentation.zip"),
            **INFERENCE,
        )


def _endpoint(answer: Callable[..., Answer], files: Sequence[str], cache: str) -> Callable[..., Any]:
    """A handler of Gradio's. Its files lie in a new folder where Gradio keeps uploads, so that it deletes ours with them."""

    @wraps(answer)
    def endpoint(*arguments: Any) -> Any:
        with user_errors():
            found = answer(*arguments)
            if not files:
                return found.entry
            folder = Path(cache) / uuid.uuid4().hex
            folder.mkdir(parents=True)
            paths: list[str | None] = []
            for name in files:
                path = folder / name
                if path.suffix != ".png":
                    assert found.file is not None
                    path.write_bytes(found.file())
                elif found.picture is not None:
                    found.picture.save(path)
                paths.append(str(path) if path.exists() else None)
            return found.entry, *paths

    return endpoint


def _text(name: str, value: str | None, example: str = "") -> gr.Textbox:
    return _showing(gr.Textbox(value, label=name), example or value)


def _number(name: str, value: float | None, example: float = 0, precision: int | None = None) -> gr.Number:
    return _showing(gr.Number(value, precision=precision, label=name), example if value is None else value)


def _showing(component: Named, example: Any) -> Named:
    """With an example for the description of the endpoints that can be used: Gradio's is "Hello!!"."""
    component.example_payload = lambda: example  # type: ignore[method-assign]
    return component


def _names(multiselect: bool = False) -> gr.Dropdown:
    choices = [spec.name for spec in ready_models()]
    # Our own message names the choices; a custom value must reach it.
    return gr.Dropdown(
        choices, value=[] if multiselect else None, multiselect=multiselect, allow_custom_value=True, label="models"
    )


def _segment_inputs() -> list[Any]:
    own = SegmentRequest()
    return [
        _text("method", own.method),
        _number("threshold", own.threshold),
        _text("head", str(own.head)),
        _number("objects", own.objects, precision=0),
        _number("tau", own.tau, 0.5),
        _number("parts", own.parts, precision=0),
        gr.Checkbox(own.within, label="within"),
        _text("point", None, "112,80"),
        _number("matches", own.matches, precision=0),
        gr.Checkbox(own.refine, label="refine"),
        gr.Checkbox(own.clip, label="clip"),
        _number("resolution", own.resolution, precision=0),
    ]
