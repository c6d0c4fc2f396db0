"""Fetching of images from untrusted URLs, safe against server-side request forgery.

Every connection is made by `PublicNetwork`, which refuses non-public IP addresses. One deadline covers name resolution,
connection, TLS handshake, redirects and the body.
"""

from __future__ import annotations

import ssl
from functools import lru_cache

import httpcore
import httpx

from vitdemo.errors import UrlError
from vitdemo.images.decode import max_bytes
from vitdemo.images.public_network import NO_ANSWER, Deadline, PublicNetwork, Resolver, system_resolver
from vitdemo.settings import Settings

MAX_REDIRECTS = 5

NOT_A_URL = "That is not a web URL. Use one that begins with https:// or http://, or upload the image."
BROKEN_OFF = "The server broke off its response. Try again, or upload the image."

_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS: dict[str | bytes, str | bytes] = {
    "User-Agent": "vitdemo",
    "Accept": "image/*",
    "Accept-Encoding": "identity",  # a compressed body would need a second size limit
    "Connection": "close",
}


def fetch_url(
    url: str, settings: Settings, *, resolve: Resolver = system_resolver, ssl_context: ssl.SSLContext | None = None
) -> bytes:
    """The response body of `url`, not yet checked to be an image.

    Args:
        url: `http://` or `https://`, without user name and password.
        settings: `url_timeout` in seconds overall, `max_image_mb` for the body, `url_allow_hosts` for exceptions.
        resolve: called once per connection.
        ssl_context: with other certificates than the default ones, for an intranet.

    Raises:
        UrlError: refused, not found, too slow, too large, redirected too often, or a status other than 200.
    """
    deadline = Deadline(settings.url_timeout)
    network = PublicNetwork(settings.url_allow_hosts, resolve, deadline)
    try:
        with httpcore.ConnectionPool(ssl_context or _default_ssl_context(), network_backend=network) as pool:
            return _follow(pool, _parse(url), max_bytes(settings), deadline)
    except UrlError:
        raise
    except httpcore.TimeoutException as error:
        raise deadline.error() from error
    except httpcore.ConnectError as error:
        raise UrlError(NO_ANSWER) from error
    except Exception as error:  # a broken response: httpcore, h11 and the socket raise many kinds
        raise UrlError(BROKEN_OFF) from error


def _follow(pool: httpcore.ConnectionPool, url: httpx.URL, limit: int, deadline: Deadline) -> bytes:
    for _ in range(MAX_REDIRECTS + 1):
        response = _get(pool, url, limit, deadline)
        if isinstance(response, bytes):
            return response
        url = _parse(response, base=url)
    raise UrlError(f"The URL redirects more than {MAX_REDIRECTS} times. Use the URL of the image itself.")


def _get(pool: httpcore.ConnectionPool, url: httpx.URL, limit: int, deadline: Deadline) -> bytes | str:
    """The body, or the URL that the response redirects to."""
    target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
    with pool.stream("GET", target, headers={"Host": url.netloc.decode("ascii"), **_HEADERS}) as response:
        headers = {name.lower(): value.decode("utf-8", "replace") for name, value in response.headers}
        if response.status in _REDIRECTS and b"location" in headers:
            return headers[b"location"]
        if response.status != 200:
            raise UrlError(f"The server answered {response.status}. Check the URL, or upload the image.")
        if headers.get(b"content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise UrlError("The server compresses its response, which is not supported. Upload the image instead.")
        too_large = UrlError(f"The server sends more than {limit / 1e6:g} MB, the limit. Use a smaller image.")
        length = headers.get(b"content-length", "")
        if length.isdecimal() and int(length[:20]) > limit:
            raise too_large
        body = bytearray()
        for piece in response.iter_stream():
            deadline.left()
            body += piece
            if len(body) > limit:
                raise too_large
        return bytes(body)


def _parse(text: str, base: httpx.URL | None = None) -> httpx.URL:
    try:
        url = httpx.URL(text) if base is None else base.join(text)
    except (httpx.InvalidURL, ValueError):
        raise UrlError(NOT_A_URL) from None
    if url.scheme not in ("http", "https") or not url.raw_host or url.port == 0:  # httpcore takes 0 as the default port
        raise UrlError(NOT_A_URL)
    if url.userinfo:
        raise UrlError("URLs with a user name or a password are not fetched. Leave them out, or upload the image.")
    return url


@lru_cache(maxsize=1)
def _default_ssl_context() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)
