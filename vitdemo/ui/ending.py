"""The end of a server under load: jobs that wait are answered in words, those under way may finish, and pages are told.

Gradio's own `close` tells nobody, and waits five seconds for connections that stay open.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Iterator

from gradio.blocks import Blocks
from gradio.queueing import Event, Queue
from gradio.server_messages import ProcessCompletedMessage
from gradio.utils import error_payload

from vitdemo.ui.errors import worded

SAID = "The server is being stopped, and did not finish this. Try again in a minute."

FINISH = 4.0
"""Seconds that jobs under way may take to finish."""
READ = 2.0
"""Seconds after the last answer in which it may be fetched."""
CLOSE = 2.0
"""Seconds after that in which connections may end by themselves."""
CLOSED = -100
"""A limit of concurrency that lets nothing run. Gradio divides by it, so it is not 0; some may run over their limit."""

logger = logging.getLogger("vitdemo")


def end(page: Blocks) -> bool:
    """Close a page that was launched, within 10 seconds.

    Returns:
        Whether every job has ended. Otherwise some still compute, in threads that Python would end in the middle of it.
    """
    answered = asyncio.run_coroutine_threadsafe(_answer_all(page._queue), page.server_app.state.loop)
    try:
        finished = answered.result(FINISH + READ + 1)
    except Exception:
        # Whatever it was, the files must go.
        logger.exception("Some jobs were not answered")
        finished = False
    page.server.config.timeout_graceful_shutdown = int(CLOSE)
    # Gradio may wait for five seconds.
    closing = threading.Thread(target=page.close, daemon=True)
    closing.start()
    closing.join(CLOSE + 1)
    return finished


async def _answer_all(queue: Queue) -> bool:
    """Refuse waiting jobs and those that still arrive; let those under way finish, or tell that they did not.

    Returns:
        Whether no job is computing any more.
    """
    until = time.monotonic() + FINISH
    while time.monotonic() < until:
        # Nothing leaves the line any more but by us.
        for line in queue.event_queue_per_concurrency_id.values():
            line.concurrency_limit = CLOSED
        _refuse_waiting(queue)
        _end_streams(queue)
        if not any(queue.active_jobs):
            break
        await asyncio.sleep(0.02)
    # From now on nothing is accepted: a job that came between the last answer and the end would get none.
    setattr(queue, "push", _refuse_new)  # noqa: B010
    _refuse_waiting(queue)
    for event in _running(queue):
        _refuse(queue, event)
    until = time.monotonic() + READ
    while time.monotonic() < until and _unread(queue):
        await asyncio.sleep(0.02)
    return not any(queue.active_jobs)


def _unread(queue: Queue) -> bool:
    """Whether an answer waits to be fetched, or is being written to its connection: only then Gradio forgets the job's id."""
    kept = queue.pending_messages_per_session
    return any(jobs and session in kept for session, jobs in list(queue.pending_event_ids_session.items()))


def _refuse_waiting(queue: Queue) -> None:
    for line in queue.event_queue_per_concurrency_id.values():
        while line.queue:
            event = line.queue.pop()
            _refuse(queue, event)
            queue.event_ids_to_events.pop(event._id, None)


async def _refuse_new(**_: object) -> tuple[bool, str, str]:
    """In place of `Queue.push`: 503, with words."""
    return False, SAID, "queue_full"


def _refuse(queue: Queue, event: Event) -> None:
    answer = error_payload(worded(SAID), show_error=False)
    queue.send_message(event, ProcessCompletedMessage(output=dict(answer), title="Error", success=False))
    event.alive = False


def _running(queue: Queue) -> Iterator[Event]:
    for events in queue.active_jobs:
        yield from events or ()


def _end_streams(queue: Queue) -> None:
    """As Gradio does when a page is left: the stream ends with its next frame, or at once if it waits for one."""
    for event in _running(queue):
        if event.streaming and not event.closed:
            event.run_time = math.inf
            event.closed = True
            event.signal.set()
