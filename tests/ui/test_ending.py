"""A server that is told to end under load: every job is answered, pages are told, and no file stays."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import httpx
import pytest

from tests import loops
from tests.hostile import encode, photo
from vitdemo.settings import ROOT
from vitdemo.ui import ending
from vitdemo.ui.ending import SAID, end
from vitdemo.ui.sessions import lean_sessions


@contextmanager
def launched(seconds: float) -> Iterator[tuple[gr.Blocks, str]]:
    """A page with an endpoint that takes so long, two jobs at a time."""
    with gr.Blocks() as page:
        gr.Button().click(
            lambda: time.sleep(seconds) or "done", None, gr.Textbox(), api_name="work", concurrency_limit=2
        )
    page.queue(api_open=False)
    _, url, _ = page.launch(
        prevent_thread_lock=True, ssr_mode=False, quiet=True, app_kwargs={"lifespan": lean_sessions}
    )
    yield page, f"{url}gradio_api"


def ask(url: str) -> str:
    """The last event of a job, as text."""
    with httpx.Client(timeout=30) as client:
        event = client.post(f"{url}/call/work", json={"data": []}).json()["event_id"]
        return client.get(f"{url}/call/work/{event}").text.strip().rpartition("event: ")[2]


@pytest.mark.thorough
def test_jobs_under_way_finish_and_waiting_ones_are_refused_in_words() -> None:
    with launched(0.5) as (page, url), ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask, url) for _ in range(8)]
        while len(page._queue.event_ids_to_events) < 8:
            time.sleep(0.01)
        assert end(page)
        said = [answer.result() for answer in answers]
    assert sorted(one.partition("\n")[0] for one in said) == ["complete"] * 2 + ["error"] * 6
    assert all(SAID in one for one in said if one.startswith("error"))


@pytest.mark.thorough
def test_after_the_last_answer_no_job_is_accepted() -> None:
    with launched(0) as (page, url):
        assert ask(url).startswith("complete")
        asyncio.run_coroutine_threadsafe(ending._answer_all(page._queue), page.server_app.state.loop).result(10)
        answer = httpx.post(f"{url}/call/work", json={"data": []})
        assert (answer.status_code, answer.json()["detail"]) == (503, SAID)
        page.close()


@pytest.mark.thorough
def test_a_job_that_does_not_finish_in_time_is_answered_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "FINISH", 0.2)
    monkeypatch.setattr(ending, "CLOSE", 0.5)
    with launched(4) as (page, url), ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, url)
        while not any(page._queue.active_jobs):
            time.sleep(0.01)
        start = time.monotonic()
        assert not end(page)
        assert time.monotonic() - start < 3
        assert SAID in answer.result()


@contextmanager
def server(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`python app.py`, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(folder), "GRADIO_SERVER_PORT": str(port)}
    command = [sys.executable, "-u", "app.py"]
    started = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert started.stdout
        assert any("Running on local URL" in line for line in started.stdout)
        yield started, f"http://127.0.0.1:{port}/gradio_api"
    finally:
        started.kill()
        started.communicate()


async def compare(url: str, number: int) -> str:
    """The last event of a comparison of five models on a photo of its own."""
    async with httpx.AsyncClient(timeout=60) as client:
        data = encode(photo(200 + number, 200), "PNG")
        (path,) = (await client.post(f"{url}/upload", files={"files": (f"{number}.png", data)})).json()
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        body = {"data": [file, [], -1, "mean", "attention", None, None, 448, 0, None, None]}
        answer = await client.post(f"{url}/call/compare", json=body)
        text = (await client.get(f"{url}/call/compare/{answer.json()['event_id']}")).text
        return text.strip().rpartition("event: ")[2]


@pytest.mark.thorough
@pytest.mark.timeout(240)
def test_sigterm_under_load_answers_every_job_within_ten_seconds_and_leaves_no_file(tmp_path: Path) -> None:
    def files() -> list[Path]:
        return [path for path in tmp_path.rglob("*") if path.is_file()]

    took = []

    async def users(started: subprocess.Popen[str], url: str) -> list[str]:
        jobs = [asyncio.create_task(compare(url, number)) for number in range(12)]
        async with httpx.AsyncClient(timeout=60) as client, client.stream("GET", f"{url}/heartbeat/page") as page:
            assert page.status_code == 200
            await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            assert files()
            begun = time.monotonic()
            started.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(started.wait, 30) == 0
            took.append(time.monotonic() - begun)
        return await asyncio.gather(*jobs)

    left = tmp_path / "vitdemo-killed" / "files"
    left.mkdir(parents=True)
    (left / "mine.png").write_bytes(b"x")
    with server(tmp_path) as (started, url):
        assert not left.exists()
        drained = threading.Thread(target=lambda: started.stdout.read() if started.stdout else None)
        drained.start()
        answers = loops.run(users(started, url))
        drained.join()
    assert files() == []
    assert took[0] < 10
    done = [json.loads(one.partition("data: ")[2]) for one in answers if one.startswith("complete")]
    refused = [one for one in answers if one.startswith("error")]
    assert all(len(entry["results"]) == 5 for entry, _ in done)
    assert refused
    assert all(SAID in one for one in refused)
    assert len(done) + len(refused) == 12


@pytest.mark.thorough
def test_an_answer_that_is_being_written_is_waited_for() -> None:
    """Gradio takes an answer out of its queue first, and forgets the job when the answer has been written."""
    with launched(0) as (page, _):
        queue, done = page._queue, []

        async def answered() -> None:
            queue.pending_messages_per_session["one"] = asyncio.Queue()
            queue.pending_event_ids_session["one"] = {"job"}
            ended = asyncio.create_task(ending._answer_all(queue))
            await asyncio.sleep(0.2)
            done.append(ended.done())
            queue.pending_event_ids_session["one"].clear()
            await ended

        asyncio.run_coroutine_threadsafe(answered(), page.server_app.state.loop).result(5)
        page.close()
    assert done == [False]


@pytest.mark.thorough
def test_a_server_that_is_told_to_end_as_soon_as_it_answers_ends_as_it_should(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(tmp_path), "GRADIO_SERVER_PORT": str(port)}
    with subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as started:
        while started.poll() is None:
            try:
                httpx.get(f"http://127.0.0.1:{port}/gradio_api/app_id")
                break
            except httpx.TransportError:
                time.sleep(0.002)
        started.send_signal(signal.SIGTERM)
        assert started.wait(20) == 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
