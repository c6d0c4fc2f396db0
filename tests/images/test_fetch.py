"""URLs: what is fetched, what is refused, and that nothing outlasts the deadline. All servers are on loopback."""

from __future__ import annotations

import io
import ipaddress
import itertools
import re
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from vitdemo.errors import ImageError, UrlError
from vitdemo.images.decode import NOT_READABLE
from vitdemo.images.fetch import BROKEN_OFF, NOT_A_URL, fetch_url
from vitdemo.images.open import open_image
from vitdemo.images.public_network import BLOCKED, NO_ANSWER, is_public, system_resolver
from vitdemo.settings import Settings

Answer = Callable[[BaseHTTPRequestHandler], None]

PUBLIC = "93.184.215.14"
"""A public IP address, which tests of refusals resolve to."""


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test connects to anything but loopback, even if a refusal fails."""
    connect = socket.create_connection

    def checked(address: tuple[str, int], *rest: Any, **named: Any) -> socket.socket:
        assert ipaddress.ip_address(address[0]).is_loopback, f"a connection to {address}"
        return connect(address, *rest, **named)

    monkeypatch.setattr(socket, "create_connection", checked)


@dataclass
class Site:
    """A web server on loopback, its responses by path, and the requests that it got."""

    port: int = 0
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[BaseHTTPRequestHandler] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> Settings:
        return Settings(url_allow_hosts=(f"127.0.0.1:{self.port}", "pictures.test"), url_timeout=5)


def serve(site: Site, context: ssl.SSLContext | None = None) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            site.requests.append(self)
            try:
                site.answers.get(self.path, status(404))(self)
            except OSError:  # the client has gone, as it should
                self.close_connection = True

        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None: ...

    server = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    site.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return server


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    server = serve(site)
    yield site
    server.shutdown()
    server.server_close()


def body(data: bytes, **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(data)

    return answer


def status(code: int, **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        for name, value in {"Content-Length": "0", **headers}.items():
            request.send_header(name, value)
        request.end_headers()

    return answer


def endless(piece: bytes, pause: float, *, head: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> Answer:
    """`piece` again and again until the client goes, or for ten seconds at most."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        request.wfile.write(head)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            request.wfile.write(piece)
            time.sleep(pause)

    return answer


def raw(data: bytes) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        request.wfile.write(data)

    return answer


def refusal(url: str, settings: Settings, **options: object) -> str:
    with pytest.raises(UrlError) as caught:
        fetch_url(url, settings, **options)  # type: ignore[arg-type]
    return str(caught.value)


def to(*addresses: str) -> Callable[[str, int], Sequence[str]]:
    return lambda host, port: addresses


# What is fetched


def test_the_body_comes_back_as_it_was_sent(site: Site) -> None:
    data = bytes(range(256)) * 1000
    site.answers["/a.png?x=1"] = body(data)
    assert fetch_url(f"{site.url}/a.png?x=1#fragment", site.settings) == data


def test_a_chunked_body_comes_back_whole(site: Site) -> None:
    chunks = b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    site.answers["/"] = raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    assert fetch_url(site.url, site.settings) == b"hello world"


def test_an_image_by_url_becomes_a_photo_and_anything_else_is_not_readable(site: Site) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (7, 5), "red").save(buffer, "PNG")
    site.answers["/a"] = body(buffer.getvalue())
    site.answers["/b"] = body(b"<html></html>")
    assert open_image(f" {site.url}/a\n", site.settings).size == (7, 5)
    with pytest.raises(ImageError, match=f"^{re.escape(NOT_READABLE)}$"):
        open_image(f"{site.url}/b", site.settings)


def test_nothing_is_requested_where_urls_are_switched_off(site: Site) -> None:
    with pytest.raises(UrlError):
        open_image(site.url, replace(site.settings, url_input=False))
    assert site.requests == []


def test_the_request_names_the_host_and_asks_for_no_compression(site: Site) -> None:
    site.answers["/"] = body(b"x")
    fetch_url(f"http://pictures.test:{site.port}/", site.settings, resolve=to("127.0.0.1"))
    headers = site.requests[0].headers
    assert headers["Host"] == f"pictures.test:{site.port}"
    assert headers["Accept-Encoding"] == "identity"
    assert "Cookie" not in headers
    assert "Authorization" not in headers


def test_proxies_of_the_environment_are_not_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    site.answers["/"] = body(b"x")
    assert fetch_url(site.url, site.settings) == b"x"


# Addresses that are not public


def words(text: str) -> list[str]:
    return text.split()


DENIED = words("""
    0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 127.8.8.8
    168.63.129.16 169.254.0.1 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1
    192.88.99.1 192.168.0.1 192.168.255.255 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1
    239.255.255.255 240.0.0.1 255.255.255.255
    :: ::1 ::7f00:1 ::127.0.0.1 ::10.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254
    ::ffff:100.64.0.1 ::ffff:0:127.0.0.1 64:ff9b::127.0.0.1 64:ff9b::8.8.8.8 64:ff9b:1::1 100::1 2001::1
    2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:2::1 2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1:: 2002:808:808::1
    3fff::1 4000::1 5f00::1 8000::1 fc00::1 fd00:ec2::254 fdff::1 fe80::1 fe80::1%eth0
    febf::1 fec0::1 feff::1 ff02::1 ff0e::1 1::1 1fff::1
""")

ALLOWED = words("""
    1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 93.184.215.14 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0
    168.63.129.15 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0 192.167.255.255
    192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255 ::ffff:8.8.8.8
    2001:200::1 2001:4860:4860::8888 2003::1 2606:4700:4700::1111 2a00:1450:4001::1
""")


def test_an_address_that_is_not_public_is_refused() -> None:
    for address in DENIED:
        assert not is_public(address)
        message = refusal("http://pictures.test/a.png", Settings(), resolve=to(address))
        assert message.startswith("That host is not public, so the URL is not fetched.")
        assert address not in message


def test_a_public_address_is_recognised_up_to_the_borders_of_the_denied_ones() -> None:
    for address in ALLOWED:
        assert is_public(address)


def test_what_is_no_address_is_not_public() -> None:
    for text in ["", "localhost", "1.2.3", "0x7f000001", "127.0.0.01", "[::1]", "1.2.3.4/8", "a" * 100]:
        assert not is_public(text)


def test_one_address_that_is_not_public_is_enough_to_refuse() -> None:
    for addresses in [(PUBLIC, "10.0.0.1"), ("::1", PUBLIC), ("2606:4700:4700::1111", "fe80::1")]:
        assert refusal("http://pictures.test/", Settings(), resolve=to(*addresses)) == BLOCKED


def test_hosts_that_mean_this_machine_or_its_network_are_refused() -> None:
    for host, scheme in itertools.product(
        words("""127.0.0.1 localhost LOCALHOST localhost. [::1] [::] [::ffff:127.0.0.1] [::ffff:7f00:1] [::127.0.0.1] 2130706433
    0x7f000001 0x7f.1 127.1 127.0.1 0177.0.0.1 0 0.0.0.0 127.0.0.1. 0x7f.0x0.0x0.0x1 017700000001 169.254.169.254
    134744072 010.0.0.1 [fd00:ec2::254] [64:ff9b::7f00:1] 0xA9FEA9FE"""),
        ["http", "https"],
    ):
        message = refusal(f"{scheme}://{host}/", Settings())
        assert message in (BLOCKED, NOT_A_URL, "The host was not found. Check the URL, or upload the image.")
        if host in ("127.0.0.1", "[::1]", "2130706433", "0x7f.1", "127.1", "169.254.169.254", "134744072"):
            assert message == BLOCKED


@pytest.mark.parametrize(
    "url",
    [
        "",
        "pictures",
        "//pictures.test/a",
        "http://",
        "http:///a",
        "http:/a",
        "http:\\\\127.0.0.1\\a",
        "ftp://pictures.test/a",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://pictures.test:port/",
        "http://pictures.test:0/",
        "http://\N{FULLWIDTH DIGIT ONE}27.0.0.1/",
        "http://xn--\u00fc/",
        "http://a\nb/",
        "http://[::1/",
        "http://" + "a" * 70_000,
    ],
    ids=lambda url: repr(url[:30]),
)
def test_what_is_no_web_url_is_called_so(url: str) -> None:
    assert refusal(url, Settings(), resolve=to(PUBLIC)) == NOT_A_URL


@pytest.mark.parametrize("host", ["a..b", "a" * 70 + ".test", "xn--a", "-.test", "%00.test", "exa mple.test"])
def test_malformed_names_are_not_found(host: str) -> None:
    def resolve(name: str, port: int) -> Sequence[str]:
        name.encode("idna")  # as the system resolver does, without asking a name server
        raise socket.gaierror

    assert refusal(f"http://{host}/", Settings(), resolve=resolve).startswith("The host was not found.")


def test_a_name_without_an_address_is_not_found() -> None:
    assert refusal("http://pictures.test/", Settings(), resolve=to()).startswith("The host was not found.")


def test_urls_with_a_user_name_are_refused_without_repeating_it() -> None:
    for url in ["http://me:secret@pictures.test/", "http://pictures.test@127.0.0.1/", "https://me@h/"]:
        message = refusal(url, Settings())
        assert message.startswith("URLs with a user name or a password are not fetched.")
        assert "me" not in message.replace("name", "").replace("them", "")


def test_ports_that_serve_no_images_are_refused() -> None:
    for port in [22, 25, 3306, 6379, 11211, 65535, 65536, 99999999]:
        message = refusal(f"http://pictures.test:{port}/", Settings(), resolve=to(PUBLIC))
        assert (
            message
            == f"Images are fetched from the ports 80, 443, 8000, 8080, 8443, not {port}. Upload the image instead."
        )


def test_the_system_resolver_knows_numbers_and_this_machine() -> None:
    assert list(system_resolver("127.0.0.1", 80)) == ["127.0.0.1"]
    assert set(system_resolver("localhost", 80)) <= {"127.0.0.1", "::1"}


# Exceptions, and the pinned address


@pytest.mark.parametrize("entry", ["127.0.0.1", "127.0.0.1:{port}"])
def test_an_allowed_host_is_fetched(site: Site, entry: str) -> None:
    site.answers["/"] = body(b"x")
    assert fetch_url(site.url, Settings(url_allow_hosts=(entry.format(port=site.port),))) == b"x"


def test_an_exception_counts_for_its_own_host_and_port_only(site: Site) -> None:
    for entry in ["127.0.0.1:1", "localhost", "127.0.0", "27.0.0.1", "*", ""]:
        assert refusal(site.url, Settings(url_allow_hosts=(entry,))) == BLOCKED
        assert site.requests == []


def test_an_allowed_ipv6_host_may_be_written_with_brackets() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        for entry in ("::1", "[::1]", f"[::1]:{port}"):
            assert refusal(f"http://[::1]:{port}/", Settings(url_allow_hosts=(entry,))) == NO_ANSWER


def test_the_name_server_is_asked_once_and_its_answer_is_pinned(site: Site) -> None:
    site.answers["/"] = body(b"x")
    lookups = []

    def rebinding(host: str, port: int) -> Sequence[str]:
        lookups.append((host, port))
        return ["127.0.0.1"] if len(lookups) == 1 else ["127.0.0.2"]

    url = f"http://pictures.test:{site.port}/"  # a name that no name server knows: only the pinned address can answer
    assert fetch_url(url, site.settings, resolve=rebinding) == b"x"
    assert lookups == [("pictures.test", site.port)]


def test_the_next_address_is_tried_where_one_does_not_answer(site: Site) -> None:
    site.answers["/"] = body(b"x")
    resolve = to("127.0.0.2", "127.0.0.1")
    assert fetch_url(f"http://pictures.test:{site.port}/", site.settings, resolve=resolve) == b"x"


# Redirects


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(site: Site, code: int) -> None:
    site.answers["/a"] = status(code, Location="b?c")
    site.answers["/b?c"] = status(code, Location=f"{site.url}/d")
    site.answers["/d"] = body(b"x")
    assert fetch_url(f"{site.url}/a", site.settings) == b"x"


def test_a_redirect_to_a_private_address_is_refused_and_not_asked(site: Site) -> None:
    inner = Site()
    server = serve(inner)
    inner.answers["/"] = body(b"secret")
    for location in (inner.url, f"http://localhost:{inner.port}/", f"//127.0.0.1:{inner.port}/", "http://[::1]/"):
        site.answers["/"] = status(302, Location=location)
        assert refusal(site.url, site.settings) == BLOCKED
    assert inner.requests == []
    server.shutdown()
    server.server_close()


def test_a_redirect_to_another_scheme_or_with_a_password_is_refused(site: Site) -> None:
    for location in ("file:///etc/passwd", "ftp://pictures.test/", "data:image/png;base64,AAAA"):
        site.answers["/"] = status(302, Location=location)
        assert refusal(site.url, site.settings) == NOT_A_URL
    site.answers["/"] = status(302, Location=f"http://me:secret@127.0.0.1:{site.port}/")
    assert "password" in refusal(site.url, site.settings)


def test_five_redirects_are_followed_and_a_loop_ends(site: Site) -> None:
    for number in range(5):
        site.answers[f"/{number}"] = status(302, Location=f"/{number + 1}")
    site.answers["/5"] = body(b"x")
    assert fetch_url(f"{site.url}/0", site.settings) == b"x"
    site.requests.clear()
    site.answers["/"] = status(302, Location="/")
    assert refusal(site.url, site.settings).startswith("The URL redirects more than 5 times.")
    assert len(site.requests) == 6


def test_a_redirect_to_nowhere_is_an_answer_without_an_image(site: Site) -> None:
    site.answers["/"] = status(302)
    assert refusal(site.url, site.settings).startswith("The server answered 302.")


# Answers without an image


@pytest.mark.parametrize("code", [204, 206, 304, 400, 401, 403, 404, 429, 500, 503])
def test_any_status_but_200_is_in_the_message(site: Site, code: int) -> None:
    site.answers["/"] = status(code)
    assert refusal(site.url, site.settings) == f"The server answered {code}. Check the URL, or upload the image."


def test_a_refused_connection_is_no_answer() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening
        message = refusal(f"http://127.0.0.1:{taken.getsockname()[1]}/", Settings(url_allow_hosts=("127.0.0.1",)))
    assert message == NO_ANSWER


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: nonsense\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000 + b"\r\n\r\n",
        b"HTTP/1.1 99999 Odd\r\n\r\n",
    ],
    ids=lambda data: repr(data[:45]),
)
def test_a_broken_response_is_an_error(site: Site, data: bytes) -> None:
    site.answers["/"] = raw(data)
    assert refusal(site.url, site.settings) == BROKEN_OFF


def test_a_compressed_response_is_refused_unpacked(site: Site) -> None:
    site.answers["/"] = body(b"\x1f\x8b", Content_Encoding="gzip")
    assert "compresses its response" in refusal(site.url, site.settings)


# Too large


def test_a_body_announced_above_the_limit_is_not_read(site: Site) -> None:
    # It never comes: whoever waits for it is told that the URL takes too long.
    site.answers["/"] = endless(b"", 0.01, head=b"HTTP/1.1 200 OK\r\nContent-Length: 1000001\r\n\r\n")
    message = refusal(site.url, replace(site.settings, max_image_mb=1))
    assert message == "The server sends more than 1 MB, the limit. Use a smaller image."


@pytest.mark.parametrize("head", [b"", b"Transfer-Encoding: chunked\r\n"], ids=["plain", "chunked"])
def test_a_body_without_a_length_is_read_up_to_the_limit_only(site: Site, head: bytes) -> None:
    piece = b"2710\r\n" + b"x" * 10_000 + b"\r\n" if head else b"x" * 10_000
    site.answers["/"] = endless(piece, 0, head=b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
    assert "more than 0.5 MB" in refusal(site.url, replace(site.settings, max_image_mb=0.5))


def test_a_body_of_exactly_the_limit_is_fetched(site: Site) -> None:
    site.answers["/"] = body(b"x" * 100_000)
    assert len(fetch_url(site.url, replace(site.settings, max_image_mb=0.1))) == 100_000


# Too slow


def too_slow(url: str, settings: Settings, **options: object) -> None:
    """Assert that a request is refused at its deadline."""
    start = time.monotonic()
    message = refusal(url, replace(settings, url_timeout=0.6), **options)
    assert message == "The URL took longer than 0.6 s. Try again later, or upload the image."
    # Those who wait for the servers of these tests to end wait for ten.
    assert 0.5 < time.monotonic() - start < 8


@pytest.mark.thorough
@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nX: ",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n",
    ],
    ids=["status line", "header", "header value", "body", "body with length"],
)
def test_an_answer_that_drips_ends_at_the_deadline(site: Site, head: bytes) -> None:
    site.answers["/"] = endless(b"H", 0.1, head=head)
    too_slow(site.url, site.settings)


def test_interim_answers_without_end_end_at_the_deadline(site: Site) -> None:
    site.answers["/"] = endless(b"HTTP/1.1 100 Continue\r\n\r\n", 0.05, head=b"")
    too_slow(site.url, site.settings)


def test_redirects_share_one_deadline(site: Site) -> None:
    def later(request: BaseHTTPRequestHandler) -> None:
        time.sleep(0.25)
        status(302, Location="/")(request)

    site.answers["/"] = later
    too_slow(site.url, site.settings)
    assert len(site.requests) < 5


def test_a_slow_name_server_ends_at_the_deadline(site: Site) -> None:
    ended = threading.Event()

    def resolve(host: str, port: int) -> Sequence[str]:
        ended.wait(10)
        return [PUBLIC]

    too_slow("http://pictures.test/", Settings(), resolve=resolve)
    ended.set()


class _Silent(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.settimeout(10)
        self.request.recv(100_000)
        self.request.recv(1)  # until the client goes


@pytest.mark.thorough
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_accepts_and_says_nothing_ends_at_the_deadline(scheme: str) -> None:
    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), _Silent) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        url = f"{scheme}://127.0.0.1:{server.server_address[1]}/"
        too_slow(url, Settings(url_allow_hosts=("127.0.0.1",)))
        server.shutdown()


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for pictures.test and its key, made for this run."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "made.pem", folder / "key.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=pictures.test"
    )
    names = ["-addext", "subjectAltName=DNS:pictures.test", "-keyout", str(key), "-out", str(made)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True, timeout=30)
    return made, key


@pytest.fixture
def secure_site(certificate: tuple[Path, Path]) -> Iterator[tuple[Site, list[str | None]]]:
    site = Site()
    server_names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    context.sni_callback = lambda connection, name, _: server_names.append(name)
    server = serve(site, context)
    site.answers["/"] = body(b"x")
    yield site, server_names
    server.shutdown()
    server.server_close()


def trusting(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = httpx.create_ssl_context(trust_env=False)
    context.load_verify_locations(certificate[0])
    return context


def test_tls_asks_for_and_checks_the_host_name_not_the_pinned_address(
    secure_site: tuple[Site, list[str | None]], certificate: tuple[Path, Path]
) -> None:
    site, server_names = secure_site
    settings = Settings(url_allow_hosts=("pictures.test", "other.test", "127.0.0.1"))
    options = {"resolve": to("127.0.0.1"), "ssl_context": trusting(certificate)}
    assert fetch_url(f"https://pictures.test:{site.port}/", settings, **options) == b"x"  # type: ignore[arg-type]
    assert server_names == ["pictures.test"]
    assert site.requests[0].headers["Host"] == f"pictures.test:{site.port}"
    for host in ("other.test", "127.0.0.1"):
        assert "no trusted certificate" in refusal(f"https://{host}:{site.port}/", settings, **options)
    assert len(site.requests) == 1


def test_an_unknown_certificate_is_refused(secure_site: tuple[Site, list[str | None]]) -> None:
    site, _ = secure_site
    message = refusal(f"https://pictures.test:{site.port}/", site.settings, resolve=to("127.0.0.1"))
    assert message == "The server has no trusted certificate. Upload the image instead."
    assert site.requests == []


def test_https_to_a_plain_server_is_refused(site: Site) -> None:
    assert "no trusted certificate" in refusal(site.url.replace("http:", "https:"), site.settings)
