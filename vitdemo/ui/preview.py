"""What other sites show of a link to this page: Gradio's own head says that it is Gradio, and sends them to its own picture."""

from __future__ import annotations

import hashlib
import html
import re
from urllib.parse import quote

from starlette.datastructures import URL, Headers
from starlette.responses import FileResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vitdemo.settings import ASSETS

PICTURE = "preview.jpg"
"""1200 x 630 pixels, in the assets, and at this path of the server."""

TITLE = "vitdemo: what Vision Transformers see"
DESCRIPTION = "Drop a photo: several transformers say what's in it, and show where each one looked."
ALT = "One photo as three Vision Transformers see it, with the parts lit up where each of them looked."

CHARSET = b'<meta charset="utf-8" />'
"""After it: a browser looks for it at the very beginning."""

WIDTH = "\n\t\t<style>.gradio-container > .main.app { max-width: 1680px !important; }</style>"
"""From the first paint on as wide as page.css makes it: that comes later, and the page would jump."""

_OTHERS = re.compile(rb'<meta\s+(?:property="og:|name="twitter:|name="description")[^>]*>\s*')


class Preview:
    """Puts our title, description and picture into the page's head, and serves the picture."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path == f"/{PICTURE}":
            await FileResponse(ASSETS / PICTURE, headers={"Cache-Control": "max-age=86400"})(scope, receive, send)
        elif path in ("", "/"):
            await self.app(scope, receive, _Head(scope, send).send)
        else:
            await self.app(scope, receive, send)


class _Head:
    """One answer: held back until the page is complete, since its length changes."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope, self.forward = scope, send
        self.start: Message | None = None
        self.body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if Headers(raw=message["headers"]).get("content-type", "").startswith("text/html"):
                self.start = message
                return
        elif message["type"] == "http.response.body" and self.start is not None:
            self.body += message.get("body", b"")
            if message.get("more_body"):
                return
            body = _OTHERS.sub(b"", self.body).replace(
                CHARSET, CHARSET + (tags(_address(self.scope)) + WIDTH).encode(), 1
            )
            # Gradio's own is that of the host, also where the page is served under a sub-path.
            body = body.replace(b'href="/manifest.json"', b'href="./manifest.json"')
            kept = [(name, value) for name, value in self.start["headers"] if name.lower() != b"content-length"]
            length = (b"content-length", str(len(body)).encode())
            # Weak: the page may be compressed after this.
            digest = f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'
            kept += [(b"etag", digest.encode()), (b"cache-control", b"no-cache")]
            if self.start["status"] == 200 and digest in Headers(scope=self.scope).get("if-none-match", ""):
                await self.forward({**self.start, "status": 304, "headers": kept})
                await self.forward({"type": "http.response.body", "body": b""})
                return
            # An answer to HEAD has a length without a body.
            headers = kept if self.scope["method"] == "HEAD" else [*kept, length]
            await self.forward({**self.start, "headers": headers})
            await self.forward({"type": "http.response.body", "body": body if self.scope["method"] == "GET" else b""})
            return
        await self.forward(message)


def tags(address: str) -> str:
    """The elements of the head.

    Args:
        address: of the page, as its visitor sees it, with a slash at its end.
    """
    picture = address + PICTURE
    found = {
        'name="description"': DESCRIPTION,
        'property="og:type"': "website",
        'property="og:url"': address,
        'property="og:title"': TITLE,
        'property="og:description"': DESCRIPTION,
        'property="og:image"': picture,
        'property="og:image:width"': "1200",
        'property="og:image:height"': "630",
        'property="og:image:alt"': ALT,
        'name="twitter:card"': "summary_large_image",
        'name="twitter:title"': TITLE,
        'name="twitter:description"': DESCRIPTION,
        'name="twitter:image"': picture,
        'name="twitter:image:alt"': ALT,
    }
    metas = "".join(f'\n\t\t<meta {name} content="{html.escape(value)}" />' for name, value in found.items())
    # Without it browsers look at the top of the site, above the path of a proxy.
    return f'{metas}\n\t\t<link rel="icon" href="{html.escape(address)}favicon.ico" />'


def _address(scope: Scope) -> str:
    url, headers = URL(scope=scope), Headers(scope=scope)
    host = headers.get("x-forwarded-host", url.netloc).partition(",")[0].strip()
    scheme = headers.get("x-forwarded-proto", url.scheme).partition(",")[0].strip()
    path = quote(scope.get("root_path", "").rstrip("/"))
    return f"{scheme if scheme in ('http', 'https') else 'https'}://{host}{path}/"
