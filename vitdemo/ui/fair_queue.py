"""The queue of the page's events: turns are fair, cameras keep nobody else out, and what nobody waits for is dropped."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import fastapi
from gradio.data_classes import PredictBodyInternal
from gradio.queueing import Event, EventQueue, Queue
from gradio.server_messages import ProcessCompletedMessage
from gradio.utils import run_coro_in_background
from starlette.datastructures import QueryParams
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from vitdemo.errors import ImageError
from vitdemo.ui.given import files_in, uploaded
from vitdemo.ui.routes import API

UNREAD = 10.0
"""Seconds after which an event is dropped whose answer nobody reads. Clients begin to read at once."""

FORGOTTEN = 120.0
"""Seconds after which an answer is forgotten that nobody has read."""

EVERY = 1.0
"""Seconds between two looks for such events."""

EXTRA = 1
"""Events that may run over a limit of concurrency: of clients of whom nothing runs, while others take all places."""

STREAMS_WAITING = 4
"""Cameras that may wait until another one ends. They hold no place of anyone else."""

Found = TypeVar("Found")

REMEMBERED = 2000
"""Clients of whom it is known when they had their last turn."""

DROPPED = "Nobody waited for the answer, so this was not computed. Read the answer within some seconds of asking, or ask again."


class FairQueue(Queue):
    """Gradio's, in which clients have turns instead of events: whoever asks a hundred times waits for himself.

    A client is an address, and of one address, as behind a proxy that tells none, a session.
    """

    def __init__(self, made: Queue) -> None:
        super().__init__(
            live_updates=made.live_updates,
            concurrency_count=made.max_thread_count,
            update_intervals=made.update_intervals,
            max_size=None,  # see `push`
            blocks=made.blocks,
            default_concurrency_limit=made.default_concurrency_limit,
        )
        self.places = made.max_size or 10**9
        self.readers: Counter[str] = Counter()
        """How many connections wait for the answers of a session, or of an event."""
        self._unread: dict[str, float] = {}
        """Since when nobody reads, by event."""
        self._unasked: dict[str, float] = {}
        """Since when an answer waits for nobody, by session."""
        self._turns: OrderedDict[str, int] = OrderedDict()
        """Numbers of the last turns of addresses, and of sessions."""
        self._turn = 0

    async def push(self, body: PredictBodyInternal, request: fastapi.Request, username: str | None) -> Any:
        if words := self._against(body, request):
            return False, words, "queue_full"
        try:
            # Gradio would refuse them later, and repeat what it was told, or fetch them.
            for path in files_in(body.event_data):
                uploaded(path)
        except ImageError as error:
            return False, str(error), "error"
        return await super().push(body, request, username)

    def _against(self, body: PredictBodyInternal, request: fastapi.Request) -> str:
        """Why there is no place; "" where there is one.

        Jobs that run models, cameras, and what is done at once, as taking a photo, each have places of their own. Nobody loses
        one to a client who has more than a fair share of them.
        """
        function = self.blocks.fns.get(body.fn_index) if body.fn_index is not None else None
        queue = self.event_queue_per_concurrency_id.get(function.concurrency_id) if function else None
        if function is None or queue is None:
            return ""
        held = Counter(client_of(event.request) for event in queue.queue)
        total = held.total()
        if function.connection == "stream":
            return f"All cameras are served, and {total} more wait." if total >= STREAMS_WAITING else ""
        client = client_of(request)
        share = self.places / len({*held, client})
        if total < self.places or (held[client] < share and total < 2 * self.places):
            return ""
        jobs = "1 job waits" if total == 1 else f"{total} jobs wait"
        return f"The server is busy: {jobs}. Try again in a moment."

    def get_events(self) -> tuple[list[Event], bool, str] | None:
        running = Counter(client_of(event.request) for event in self._running())
        for name, queue in self.event_queue_per_concurrency_id.items():
            if not queue.queue:
                continue
            # In the order of turns, so that each one's place in it, which is shown, is true.
            queue.queue[:] = self._in_turn(queue.queue, running)
            event = queue.queue[0]
            if not _has_room(queue, bool(running[client_of(event.request)])):
                continue
            queue.queue.remove(event)
            self._took_turn(client_of(event.request), event.session_hash)
            return [event], False, name
        return None

    def start(self) -> None:
        super().start()
        run_coro_in_background(self._look)

    def has_left(self, event_id: str | None) -> bool:
        """Whether nobody waits for this event any more, although it still runs."""
        event = self.event_ids_to_events.get(event_id or "")
        return event is not None and not event.alive

    def knows(self, name: str) -> bool:
        """Whether there is, or is going to be, an answer for this session, or of this event."""
        sessions = self.pending_event_ids_session
        return (
            name in self.pending_messages_per_session
            or name in self.event_ids_to_events
            or any(name in events for events in sessions.values())
        )

    def _waiting(self) -> Iterator[Event]:
        for queue in self.event_queue_per_concurrency_id.values():
            yield from queue.queue

    def _running(self) -> Iterator[Event]:
        for job in self.active_jobs:
            yield from job or ()

    def _in_turn(self, events: Iterable[Event], running: Counter[str]) -> list[Event]:
        """One of each address, then the second one of each, and so on; inside an address, the same by sessions."""
        nth: Counter[tuple[str, str]] = Counter()
        by_session = []
        for event in events:
            client, session = client_of(event.request), event.session_hash
            by_session.append((nth[client, session], self._turns.get(session, 0), event))
            nth[client, session] += 1
        by_session.sort(key=lambda entry: entry[:2])
        ahead = Counter(running)
        by_client = []
        for _, _, event in by_session:
            client = client_of(event.request)
            by_client.append((ahead[client], self._turns.get(client, 0), event))
            ahead[client] += 1
        by_client.sort(key=lambda entry: entry[:2])
        return [event for _, _, event in by_client]

    def _took_turn(self, *names: str) -> None:
        self._turn += 1
        for name in names:
            self._turns[name] = self._turn
            self._turns.move_to_end(name)
        while len(self._turns) > REMEMBERED:
            self._turns.popitem(last=False)

    async def _look(self) -> None:
        while not self.stopped:
            await asyncio.sleep(EVERY)
            now = time.monotonic()
            events = [*self._waiting(), *self._running()]
            unread = [event for event in events if not (self.readers[event.session_hash] or self.readers[event._id])]
            for event in self._overdue(self._unread, {event._id: event for event in unread}, now, UNREAD):
                await self._drop(event)
            held = {event.session_hash for event in events}
            idle = {*self.pending_messages_per_session, *self.pending_event_ids_session} - held
            idle = {name for name in idle if not any(self.readers[one] for one in self._names(name))}
            for name in self._overdue(self._unasked, {name: name for name in idle}, now, FORGOTTEN):
                self.pending_messages_per_session.pop(name, None)
                self.pending_event_ids_session.pop(name, None)

    def _names(self, session: str) -> set[str]:
        """By which its answers may be read."""
        return {session, *self.pending_event_ids_session.get(session, ())}

    @staticmethod
    def _overdue(since: dict[str, float], found: dict[str, Found], now: float, limit: float) -> list[Found]:
        """Those of what was found now that have been found for so many seconds; `since` remembers from when on."""
        for name in since.keys() - found.keys():
            del since[name]
        return [one for name, one in found.items() if now - since.setdefault(name, now) >= limit]

    async def _drop(self, event: Event) -> None:
        if event.alive:
            # For whoever reads it after all.
            self.send_message(event, ProcessCompletedMessage(output={"error": DROPPED}, success=False))
        event.alive = False
        if event.streaming:
            # As when its page is closed: else it would wait for frames until its time is over.
            event.run_time, event.closed = math.inf, True
            event.signal.set()
        await self.remove_from_queue(event._id)


class Readers:
    """Counts the connections on which answers are read. Gradio would fail, halfway through its answer, where there is none."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = _read_name(scope)
        if not name:
            await self.app(scope, receive, send)
            return
        queue: FairQueue = scope["app"].get_blocks()._queue
        # An open page has to learn of it in Gradio's own way: its server was restarted.
        if "/queue/data" not in scope["path"] and not queue.knows(name):
            await PlainTextResponse("There is no such answer, or no longer. Ask again.", 404)(scope, receive, send)
            return
        readers = queue.readers
        readers[name] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            readers[name] -= 1
            if not readers[name]:
                del readers[name]


def _read_name(scope: Scope) -> str:
    """Session or event whose answers this request reads; "" for any other request."""
    if scope["type"] != "http" or scope["method"] != "GET":
        return ""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    if path == f"{API}/queue/data":
        return str(QueryParams(scope["query_string"]).get("session_hash", ""))
    return path.rpartition("/")[2] if path.startswith(f"{API}/call/") else ""


def _has_room(queue: EventQueue, client_has_some: bool) -> bool:
    if queue.concurrency_limit is None:
        return True
    # A stream runs until it ends: one more would be one more for minutes.
    extra = 0 if client_has_some or queue.queue[0].streaming else EXTRA
    return queue.current_concurrency < queue.concurrency_limit + extra


def client_of(request: fastapi.Request) -> str:
    """The address that a request comes from; of one that a proxy hands on, the last public one that proxies name."""
    peer = request.client.host if request.client else ""
    if _is_public(peer):
        return peer
    told = [part.strip() for part in request.headers.get("x-forwarded-for", "").split(",")]
    return next((address for address in reversed(told) if _is_public(address)), peer)


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False
