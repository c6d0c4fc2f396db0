"""A list of choices that changes with another control of the page."""

from __future__ import annotations

from typing import Any

import gradio as gr


class DependentChoice(gr.Dropdown):
    """A dropdown that passes on what it is given.

    When a link sets a model and its methods, the page sends one event with the new model and the old method, which is not
    among the choices any more. Gradio would reject it; the handler finds a fitting one.
    """

    is_template = True

    def preprocess(self, payload: Any) -> Any:
        return payload
