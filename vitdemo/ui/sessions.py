"""What Gradio keeps for each visitor, made small.

Stock Gradio gives every session, that is every page and every call of an endpoint, a copy of the whole page's configuration
(190 kB, 25 ms) and the last value of each component, for links that this page does not offer, and forgets the oldest of 10,000.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from copy import copy
from typing import Any

from gradio.blocks import Blocks
from gradio.routes import App
from gradio.state_holder import SessionState, StateHolder

CAPACITY = 1000
"""Sessions that are remembered, about 8 kB each."""

TIDY_EVERY = 60.0
"""Seconds between two removals of what the queue leaves behind."""


class Session(SessionState):
    """A session's components and states, without their configurations."""

    def __init__(self, blocks: Blocks) -> None:
        # Not the inherited one, which makes the copy.
        self.blocks_config = copy(blocks.default_config)
        self.config_values: dict[int, Any] = {}
        self.state_data: dict[int, Any] = {}
        self._state_ttl: dict[int, Any] = {}
        self.is_closed = False
        self.STATE_TTL_WHEN_CLOSED = 3600

    def __setitem__(self, key: int, value: Any) -> None:
        super().__setitem__(key, value)
        self.config_values.clear()

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: Any) -> None:
        pass


class Sessions(StateHolder):
    """Sessions up to `capacity`. Calls of endpoints, which have no state, and closed pages leave before open pages."""

    session_data: Any

    def __getitem__(self, session_id: str) -> SessionState:
        with self.lock:
            if session_id not in self.session_data:
                self.session_data[session_id] = Session(self.blocks)
        return super().__getitem__(session_id)

    def update(self, session_id: str) -> None:
        with self.lock:
            if session_id in self.session_data:
                self.session_data.move_to_end(session_id)
            while len(self.session_data) > self.capacity:
                others = [key for key in self.session_data if key != session_id]
                idle = (key for key in others if self._is_idle(self.session_data[key]))
                evicted = next(idle, others[0])
                del self.session_data[evicted]
                self.time_last_used.pop(evicted, None)

    def _is_idle(self, session: SessionState) -> bool:
        return session.is_closed or not session.state_data


@asynccontextmanager
async def lean_sessions(app: App) -> AsyncIterator[None]:
    """For `launch(app_kwargs={"lifespan": ...})`: sessions as above, and a queue that keeps no history of its jobs."""
    app.state_holder = Sessions()
    app.state_holder.set_blocks(app.get_blocks())
    # Monitoring is off; a summary of the last 10,000 jobs would be made after each one.
    app.get_blocks()._queue.ANALYTICS_MAX_EVENTS = 0
    app.state.loop = asyncio.get_running_loop()
    task = asyncio.create_task(_tidy(app))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _tidy(app: App) -> None:
    """Forget jobs whose client has left: the queue would keep them, and an empty set for every session that ever had one."""
    queue, suspects = app.get_blocks()._queue, set[str]()
    while True:
        await asyncio.sleep(TIDY_EVERY)
        messages, ended = queue.pending_messages_per_session, set[str]()
        for session, jobs in list(queue.pending_event_ids_session.items()):
            if session not in messages or messages[session].empty():
                ended |= jobs - queue.event_ids_to_events.keys()
            # Not at first sight: an answer may be on its way to its reader.
            jobs -= ended & suspects
            if not jobs:
                del queue.pending_event_ids_session[session]
        suspects = ended
