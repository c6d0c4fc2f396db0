"""`/metrics`, in Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats/): how much is run.

It tells of no visitor, photo or result, but of how much is asked for, and of which models. So it is there only with
`VITDEMO_METRICS=1`, for this machine and its private network, and never through a proxy, which would make strangers look like
neighbours: on a Space, for nobody.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from vitdemo.engine import Backend
from vitdemo.errors import VitDemoError
from vitdemo.ui.fair_queue import FairQueue

PATH = "/metrics"

BY_MODEL = {
    "jobs": ("vitdemo_jobs_total", "counter", "Jobs of models that were accepted."),
    "under_way": ("vitdemo_jobs_under_way", "gauge", "Those of them that wait or run now."),
    "forwards": ("vitdemo_forward_passes_total", "counter", "Forward passes, each of a batch."),
    "milliseconds": ("vitdemo_forward_milliseconds_total", "counter", "Milliseconds in forward passes."),
    "loads": ("vitdemo_model_loads_total", "counter", "Models that were loaded."),
    "evictions": ("vitdemo_model_evictions_total", "counter", "Models that left the memory."),
}
"""By what is counted: name, type and help of the metric."""

BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Images in a batch."""

FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
"""Headers by which a proxy says that it is one."""


class Metrics:
    """Answers `/metrics`; everything else goes on."""

    def __init__(self, app: ASGIApp, backend: Backend) -> None:
        self.app, self.backend = app, backend

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].removeprefix(scope.get("root_path", "")) != PATH:
            await self.app(scope, receive, send)
        elif scope["method"] not in ("GET", "HEAD") or not may_read(scope):
            await PlainTextResponse("This route is not available.", 403)(scope, receive, send)
        else:
            queue: FairQueue = scope["app"].get_blocks()._queue
            await (await self._answer(queue))(scope, receive, send)

    async def _answer(self, queue: FairQueue) -> PlainTextResponse:
        try:
            # In a thread: replicas are asked.
            told, loaded = await asyncio.to_thread(lambda: (self.backend.counts.shown(), self.backend.loaded()))
        except VitDemoError as error:
            return PlainTextResponse(str(error), 503)
        text = "\n".join([*_lines(told), *_gauges(loaded, queue), ""])
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def may_read(scope: Scope) -> bool:
    """Whether a request comes from this machine or a private network, and not by way of a proxy."""
    headers = Headers(scope=scope)
    if any(name in headers for name in FORWARDED):
        return False
    try:
        address = ipaddress.ip_address((scope.get("client") or ("",))[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_private


def _lines(told: Mapping[str, Mapping[str, float]]) -> list[str]:
    lines = []
    for counted, (name, kind, words) in BY_MODEL.items():
        lines += _head(name, kind, words)
        lines += [f'{name}{{model="{_quoted(model)}"}} {value:g}' for model, value in sorted(told[counted].items())]
    sizes = {int(size): count for size, count in told["batches"].items()}
    lines += _head("vitdemo_batch_size", "histogram", "Images that shared a forward pass.")
    for most in BUCKETS:
        within = sum(count for size, count in sizes.items() if size <= most)
        lines.append(f'vitdemo_batch_size_bucket{{le="{most}"}} {within:g}')
    count, total = sum(sizes.values()), sum(size * count for size, count in sizes.items())
    lines.append(f'vitdemo_batch_size_bucket{{le="+Inf"}} {count:g}')
    return [*lines, f"vitdemo_batch_size_sum {total:g}", f"vitdemo_batch_size_count {count:g}"]


def _gauges(loaded: Mapping[str, int], queue: FairQueue) -> list[str]:
    waiting = sum(len(line.queue) for line in list(queue.event_queue_per_concurrency_id.values()))
    running = sum(len(events or ()) for events in list(queue.active_jobs))
    found = []
    for name, words, value in (
        ("vitdemo_loaded_models", "Models in memory.", len(loaded)),
        ("vitdemo_loaded_bytes", "Bytes that they take.", sum(loaded.values())),
        ("vitdemo_queue_waiting", "Events of the page that wait for their turn.", waiting),
        ("vitdemo_queue_running", "Events of the page that run now.", running),
    ):
        found += [*_head(name, "gauge", words), f"{name} {value}"]
    return found


def _head(name: str, kind: str, words: str) -> list[str]:
    return [f"# HELP {name} {words}", f"# TYPE {name} {kind}"]


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
