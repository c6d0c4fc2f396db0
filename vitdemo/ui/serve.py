"""The page as a server: what `vitdemo app` starts."""

from __future__ import annotations

import signal
import threading

from vitdemo.interrupt import end_at_once_next_time
from vitdemo.pipeline import Pipeline
from vitdemo.registry import console_progress, obtain, ready_models
from vitdemo.settings import Settings, get_settings, on_zero_gpu
from vitdemo.ui.app import build, launch_options


def pipeline_here(settings: Settings) -> Pipeline:
    """On ZeroGPU with all models that are on this machine now; elsewhere the usual one, which loads what is asked for."""
    if not on_zero_gpu():
        return Pipeline(settings)
    from vitdemo.engine.zerogpu import ZeroGPUBackend

    return Pipeline(settings, ZeroGPUBackend(settings, ready_models()))


def serve() -> None:
    """Fetch the models that the settings name, start the page, and return when the process is told to end.

    Host and port are Gradio's own variables, `GRADIO_SERVER_NAME` and `GRADIO_SERVER_PORT`.

    Raises:
        VitDemoError: a setting cannot be used, or a model cannot be fetched.
    """
    # A server that is told to end closes as after Ctrl-C: photos that it still holds are deleted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = get_settings()
    for name in settings.models:
        with console_progress(name) as report:
            obtain(name, report)
    pipeline = pipeline_here(settings)
    page = build(pipeline)
    page.launch(**launch_options(pipeline), prevent_thread_lock=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        end_at_once_next_time()
        # Gradio's own wait would leave open pages connected, and then not get to the photos.
        page.close()
