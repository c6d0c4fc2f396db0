"""Loaded models within a budget: the least recently used ones leave first, one that is in use never does."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from vitdemo.errors import TooLargeError

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(eq=False)
class _Ticket(Generic[Key]):
    """A place in the line of those who want something."""

    key: Key


@dataclass
class _Entry(Generic[Value]):
    size: int
    users: int = 0
    value: Value | None = None
    """None while it is being loaded."""
    unwanted: bool = False
    """Leaves with its last user."""


class ModelCache(Generic[Key, Value]):
    """What is in memory. Safe to use from many threads.

    Who needs room waits until the others have let go of enough; until then nobody who came later starts anything, so that a
    stream of users of small models cannot keep out the one of a large model for ever.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._held: OrderedDict[Key, _Entry[Value]] = OrderedDict()
        self._changed = threading.Condition()
        self._waiting: deque[_Ticket[Key]] = deque()

    @property
    def used(self) -> int:
        """Bytes of everything that is held or being loaded."""
        with self._changed:
            return self._used()

    def held(self) -> list[tuple[Key, int]]:
        """What is loaded, and its bytes; the least recently used first."""
        with self._changed:
            return [(key, entry.size) for key, entry in self._held.items() if entry.value is not None]

    @contextmanager
    def use(self, key: Key, size: int, load: Callable[[], Value], name: str) -> Iterator[Value]:
        """The value of a key, loaded if it is not here, and safe from eviction until the block ends.

        Args:
            size: bytes that it is going to take.
            name: what an error calls it.

        Raises:
            TooLargeError: it alone is larger than the budget.
        """
        if size > self.budget:
            raise TooLargeError(
                f"{name} takes {size / 1e9:.2f} GB of memory, and models may use {self.budget / 1e9:.2f} GB here. "
                "Choose a smaller model, or raise VITDEMO_MEMORY_GB."
            )
        entry = self._enter(key, size)
        try:
            if entry.value is None:
                entry.value = self._loaded(key, entry, load)
            yield entry.value
        finally:
            self._leave(key, entry)

    def evict(self, unwanted: Callable[[Key], bool] | None = None) -> int:
        """Let go of what nobody uses; returns the freed bytes.

        Args:
            unwanted: only these; those that are in use, or being loaded, leave with their last user.
        """
        with self._changed:
            freed = 0
            for key, entry in list(self._held.items()):
                if unwanted is not None and not unwanted(key):
                    continue
                if not entry.users:
                    freed += entry.size
                    del self._held[key]
                elif unwanted is not None:
                    entry.unwanted = True
            self._changed.notify_all()
            return freed

    def _enter(self, key: Key, size: int) -> _Entry[Value]:
        """One more user. Of those who need the same value at once, the first one is to load it: it gets an empty entry."""
        ticket = _Ticket(key)
        with self._changed:
            self._waiting.append(ticket)
            try:
                while not (self._is_next(ticket) and (key in self._held or self._make_room(size))):
                    self._changed.wait()
                entry = self._held.setdefault(key, _Entry(size))
                entry.users += 1
                self._held.move_to_end(key)
                return entry
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def _is_next(self, ticket: _Ticket[Key]) -> bool:
        """In the order in which they came, but those who wait for another one to load their value let the others pass."""
        for first in self._waiting:
            entry = self._held.get(first.key)
            if entry is None or entry.value is not None:
                return first is ticket
        return False

    def _loaded(self, key: Key, entry: _Entry[Value], load: Callable[[], Value]) -> Value:
        try:
            value = load()
        except BaseException:
            with self._changed:
                del self._held[key]
            raise
        with self._changed:
            entry.value = value
            self._changed.notify_all()
        return value

    def _leave(self, key: Key, entry: _Entry[Value]) -> None:
        with self._changed:
            entry.users -= 1
            if entry.unwanted and not entry.users and self._held.get(key) is entry:
                del self._held[key]
            self._changed.notify_all()

    def _make_room(self, size: int) -> bool:
        idle = [key for key, entry in self._held.items() if not entry.users]
        while self._used() + size > self.budget:
            if not idle:
                return False
            del self._held[idle.pop(0)]
        return True

    def _used(self) -> int:
        return sum(entry.size for entry in self._held.values())
