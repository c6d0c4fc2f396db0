"""The app, running in this process, so that its forward passes can be counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from vitdemo.pipeline import Pipeline
from vitdemo.settings import get_settings
from vitdemo.ui.app import build, launch_options


@dataclass
class App:
    """The running app."""

    url: str
    pipeline: Pipeline
    page: gr.Blocks

    @property
    def forwards(self) -> int:
        return self.pipeline.backend.forwards


@contextmanager
def serving(temporary: Path, **settings: Any) -> Iterator[App]:
    """The app with the settings that the environment has now, and those given, until the block ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITDEMO_URL_ALLOW_HOSTS", "127.0.0.1")
        patch.setenv("GRADIO_TEMP_DIR", str(temporary))
        pipeline = Pipeline(replace(get_settings(), **settings))
        page = build(pipeline)
        _, url, _ = page.launch(
            **launch_options(pipeline), prevent_thread_lock=True, quiet=True, server_name="127.0.0.1"
        )
        yield App(url, pipeline, page)
        page.close()
