"""The server under test: a process of its own, watched from outside."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitdemo.settings import ROOT

EVERY = 0.5
"""Seconds between two looks at its memory."""


class Server:
    """`python app.py` on a free port of loopback, with temporary files of its own.

    Args:
        backend: what runs the models; with `ray`, a service that ends with it, and whose memory is not counted.
    """

    def __init__(self, folder: Path, backend: str = "local") -> None:
        self.folder, self.memory = folder, list[tuple[float, float]]()
        """Memory: when, and MB that were resident."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        environment = {**os.environ, "GRADIO_TEMP_DIR": str(folder / "files"), "GRADIO_SERVER_PORT": str(port)}
        environment |= {"GRADIO_SERVER_NAME": "127.0.0.1", "HF_HUB_OFFLINE": "1", "VITDEMO_BACKEND": backend}
        self.log = (folder / "log").open("w+")
        command = [sys.executable, "-u", "app.py"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True
        )

    def wait_until_it_runs(self, patience: float = 240.0) -> None:
        """Raises `RuntimeError` if it does not."""
        until = time.monotonic() + patience
        while "Running on local URL" not in self.said():
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"The server did not start:\n{self.said()}")
            time.sleep(0.2)
        threading.Thread(target=self._watch, daemon=True).start()

    def said(self) -> str:
        """What it has written."""
        return (self.folder / "log").read_text(encoding="utf-8", errors="replace")

    def files(self) -> list[Path]:
        """The uploads and results that it keeps."""
        return [path for path in (self.folder / "files").rglob("*") if path.is_file() and path.name != "lock"]

    def end(self) -> float:
        """Tell it to end, as a container does; the seconds that it took."""
        start = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        return time.monotonic() - start

    def _watch(self) -> None:
        while (resident := _resident(self.process.pid)) is not None and self.process.poll() is None:
            self.memory.append((time.monotonic(), resident))
            time.sleep(EVERY)


def _resident(pid: int) -> float | None:
    """MB of a process that are in memory; None once it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    except FileNotFoundError:  # macOS
        shown = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return int(shown.stdout) * 1024 / 1e6 if shown.stdout.strip() else None
    except (ProcessLookupError, IndexError):
        return None


@contextmanager
def serving(backend: str = "local") -> Iterator[Server]:
    """A server that runs, until the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="vitdemo-soak-"))
    server = Server(folder, backend)
    try:
        server.wait_until_it_runs()
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
        server.log.close()
        shutil.rmtree(folder, ignore_errors=True)
