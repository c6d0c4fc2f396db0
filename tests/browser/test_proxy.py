"""Behind a reverse proxy under a path of another site, as docs/hosting.md has it: the page, its answers, files and links."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.browser.driver import opened
from vitdemo.settings import ROOT

PATH = "/vitdemo"


def proxy(port: int) -> type[BaseHTTPRequestHandler]:
    """What nginx does with the lines of docs/hosting.md: the path is cut off, and nothing is held back."""

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            if not self.path.startswith(f"{PATH}/"):
                self.send_error(404, "outside of the path")
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            passed = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            passed |= {
                "X-Forwarded-Host": self.headers["Host"],
                "X-Forwarded-Proto": "http",
                "X-Forwarded-For": "8.8.8.8",
            }
            upstream = HTTPConnection("127.0.0.1", port, timeout=60)
            upstream.request(self.command, self.path.removeprefix(PATH), body or None, passed)
            answer = upstream.getresponse()
            self.send_response_only(answer.status, answer.reason)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            while part := answer.read1(65536):
                self.wfile.write(part)
                self.wfile.flush()
            self.close_connection = True
            upstream.close()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    for method in ("GET", "POST", "HEAD", "OPTIONS"):
        setattr(Proxy, f"do_{method}", Proxy.forward)
    return Proxy


@contextmanager
def site(folder: Path) -> Iterator[str]:
    """The app behind a proxy, and the address that visitors have."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_ROOT_PATH": PATH,
        "GRADIO_TEMP_DIR": str(folder),
        "VITDEMO_TRAIN": "0",
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), proxy(port))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with subprocess.Popen(
        [sys.executable, "app.py"], cwd=ROOT, env={**os.environ, **own}, stdout=subprocess.DEVNULL
    ) as app:
        address = f"http://127.0.0.1:{server.server_port}{PATH}/"
        try:
            while app.poll() is None:
                try:
                    if httpx.get(f"http://127.0.0.1:{port}/gradio_api/app_id").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.1)
            yield address
        finally:
            app.terminate()
            app.wait(30)
            server.shutdown()
            server.server_close()


@pytest.mark.thorough
@pytest.mark.timeout(240)
def test_under_a_path_of_another_site_everything_stays_under_it(browser: Browser, tmp_path: Path) -> None:
    asked: list[str] = []
    complaints: list[str] = []
    with site(tmp_path) as address, opened(browser) as context:
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on(
            "console", lambda said: complaints.append(f"{said.text} {said.location}") if said.type == "error" else None
        )
        page.goto(f"{address}?tab=explain&image=pyramid&method=rollout")
        page.wait_for_function("window.vitdemoOpened")
        expect(page.locator("#explained .vd-panel canvas").first).to_be_visible()
        expect(page.locator("#explained")).to_contain_text("pyramid")
        page.get_by_role("tab", name="Inside").click()
        expect(page.locator("#inside .vd-view").first).to_be_visible()
        page.get_by_role("tab", name="Compare").click()
        page.get_by_role("button", name=re.compile("Crocodile")).click()
        expect(page.locator("#compared")).to_contain_text("crocodile")
        assert page.url.startswith(f"{address}?")
        preview = page.locator("meta[property='og:url'], meta[property='og:image']").first.get_attribute("content")
        assert preview is not None
        assert preview.startswith(address)
        started = httpx.post(f"{address}gradio_api/call/models", json={"data": []})
        assert started.status_code == 200
        event = started.json()["event_id"]
        assert "event: complete" in httpx.get(f"{address}gradio_api/call/models/{event}").text
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert complaints == []
