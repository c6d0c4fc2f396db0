"""Which of the server's routes are open. Gradio brings about eighty, for apps that need more than this one: what is not named as
open here is closed, and so is what a newer Gradio adds."""

from __future__ import annotations

import re
from collections.abc import Mapping

from starlette.responses import PlainTextResponse
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

API = "/gradio_api"

OPEN: Mapping[str, str] = {
    "/": "the page",
    "/config": "what clients read first",
    "/assets/{path:path}": "the page's scripts and styles; files of one folder of Gradio's",
    "/static/{path:path}": "the page's fonts and icons; files of one folder of Gradio's",
    "/theme.css": "the page's colours",
    "/favicon.ico": "the page's icon",
    "/pwa_icon": "the same icon, as the manifest names it",
    "/manifest.json": "name and icon of the page",
    "/robots.txt": "for search engines",
    f"{API}/app_id": "by which an open page notices a restart",
    f"{API}/startup-events": "Gradio asks its own server for it, once, as it starts; later it does nothing",
    f"{API}/heartbeat/{{session_hash}}": "ends a session with its page; its id cannot be guessed",
    f"{API}/theme.css": "the page's colours",
    f"{API}/info": "names and parameters of the public endpoints",
    f"{API}/openapi.json": "the same, as OpenAPI",
    f"{API}/upload": "images, each within the limit",
    f"{API}/upload_progress": "how far an upload is; its id cannot be guessed",
    f"{API}/file={{path_or_url:path}}": "uploads, results and the assets; no URL, see `LOCAL`",
    f"{API}/call/{{api_name}}": "the public endpoints",
    f"{API}/call/{{api_name}}/{{event_id}}": "their answers",
    f"{API}/call/v2/{{api_name}}": "the public endpoints, with named parameters",
    f"{API}/call/v2/{{api_name}}/{{event_id}}": "their answers",
    f"{API}/run/{{api_name}}": "events of the page that need no queue; the others are refused there",
    f"{API}/api/{{api_name}}": "the same, as older clients call it",
    f"{API}/queue/join": "events of the page, and of clients",
    f"{API}/queue/data": "their answers",
    f"{API}/queue/status": "how many jobs wait",
    f"{API}/cancel": "takes an event back; its id cannot be guessed",
    f"{API}/reset": "does nothing; older clients call it",
    f"{API}/component_server": "what the page's own components ask for: `vitdemo.ui.result_store`",
    f"{API}/stream/{{event_id}}": "frames of Live",
    f"{API}/stream/{{event_id}}/close": "the end of Live",
    f"{API}/mcp": "the MCP server, where it is switched on",
    f"{API}/mcp/{{path:path}}": "the MCP server, where it is switched on",
}
"""Path and reason of each route that is open, with and without a slash at its end."""

CLOSED: Mapping[str, str] = {
    "/openapi.json": "FastAPI's list of all routes, the closed ones too",
    "/login": "there are no accounts",
    "/logout": "there are no accounts",
    f"{API}/login_check": "there are no accounts",
    f"{API}/user": "there are no accounts",
    f"{API}/token": "there are no accounts",
    "/svelte/{path:path}": "for custom components, of which there are none",
    f"{API}/custom_component/{{id}}/{{environment}}/{{type}}/{{file_name}}": "for custom components, of which there are none",
    "/pwa_icon/{size}": "draws the icon as large as anyone asks",
    f"{API}/deep_link": "stores what a page holds on the server; our links hold everything themselves",
    f"{API}/file/{{path:path}}": "the old form of `file=`",
    f"{API}/proxy={{url_path:path}}": "fetches URLs for anyone",
    f"{API}/process_recording": "starts an encoder for anyone",
    f"{API}/stream/{{session_hash}}/{{run}}/{{component_id}}/playlist.m3u8": "sound and video, of which there is none",
    f"{API}/stream/{{session_hash}}/{{run}}/{{component_id}}/playlist-file": "sound and video, of which there is none",
    f"{API}/stream/{{session_hash}}/{{run}}/{{component_id}}/{{segment_id}}.{{ext}}": "sound and video, of which there is none",
    f"{API}/dev/reload": "for development; a connection that never ends",
    f"{API}/runs": "past runs, which are not recorded",
    f"{API}/vibe-edit": "has a language model write the app",
    f"{API}/undo-vibe-edit": "has a language model write the app",
    f"{API}/vibe-code": "has a language model write the app",
    f"{API}/vibe-starter-queries": "has a language model write the app",
    "/monitoring": "how much is asked for, by whom",
    "/monitoring/summary": "how much is asked for, by whom",
    "/monitoring/{key}": "how much is asked for, by whom",
}
"""Path and reason of each route that is closed."""

LOCAL = re.compile(r"(?!\s*[a-z][a-z0-9+.-]+:)(?!\s*[/\\]{2})", re.IGNORECASE)
"""A path of this machine: no scheme of two letters or more in front, and no host."""

_OPEN = [compile_path(path)[0] for path in OPEN]
_NAMES_A_FILE = f"{API}/file="


def is_open(path: str) -> bool:
    """Whether a request for this path, as the server has decoded it, is let through.

    >>> is_open("/gradio_api/upload"), is_open("/gradio_api/file/http://example.com/a.png")
    (True, False)
    >>> is_open("/gradio_api/file=/tmp/a.png"), is_open("/gradio_api/file=HTTP://example.com/a.png")
    (True, False)
    """
    if path.startswith(_NAMES_A_FILE):
        return bool(LOCAL.match(path.removeprefix(_NAMES_A_FILE)))
    path = path.rstrip("/") or "/"
    return any(pattern.match(path) for pattern in _OPEN)


class Doors:
    """Answers 403 to every route that is not open."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not is_open(scope["path"].removeprefix(scope.get("root_path", ""))):
            await PlainTextResponse("This route is not available.", 403)(scope, receive, send)
        else:
            await self.app(scope, receive, send)
