"""`models`, `download` and `remove`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from vitdemo.cli.common import EXIT_OK, EXIT_SOME_FAILED, add_command, print_json
from vitdemo.errors import EngineError, OptionError
from vitdemo.registry import available_models, console_progress, download, remove

if TYPE_CHECKING:
    from vitdemo.types import ModelSpec


def add_commands(commands: Any) -> None:
    """Define the commands."""
    models = add_command(commands, "models", run_models, "list the models")
    models.add_argument("--json", action="store_true", help="JSON on stdout")

    fetch = add_command(commands, "download", run_download, "fetch models from the Hugging Face Hub")
    fetch.add_argument("names", nargs="+", metavar="NAME", help="organisation/model, or organisation/model@revision")
    fetch.add_argument("--json", action="store_true", help="JSON on stdout")

    drop = add_command(commands, "remove", run_remove, "delete models of the Hub from this machine")
    drop.add_argument("names", nargs="+", metavar="NAME", help="organisation/model")


def run_models(options: argparse.Namespace) -> int:
    from vitdemo.export.results import model_json

    specs = available_models()
    if options.json:
        print_json([model_json(spec) for spec in specs])
        return EXIT_OK
    width = max(len(spec.name) for spec in specs)
    for spec in specs:
        print(_line(spec, width))
    print("Those of the Hub are fetched when they are first used, or with: vitdemo download NAME", file=sys.stderr)
    return EXIT_OK


def _line(spec: ModelSpec, width: int) -> str:
    size = "x".join(map(str, spec.image_size))
    here = spec.source if spec.source != "hub" else "on this machine" if spec.ready else "to download"
    classes = f"{spec.num_classes} classes" if spec.num_classes else "self-supervised"
    return (
        f"{spec.name:{width}}  {spec.family:6} {spec.parameters / 1e6:6.1f} M  {size:7}  patch {spec.patch_size:2}  "
        f"{classes:15}  {spec.bytes / 1e6:6.0f} MB  {spec.license:15}  {here}{', gated' if spec.gated else ''}"
    )


def run_download(options: argparse.Namespace) -> int:
    from vitdemo.export.results import model_json

    entries: list[dict[str, Any]] = []
    for name in options.names:
        try:
            with console_progress(name) as report:
                spec = download(name, report)
        except (EngineError, OptionError) as error:
            entries.append({"name": name, "error": str(error)})
            print(f"{name}: {error}", file=sys.stderr)
        else:
            entries.append(model_json(spec))
            if not options.json:
                print(f"{name}  revision {spec.revision[:12]}  {spec.bytes / 1e6:.0f} MB")
    if options.json:
        print_json(entries)
    return EXIT_SOME_FAILED if any("error" in entry for entry in entries) else EXIT_OK


def run_remove(options: argparse.Namespace) -> int:
    failed = False
    for name in options.names:
        freed = remove(name)
        failed |= not freed
        print(f"{name}  {freed / 1e6:.0f} MB freed" if freed else f"{name} is not on this machine")
    return EXIT_SOME_FAILED if failed else EXIT_OK
