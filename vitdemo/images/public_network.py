"""Connections to hosts that strangers name: public IP addresses only, pinned, under one deadline.

`PublicNetwork` makes the sockets of httpcore. It resolves a host once, refuses it unless all of its addresses are public, and
connects to one of those very addresses, so that a second answer of the name server changes nothing. The URL keeps its
host name, which therefore stays the name in the Host header, in TLS, and in the check of the certificate.
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
"""Host and port to IP addresses in text; raises OSError or ValueError for a name that is not found."""

PORTS = (80, 443, 8000, 8080, 8443)
"""Ports of public hosts that are connected to: a mail or database server is no place for images."""

BLOCKED = "That address is not public, so it is not fetched. Upload the image instead."
NO_ANSWER = "The address does not answer. Check it, or upload the image."

_NUMERIC_HOST = re.compile(r"(?:.*\.)?(?:0x[0-9a-f]*|[0-9]+)\.?", re.IGNORECASE)

_DENIED = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT; metadata of one cloud
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # a cloud's own services, seen from inside it
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
"""All IPv6 that is handed out for public use; what else may be defined one day is denied as well."""


def system_resolver(host: str, port: int) -> Sequence[str]:
    """All addresses that the system knows for `host`. Raises OSError, or UnicodeError for a malformed name."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: str) -> bool:
    """Whether an IP address in text belongs to the public Internet; False for what is no IP address.

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
    """One moment that all waits end at."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until then, above 0. Raises UrlError afterwards."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise self.error()
        return left

    def error(self) -> UrlError:
        return UrlError(f"The address took longer than {self._seconds:g} s. Try again later, or upload the image.")


class PublicNetwork(httpcore.NetworkBackend):
    """Makes connections to public addresses, and to the hosts that are allowed by name, until the deadline."""

    def __init__(self, allow_hosts: Iterable[str], resolve: Resolver, deadline: Deadline) -> None:
        """`allow_hosts`: `host` or `host:port` entries that are connected to whatever their address and port."""
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
        """The addresses of `host`, none of which is one that strangers may not reach through this server."""
        exempt = not self._allowed.isdisjoint((host, f"{host}:{port}", f"[{host}]", f"[{host}]:{port}"))
        if not exempt and _NUMERIC_HOST.fullmatch(host) and not _is_ip_address(host):
            raise UrlError(BLOCKED)  # 127.1, 0x7f.1, 2130706433: read as an IPv4 address by some, written to deceive
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

        def ask() -> None:
            try:
                answers.put(self._resolve(host, port))
            except Exception as error:
                answers.put(error)

        # The system waits for name servers without a limit of ours: a thread does, and is left behind if it takes long.
        threading.Thread(target=ask, name="vitdemo-resolve", daemon=True).start()
        try:
            answer = answers.get(timeout=self._deadline.left())
        except queue.Empty:
            raise self._deadline.error() from None
        if isinstance(answer, Exception) or not answer:
            raise UrlError("The address was not found. Check it, or upload the image.")
        return answer


def _is_ip_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class _TimedStream(httpcore.NetworkStream):
    """A connection on which no wait outlasts the deadline."""

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
            raise UrlError("The address has no certificate that can be trusted. Upload the image instead.") from error
        return _TimedStream(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
