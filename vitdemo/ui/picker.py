"""More models, downloaded from where models are chosen: one that has arrived joins what the tab shows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from vitdemo.registry import ready_models
from vitdemo.settings import Settings
from vitdemo.ui.components.model_list import model_list
from vitdemo.ui.inside import InsideTab
from vitdemo.ui.models import BEAT, FOLLOWING, ModelsTab, choices, name_of, policy_of, visitor_of
from vitdemo.ui.segment import SegmentTab
from vitdemo.ui.state import EXPLAIN, SEGMENT, PageState, Values

OPEN = """() => {
  const dialog = document.querySelector("#picker dialog");
  if (!dialog.open) dialog.showModal();
  return [];
}"""


def more_models(settings: Settings) -> gr.Button:
    """The button beside a list of models, where users may fetch any; the browser writes on it how far a download is."""
    shown = policy_of(settings) != "none"
    return gr.Button("+ More", size="sm", scale=0, min_width=70, visible=shown, elem_classes="vd-more")


class ModelPicker:
    """Built outside of the tabs; `connect` wires it.

    Args:
        models: the Models tab, which knows what may be fetched, and fetches it.
        compared, explained: the lists of models that a new one joins.
        segmented, within: the tabs that it may join.
        state: of the page, a `PageState`.
    """

    def __init__(
        self,
        models: ModelsTab,
        compared: gr.Dropdown,
        explained: gr.Dropdown,
        segmented: SegmentTab,
        within: InsideTab,
        state: gr.State,
    ) -> None:
        self.models, self.compared, self.explained, self.state = models, compared, explained, state
        self.segmented, self.within = segmented, within
        # Empty until it is opened: the page is no heavier for it.
        self.list = model_list(None, elem_id="picker", dialog=True)

    def connect(self, buttons: Sequence[gr.Button]) -> None:
        """Let the buttons open the dialog, and its own ones download."""
        for button in buttons:
            button.click(self.on_open, None, self.list, js=OPEN, **FOLLOWING)
        action = self.list.select(self.on_action, self.state, self.list, **FOLLOWING)
        # What is chosen is read when the download has ended: meanwhile, somebody may have chosen anew.
        action.then(
            self.on_end,
            {self.state, self.compared, self.explained},
            [self.list, self.compared, self.explained, self.segmented.view, self.within.view],
            **FOLLOWING,
        )

    def on_open(self, request: gr.Request | None = None) -> Iterator[dict[str, Any]]:
        """The list, while anything is coming."""
        while True:
            active = self.models.downloads.active
            yield self.models.value(visitor=visitor_of(request))
            if not active:
                return
            time.sleep(BEAT)

    def on_action(
        self, state: PageState, event: gr.EventData, request: gr.Request | None = None
    ) -> Iterator[dict[str, Any]]:
        """What a button of the list asks for; a download is followed to its end."""
        name, action, visitor = name_of(str(event.name)), str(event.action), visitor_of(request)
        if action in ("download", "cancel", "dismiss"):
            self.models.act(name, action, visitor)
        if action == "download":
            state.wanted[name] = state.tab
        while True:
            under_way = self.models.downloads.under_way(name)
            yield self.models.value(visitor=visitor)
            if action != "download" or not under_way:
                return
            time.sleep(BEAT)

    def on_end(self, values: Values, request: gr.Request | None = None) -> Values:
        """The models that have arrived join the tab where they were asked for."""
        state, compared = values[self.state], list(values[self.compared])
        here = {spec.name for spec in ready_models()}
        came = {name: tab for name, tab in state.wanted.items() if name in here}
        state.wanted = {
            name: tab
            for name, tab in state.wanted.items()
            if name not in here and self.models.downloads.under_way(name)
        }
        found: Values = {self.list: self.models.value(visitor=visitor_of(request))}
        if not came:
            return found
        several: dict[str, Any] = {}
        one: dict[str, Any] = {}
        for name, tab in came.items():
            if tab == EXPLAIN:
                one = {"value": name}
            elif tab == SEGMENT:
                found |= self.segmented.joined(name)
            elif name not in compared:
                compared.append(name)
                several = {"value": compared}
        offered = choices()
        return {
            **found,
            **self.within.joined(),
            self.compared: gr.update(choices=offered, **several),
            self.explained: gr.update(choices=offered, **one),
        }
