"""Entry of the Space, and of `make run`."""

import signal
import sys
import threading

from vitdemo.errors import VitDemoError
from vitdemo.pipeline import Pipeline
from vitdemo.registry import console_progress, obtain
from vitdemo.ui.app import build, launch_options


def main() -> None:
    # A server that is told to end closes as after Ctrl-C: photos that it still holds are deleted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        pipeline = Pipeline()
        for name in pipeline.settings.models:
            with console_progress(name) as report:
                obtain(name, report)
        page = build(pipeline)
    except VitDemoError as error:
        sys.exit(f"vitdemo: {error}")
    page.launch(**launch_options(pipeline), prevent_thread_lock=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        # Gradio's own wait would leave open pages connected, and then not get to the photos.
        page.close()


if __name__ == "__main__":
    main()
