"""The page as a server: what `vitdemo app` starts."""

from __future__ import annotations

import gc
import signal
import threading
from dataclasses import replace

from vitdemo.interrupt import end_at_once_next_time
from vitdemo.pipeline import Pipeline
from vitdemo.registry import console_progress, obtain
from vitdemo.settings import get_settings
from vitdemo.ui.app import build, launch_options


def serve(mcp: bool | None = None) -> None:
    """Fetch the models that the settings name, start the page, and return when the process is told to end.

    Args:
        mcp: whether agents may call it over MCP; as the settings say if None.

    Host and port are Gradio's own variables, `GRADIO_SERVER_NAME` and `GRADIO_SERVER_PORT`.

    Raises:
        VitDemoError: a setting cannot be used, or a model cannot be fetched.
    """
    # A server that is told to end closes as after Ctrl-C: photos that it still holds are deleted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = get_settings()
    pipeline = Pipeline(settings if mcp is None else replace(settings, mcp=mcp))
    for name in pipeline.settings.models:
        with console_progress(name) as report:
            obtain(name, report)
    page = build(pipeline)
    page.launch(**launch_options(pipeline), prevent_thread_lock=True)
    gc.freeze()
    gc.enable()
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        end_at_once_next_time()
        # Gradio's own wait would leave open pages connected, and then not get to the photos.
        page.close()
