"""A model that was made on the page joins the lists of all tabs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gradio as gr

from vitdemo.ui.inside import InsideTab
from vitdemo.ui.models import ModelsTab, choices
from vitdemo.ui.segment import SegmentTab
from vitdemo.ui.segment_settings import models_offered
from vitdemo.ui.state import Values


class JoinedTabs:
    """The tabs that offer models.

    Args:
        compared, explained: the lists of models of Compare and Explain.
        most: models that Compare may show.
    """

    def __init__(
        self,
        compared: gr.Dropdown,
        explained: gr.Dropdown,
        models: ModelsTab,
        segmented: SegmentTab,
        within: InsideTab,
        most: int,
    ) -> None:
        self.compared, self.explained, self.models = compared, explained, models
        self.segmented, self.within, self.most = segmented, within, most
        self.inputs: set[Any] = {compared}
        self.outputs = [compared, explained, models.list, segmented.view, within.view]

    def join(self, name: str, values: Values) -> Values:
        """The model is offered in every tab, and is what Explain and Compare show next."""
        chosen = list(values[self.compared])
        if name not in chosen and len(chosen) < self.most:
            chosen.append(name)
        offered = choices()
        return {
            self.compared: gr.update(choices=offered, value=chosen),
            self.explained: gr.update(choices=offered, value=name),
            self.models.list: self.models.value(None),
            self.segmented.view: {"models": models_offered()},
            **self.within.joined(),
        }

    def compare(self, names: Iterable[str]) -> Values:
        """Compare shows these models, as far as they are offered there."""
        offered = [name for _, name in choices()]
        found = [name for name in names if name in offered][: self.most]
        return {self.compared: gr.update(value=found)} if found else {self.compared: gr.skip()}
