"""The Models tab: every model there is, downloaded, unloaded or added by name."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from vitdemo.errors import SettingsError
from vitdemo.pipeline import Pipeline
from vitdemo.registry import (
    OFFICIAL,
    add_folder,
    available_models,
    forget_folder,
    is_hub_name,
    ready_models,
    remove,
)
from vitdemo.registry.configs import FAMILY_OF
from vitdemo.settings import Settings
from vitdemo.ui.components.model_list import model_list, model_list_value
from vitdemo.ui.downloads import Downloads
from vitdemo.ui.errors import user_errors
from vitdemo.ui.state import Values

POLICIES = ("any", "listed", "none")

BEAT = 0.4
"""Seconds between two reports of a running download."""


def policy_of(settings: Settings) -> str:
    """Which models users may download or add.

    Raises:
        SettingsError: the setting has another value.
    """
    chosen = settings.add_models or ("listed" if os.environ.get("SPACE_ID") else "any")
    if chosen not in POLICIES:
        raise SettingsError(f"VITDEMO_ADD_MODELS={chosen!r} cannot be used: one of {', '.join(POLICIES)} is expected.")
    return chosen


def choices() -> list[tuple[str, str]]:
    """What the lists of models offer: those that can run at once."""
    return [(f"{spec.family[:1].upper()}{spec.family[1:]} ({spec.name})", spec.name) for spec in ready_models()]


class ModelsTab:
    """Built inside an open `gr.Tab`; `connect` wires it.

    Args:
        compared, explained: the lists of models of other tabs, which offer what is ready.
    """

    def __init__(self, pipeline: Pipeline, compared: gr.Dropdown, explained: gr.Dropdown) -> None:
        self.compared, self.explained = compared, explained
        self.pipeline, self.downloads, self.policy = pipeline, Downloads(), policy_of(pipeline.settings)
        self.box = gr.Textbox(
            label="Add a model",
            placeholder="organisation/model on the Hugging Face Hub, or a folder of this machine",
            info=f"Any checkpoint with safetensors of these types: {', '.join(FAMILY_OF)}.",
            submit_btn="Add",
            max_lines=1,
            visible=self.policy == "any",
            elem_id="add-model",
        )
        self.list = model_list(self._value(), elem_id="model-list")

    def connect(self, page: gr.Blocks, tab: gr.Tab) -> None:
        """Let clicks, and openings of the page and of the tab, update the list and the lists of models of the other tabs."""
        inputs = [self.compared, self.explained]
        outputs = [self.list, *inputs]
        # Several at once: a click on Cancel must not wait for the download that it is to end.
        options: dict[str, Any] = {
            "api_visibility": "private",
            "show_progress": "hidden",
            "trigger_mode": "multiple",
            "concurrency_id": "models",
            "concurrency_limit": 32,
        }
        self.list.select(self.on_action, inputs, outputs, **options)
        self.box.submit(self.on_add, [self.box, *inputs], outputs, **options)
        tab.select(self.follow, inputs, outputs, **options)
        page.load(self.follow, inputs, outputs, **options)

    def on_action(self, compared: list[str], explained: str, event: gr.EventData) -> Iterator[Values]:
        with user_errors():
            name, action = str(event.name), str(event.action)
            if action == "download" and (self.policy == "any" or (self.policy == "listed" and name in OFFICIAL)):
                self.downloads.start(name)
            elif action == "cancel":
                self.downloads.cancel(name)
            elif action == "dismiss":
                self.downloads.forget(name)
            elif action in ("unload", "remove"):
                for spec in (spec for spec in available_models() if spec.name == name):
                    self.pipeline.backend.unload(spec)
                    if action == "remove" and self.policy == "any":
                        if spec.source == "hub":
                            remove(name)
                        forget_folder(name)
                        self.downloads.forget(name)
        yield from self.follow(compared, explained)

    def on_add(self, name: str, compared: list[str], explained: str) -> Iterator[Values]:
        message = ""
        with user_errors():
            name = name.strip()
            if not name or self.policy != "any":
                message = "Type the name of a model." if not name else "This server does not add models."
            elif any(spec.name == name and spec.ready for spec in available_models()):
                message = f"{name} is here already."
            elif is_hub_name(name) and "@" in name:
                message = f"This list has one revision of a model. Others run on the command line: --model {name}"
            elif is_hub_name(name) and not (Path(name).expanduser() / "config.json").is_file():
                self.downloads.start(name)
            else:
                message = f"{add_folder(name).name} is added until the app ends."
        yield from self.follow(compared, explained, message)

    def follow(self, compared: list[str], explained: str, message: str = "") -> Iterator[Values]:
        """The list now, and again and again while something is being downloaded."""
        offered: list[tuple[str, str]] | None = None
        shown: str | None = message
        while True:
            active = self.downloads.active
            found: Values = {self.list: self._value(shown)}
            if (now := choices()) != offered:
                offered = now
                names = [name for _, name in offered]
                # What was chosen is only touched if it is gone: since this began, somebody may have chosen anew.
                kept = [name for name in compared if name in names]
                several: dict[str, Any] = {} if kept == compared else {"value": kept}
                one: dict[str, Any] = {} if explained in names else {"value": names[0]}
                found[self.compared] = gr.update(choices=offered, **several)
                found[self.explained] = gr.update(choices=offered, **one)
            yield found
            if not active:
                return
            shown = None
            time.sleep(BEAT)

    def _value(self, message: str | None = "") -> dict[str, Any]:
        return model_list_value(self.pipeline.backend.loaded(), self.downloads.states(), self.policy, message)
