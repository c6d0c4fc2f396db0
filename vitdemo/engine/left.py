"""Work for somebody who has left ends before its next forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from vitdemo.errors import ClientLeftError

_HAS_LEFT: ContextVar[Callable[[], bool]] = ContextVar("vitdemo_has_left", default=lambda: False)


@contextmanager
def working_for(left: Callable[[], bool]) -> Iterator[None]:
    """In this context, and in threads that copy it, no forward pass begins once `left` is true."""
    token = _HAS_LEFT.set(left)
    try:
        yield
    finally:
        _HAS_LEFT.reset(token)


def has_left() -> bool:
    """Whether nobody waits for the result any more."""
    return _HAS_LEFT.get()()


def stop_if_left() -> None:
    """Raises:
    ClientLeftError: nobody waits for the result any more.
    """
    if has_left():
        raise ClientLeftError("Nobody waits for this result any more. Ask again.")
