"""`serve`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from vitdemo.cli.common import EXIT_OK, EXIT_SOME_FAILED, add_command, positive
from vitdemo.errors import OptionError, VitDemoError


def add_commands(commands: Any) -> None:
    """Define it."""
    serve = add_command(
        commands,
        "serve",
        run_serve,
        "run the models as a service of replicas on Ray, for pages and commands with VITDEMO_BACKEND=ray",
    )
    serve.add_argument("--replicas", type=positive, metavar="N", help="how many replicas, each with models of its own")
    serve.add_argument("--max-replicas", type=positive, metavar="N", help="let load bring about more, up to so many")
    serve.add_argument(
        "--gpus-per-replica", type=_share, metavar="G", help="GPUs for each; several may share one, as with 0.5"
    )
    serve.add_argument(
        "--cpus-per-replica", type=_share, metavar="C", help="cores for each; an even share if not given"
    )
    serve.add_argument("--device", help="auto, cpu or cuda")
    serve.add_argument(
        "--address", default="", metavar="HOST:PORT", help="a Ray cluster that runs; one of its own if not given"
    )
    serve.add_argument("--detach", action="store_true", help="leave the service on the cluster at --address, and end")
    # For a page that starts it: ends with its standard input, and speaks JSON.
    serve.add_argument("--owned", action="store_true", help=argparse.SUPPRESS)
    serve.epilog = "Defaults are those of VITDEMO_*: see the README."


def run_serve(options: argparse.Namespace) -> int:
    from vitdemo.settings import get_settings

    if options.detach and not options.address:
        raise OptionError(
            "--detach needs --address: a cluster that goes on by itself. Start one with: ray start --head"
        )
    given = {
        "ray_replicas": options.replicas,
        "ray_max_replicas": options.max_replicas,
        "ray_gpus": options.gpus_per_replica,
        "ray_cpus": options.cpus_per_replica,
        "device": options.device,
    }
    settings = replace(get_settings(), **{name: value for name, value in given.items() if value is not None})
    told = threading.Event()
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, lambda *_: told.set())
    if options.owned:
        threading.Thread(target=_end_with_the_page, args=(told,), daemon=True).start()
    else:
        print("Starting...", file=sys.stderr, flush=True)
    try:
        from vitdemo.engine.ray_service import served

        with served(settings, options.address, keep=options.detach) as cluster:
            # Ray has set handlers of its own.
            for one in (signal.SIGINT, signal.SIGTERM):
                signal.signal(one, lambda *_: told.set())
            if options.owned:
                print(json.dumps(asdict(cluster)), flush=True)
            else:
                print(f"The models are served on the Ray cluster at {cluster.address}.", flush=True)
                print("Use them with: VITDEMO_BACKEND=ray vitdemo app", file=sys.stderr, flush=True)
            if not options.detach:
                _wait(told.wait)
    except VitDemoError as error:
        if not options.owned:
            raise
        print(json.dumps({"error": str(error)}), flush=True)
        return EXIT_SOME_FAILED
    return EXIT_OK


def _end_with_the_page(told: threading.Event) -> None:
    sys.stdin.buffer.read()
    told.set()


def _wait(told: Callable[[float], bool]) -> None:
    """In slices: a signal is handled between them."""
    while not told(0.5):
        pass


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e4:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value
