"""Snippets as the browser completes them."""

from __future__ import annotations

import re

from vitdemo.export.snippets import HEAD, LAYER, POINT, READOUT, Texts


def fill(texts: Texts, layer: int, head: int | str, readout: str = "", point: str = "") -> Texts:
    """The texts with values in place of the placeholders."""
    values: dict[str, str] = {LAYER: str(layer), HEAD: str(head), READOUT: readout, POINT: point}
    return {name: re.sub("|".join(values), lambda found: values[found[0]], text) for name, text in texts.items()}
