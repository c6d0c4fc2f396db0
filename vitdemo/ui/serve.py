"""The page as a server: what `vitdemo app` starts."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from dataclasses import replace

from starlette.middleware import Middleware

from vitdemo.interrupt import end_at_once_next_time
from vitdemo.pipeline import Pipeline
from vitdemo.registry import console_progress, obtain, ready_models
from vitdemo.settings import Settings, get_settings, on_zero_gpu
from vitdemo.ui.app import build, launch_options
from vitdemo.ui.ending import end
from vitdemo.ui.memory import EVERY, FreedMemory
from vitdemo.ui.temporary import TemporaryFiles, UploadRoom, temporary_files


def pipeline_here(settings: Settings) -> Pipeline:
    """On ZeroGPU with all models that are on this machine now; elsewhere the usual one, which loads what is asked for."""
    if not on_zero_gpu():
        return Pipeline(settings)
    from vitdemo.engine.zerogpu import ZeroGPUBackend

    return Pipeline(settings, ZeroGPUBackend(settings, ready_models()))


def serve(mcp: bool | None = None) -> None:
    """Fetch the models that the settings name, start the page, and return when the process is told to end.

    Args:
        mcp: whether agents may call it over MCP; as the settings say if None.

    Host and port are Gradio's own variables, `GRADIO_SERVER_NAME` and `GRADIO_SERVER_PORT`. Where a job still computes when
    everything else has ended, the process ends here, with status 0.

    Raises:
        VitDemoError: a setting cannot be used, or a model cannot be fetched.
    """
    # A server that is told to end closes as after Ctrl-C: photos that it still holds are deleted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = get_settings()
    settings = settings if mcp is None else replace(settings, mcp=mcp)
    for name in settings.models:
        with console_progress(name) as report:
            obtain(name, report)
    pipeline = pipeline_here(settings)
    ended = True
    with temporary_files(int(pipeline.settings.temp_mb * 1e6)) as files:
        page = build(pipeline)
        files.keep_those_of(page)
        options = launch_options(pipeline)
        options["app_kwargs"]["middleware"].append(Middleware(UploadRoom, files=files))
        # A page that is half launched answers already, and cannot be closed yet.
        told: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
        page.launch(**options, prevent_thread_lock=True)
        gc.freeze()
        gc.enable()
        try:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            if told:
                raise KeyboardInterrupt
            _wait(files)
        except KeyboardInterrupt:
            end_at_once_next_time()
            ended = end(page)
    if not ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _wait(files: TemporaryFiles) -> None:
    """Until the process is told to end. Old files are deleted meanwhile, and freed memory is given back."""
    freed, told = FreedMemory(), threading.Event()
    while not told.wait(EVERY):
        freed.give_back()
        files.delete_old()
