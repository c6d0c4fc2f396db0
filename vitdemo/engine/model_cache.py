"""Loaded models within a memory budget: the least recently used one is evicted first, never one in use."""

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
    """A place in the waiting line."""

    key: Key


@dataclass
class _Entry(Generic[Value]):
    size: int
    users: int = 0
    value: Value | None = None
    """None while it is being loaded."""
    unwanted: bool = False
    """Evicted with its last user."""


class ModelCache(Generic[Key, Value]):
    """Values by key, within a budget of bytes. Safe to use from many threads.

    A caller that needs room waits until enough is released; until then no later caller starts anything, so that a stream of
    users of small models cannot keep out the user of a large one for ever.
    """

    def __init__(self, budget: int, evicted: Callable[[Value], None] = lambda value: None) -> None:
        self.budget = budget
        self._evicted = evicted
        """Called with each value that leaves; it must not come back here."""
        self._held: OrderedDict[Key, _Entry[Value]] = OrderedDict()
        self._changed = threading.Condition()
        self._waiting: deque[_Ticket[Key]] = deque()

    @property
    def used(self) -> int:
        """Bytes of everything that is held or being loaded."""
        with self._changed:
            return self._used()

    def held(self) -> list[tuple[Key, int]]:
        """Loaded keys and their bytes, the least recently used first."""
        with self._changed:
            return [(key, entry.size) for key, entry in self._held.items() if entry.value is not None]

    @contextmanager
    def use(self, key: Key, size: int, load: Callable[[], Value], name: str) -> Iterator[Value]:
        """The value of a key, loaded if it is not here, and safe from eviction until the block ends.

        Args:
            size: bytes that it will take.
            name: for errors.

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
        """Evict what nobody uses; returns the freed bytes.

        Args:
            unwanted: only these keys; those in use, or being loaded, are evicted with their last user.
        """
        with self._changed:
            freed = 0
            for key, entry in list(self._held.items()):
                if unwanted is not None and not unwanted(key):
                    continue
                if not entry.users:
                    freed += entry.size
                    self._drop(key)
                elif unwanted is not None:
                    entry.unwanted = True
            self._changed.notify_all()
            return freed

    def _enter(self, key: Key, size: int) -> _Entry[Value]:
        """One more user. The first of those who need the same value at once loads it: it gets an empty entry."""
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
        """In order of arrival, but whoever waits for another caller to load the same value lets the others pass."""
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
                self._drop(key)
            self._changed.notify_all()

    def _make_room(self, size: int) -> bool:
        idle = [key for key, entry in self._held.items() if not entry.users]
        while self._used() + size > self.budget:
            if not idle:
                return False
            self._drop(idle.pop(0))
        return True

    def _drop(self, key: Key) -> None:
        value = self._held.pop(key).value
        if value is not None:
            self._evicted(value)

    def _used(self) -> int:
        return sum(entry.size for entry in self._held.values())
