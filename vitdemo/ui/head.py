"""What stands in the head of the page: its scripts."""

from __future__ import annotations

import json

from vitdemo.ui import STATIC

SCRIPTS = ("reconnect.js", "busy.js", "intake.js", "tips.js")

TIPS = {
    "photo": "The photo that all tabs look at. Drop or paste another anywhere on the page.",
    "address": "The server fetches the image and shows it as if you had uploaded it.",
    "models": "The models that are compared, in the order of their pictures.",
    "compare-method": "How the map is computed: from attention alone, or from gradients of a class.",
    "compare-target": "The class whose score the map explains; each model's own prediction, or one class for all.",
    "model": "The model whose prediction is explained.",
    "method": "How the map is computed: from attention alone, or from gradients of a class.",
    "target": "The class whose score the map explains.",
    "resolution": "Long side in pixels to which the photo is enlarged: more patches, a finer map, more time.",
    "fusion": "How the heads of each layer are joined before layers are multiplied.",
    "discard": "Share of the lowest attention that is left out in every layer.",
    "variant": "The method as its paper describes it, or as another published implementation computes it.",
    "measure": "Hides the patches step by step, in the order of the map, and watches the score.",
}
"""One sentence for each of Gradio's controls, by its id; our own components have theirs in their HTML."""


def head() -> str:
    """For `launch(head=...)`."""
    scripts = [(STATIC / name).read_text(encoding="utf-8") for name in SCRIPTS]
    return "".join(f"<script>{script}</script>" for script in (f"window.vitdemoTips = {json.dumps(TIPS)};", *scripts))
