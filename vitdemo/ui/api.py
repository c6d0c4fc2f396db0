"""The public endpoints: what `answers` says, as JSON, PNG and a file."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from vitdemo.options.segment import SegmentRequest
from vitdemo.pipeline import Pipeline
from vitdemo.registry import ready_models
from vitdemo.ui.answers import Answer, answers
from vitdemo.ui.components.photo import PhotoInput
from vitdemo.ui.errors import user_errors

INFERENCE: dict[str, Any] = {"concurrency_id": "inference", "concurrency_limit": 4}
"""Shared by everything that runs a model."""


def add_endpoints(pipeline: Pipeline) -> None:
    """Define `/models`, `/classify`, `/explain`, `/compare`, `/reconstruct` and `/segment` inside an open `gr.Blocks`."""
    asked = answers(pipeline)

    # Components only give the endpoints their types: nobody sees them.
    with gr.Column(visible=False):
        photo, names, top_k = (
            PhotoInput(label="image"),
            _names(multiselect=True),
            gr.Number(5, precision=0, label="top_k"),
        )
        model, method = _names(), gr.Textbox("attention", label="method")
        layer, head = gr.Number(-1, precision=0, label="layer"), gr.Textbox("mean", label="head")
        readout, target = gr.Textbox(label="readout"), gr.Textbox(label="target")
        resolution = gr.Number(None, precision=0, label="resolution")
        discard, point = gr.Number(0, label="discard"), gr.Textbox(label="point")
        faithfulness, variant = gr.Checkbox(False, label="faithfulness"), gr.Textbox(label="variant")
        ratio, seed = gr.Number(0.75, label="ratio"), gr.Number(0, precision=0, label="seed")
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


def _names(multiselect: bool = False) -> gr.Dropdown:
    choices = [spec.name for spec in ready_models()]
    # Our own message names the choices; a custom value must reach it.
    return gr.Dropdown(
        choices, value=[] if multiselect else None, multiselect=multiselect, allow_custom_value=True, label="models"
    )


def _segment_inputs() -> list[Any]:
    own = SegmentRequest()
    return [
        gr.Textbox(own.method, label="method"),
        gr.Number(own.threshold, label="threshold"),
        gr.Textbox(str(own.head), label="head"),
        gr.Number(own.objects, precision=0, label="objects"),
        gr.Number(own.tau, label="tau"),
        gr.Number(own.parts, precision=0, label="parts"),
        gr.Checkbox(own.within, label="within"),
        gr.Textbox(label="point"),
        gr.Number(own.matches, precision=0, label="matches"),
        gr.Checkbox(own.refine, label="refine"),
        gr.Checkbox(own.clip, label="clip"),
        gr.Number(own.resolution, precision=0, label="resolution"),
    ]
