"""Connections to untrusted hosts: public IP addresses only, pinned, under one deadline.

`PublicNetwork` opens the sockets of httpcore. It resolves a host once, refuses it unless all of its IP addresses are public,
and connects to one of these, which defeats DNS rebinding. The URL keeps its host name, so the Host header, TLS and
certificate checks use it.
"""

from __future__ import annotations

import ipaddress
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import httpcore

from vitdemo.errors import UrlError

Resolver = Callable[[str, int], Sequence[str]]
"""Host and port to IP addresses as text; raises OSError or ValueError for an unknown name."""

PORTS = (80, 443, 8000, 8080, 8443)
"""Allowed ports of public hosts: those of web servers, not of mail or databases."""

BLOCKED = "That host is not public, so the URL is not fetched. Upload the image instead."
NO_ANSWER = "The server does not respond. Check the URL, or upload the image."

_NUMERIC_HOST = re.compile(r"(?:.*\.)?(?:0x[0-9a-f]*|[0-9]+)\.?", re.IGNORECASE)

_DENIED = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT; metadata of one cloud
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # internal services of one cloud
        "169.254.0.0/16",  # link-local; metadata of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; metadata of one cloud
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved; broadcast
        "::/96",  # unspecified, loopback, IPv4-compatible
        "::ffff:0:0:0/96",  # IPv4-translated
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",  # NAT64 of one network
        "100::/64",  # discard
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
        "fc00::/7",  # unique local
        "fe80::/10",  # link-local
        "fec0::/10",  # site-local
        "ff00::/8",  # multicast
    )
)
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All IPv6 allocated for public use; everything else, including future ranges, is denied."""


def system_resolver(host: str, port: int) -> Sequence[str]:
    """All IP addresses of `host`. Raises OSError, or UnicodeError for a malformed name."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: str) -> bool:
    """Whether a text is an IP address of the public Internet.

    >>> is_public("93.184.215.14"), is_public("169.254.169.254"), is_public("::ffff:10.0.0.1")
    (True, False, False)
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip not in _GLOBAL_UNICAST:
            return False
    return not any(ip in network for network in _DENIED)


class Deadline:
    """A point in time at which all waiting ends."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until then, above 0; afterwards it raises UrlError."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise self.error()
        return left

    def error(self) -> UrlError:
        return UrlError(f"The URL took longer than {self._seconds:g} s. Try again later, or upload the image.")


class PublicNetwork(httpcore.NetworkBackend):
    """Connects to public IP addresses, and to hosts allowed by name, until the deadline."""

    def __init__(self, allow_hosts: Iterable[str], resolve: Resolver, deadline: Deadline) -> None:
        """`allow_hosts`: `host` or `host:port` entries that are exempt from the checks of IP address and port."""
        self._allowed = {entry.lower() for entry in allow_hosts}
        self._resolve = resolve
        self._deadline = deadline
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        addresses = self._checked(host, port)
        for tried, address in enumerate(addresses, start=1):
            share = self._deadline.left() / (len(addresses) - tried + 1)
            try:
                stream = self._sockets.connect_tcp(address, port, share, local_address, socket_options)
                return _TimedStream(stream, self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if tried == len(addresses):
                    raise
        raise UrlError(NO_ANSWER)

    def _checked(self, host: str, port: int) -> Sequence[str]:
        """The IP addresses of `host`, all allowed."""
        exempt = not self._allowed.isdisjoint((host, f"{host}:{port}", f"[{host}]", f"[{host}]:{port}"))
        if not exempt and _NUMERIC_HOST.fullmatch(host) and not _is_ip_address(host):
            raise UrlError(BLOCKED)  # 127.1, 0x7f.1, 2130706433: disguised IPv4 addresses
        addresses = self._resolved(host, port)
        if not exempt:
            if not all(is_public(address) for address in addresses):
                raise UrlError(BLOCKED)
            if port not in PORTS:
                listed = ", ".join(map(str, PORTS))
                raise UrlError(f"Images are fetched from the ports {listed}, not {port}. Upload the image instead.")
        return addresses

    def _resolved(self, host: str, port: int) -> Sequence[str]:
        answers: queue.SimpleQueue[Sequence[str] | Exception] = queue.SimpleQueue()

        def resolve() -> None:
            try:
                answers.put(self._resolve(host, port))
            except Exception as error:
                answers.put(error)

        # getaddrinfo has no timeout: it runs in a thread, which is abandoned at the deadline.
        threading.Thread(target=resolve, name="vitdemo-resolve", daemon=True).start()
        try:
            answer = answers.get(timeout=self._deadline.left())
        except queue.Empty:
            raise self._deadline.error() from None
        if isinstance(answer, Exception) or not answer:
            raise UrlError("The host was not found. Check the URL, or upload the image.")
        return answer


def _is_ip_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class _TimedStream(httpcore.NetworkStream):
    """A connection on which no operation outlasts the deadline."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        try:
            stream = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left())
        except httpcore.ConnectError as error:
            raise UrlError("The server has no trusted certificate. Upload the image instead.") from error
        return _TimedStream(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
