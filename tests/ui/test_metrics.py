"""`/metrics`: closed unless it is switched on, and then for neighbours only; its text is what Prometheus reads."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch

from tests.loops import run
from tests.served import App
from vitdemo.engine import LocalBackend
from vitdemo.errors import ServiceError
from vitdemo.registry import get_spec
from vitdemo.settings import Settings
from vitdemo.types import Capture
from vitdemo.ui.metrics import Metrics

LINE = re.compile(r'(# (HELP|TYPE) \w+ .+|\w+(\{\w+="[^"]*"\})? [0-9.e+]+)')
"""Of the text format."""


def asked(backend: Any, client: str = "127.0.0.1", path: str = "/metrics", **headers: str) -> httpx.Response:
    line = SimpleNamespace(queue=[1, 2, 3])
    queue = SimpleNamespace(event_queue_per_concurrency_id={"models": line}, active_jobs=[[1], None])
    page = SimpleNamespace(get_blocks=lambda: SimpleNamespace(_queue=queue))

    async def beyond(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"beyond"})

    metrics = Metrics(beyond, backend)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await metrics({**scope, "app": page}, receive, send)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app, client=(client, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as user:
            return await user.get(path, headers=headers)

    return run(ask())


@pytest.fixture(scope="module")
def used() -> LocalBackend:
    backend, spec = LocalBackend(Settings(device="cpu")), get_spec("vit-mini")
    for count in (1, 3):
        backend.run(spec, torch.zeros(count, 3, *spec.image_size), Capture())
    backend.unload(spec)
    return backend


@pytest.mark.thorough
def test_it_tells_what_was_run_by_model_in_the_format_of_prometheus(used: LocalBackend) -> None:
    answer = asked(used)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    assert all(LINE.fullmatch(line) for line in lines), [line for line in lines if not LINE.fullmatch(line)]
    for expected in (
        'vitdemo_jobs_total{model="vit-mini"} 2',
        'vitdemo_jobs_under_way{model="vit-mini"} 0',
        'vitdemo_forward_passes_total{model="vit-mini"} 2',
        'vitdemo_model_loads_total{model="vit-mini"} 1',
        'vitdemo_model_evictions_total{model="vit-mini"} 1',
        'vitdemo_batch_size_bucket{le="1"} 1',
        'vitdemo_batch_size_bucket{le="4"} 2',
        'vitdemo_batch_size_bucket{le="+Inf"} 2',
        "vitdemo_batch_size_sum 4",
        "vitdemo_loaded_models 0",
        "vitdemo_queue_waiting 3",
        "vitdemo_queue_running 1",
    ):
        assert expected in lines, answer.text
    assert float(next(line for line in lines if line.startswith("vitdemo_forward_milliseconds_total{")).split()[1]) > 0
    assert "/" not in answer.text


@pytest.mark.parametrize(
    ("client", "headers", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("10.1.2.3", {}, 200),
        ("8.8.8.8", {}, 403),
        ("nobody", {}, 403),
        ("127.0.0.1", {"X-Forwarded-For": "8.8.8.8"}, 403),
        ("127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, 403),
        ("10.1.2.3", {"Forwarded": "for=8.8.8.8"}, 403),
    ],
)
def test_only_neighbours_may_read_it_and_not_through_a_proxy(
    used: LocalBackend, client: str, headers: dict[str, str], status: int
) -> None:
    assert asked(used, client, **headers).status_code == status


def test_everything_else_goes_on(used: LocalBackend) -> None:
    assert asked(used, path="/metrics/more").text == "beyond"


def test_a_service_that_is_gone_is_told_in_words() -> None:
    class Gone:
        @property
        def counts(self) -> Any:
            raise ServiceError("The cluster is gone.")

    answer = asked(Gone())
    assert (answer.status_code, answer.text) == (503, "The cluster is gone.")


def test_it_is_closed_unless_it_is_switched_on(app: App) -> None:
    assert httpx.get(f"{app.url}metrics").status_code == 403
