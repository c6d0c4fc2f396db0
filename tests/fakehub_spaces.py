"""Spaces on the Hub of `tests/fakehub.py`: created, listed, uploaded to by LFS, and committed to. All belong to `me`."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.fakehub import FakeHub


class Spaces:
    """What the Hub holds of them; a base of `FakeHub`."""

    def __init__(self) -> None:
        self.created: list[dict[str, Any]] = []
        """What each new Space was asked for with."""
        self.space_files: dict[str, dict[str, bytes]] = {}
        self.objects: dict[str, bytes] = {}
        """What LFS holds, by SHA-256."""

    def files(self, space: str) -> dict[str, bytes]:
        """The files of a Space, as they are cloned."""
        return dict(self.space_files[space])

    def put(self, space: str, path: str, data: bytes) -> None:
        """As if somebody had pushed a file."""
        self.space_files[space][path] = data


class SpaceHandler(BaseHTTPRequestHandler):
    """Its requests; a base of the Hub's handler, which has `hub` and the means to answer."""

    hub: FakeHub
    _send: Callable[..., None]
    _refuse: Callable[[int, str], None]

    def about_spaces(self) -> bool:
        """Answer a GET that is about Spaces; False if this one is not."""
        if (found := re.match(r"/api/spaces/([^/]+/[^/?]+)(/tree/main|/revision/main)?(\?.*)?$", self.path)) is None:
            return False
        name = found[1]
        if name not in self.hub.space_files:
            self._refuse(404, "RepoNotFound")
        elif found[2] == "/tree/main":
            self._json(
                [
                    {"type": "file", "path": path, "size": len(data), "oid": _oid(data)}
                    for path, data in self.hub.space_files[name].items()
                ]
            )
        else:
            siblings = [{"rfilename": path} for path in self.hub.space_files[name]]
            self._json({"id": name, "sha": "0" * 40, "private": False, "sdk": "gradio", "siblings": siblings})
        return True

    def do_POST(self) -> None:
        self.hub = self.server.hub  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.path.startswith("/api/validate-yaml"):
            return self._json({"errors": [], "warnings": []})
        if token not in self.hub.tokens:
            return self._refuse(401, "")
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        found = re.match(
            r"(?:/api)?/spaces/([^/]+/[^/]+?)(?:\.git/info/lfs/objects/batch|/(preupload|commit)/main)", self.path
        )
        if found is None or found[1] not in self.hub.space_files:
            return self._refuse(404, "RepoNotFound")
        if found[2] == "commit":
            return self._commit(found[1], [json.loads(line) for line in body.splitlines()])
        asked = json.loads(body)
        if found[2] == "preupload":
            modes = [("lfs" if one["path"].endswith(".safetensors") else "regular", one) for one in asked["files"]]
            files = [{"path": one["path"], "uploadMode": mode, "shouldIgnore": False} for mode, one in modes]
            return self._json({"files": files})
        objects = [
            one | {"actions": {"upload": {"href": f"{self.hub.endpoint}/upload/{one['oid']}"}}}
            for one in asked["objects"]
        ]
        return self._json({"objects": objects, "transfer": "basic"})

    def do_PUT(self) -> None:
        self.hub = self.server.hub  # type: ignore[attr-defined]
        data = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rpartition("/")[2]
        if hashlib.sha256(data).hexdigest() != oid:
            return self._refuse(400, "")
        self.hub.objects[oid] = data
        return self._json({})

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != "me":
            return self._refuse(403, "")
        address = {"url": f"{self.hub.endpoint}/spaces/{name}"}
        if name in self.hub.space_files:
            return self._json(address, 409)
        self.hub.created.append(asked)
        self.hub.space_files[name] = {".gitattributes": b"*.safetensors filter=lfs\n"}
        return self._json(address)

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files = self.hub.space_files[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = _oid(repr(sorted(files)).encode())
        self._json({"commitUrl": f"{self.hub.endpoint}/spaces/{name}/commit/{commit}", "commitOid": commit})

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {})


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
