"""The page's end of the bridge: a process that is started when it is needed, and connections to it, one for each thread."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

from vitdemo.cluster.addresses import Cluster
from vitdemo.errors import ServiceError

JOIN = 60.0
"""Seconds in which a cluster has to be joined."""
BRIDGE = ("-m", "vitdemo.cluster.bridge")
SLICE = 0.1
"""Seconds between two looks whether an answer is still wanted."""


class GoneError(Exception):
    """The bridge has ended: its cluster is gone."""


class Link:
    """A bridge that runs.

    Raises:
        ServiceError: the cluster cannot be joined, or has no model service.
    """

    def __init__(self, cluster: Cluster, hot: int) -> None:
        self.cluster = cluster
        # A folder that only this user may enter: whoever can connect may run code here and there.
        self._folder = Path(tempfile.mkdtemp(prefix="vitdemo-bridge-"))
        self._path = str(self._folder / "socket")
        self._idle: list[Connection] = []
        self._guard = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, *BRIDGE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):
                print(
                    json.dumps({"cluster": asdict(cluster), "path": self._path, "hot": hot}),
                    file=self._process.stdin,
                    flush=True,
                )
            self._require(self._first_line())
        except BaseException:
            self.close()
            raise

    @property
    def is_open(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: Any, seconds: float, has_left: Callable[[], bool] = lambda: False) -> Any:
        """The bridge's answer; None once nobody wants it any more.

        Raises:
            GoneError: the bridge has ended, or does not answer in time.
        """
        try:
            connection = self._connection()
            connection.send_bytes(pickle.dumps(request, pickle.HIGHEST_PROTOCOL))
            until = time.monotonic() + seconds
            while not connection.poll(SLICE):
                if has_left() or time.monotonic() > until:
                    connection.close()
                    if has_left():
                        return None
                    raise GoneError
            answer = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError):
            # It is ending: so that `is_open` is true no more.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)
            raise GoneError from None
        with self._guard:
            self._idle.append(connection)
        return answer

    def close(self) -> None:
        """End the bridge."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _connection(self) -> Connection:
        with self._guard:
            if self._idle:
                return self._idle.pop()
        return Client(self._path, "AF_UNIX")

    def _first_line(self) -> dict[str, str]:
        """What the bridge says of having joined."""
        assert self._process.stdout is not None
        timer = threading.Timer(JOIN, self._process.kill)
        timer.start()
        try:
            # What Ray itself prints comes before.
            for line in self._process.stdout:
                if line.startswith("{"):
                    return dict(json.loads(line))
        finally:
            timer.cancel()
        return {"kind": "unreached", "detail": f"it did not answer as one within {JOIN:.0f} seconds"}

    def _require(self, told: dict[str, str]) -> None:
        address = self.cluster.address
        if told.get("kind") == "version":
            raise ServiceError(
                f"The Ray cluster at {address} runs another version of Ray or Python than this ({told['detail']}). "
                "Install the same on both sides."
            )
        if told.get("kind") == "absent":
            raise ServiceError(
                f"The Ray cluster at {address} has no model service of vitdemo. Start it with: "
                f"vitdemo serve --address {address}"
            )
        if told:
            raise ServiceError(
                f"The Ray cluster at {address} could not be joined: {told['detail'].rstrip('.')}. "
                "Correct VITDEMO_RAY_ADDRESS, or start the service with `vitdemo serve`."
            )
