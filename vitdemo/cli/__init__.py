"""`vitdemo COMMAND`: thin over the pipeline. JSON alone on stdout, notes and progress on stderr."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from vitdemo.cli import evaluate, inference, models, page, segmentation, training
from vitdemo.cli.common import FINE, SOME_FAILED, WRONG_USAGE
from vitdemo.errors import OptionError, UnknownModelError, VitDemoError
from vitdemo.threads import prepare_threads


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 all fine, 1 some input failed, 2 wrong usage."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    prepare_threads()
    try:
        status: int = options.run(options)
        return status
    except (UnknownModelError, OptionError) as error:
        print(f"vitdemo: {error}", file=sys.stderr)
        return WRONG_USAGE
    except VitDemoError as error:
        print(f"vitdemo: {error}", file=sys.stderr)
        return SOME_FAILED
    except BrokenPipeError:
        # The reader has seen enough (`| head`). Python would complain once more while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE
    except KeyboardInterrupt:
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The whole grammar of the command line."""
    parser = argparse.ArgumentParser(prog="vitdemo", description="Show what Vision Transformers see.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for room in (page, models, inference, segmentation, evaluate, training):
        room.add_commands(commands)
    return parser
