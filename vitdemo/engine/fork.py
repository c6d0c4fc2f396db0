"""A function in a forked process, whose effects on this one are its result alone."""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from vitdemo.engine.wire import pack, unpack
from vitdemo.errors import EngineError, VitDemoError

Result = TypeVar("Result")

LIMIT = 120.0
"""Seconds that it may take."""

logger = logging.getLogger("vitdemo")


def in_fork(run: Callable[[], Result]) -> Result:
    """What the function returns, computed in a forked process (so on Linux and macOS only). It must need no lock.

    Raises:
        VitDemoError: the function raised it; anything else that it raises is logged, and worded.
        EngineError: the process ended without a result, or took too long.
    """
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(run, writer), daemon=True)
    process.start()
    writer.close()
    try:
        until = time.monotonic() + LIMIT
        while not reader.poll(0.1):
            # Another process that was forked meanwhile may hold the pipe open: its end is not to be waited for.
            if time.monotonic() > until or (not process.is_alive() and not reader.poll(0)):
                raise EOFError
        found = unpack(reader.recv_bytes())
    except EOFError:
        found = EngineError("The process that computed this ended too early, or took too long. Please try again.")
    finally:
        process.kill()
        process.join()
        reader.close()
    if isinstance(found, VitDemoError):
        raise found
    result: Result = found
    return result


def _answer(run: Callable[[], Any], writer: Connection) -> None:
    """In a thread of its own, which has OpenMP's threads anew: those of a thread that was forked do not exist."""

    def work() -> None:
        answer: Any
        try:
            answer = run()
        except VitDemoError as error:
            answer = error
        except Exception:
            logger.exception("A forked process failed")
            answer = EngineError("Something went wrong on the server. It was logged; please try again.")
        writer.send_bytes(pack(answer))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
