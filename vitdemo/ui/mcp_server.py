"""The app as an MCP server over streamable HTTP, at the address where clients of Gradio's apps look for one.

Gradio's own server makes a tool of every endpoint, answers with Python's notation in place of JSON, and calls the app over the
network; this one calls the same answers directly. The package `mcp` is imported only where it is switched on.
"""

from __future__ import annotations

import html
import importlib.util
import json
import os
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import gradio as gr
from gradio.context import LocalContext
from gradio.route_utils import API_PREFIX
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from vitdemo.errors import OptionError, SettingsError, VitDemoError
from vitdemo.pipeline import Pipeline
from vitdemo.settings import VERSION, Settings
from vitdemo.ui.answers import answers
from vitdemo.ui.errors import user_errors
from vitdemo.ui.mcp_tools import NAMES, checked, compact, jpeg, opened, schema

PATH = f"{API_PREFIX}/mcp"

AT_ONCE = 4
"""Calls that run at the same time, as of the endpoints; `max_queue` more may wait."""

INSTRUCTIONS = (
    "vitdemo shows what Vision Transformers see: labels of a photo, maps of where a model looked, several models side by side, "
    "and unsupervised segmentation. Images are given as URLs or data URLs. Call models for the names of models and what each "
    "can do. Attention shows where information was read, not why a class was chosen."
)

HINT = "This is the MCP server of vitdemo (streamable HTTP): give this address to an MCP client. Tools: {}.\n"


def wanted(settings: Settings) -> bool:
    """Whether the app is an MCP server.

    Raises:
        SettingsError: it is to be one, and the package for it is not installed.
    """
    installed = importlib.util.find_spec("mcp") is not None
    if settings.mcp is None:
        return installed and bool(os.environ.get("SPACE_ID"))
    if settings.mcp and not installed:
        raise SettingsError('MCP needs a package that is not installed: pip install "mcp>=1.30,<2" -c constraints.txt.')
    return settings.mcp


class McpServer:
    """The tools of one app."""

    def __init__(self, pipeline: Pipeline, max_body: int) -> None:
        from mcp.server.lowlevel import Server
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        self._pipeline = pipeline
        self._answers = {name: answers(pipeline)[name] for name in NAMES}
        self._limiter: anyio.CapacityLimiter | None = None
        server: Server[Any, Any] = Server("vitdemo", version=VERSION, instructions=INSTRUCTIONS)
        # The decorators of the package are not annotated.
        register: Any = server
        register.list_tools()(self._list)
        # Our own words, not those of a validator.
        register.call_tool(validate_input=False)(self._call)
        self._server = server
        # Without sessions: a client goes on after a restart of the app, and with another copy of it.
        self._manager = StreamableHTTPSessionManager(server, stateless=True, max_request_body_size=max_body)

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """For `launch(app_kwargs={"lifespan": ...})`."""
        self._limiter = anyio.CapacityLimiter(AT_ONCE)
        async with self._manager.run():
            yield

    def route(self, app: ASGIApp) -> ASGIApp:
        """An ASGI app that answers under `PATH`, and leaves everything else to `app`."""

        async def routed(scope: Scope, receive: Receive, send: Send) -> None:
            path = scope["path"].removeprefix(scope.get("root_path", "")) if scope["type"] == "http" else ""
            if path.rstrip("/") in (PATH, f"{PATH}/http"):
                await self._respond(scope)(scope, receive, send)
            elif path.rstrip("/") == f"{PATH}/schema":
                await JSONResponse(self.schemas())(scope, receive, send)
            else:
                await app(scope, receive, send)

        return routed

    def _respond(self, scope: Scope) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
        accepted = dict(scope["headers"]).get(b"accept", b"")
        if scope["method"] in ("GET", "HEAD") and b"text/event-stream" not in accepted:
            return PlainTextResponse(HINT.format(", ".join(NAMES)))
        return self._manager.handle_request

    def schemas(self) -> list[dict[str, Any]]:
        """The tools in the form in which Gradio's page and the Hugging Face Hub read them."""
        found = []
        for name, answer in self._answers.items():
            description, arguments = schema(name, answer, self._pipeline)
            meta = {"file_data_present": False, "mcp_type": "tool", "endpoint_name": name}
            found.append({"name": name, "description": description, "inputSchema": arguments, "meta": meta})
        return found

    async def _list(self) -> list[Any]:
        from mcp import types

        # A tool that takes a URL reaches into the world; none changes anything.
        return [
            types.Tool(
                name=tool["name"],
                description=tool["description"],
                inputSchema=tool["inputSchema"],
                annotations=types.ToolAnnotations(
                    readOnlyHint=True, idempotentHint=True, openWorldHint="image" in tool["inputSchema"]["properties"]
                ),
            )
            for tool in self.schemas()
        ]

    async def _call(self, name: str, arguments: dict[str, Any]) -> Any:
        from mcp import types

        request = self._server.request_context.request
        # Where GPUs are lent to visitors, this says whose turn it is.
        LocalContext.request.set(gr.Request(request=request) if request is not None else None)
        try:
            entry, picture = await self._run(name, arguments)
        except gr.Error as error:
            words = html.unescape(error.message)
            return types.CallToolResult(content=[types.TextContent(type="text", text=words)], isError=True)
        text = json.dumps(entry, separators=(",", ":"), ensure_ascii=False)
        content: list[Any] = [types.TextContent(type="text", text=text)]
        if picture is not None:
            content.append(
                types.ImageContent(type="image", data=b64encode(picture).decode("ascii"), mimeType="image/jpeg")
            )
        return types.CallToolResult(content=content)

    async def _run(self, name: str, arguments: dict[str, Any]) -> tuple[Any, bytes | None]:
        """JSON and a picture. All errors are worded ones of Gradio's."""

        def run() -> tuple[Any, bytes | None]:
            with user_errors():
                _, wanted = schema(name, answer, self._pipeline)
                given = checked(arguments, wanted["properties"])
                if "image" in wanted["properties"]:
                    given["image"] = opened(self._pipeline, given.get("image", ""))
                found = answer(**given)
                return compact(found.entry), jpeg(found.picture) if found.picture is not None else None

        with user_errors():
            if name not in self._answers:
                raise OptionError(f"There is no tool {name!r}. Use: {', '.join(self._answers)}.")
            answer, limiter = self._answers[name], self._limiter
            assert limiter is not None
            if limiter.statistics().tasks_waiting >= self._pipeline.settings.max_queue:
                raise VitDemoError("The server is busy: too many calls wait. Try again in a minute.")
            return await anyio.to_thread.run_sync(run, limiter=limiter)
