"""What is remembered of visitors stays small and bounded, and open pages keep it longest."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Iterator

import gradio as gr
import httpx
import pytest
from gradio.state_holder import SessionState

from tests import loops
from vitdemo.ui.sessions import Session, Sessions, lean_sessions


@pytest.fixture(scope="module")
def page() -> gr.Blocks:
    with gr.Blocks() as page:
        state, number = gr.State([]), gr.Number(0)
        gr.Button().click(lambda state, number: [*state, number], [state, number], state, api_name="add")
        gr.Button().click(lambda number: number + 1, number, number, api_name="plus")
        for _ in range(50):
            gr.Textbox("text", label="label")
    return page


@pytest.fixture
def holder(page: gr.Blocks) -> Sessions:
    holder = Sessions()
    holder.set_blocks(page)
    holder.capacity = 4
    return holder


def state_of(page: gr.Blocks) -> int:
    return next(key for key, block in page.blocks.items() if isinstance(block, gr.State))


@pytest.mark.thorough
def test_a_session_takes_a_tenth_of_gradios_and_keeps_no_values_of_components(page: gr.Blocks) -> None:
    def bytes_of(kind: type[SessionState]) -> int:
        tracemalloc.start()
        kept = [kind(page) for _ in range(10)]
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return size // len(kept)

    assert bytes_of(Session) < bytes_of(SessionState) / 10
    session = Session(page)
    session._update_value_in_config(1, "x" * 1000)
    session._update_config(1)
    session[1] = gr.Textbox("another", render=False)
    assert session[1].value == "another"
    assert not list(session.components)


def test_sessions_are_bounded_and_calls_leave_before_open_pages(page: gr.Blocks, holder: Sessions) -> None:
    state = state_of(page)
    holder["page"][state] = ["mine"]
    holder["closed"][state] = ["its"]
    holder["closed"].is_closed = True
    for call in range(100):
        assert holder[f"call {call}"]
    assert set(holder.session_data) == {"page", "call 97", "call 98", "call 99"} == set(holder.time_last_used)
    assert holder["page"][state] == ["mine"]


def test_of_too_many_open_pages_the_one_unused_the_longest_leaves(page: gr.Blocks, holder: Sessions) -> None:
    state = state_of(page)
    for number in range(4):
        holder[f"page {number}"][state] = [number]
    assert holder["page 0"][state] == [0]
    holder["page 4"][state] = [4]
    assert set(holder.session_data) == {"page 0", "page 2", "page 3", "page 4"}


@pytest.fixture
def url(page: gr.Blocks) -> Iterator[str]:
    page.queue(api_open=False)
    options = {"state_session_capacity": 4, "app_kwargs": {"lifespan": lean_sessions}, "quiet": True}
    _, url, _ = page.launch(prevent_thread_lock=True, ssr_mode=False, **options)
    yield url
    page.close()


def test_calls_leave_nothing_behind(page: gr.Blocks, url: str) -> None:
    def call(name: str, number: int, session: str | None = None) -> None:
        with httpx.Client(base_url=f"{url}gradio_api/call/{name}") as client:
            event = client.post("", json={"data": [number], "session_hash": session}).json()["event_id"]
            assert "event: complete" in client.get(f"/{event}").text

    async def patience() -> None:
        while queue.event_ids_to_events:
            await asyncio.sleep(0.02)

    for number in range(8):
        call("plus", number)
    queue, kept = page._queue, page.server_app.state_holder
    assert isinstance(kept, Sessions)
    assert len(kept.session_data) == len(kept.time_last_used) == 4
    assert not queue.event_analytics
    loops.run(asyncio.wait_for(patience(), 15))
