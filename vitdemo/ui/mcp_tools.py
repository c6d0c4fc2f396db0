"""The tools that agents get over MCP: the answers of the app, described so that a model can use them without reading code.

What a tool and its parameters mean is said once, in the docstrings of `answers`; types, choices and bounds are said here.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, get_args
from urllib.parse import unquote, urlsplit

import PIL.Image
from gradio.utils import get_function_description

from vitdemo.errors import ImageError, OptionError
from vitdemo.options.methods import METHODS
from vitdemo.options.segment import METHODS as SEGMENTATIONS
from vitdemo.options.segment import SegmentRequest
from vitdemo.pipeline import Pipeline
from vitdemo.registry import default_models, ready_models, segmenting_model
from vitdemo.types import Photo, Readout

NAMES = ("classify", "compare", "explain", "segment", "models")
"""Of the tools, and of the answers that they give."""

MAX_IMAGE_BYTES = 500_000
"""Of one picture: some clients take at most 1 MB in all, and base64 adds a third."""

MAX_SIDE = 1568
"""Pixels of a picture's long side: models that look at pictures reduce larger ones."""

_NO_IMAGE = (
    "Give the image as a URL that begins with https:// or http://, or as a data URL (data:image/png;base64,...). "
    "Files of your own machine cannot be read from here."
)


def schema(name: str, answer: Callable[..., Any], pipeline: Pipeline) -> tuple[str, dict[str, Any]]:
    """What a tool does, in words, and the JSON schema of its arguments, as of now: models come and go."""
    description, meanings, _ = get_function_description(answer)
    types = _types(name, pipeline)
    properties = {parameter: {**types[parameter], "description": meanings[parameter]} for parameter in meanings}
    required = ["image"] if "image" in properties else []
    return description, {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _types(name: str, pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    """JSON schemas of the parameters of a tool, without what they mean."""
    ready = ready_models()
    names = {"type": "string", "enum": [spec.name for spec in ready]}
    text, whole, number, switch = ({"type": kind} for kind in ("string", "integer", "number", "boolean"))
    several = [spec.name for spec in default_models(pipeline.settings)] if name == "compare" else [ready[0].name]
    types: dict[str, dict[str, Any]] = {
        "image": text,
        "models": {"type": "array", "items": names, "default": several},
        "top_k": {**whole, "minimum": 1, "default": 5},
        "model": {**names, "default": ready[0].name},
        "method": {**text, "enum": list(METHODS), "default": "attention"},
        "layer": {**whole, "default": -1},
        "head": {**text, "default": "mean"},
        "readout": {**text, "enum": list(get_args(Readout))},
        "target": text,
        "resolution": {**whole, "minimum": 1},
        "discard": {**number, "minimum": 0, "exclusiveMaximum": 1, "default": 0},
        "point": {**text, "pattern": r"^\s*[\d.]+\s*,\s*[\d.]+\s*$"},
        "faithfulness": {**switch, "default": False},
        "variant": {**text, "enum": [variant for method in METHODS.values() for variant in method.variant_names]},
    }
    if name == "segment":
        own = SegmentRequest()
        types |= {
            "model": {**names, "default": segmenting_model().name},
            "method": {**text, "enum": list(SEGMENTATIONS), "default": own.method},
            "threshold": {**number, "exclusiveMinimum": 0, "maximum": 1, "default": own.threshold},
            "objects": {**whole, "minimum": 1, "maximum": 10, "default": own.objects},
            "tau": {**number, "minimum": -1, "exclusiveMaximum": 1},
            "parts": {**whole, "minimum": 1, "maximum": 20, "default": own.parts},
            "within": {**switch, "default": own.within},
            "matches": {**whole, "minimum": 1, "maximum": 50, "default": own.matches},
            "refine": {**switch, "default": own.refine},
            "clip": {**switch, "default": own.clip},
            "resolution": {**whole, "minimum": 1, "default": own.resolution},
        }
    return types


def checked(given: Mapping[str, Any], allowed: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Arguments of the types that their schemas name. What is null is left out; numbers may come as text, and text as numbers.

    Which names and numbers can be used is the answers' to say: they have better words for it.

    Raises:
        OptionError: an argument is unknown, or of another type.

    >>> checked({"head": 3, "layer": "-1", "seed": None}, {"head": {"type": "string"}, "layer": {"type": "integer"}, "seed": {}})
    {'head': '3', 'layer': -1}
    """
    if unknown := [name for name in given if name not in allowed]:
        raise OptionError(f"There is no argument {unknown[0]!r}. Use: {', '.join(allowed) or 'none'}.")
    return {name: _checked(name, value, allowed[name]) for name, value in given.items() if value is not None}


def _checked(name: str, value: Any, wanted: Mapping[str, Any]) -> Any:
    kind = wanted["type"]
    try:
        if kind == "array":
            # A model that means one thing of a list often leaves the list away.
            return [_checked(name, item, wanted["items"]) for item in (value if isinstance(value, list) else [value])]
        if isinstance(value, (list, dict)) or (isinstance(value, bool) and kind != "boolean"):
            raise ValueError
        if kind == "string":
            return str(value)
        if kind == "boolean":
            return {"true": True, "false": False}[str(value).lower()]
        number = float(value)
        if kind == "number" and number == number:
            return number
        if number.is_integer():
            return int(number)
    except (KeyError, ValueError, OverflowError):
        pass
    words = {
        "string": "a text",
        "boolean": "true or false",
        "number": "a number",
        "integer": "a whole number",
    }
    raise OptionError(f"{name} must be {words[kind]}, not {str(value)[:80]!r}.")


def opened(pipeline: Pipeline, address: str) -> Photo:
    """The image that a client names, within the limits of the app and from where it may fetch.

    Raises:
        ImageError: it is neither a URL nor a data URL, or it cannot be opened.
    """
    address = address.strip()
    # Any other text would be read as a path of this machine.
    if not re.match(r"https?://|data:", address, re.IGNORECASE):
        raise ImageError(_NO_IMAGE)
    name = "" if address[:5].lower() == "data:" else unquote(urlsplit(address).path.rpartition("/")[2])
    return replace(pipeline.open(address), name=name)


def compact(entry: Any) -> Any:
    """An answer as it is worth an agent's reading: numbers of five digits, nothing that is empty, no model that cannot be used.

    >>> compact({"score": 0.123456789, "target": None})
    {'score': 0.12346}
    """
    if isinstance(entry, float):
        return float(f"{entry:.5g}")
    if isinstance(entry, dict):
        return {key: compact(value) for key, value in entry.items() if value is not None}
    if isinstance(entry, (list, tuple)):
        return [compact(item) for item in entry if not (isinstance(item, dict) and item.get("offline") is False)]
    return entry


def jpeg(picture: PIL.Image.Image, limit: int = MAX_IMAGE_BYTES) -> bytes:
    """A picture as JPEG of at most `limit` bytes: reduced to `MAX_SIDE`, then compressed harder, then reduced further."""
    picture = picture.convert("RGB")
    side = min(MAX_SIDE, max(picture.size))
    while True:
        zoom = side / max(picture.size)
        size = (max(1, round(picture.width * zoom)), max(1, round(picture.height * zoom)))
        smaller = picture if size == picture.size else picture.resize(size, PIL.Image.Resampling.LANCZOS)
        for quality in (90, 75, 60):
            buffer = io.BytesIO()
            smaller.save(buffer, "JPEG", quality=quality, optimize=True)
            if buffer.tell() <= limit or side <= 16:
                return buffer.getvalue()
        side = side * 3 // 4
