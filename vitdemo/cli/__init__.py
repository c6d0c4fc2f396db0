"""`vitdemo COMMAND`: thin over the pipeline. JSON alone on stdout, notes and progress on stderr."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from vitdemo.cli import choose, evaluate, inference, inspection, models, page, robustness, segmentation, training
from vitdemo.cli.common import EXIT_OK, EXIT_SOME_FAILED, EXIT_USAGE
from vitdemo.errors import OptionError, UnknownModelError, VitDemoError
from vitdemo.interrupt import INTERRUPTED, end_at_once_next_time
from vitdemo.threads import prepare_threads


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 all fine, 1 some input failed, 2 wrong usage, 130 Ctrl-C."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    prepare_threads()
    try:
        status: int = options.run(options)
        return status
    except (UnknownModelError, OptionError) as error:
        print(f"vitdemo: {error}", file=sys.stderr)
        return EXIT_USAGE
    except VitDemoError as error:
        print(f"vitdemo: {error}", file=sys.stderr)
        return EXIT_SOME_FAILED
    except BrokenPipeError:
        # The reader has closed the pipe (`| head`). Python would complain once more while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except KeyboardInterrupt:
        end_at_once_next_time()
        return INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(prog="vitdemo", description="Show what Vision Transformers see.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (page, models, inference, inspection, segmentation, evaluate, choose, robustness, training):
        module.add_commands(commands)
    return parser
