"""Where a GPU is lent for each call: a visitor's choice to run on the CPU instead, for the time that the page is open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.context import LocalContext

from vitdemo.engine.zerogpu import ZeroGPUBackend
from vitdemo.errors import OptionError
from vitdemo.pipeline import Pipeline
from vitdemo.ui.errors import user_errors
from vitdemo.ui.state import COMPARE, EXPLAIN, PageState

MODES = ("GPU", "CPU")

WHY = "GPU: all models here, on your ZeroGPU quota. CPU: the embedded models, slower, without quota."

KEPT = 10_000
"""Visitors whose choice is remembered; the oldest ones are forgotten."""


class RunOn:
    """The control, where there is a choice; `connect` wires it. Elsewhere it is nothing."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.on_cpu: dict[str, None] = {}
        """Sessions of visitors who chose the CPU, in the order in which they did."""
        self.control: gr.Radio | None = None
        if isinstance(pipeline.backend, ZeroGPUBackend):
            pipeline.backend.on_cpu = self.wanted
            self.control = gr.Radio(list(MODES), value="GPU", label="Run on", info=WHY, elem_id="run-on")

    def wanted(self) -> bool:
        """Whether the visitor for whom a handler runs now chose the CPU. Before the launch, when it runs for nobody, it does."""
        request = LocalContext.request.get(None)
        return request is None or (request.session_hash or "") in self.on_cpu

    def connect(self, page: gr.Blocks, state: gr.State, refresh: Callable[[gr.events.Dependency], None]) -> None:
        """`refresh` is given the event after which the open tab is to be computed anew."""
        if self.control is None:
            return
        options: dict[str, Any] = {"show_progress": "hidden", "queue": False}
        refresh(self.control.input(self.on_choice, [self.control, state], None, api_visibility="private", **options))
        # For clients of the endpoints: their answer is the mode that holds for them from now on.
        gr.events.api(self.run_on, api_name="run_on")
        page.unload(self.on_leave)

    def on_choice(self, mode: str, state: PageState, request: gr.Request) -> None:
        self.choose(mode, request.session_hash or "")
        state.stale = {COMPARE, EXPLAIN}

    def run_on(self, mode: str, request: gr.Request) -> str:
        """Where your following calls run: "GPU" on your quota, or "CPU", for the embedded models, without quota.

        Args:
            mode: "GPU" or "CPU".
        """
        with user_errors():
            if mode not in MODES:
                raise OptionError(f"There is no {mode!r} to run on. Choose GPU or CPU.")
        self.choose(mode, request.session_hash or "")
        return mode

    def choose(self, mode: str, session: str) -> None:
        self.on_cpu.pop(session, None)
        if mode == "CPU":
            self.on_cpu[session] = None
        for oldest in list(self.on_cpu)[:-KEPT]:
            self.on_cpu.pop(oldest, None)

    def on_leave(self, request: gr.Request) -> None:
        self.on_cpu.pop(request.session_hash or "", None)
