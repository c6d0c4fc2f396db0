"""Requests from plain dictionaries, for parametrised tests."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from vitdemo.options.explain import ExplainRequest

FIELDS = {field.name for field in fields(ExplainRequest)}


def split(options: dict[str, Any]) -> tuple[ExplainRequest, dict[str, Any]]:
    """The request that some options make, and the options that are none of its fields."""
    request = ExplainRequest(**{name: value for name, value in options.items() if name in FIELDS})
    return request, {name: value for name, value in options.items() if name not in FIELDS}
