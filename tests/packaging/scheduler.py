"""The service of ZeroGPU that lends GPUs, or refuses, as the `spaces` package asks it (0.51, `spaces/zero/api.py`)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


class Scheduler(contextlib.AbstractContextManager["Scheduler"]):
    """On loopback, until the block ends."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        """Seconds of each request for a GPU."""
        self.released: list[bool] = []
        """Whether each call failed."""
        self.reported = threading.Event()
        """Set when the Space says that it has started."""
        self.status = 200
        """200 lends; 429 means no quota, 401 an expired token, 503 no GPU."""
        self.kills = False
        """Whether each worker is killed as it begins."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.scheduler = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    def do_POST(self) -> None:
        scheduler: Scheduler = self.server.scheduler  # type: ignore[attr-defined]
        address = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(address.query).items()}
        status, body = 200, {}
        if address.path == "/startup-report":
            scheduler.reported.set()
        elif address.path == "/schedule":
            scheduler.asked.append(float(asked["durationSeconds"]))
            status = scheduler.status
            body = {"idle": True, "nvidiaIndex": 0, "nvidiaUUID": "GPU-0", "allowToken": "lent"}
            if status == 429:
                body = {"left": 2, "wait": 4 * 3600}
        elif address.path == "/allow" and scheduler.kills:
            os.kill(int(asked["pid"]), signal.SIGKILL)
        elif address.path == "/release":
            scheduler.released.append(asked["fail"] == "true")
        self._answer(status, body)

    def log_message(self, *_: object) -> None: ...

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(OSError):  # the worker that was killed does not listen
            self.wfile.write(data)
