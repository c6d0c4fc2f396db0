"""Under which names the page answers, and which other sites may use it from theirs.

A page of another site can have a visitor's browser ask this server: by its address, where Gradio would let any site read the
answers unless the server is called localhost, or by a name of its own that it lets point here (DNS rebinding). So names have to
be known, and a request that a foreign page makes is refused, uploads included. Addresses need no list: nobody can make one
point elsewhere.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from vitdemo.settings import Settings

USUAL_PORTS = {"", "80", "443"}


def sites(settings: Settings) -> tuple[str, ...]:
    """Hosts of `VITDEMO_HOSTS` and of the Space that this is: their pages may use this server, which may have their name."""
    return tuple(filter(None, (*settings.hosts, *os.environ.get("SPACE_HOST", "").split(","))))


def own_names() -> tuple[str, ...]:
    """Names of this machine, by which its neighbours may know it."""
    machine = socket.gethostname().lower()
    return machine, f"{machine.partition('.')[0]}.local"


def split_host(text: str) -> tuple[str, str]:
    """Name and port of what a `Host` or `Origin` header says; "" for what is absent.

    >>> split_host("https://Example.com."), split_host("[::1]:7860"), split_host("a.example:80")
    (('example.com', ''), ('::1', '7860'), ('a.example', '80'))
    """
    text = text.rpartition("://")[2].partition("/")[0].strip().lower()
    if text.startswith("["):
        name, _, rest = text[1:].partition("]")
        return name, rest.removeprefix(":")
    name, _, port = text.partition(":")
    return name.rstrip("."), port


def is_listed(name: str, hosts: Sequence[str]) -> bool:
    """Whether it is one of the hosts.

    >>> [is_listed(name, ["a.example", "*.b.example"]) for name in ("a.example", "x.b.example", "b.example")]
    [True, True, False]
    """
    listed = [split_host(host)[0] for host in hosts]
    return any(host in ("*", name) or (host.startswith("*.") and name.endswith(host[1:])) for host in listed)


def is_fixed(name: str) -> bool:
    """Whether it is an address, or localhost: what nobody can make point elsewhere."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
    return True


def may_ask(headers: Headers, hosts: Sequence[str]) -> bool:
    """Whether the page that sends this request, if any, is this server's own, or one of the hosts.

    A browser names the origin of whatever may change something or be read by a script; programs name none.
    """
    origin = headers.get("origin")
    if origin is None or headers.get("sec-fetch-site") == "same-origin":
        return True
    name, port = split_host(origin)
    # Visitors may know this server by another name than a proxy does. No page can set that header for another site.
    for own in (headers.get("host", ""), headers.get("x-forwarded-host", "").partition(",")[0]):
        own_name, own_port = split_host(own)
        if name and name == own_name and (port == own_port or {port, own_port} <= USUAL_PORTS):
            return True
    # What is sent from a file or from a frame without an origin says "null".
    return name not in ("", "null") and is_listed(name, hosts)


class Hosts:
    """Answers 403 to other names and to foreign pages, before Gradio tells browsers that these may read the answer.

    Args:
        sites: hosts whose pages may use this server, beside its own.
    """

    def __init__(self, app: ASGIApp, sites: Sequence[str]) -> None:
        self.app = app
        self.sites, self.names = sites, (*sites, *own_names())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        words = self._against(Headers(scope=scope)) if scope["type"] == "http" else ""
        if words:
            await PlainTextResponse(f"{words} Whoever runs it can add the name to VITDEMO_HOSTS.", 403)(
                scope, receive, send
            )
        else:
            await self.app(scope, receive, send)

    def _against(self, headers: Headers) -> str:
        # A browser always sends it.
        name = split_host(headers.get("host", ""))[0]
        if name and not is_fixed(name) and not is_listed(name, self.names):
            return "This page does not answer under this name."
        return "" if may_ask(headers, self.sites) else "Pages of other sites may not use this one."


@asynccontextmanager
async def guarded(settings: Settings, app: Starlette) -> AsyncIterator[None]:
    """For the lifespan of the app: what is given to `launch` as middleware comes after Gradio's own, which answers for itself."""
    app.user_middleware.insert(0, Middleware(Hosts, sites=sites(settings)))
    app.middleware_stack = app.build_middleware_stack()
    yield
