"""What Gradio does not do with requests: limit the size of any body, and leave out routes that this page does not need."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from gradio.brotli_middleware import BrotliMiddleware
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vitdemo.ui.fair_queue import Readers
from vitdemo.ui.preview import Preview
from vitdemo.ui.routes import API, Doors

Lifespan = Callable[[Any], AbstractAsyncContextManager[None]]

DAY = 86_400
YEAR = 365 * DAY
"""Seconds that browsers keep a file."""


def middleware(max_image_bytes: int, max_photos: int) -> list[Middleware]:
    """For `launch(app_kwargs={"middleware": ...})`."""
    # Several photos are uploaded in one body, whose files Gradio measures one by one.
    uploads = max_image_bytes * max_photos + 1_000_000
    return [
        Middleware(Compressed),
        Middleware(Cached),
        Middleware(Preview),
        Middleware(Doors),
        Middleware(Readers),
        Middleware(BodyLimit, image=max_image_bytes, limit=body_limit(max_image_bytes), uploads=uploads),
    ]


def joined(lifespans: Sequence[Lifespan]) -> Lifespan:
    """One for `launch(app_kwargs={"lifespan": ...})`: the first is entered first, and left last."""

    @asynccontextmanager
    async def all_of_them(app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for one in lifespans:
                await stack.enter_async_context(one(app))
            yield

    return all_of_them


def body_limit(max_image_bytes: int) -> int:
    """Bytes of a body that holds an image as a data URL, a third longer than its file; the rest is room for the other fields."""
    return max_image_bytes * 4 // 3 + 1_000_000


class Compressed(BrotliMiddleware):
    """Gradio's own compression, for what it leaves out since its path has no ending: the page, and what clients read first."""

    def _is_compressible_file_type(self, scope: Scope) -> bool:
        path = scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/")
        return path in ("", "/config", f"{API}/info")


class Cached:
    """Says for how long files that never change may be kept: those whose name, or query, holds their digest."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kept = _seconds_kept(scope)

        async def with_age(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                headers = MutableHeaders(scope=message)
                headers.setdefault("cache-control", f"public, max-age={kept}")
            await send(message)

        await self.app(scope, receive, with_age if kept else send)


def _seconds_kept(scope: Scope) -> int:
    if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
        return 0
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    if path.startswith("/assets/") or (path == "/theme.css" and scope["query_string"]):
        return YEAR
    return DAY if path.startswith("/static/") or path in ("/favicon.ico", "/manifest.json") else 0


class BodyLimit:
    """Answers 413 to a body over the limit, as soon as that is known."""

    def __init__(self, app: ASGIApp, image: int, limit: int, uploads: int) -> None:
        self.app = app
        self.image = image
        self.limit = limit
        self.uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.uploads if scope["path"].endswith("/upload") else self.limit
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            await self._too_large()(scope, receive, send)
            return
        received, answered = 0, False

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise _TooLargeError
            return message

        async def corrected(message: Message) -> None:
            # Whatever the app answers to the truncated body, ours is sent.
            nonlocal answered
            if received <= limit:
                await send(message)
            elif not answered:
                answered = True
                await self._too_large()(scope, receive, send)

        try:
            await self.app(scope, counted, corrected)
        except _TooLargeError:
            if not answered:
                await self._too_large()(scope, receive, send)

    def _too_large(self) -> Any:
        # The one limit that a person knows, not that of the body which holds the image.
        return PlainTextResponse(f"The request is too large; the limit of an image is {self.image / 1e6:g} MB.", 413)


class _TooLargeError(Exception):
    """The body went over the limit while it came in."""
