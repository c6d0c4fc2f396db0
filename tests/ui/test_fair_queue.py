"""Turns are fair, cameras keep nobody else out, and what nobody waits for is dropped: over HTTP, with the page's own queue."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
import httpx
import pytest
from starlette.requests import Request

from vitdemo.engine.left import stop_if_left
from vitdemo.ui import fair_queue
from vitdemo.ui.errors import Page
from vitdemo.ui.fair_queue import DROPPED, STREAMS_WAITING, client_of
from vitdemo.ui.middleware import middleware


@dataclass
class Server:
    """Jobs say what they are, and wait until they are let go."""

    url: str = ""
    began: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=20))

    def work(self, name: str) -> str:
        self.began.append(name)
        try:
            while not self.go.wait(0.02):
                stop_if_left()
        finally:
            self.ended.append(name)
        return name

    def ask(self, name: str, address: str = "8.8.8.8", session: str | None = None) -> httpx.Response:
        body = {"data": [name], "session_hash": session}
        return self.client.post(f"{self.url}call/work", json=body, headers={"x-forwarded-for": address})

    def read(self, event: str) -> str:
        return self.client.get(f"{self.url}call/work/{event}").text


def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 15
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Page]]:
    server = Server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        patch.setattr(fair_queue, "EVERY", 0.1)
        with Page(analytics_enabled=False) as page:
            text = gr.Textbox()
            gr.Button().click(server.work, text, text, api_name="work", concurrency_id="work", concurrency_limit=1)
            view = gr.HTML()
            view.stream(lambda name: name, text, view, time_limit=300, concurrency_id="live", concurrency_limit=2)
            page.queue(max_size=4, api_open=False)
        options: dict[str, Any] = {"middleware": middleware(10_000_000, 1)}
        _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", app_kwargs=options)
        server.url = f"{url}gradio_api/"
        yield server, page
        server.go.set()
        page.close(verbose=False)


@pytest.fixture
def server(running: tuple[Server, Page]) -> Iterator[Server]:
    """With nothing to do."""
    server, page = running
    server.began, server.ended = [], []
    server.go.clear()
    yield server
    server.go.set()
    until(lambda: not len(page._queue) and not page._queue.get_active_worker_count())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_queue, "UNREAD", 0.5)


def test_who_asks_often_waits_for_himself_and_not_others_for_him(server: Server) -> None:
    for index in range(4):
        assert server.ask(f"often {index}").status_code == 200
    until(lambda: server.began == ["often 0"])
    # One who has nothing running need not wait for the end of another's.
    assert server.ask("other", "9.9.9.9").status_code == 200
    until(lambda: server.began == ["often 0", "other"])
    assert server.ask("third", "1.1.1.1").status_code == 200
    server.go.set()
    until(lambda: len(server.ended) == 6)
    # They begin at nearly the same time.
    assert sorted(server.began[2:4]) == ["often 1", "third"]


def test_sessions_of_one_address_take_turns(server: Server) -> None:
    for name, session in (("a0", "a"), ("a1", "a"), ("a2", "a"), ("b0", "b"), ("b1", "b")):
        server.ask(name, session=session)
        until(lambda: server.began == ["a0"])
    server.go.set()
    until(lambda: len(server.ended) == 5)
    assert [name[0] for name in server.began] == ["a", "b", "a", "b", "a"]


def test_a_full_queue_says_how_many_wait_and_keeps_nobody_else_out(server: Server) -> None:
    server.ask("first")
    until(lambda: server.began)
    assert [server.ask("more").status_code for _ in range(4)] == [200] * 4
    refused = server.ask("too many")
    assert refused.status_code == 503
    assert refused.json()["detail"] == "The server is busy: 4 jobs wait. Try again in a moment."
    # Another takes a place above the limit, as long as it has less than its share.
    answers = Counter(server.ask("other", f"9.9.9.{index % 5}").status_code for index in range(20))
    assert answers == {200: 5, 503: 15}
    server.go.set()
    until(lambda: len(server.ended) == 10)


def frame(server: Server, page: Page, session: str, address: str = "8.8.4.4") -> httpx.Response:
    (streamed,) = [fn for fn in page.fns.values() if fn.connection == "stream"]
    body = {"data": ["frame"], "fn_index": streamed._id, "session_hash": session}
    return server.client.post(f"{server.url}queue/join", json=body, headers={"x-forwarded-for": address})


@pytest.mark.thorough
def test_frames_that_nobody_reads_keep_nobody_out_and_are_dropped(
    running: tuple[Server, Page], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = running[1]
    # Patient until all have asked: on a busy machine that takes longer than half a second.
    answers = Counter(frame(server, page, f"unread {index}").status_code for index in range(35))
    assert answers[200] == 2 + STREAMS_WAITING
    assert answers[503] == 35 - answers[200]
    monkeypatch.setattr(fair_queue, "UNREAD", 0.5)
    server.go.set()
    assert "event: complete" in server.read(server.ask("mine").json()["event_id"])
    until(lambda: not len(page._queue) and not page._queue.get_active_worker_count())
    assert frame(server, page, "again").status_code == 200
    until(page._queue.get_active_worker_count)
    until(lambda: not page._queue.get_active_worker_count())


def test_a_job_that_nobody_reads_is_dropped_and_a_late_reader_is_told(
    running: tuple[Server, Page], server: Server, impatient: None
) -> None:
    queue = running[1]._queue
    events = [server.ask(name).json()["event_id"] for name in ("running", "waiting")]
    # Of both: who begins to read before that is not late.
    until(lambda: not len(queue) and not queue.get_active_worker_count())
    for event in events:
        answer = server.read(event)
        assert answer.startswith("event: error")
        assert DROPPED in answer
    assert not server.go.is_set()


@pytest.mark.thorough
def test_a_job_that_is_read_is_not_dropped(server: Server, impatient: None) -> None:
    event = server.ask("slow").json()["event_id"]
    threading.Timer(1.5, server.go.set).start()
    assert server.read(event) == 'event: complete\ndata: ["slow"]\n\n'


def test_work_for_a_client_that_has_left_ends(server: Server) -> None:
    event = server.ask("left").json()["event_id"]
    with httpx.stream("GET", f"{server.url}call/work/{event}"):
        until(lambda: server.began == ["left"])
        assert not server.ended
    until(lambda: server.ended == ["left"])
    assert not server.go.is_set()


def test_answers_that_nobody_fetches_are_forgotten(
    running: tuple[Server, Page], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = running[1]._queue
    server.go.set()
    event = server.ask("done").json()["event_id"]
    until(lambda: server.ended == ["done"])
    assert event in queue.pending_messages_per_session
    monkeypatch.setattr(fair_queue, "FORGOTTEN", 0.3)
    until(lambda: event not in queue.pending_messages_per_session and event not in queue.pending_event_ids_session)
    assert "no longer" in server.read(event)


@pytest.mark.parametrize(
    ("peer", "told", "client"),
    [
        ("8.8.8.8", "", "8.8.8.8"),
        # It says what it likes: nobody stands between.
        ("8.8.8.8", "9.9.9.9", "8.8.8.8"),
        ("10.0.0.1", "6.6.6.6, 9.9.9.9, 10.2.3.4", "9.9.9.9"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("10.0.0.1", "nonsense", "10.0.0.1"),
    ],
)
def test_a_client_is_an_address_that_a_proxy_tells(peer: str, told: str, client: str) -> None:
    scope = {"type": "http", "client": (peer, 1), "headers": [(b"x-forwarded-for", told.encode())]}
    assert client_of(Request(scope)) == client
