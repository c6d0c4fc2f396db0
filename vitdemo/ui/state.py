"""What one open page is at, as far as the server has to know."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

TABS = ("compare", "explain", "segment", "inside", "live", "choose", "train", "models")
COMPARE, EXPLAIN, SEGMENT, INSIDE, LIVE, CHOOSE, TRAIN, MODELS = TABS

Values = dict[Any, Any]
"""What Gradio gives a handler whose inputs are a set: values by component. Handlers return the same, or nothing new."""

NOTHING: Values = gr.skip()
"""What a handler returns that changes nothing."""


@dataclass
class PageState:
    """Kept by Gradio, one per session. Handlers change it in place: several of them may run at the same time, and a copy that a
    long one returns would undo what a short one has set meanwhile."""

    tab: str = COMPARE
    """The one that is open. Only its models run when the photo changes."""
    stale: set[str] = field(default_factory=set)
    """Tabs that show the result of an earlier photo, until they are opened."""
    touched: bool = False
    """Whether somebody has chosen a photo; until then each tab shows the example that it opens with."""
    offered: str = ""
    """Digest of an example that a tab has put there by itself, until its arrival is reported."""
    linked: str = ""
    """Digest of the photo of a link: it is on the page already, with its controls, when its arrival is reported."""
    pending: dict[Any, tuple[Any, Any]] = field(default_factory=dict)
    """Controls that a link has set, with their values before and after, until the page has reported them all."""
    urls: dict[str, str] = field(default_factory=dict)
    """Where photos came from, by their digests."""
    wanted: dict[str, str] = field(default_factory=dict)
    """Models that are downloaded to be shown in a tab, with that tab."""
    compared: list[str] = field(default_factory=list)
    """Models that Compare's list of classes is made of."""

    def expect(self, controls: Iterable[Any], updates: Values) -> None:
        """Note which controls a link sets: the page is going to report each of them as if a person had changed it."""
        self.pending = {}
        for control in controls:
            update = updates.get(control)
            value = update.get("value") if isinstance(update, dict) else update
            if value is not None and value != control.value:
                self.pending[control] = (control.value, value)

    def is_linked(self, control: Any, values: Values) -> bool:
        """Whether a control's change is a link's, which has its result already, and not a person's. Each is reported once."""
        _, after = self.pending.pop(control, (None, None))
        return after is not None and bool(values[control] == after)
