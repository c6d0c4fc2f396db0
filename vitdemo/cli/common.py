"""What several commands share."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitdemo.errors import OptionError
from vitdemo.options.methods import METHODS
from vitdemo.registry import console_progress, default_models, obtain
from vitdemo.settings import ROOT, Settings, get_settings

if TYPE_CHECKING:
    from vitdemo.pipeline import Pipeline
    from vitdemo.types import ModelSpec

EXIT_OK, EXIT_SOME_FAILED, EXIT_USAGE = 0, 1, 2

VARIANT_HELP = "; ".join(
    f"for {name}: {' or '.join(method.variant_names)}" for name, method in METHODS.items() if method.variants
)


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], summary: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
    )
    parser.set_defaults(run=run)
    return parser


def add_inference(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", "--models", action="append", metavar="NAME", help="may be repeated, or a,b,c")
    parser.add_argument("--device", default=None, help="auto, cpu, cuda or mps")
    parser.add_argument("--dtype", default="auto", choices=("auto", "fp32", "bf16", "fp16"))
    parser.add_argument("--json", action="store_true", help="JSON on stdout")


def add_display(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layer", default="-1", help="from 0, or -1 for the last")
    parser.add_argument("--head", default="mean", help="mean, max, min, or a number from 0")
    parser.add_argument(
        "--resolution", type=positive, metavar="LONG_SIDE", help="enlarge the photo to this many pixels"
    )
    parser.add_argument("--out", type=Path, metavar="PNG", help="write the image to this file")


def positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return value


def specs_of(options: argparse.Namespace, every: bool) -> list[ModelSpec]:
    names = [part for value in options.model or [] for part in value.split(",") if part]
    if names:
        return [_obtained(name) for name in dict.fromkeys(names)]
    specs = list(default_models(get_settings()))
    return specs if every else specs[:1]


def _obtained(name: str) -> ModelSpec:
    with console_progress(name) as report:
        return obtain(name, report)


def settings_of(options: argparse.Namespace) -> Settings:
    settings = get_settings()
    return replace(settings, device=options.device) if options.device else settings


def writable(spec: ModelSpec) -> ModelSpec:
    """The model, if something may be written beside its weights.

    Raises:
        OptionError: it is part of an installed package.
    """
    if spec.source == "embedded" and ROOT is None:
        raise OptionError(
            f"{spec.name} is part of the installed package, which is not written to. Copy {spec.checkpoint}, and name the copy."
        )
    return spec


def pipeline_of(options: argparse.Namespace) -> Pipeline:
    from vitdemo.pipeline import Pipeline

    return Pipeline(settings_of(options))


def source_of(pipeline: Pipeline, name: str) -> str | bytes:
    """What `open_image` takes: a path or a URL as it is, for `-` the bytes of standard input."""
    if name == "-":
        from vitdemo.images.decode import max_bytes

        # One byte more than the limit is enough to be rejected.
        return sys.stdin.buffer.read(max_bytes(pipeline.settings) + 1)
    return name


def write(path: Path, write: Callable[[], Any]) -> None:
    """Write a file or folder.

    Raises:
        OptionError: it cannot be written.
    """
    try:
        write()
    except OSError as error:
        raise OptionError(f"{path} cannot be written: {error.strerror or error}.") from None


def print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def rounded(value: Any) -> Any:
    return None if value != value else round(value, 4) if isinstance(value, float) else value


def methods_of(options: argparse.Namespace, spec: ModelSpec) -> list[str]:
    """The requested methods that apply; similarity explains no class, and is left out unless it is requested."""
    asked = [part for value in options.method or [] for part in value.split(",") if part]
    for name in asked:
        if name not in METHODS:
            raise OptionError(f"Unknown method {name!r}. Choose from: {', '.join(METHODS)}.")
    found = [name for name in spec.methods if (name in asked if asked else name != "similarity")]
    if not found:
        raise OptionError(f"{spec.name} has none of these methods. Those that apply: {', '.join(spec.methods)}.")
    return found


def variant_of(options: argparse.Namespace, methods: Sequence[str]) -> str | None:
    """The requested variant, of one of these methods at least.

    Raises:
        OptionError: none of them has it.
    """
    known = [name for method in methods for name in METHODS[method].variant_names]
    if options.variant and options.variant not in known:
        raise OptionError(f"None of these methods has the variant {options.variant!r}. Variants: {', '.join(known)}.")
    return options.variant or None
