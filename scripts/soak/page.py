"""A browser's side of the page, as far as the server sees it: sessions, events of the page, endpoints, streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

API = "/gradio_api"


class RefusedError(Exception):
    """The server would not take a job, and said why."""


class BrokenError(Exception):
    """What must not be: no answer, two answers, or one without words."""


class AnsweredError(Exception):
    """A job ended in a worded error."""


def file_data(path: str, name: str) -> dict[str, Any]:
    return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}


@dataclass
class Site:
    """The page's configuration: which event is what, read once."""

    components: dict[int, dict[str, Any]]
    dependencies: list[dict[str, Any]]

    @classmethod
    async def read(cls, client: httpx.AsyncClient) -> Site:
        config = (await client.get("/config")).raise_for_status().json()
        return cls({one["id"]: one for one in config["components"]}, config["dependencies"])

    def name(self, component: int) -> str:
        return str(self.components.get(component, {}).get("props", {}).get("elem_id") or "")

    def event(self, elem_id: str, event: str) -> dict[str, Any]:
        """The event of a component that computes something."""
        for one in self.dependencies:
            if (
                one["backend_fn"]
                and one["outputs"]
                and any(self.name(target) == elem_id and kind == event for target, kind in one["targets"])
            ):
                return one
        raise LookupError(f"The page has no event {event!r} of {elem_id!r}.")

    def data(self, dependency: Mapping[str, Any], values: Mapping[str, Any]) -> list[Any]:
        """Values of an event's inputs: the given ones by `elem_id`, and for the others what the page opens with."""
        return [
            values.get(self.name(one), self.components.get(one, {}).get("props", {}).get("value"))
            for one in dependency["inputs"]
        ]


@dataclass
class Session:
    """One open page."""

    client: httpx.AsyncClient
    site: Site
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    _beating: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Keep the connection by which the server knows that the page is open."""
        self._beating = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        with contextlib.suppress(httpx.HTTPError):
            async with self.client.stream("GET", f"{API}/heartbeat/{self.id}") as response:
                async for _ in response.aiter_bytes():
                    pass

    async def close(self) -> None:
        if self._beating:
            self._beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._beating

    async def upload(self, name: str, data: bytes) -> str:
        response = await self.client.post(f"{API}/upload", files={"files": (name, data)})
        _check(response)
        (path,) = response.json()
        return str(path)

    async def ask(self, dependency: Mapping[str, Any], values: Mapping[str, Any]) -> list[Any]:
        """What an event of the page answers: a value per output.

        Raises:
            RefusedError, AnsweredError, BrokenError: see there.
        """
        event = await self._join(dependency, values)
        output = None
        async with contextlib.aclosing(self._messages()) as messages:
            async for message in messages:
                if message["msg"] == "process_completed" and message["event_id"] == event:
                    if output is not None:
                        raise BrokenError("A job was answered twice.")
                    output = _output(message)
        if output is None:
            raise BrokenError("A job was not answered.")
        return output

    async def stream(
        self, dependency: Mapping[str, Any], values: Mapping[str, Any], frames: list[dict[str, Any]]
    ) -> AsyncGenerator[Any, None]:
        """Answers to the frames of a camera, each sent when the one before was answered."""
        event = await self._join(dependency, values, frames[0])
        sent, ended = 1, False
        async with contextlib.aclosing(self._messages()) as messages:
            async for message in messages:
                if message["msg"] in ("process_streaming", "process_generating"):
                    yield _output(message)[0]
                    if sent < len(frames):
                        body = self._body(dependency, values, frames[sent])
                        await self.client.post(f"{API}/stream/{event}", json=body)
                    else:
                        await self.client.post(f"{API}/stream/{event}/close")
                    sent += 1
                elif message["msg"] == "process_completed":
                    _output(message)
                    ended = True
        if not ended:
            raise BrokenError("A stream did not end.")

    async def leave(self, dependency: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Ask, and be gone before the answer."""
        await self._join(dependency, values)
        async with contextlib.aclosing(self._messages()) as messages:
            async for _ in messages:
                break

    def _body(self, dependency: Mapping[str, Any], values: Mapping[str, Any], event: Any = None) -> dict[str, Any]:
        return {
            "data": self.site.data(dependency, values),
            "event_data": event,
            "fn_index": dependency["id"],
            "trigger_id": dependency["targets"][0][0],
            "session_hash": self.id,
        }

    async def _join(self, dependency: Mapping[str, Any], values: Mapping[str, Any], event: Any = None) -> str:
        response = await self.client.post(f"{API}/queue/join", json=self._body(dependency, values, event))
        _check(response)
        return str(response.json()["event_id"])

    async def _messages(self) -> AsyncGenerator[dict[str, Any], None]:
        async with self.client.stream("GET", f"{API}/queue/data", params={"session_hash": self.id}) as response:
            async for line in response.aiter_lines():
                if line.startswith("data:"):
                    message = json.loads(line[5:])
                    if message["msg"] == "close_stream":
                        return
                    if message["msg"] == "unexpected_error":
                        raise BrokenError(f"A stream broke off: {message.get('message')}")
                    yield message


async def call(client: httpx.AsyncClient, name: str, options: dict[str, Any]) -> list[Any]:
    """What an endpoint answers, asked as curl would: a session of its own.

    Raises:
        RefusedError, AnsweredError, BrokenError: see there.
    """
    response = await client.post(f"{API}/call/v2/{name}", json=options)
    _check(response)
    answer = await client.get(f"{API}/call/{name}/{response.json()['event_id']}")
    _check(answer)
    last = answer.text.strip().rpartition("event: ")[2]
    kind, _, data = last.partition("\ndata: ")
    found: Any = json.loads(data) if data else None
    if kind == "complete":
        return list(found)
    raise AnsweredError(_worded(found))


def _output(message: Mapping[str, Any]) -> list[Any]:
    if message.get("success") is False:
        raise AnsweredError(_worded(message["output"]))
    return list(message["output"]["data"])


def _check(response: httpx.Response) -> None:
    if response.status_code >= 400:
        raise RefusedError(f"{response.status_code} {_worded(response.text)}")


def _worded(error: Any) -> str:
    """The words of an error.

    Raises:
        BrokenError: it has none, or such as nobody may read.
    """
    text = error.get("error") if isinstance(error, Mapping) else error
    if not isinstance(text, str) or not text.strip() or "Traceback" in text or text == "Internal Server Error":
        raise BrokenError(f"An error without words: {error!r:.200}")
    return text
