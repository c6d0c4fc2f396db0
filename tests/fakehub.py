"""A Hugging Face Hub on loopback, as `huggingface_hub` speaks to it, without Xet: folders are its repositories."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import socketserver
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from tests.fakehub_spaces import SpaceHandler, Spaces

INFO = "(info)"  # in place of a file's name: the requests about a repository, its commit and its list of files
FILE = re.compile(r"(/cdn)?/([^/]+(?:/[^/]+)?)/resolve/([^/]+)/([^?]+)(?:\?.*)?")
ABOUT = re.compile(r"/api/models/([^/?]+(?:/[^/?]+)?)(?:/revision/([^/?]+))?(?:\?.*)?")
RANGE = re.compile(r"bytes=(?=.*\d)(\d*)-(\d*)")


class Blob:
    """One file: its bytes, and the names that git and LFS give them."""

    def __init__(self, path: str, data: bytes) -> None:
        self.path, self.data, self.lfs = path, data, path.endswith((".safetensors", ".bin"))
        sha256 = hashlib.sha256(data).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(data)}\n".encode()
        stored = pointer if self.lfs else data
        self.oid = hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()
        self.etag = sha256 if self.lfs else self.oid
        lfs = {"sha256": sha256, "size": len(data), "pointerSize": len(pointer)}
        details = {"rfilename": path, "size": len(data), "blobId": self.oid}
        self.sibling = details | ({"lfs": lfs} if self.lfs else {})


@dataclass
class Repo:
    """A repository: the commit and its files, by commit and by name of a branch."""

    gated: bool | str = False
    private: bool = False
    revisions: dict[str, tuple[str, dict[str, Blob]]] = field(default_factory=dict)


@dataclass
class Fault:
    """What goes wrong, for which requests, and how often it has."""

    repo: str | None = None
    file: str | None = None
    times: int | None = None
    method: str | None = None
    status: int | None = None
    headers: dict[str, str] | None = None
    silent: bool = False
    cut_after: int | None = None
    reset: bool = False
    stall_after: int | None = None
    bytes_per_second: float | None = None
    wrong_bytes: bool = False
    hits: int = 0


@dataclass
class Request:
    """What was asked, and answered: `sent` counts the bytes of the body, and grows while they are sent."""

    method: str
    path: str
    range: str | None
    status: int
    sent: int = 0


class FakeHub(Spaces, contextlib.AbstractContextManager["FakeHub"]):
    """The hub, and its CDN at another port. `tokens` open everything, `expired` are refused, others open what is public."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.expired = {"hf_good"}, set[str]()
        self.requests: list[Request] = []
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.connections: set[Any] = set()
        self.closing = threading.Event()
        self.counting = threading.Lock()
        self._servers = [Server(self, 0), Server(self, 0)]
        self.endpoint, self.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers)
        self.up()

    def add(
        self, repo: str, folder: Path, *, gated: bool | str = False, private: bool = False, revision_name: str = "main"
    ) -> str:
        """Commit a folder's files as they are now; earlier commits stay. Returns the commit."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        blobs = [Blob(path.relative_to(folder).as_posix(), path.read_bytes()) for path in paths]
        held = self.repos.setdefault(repo, Repo())
        listing = [repo, *held.revisions, *(f"{blob.path} {blob.oid}" for blob in blobs)]
        commit = hashlib.sha1("\n".join(listing).encode()).hexdigest()
        held.gated, held.private = "auto" if gated is True else gated, private
        held.revisions[revision_name] = held.revisions[commit] = commit, {blob.path: blob for blob in blobs}
        return commit

    def commit(self, repo: str) -> str:
        """The commit that was added last."""
        return list(self.repos[repo].revisions)[-1]

    def bytes_sent(self, file: str) -> int:
        """How many bytes of the file's contents went out, in all answers together."""
        bodies = [request for request in list(self.requests) if request.status in (200, 206)]
        return sum(request.sent for request in bodies if unquote(request.path).endswith(f"/{file}"))

    def fault(self, repo: str | None, filename: str | None, **what: Any) -> Fault:
        """Let matching requests go wrong, the first `times` of them or all; `hits` of the result counts them.

        `None` is every repository or file; `INFO`, what is asked about the repository. `status` (with `headers`) is
        the answer to HEAD and GET (or to `method`), `silent` none at all. The rest concerns bodies of files: `cut_after`
        so many bytes of an answer (by a `reset`), `stall_after` them with the connection held, `bytes_per_second`,
        `wrong_bytes` (one bit in the file's last). `hub.faults` holds those in force, the first that matches counts.
        """
        self.faults.append(Fault(repo, filename, **what))
        return self.faults[-1]

    def up(self) -> None:
        """Listen, at the same ports as ever."""
        for server in self._servers:
            server.server_activate()
            server.listening = True
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def down(self) -> None:
        """Refuse connections, and end those that are open."""
        self._stop()
        # Bound but not listening: connections are refused, and nobody else gets the ports.
        self._servers = [Server(self, server.server_address[1]) for server in self._servers]

    def close(self, *_: object) -> None:
        """Stop listening, and end every handler."""
        self.closing.set()
        self._stop()
        until = time.monotonic() + 2
        while self.connections and time.monotonic() < until:
            time.sleep(0.002)

    __exit__ = close

    def _stop(self) -> None:
        for server in self._servers:
            if server.listening:
                server.shutdown()
            server.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Server(ThreadingHTTPServer):
    """Bound at once, listening when activated."""

    daemon_threads, request_queue_size, listening = True, 64, False

    def __init__(self, hub: FakeHub, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler, bind_and_activate=False)
        self.hub = hub
        socketserver.TCPServer.server_bind(self)  # HTTPServer's own would look up our name

    def process_request(self, request: Any, client_address: Any) -> None:
        self.hub.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.close_request(request)  # no orderly end first, which would spoil a reset
        self.hub.connections.discard(request)

    def handle_error(self, *_: object) -> None: ...  # the client has gone, or the hub closes


class Refused(Exception):  # noqa: N818
    """An error to be answered, with its code and its message."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        self.status, self.body = status, json.dumps({"error": message}).encode()
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}) | (headers or {})


class Handler(SpaceHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:  # noqa: N802
        self.hub = self.server.hub
        if self.about_spaces():
            return
        try:
            if match := FILE.fullmatch(self.path):
                self._file(match[1] is not None, unquote(match[2]), unquote(match[3]), unquote(match[4]))
            elif match := ABOUT.fullmatch(self.path):
                self._about(match[1], unquote(match[2] or "main"))
            else:
                raise Refused(404, "", "Not Found")
        except Refused as error:
            self._send(error.status, error.body, error.headers)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None: ...

    def _refuse(self, status: int, code: str) -> None:
        refused = Refused(status, code, "Refused")
        self._send(refused.status, refused.body, refused.headers)

    def _found(self, name: str, revision: str, file: str) -> Repo:
        """The repository, if this client may have it. A private one looks like none."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        repo, trusted = self.hub.repos.get(name), token in self.hub.tokens
        if token in self.hub.expired:
            raise Refused(401, "", "Invalid credentials in Authorization header")
        if repo is None or (repo.private and not trusted):
            raise Refused(404 if token else 401, "RepoNotFound", "Repository not found")
        if repo.gated and not trusted and file != INFO:
            raise Refused(403 if token else 401, "GatedRepo", f"Access to model {name} is restricted.")
        if revision not in repo.revisions:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repo

    def _about(self, name: str, revision: str) -> None:
        self._meet(name, INFO)
        repo = self._found(name, revision, INFO)
        commit, files = repo.revisions[revision]
        siblings = [blob.sibling if "blobs=" in self.path else {"rfilename": blob.path} for blob in files.values()]
        about = {"id": name, "sha": commit, "private": repo.private, "gated": repo.gated, "siblings": siblings}
        self._send(200, json.dumps(about).encode(), {})

    def _file(self, cdn: bool, name: str, revision: str, file: str) -> None:
        if cdn and "Authorization" in self.headers:
            raise Refused(400, "", "Only one auth mechanism allowed")
        repo = self.hub.repos[name] if cdn else self._found(name, revision, file)
        commit, files = repo.revisions[revision]
        headers = {"X-Repo-Commit": commit}
        if (blob := files.get(file)) is None:
            raise Refused(404, "EntryNotFound", "Entry not found", headers)
        redirected = blob.lfs and not cdn
        fault = Fault() if redirected and self.command == "GET" else self._meet(name, file)  # which leads to its fault
        data, size = blob.data, len(blob.data)
        if fault.wrong_bytes:
            data = data[:-1] + bytes(byte ^ 1 for byte in data[-1:])
        headers |= {"ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        if redirected:
            headers |= {"X-Linked-Size": str(size), "X-Linked-Etag": f'"{blob.etag}"'}
            headers["Location"] = f"{self.hub.cdn}/cdn/{name}/resolve/{commit}/{quote(file)}"
            return self._send(302, b"Found. Redirecting", headers)
        if (match := RANGE.fullmatch(self.headers.get("Range", ""))) is None:
            return self._send(200, data, headers, fault)
        start = int(match[1]) if match[1] else max(0, size - int(match[2]))
        stop = min(int(match[2]) + 1, size) if match[1] and match[2] else size
        if start >= stop:
            raise Refused(416, "", "Range Not Satisfiable", {"Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return self._send(206, data[start:stop], headers, fault)

    def _meet(self, name: str, file: str) -> Fault:
        """The fault that this request meets, counted."""
        with self.hub.counting:
            for fault in self.hub.faults:
                wanted = fault.repo in (None, name) and fault.file in (None, file)
                wanted &= fault.method in (None, self.command) and (fault.times is None or fault.hits < fault.times)
                if wanted and (fault.status is not None or fault.silent or (self.command == "GET" and file != INFO)):
                    fault.hits += 1
                    break
            else:
                return Fault()
        if fault.silent:
            raise ConnectionAbortedError
        if fault.status is not None:
            raise Refused(fault.status, "", "The hub has a fault", fault.headers)
        return fault

    def _send(self, status: int, body: bytes, headers: dict[str, str], fault: Fault = Fault()) -> None:  # noqa: B008
        request = Request(self.command, self.path, self.headers.get("Range"), status)
        self.hub.requests.append(request)
        self.send_response(status)
        for header, value in ({"Content-Type": "application/json", "Content-Length": str(len(body))} | headers).items():
            self.send_header(header, value)
        self.end_headers()
        ends = [end for end in (fault.cut_after, fault.stall_after) if end is not None]
        stop = 0 if self.command == "HEAD" else min([len(body), *ends])
        rate = fault.bytes_per_second
        step = max(1, int(rate / 20)) if rate else 1 << 16
        for start in range(0, stop, step):
            piece = body[start : min(start + step, stop)]
            request.sent += len(piece)  # first, so that who has read it finds it counted
            self.wfile.write(piece)
            if rate and self.hub.closing.wait(len(piece) / rate):
                raise ConnectionAbortedError
        if fault.stall_after is not None:
            self.connection.recv(1, socket.MSG_PEEK)  # until the client goes, or the hub ends the connection
        self.close_connection |= bool(ends)
        if fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
