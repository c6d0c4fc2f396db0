"""The Models tab: every model there is, downloaded, unloaded or added by name."""

from __future__ import annotations

import html
import os
import re
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
from vitdemo.settings import Settings, on_zero_gpu
from vitdemo.ui.components.model_list import model_list, model_list_value
from vitdemo.ui.downloads import Downloads
from vitdemo.ui.errors import user_errors
from vitdemo.ui.state import Values

POLICIES = ("any", "listed", "none")

BEAT = 0.4
"""Seconds between two reports of a running download."""

FIXED = (
    "<p>This Space runs the models that were on it when it started: those that ship with vitdemo, and the checkpoints marked as "
    "on this machine. Others cannot be fetched here: a GPU that is lent for each call takes no new ones. To use them, duplicate "
    "the Space and name them in <code>VITDEMO_MODELS</code>, or run vitdemo on a machine of your own.</p>"
)
"""What a visitor cannot do, where a GPU is lent for each call."""

FOLLOWING: dict[str, Any] = {
    "api_visibility": "private",
    "show_progress": "hidden",
    "trigger_mode": "multiple",
    "concurrency_id": "models",
    "concurrency_limit": 32,
}
"""Options of events that follow downloads: several at once, as a click on Cancel must not wait for what it is to end."""


def policy_of(settings: Settings) -> str:
    """Which models users may download or add; none where a GPU is lent for each call, on models that were loaded at the start.

    Raises:
        SettingsError: the setting has another value.
    """
    if on_zero_gpu():
        return "none"
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
            placeholder="organisation/model on the Hugging Face Hub, or a local folder",
            info=f"Any checkpoint with safetensors of these types: {', '.join(FAMILY_OF)}.",
            submit_btn="Add",
            max_lines=1,
            visible=self.policy == "any",
            elem_id="add-model",
        )
        if pipeline.backend.borrowed:
            gr.HTML(FIXED, elem_id="models-fixed")
        self.list = model_list(self.value(), elem_id="model-list")

    def connect(self, page: gr.Blocks, tab: gr.Tab) -> None:
        """Let clicks, and openings of the page and of the tab, update the list and the lists of models of the other tabs."""
        inputs = [self.compared, self.explained]
        outputs = [self.list, *inputs]
        self.list.select(self.on_action, inputs, outputs, **FOLLOWING)
        self.box.submit(self.on_add, [self.box, *inputs], outputs, **FOLLOWING)
        tab.select(self.on_open, inputs, outputs, **FOLLOWING)
        page.load(self.on_open, inputs, outputs, **FOLLOWING)

    def on_open(self, compared: list[str], explained: str, request: gr.Request | None = None) -> Iterator[Values]:
        yield from self.follow(compared, explained, visitor_of(request))

    def on_action(
        self, compared: list[str], explained: str, event: gr.EventData, request: gr.Request | None = None
    ) -> Iterator[Values]:
        self.act(str(event.name), str(event.action), visitor_of(request))
        yield from self.follow(compared, explained, visitor_of(request))

    def act(self, name: str, action: str, visitor: str) -> None:
        """What a button of the list asks for, as far as this server allows it."""
        with user_errors():
            if action == "download" and (self.policy == "any" or (self.policy == "listed" and name in OFFICIAL)):
                self.downloads.start(name, visitor)
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

    def on_add(
        self, name: str, compared: list[str], explained: str, request: gr.Request | None = None
    ) -> Iterator[Values]:
        try:
            message = self._added(name_of(name), visitor_of(request))
        except gr.Error as error:
            # In the place of all answers, so that it goes when the next one comes.
            message = html.unescape(error.message)
        yield from self.follow(compared, explained, visitor_of(request), message)

    def _added(self, name: str, visitor: str) -> str:
        """What there is to say when a model has been added, or has begun to come."""
        message = ""
        with user_errors():
            if not name or self.policy != "any":
                message = "Type the name of a model." if not name else "This server does not add models."
            elif any(spec.name == name and spec.ready for spec in available_models()):
                message = f"{name} is here already."
            elif is_hub_name(name) and "@" in name:
                message = f"This list has one revision of a model. Others run on the command line: --model {name}"
            elif is_hub_name(name) and not (Path(name).expanduser() / "config.json").is_file():
                self.downloads.start(name, visitor)
            else:
                message = f"{add_folder(name).name} is added until the app ends."
        return message

    def follow(self, compared: list[str], explained: str, visitor: str, message: str = "") -> Iterator[Values]:
        """The list now, and again and again while something is being downloaded."""
        offered: list[tuple[str, str]] | None = None
        shown: str | None = message
        while True:
            active = self.downloads.active
            found: Values = {self.list: self.value(shown, visitor)}
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

    def value(self, message: str | None = "", visitor: str = "") -> dict[str, Any]:
        """What a list of models shows."""
        states = self.downloads.states(visitor)
        return model_list_value(self.pipeline.backend.loaded(), states, self.policy, message)


def visitor_of(request: gr.Request | None) -> str:
    """Whose page it is; another one after a reload."""
    return (request.session_hash or "") if request else ""


def name_of(text: str) -> str:
    """What was typed, or the name in the address of a model's page on the Hub.

    >>> name_of(" https://huggingface.co/google/vit-base-patch16-224/tree/main "), name_of("hf.co/a/b?library=timm")
    ('google/vit-base-patch16-224', 'a/b')
    >>> name_of("https://huggingface.co/a/b/tree/v1"), name_of("https://huggingface.co/datasets/a/b")
    ('a/b@v1', 'https://huggingface.co/datasets/a/b')
    """
    text = text.strip()
    found = _PAGE.fullmatch(text)
    if found is None or found["organisation"] in ("datasets", "spaces", "docs", "collections", "papers"):
        return text
    revision = found["revision"] or "main"
    return f"{found['organisation']}/{found['model']}" + ("" if revision == "main" else f"@{revision}")


_PAGE = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<organisation>[\w.-]+)/(?P<model>[\w.-]+)"
    r"(?:/(?:tree|blob|commit)/(?P<revision>[\w.-]+))?(?:[/?#].*)?",
    re.IGNORECASE,
)
