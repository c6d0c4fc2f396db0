"""`app`."""

from __future__ import annotations

import argparse
import gc
from typing import Any

from vitdemo.cli.common import EXIT_OK, add_command


def add_commands(commands: Any) -> None:
    """Define it."""
    app = add_command(commands, "app", run_app, "start the page, and print its address")
    app.add_argument(
        "--mcp",
        action="store_true",
        default=None,
        help="let agents call the app as tools over MCP, as VITDEMO_MCP=1 does",
    )
    app.epilog = (
        "Host and port: GRADIO_SERVER_NAME and GRADIO_SERVER_PORT. Limits and models: VITDEMO_*, see the README."
    )


def run_app(options: argparse.Namespace) -> int:
    from vitdemo.settings import on_zero_gpu

    if on_zero_gpu():
        # Before anything can touch CUDA, which it replaces.
        import spaces  # noqa: F401
    # A third of the time to start would go into looking for garbage among what stays; `serve` switches it on again.
    gc.disable()
    from vitdemo.ui.serve import serve

    serve(mcp=options.mcp)
    return EXIT_OK
