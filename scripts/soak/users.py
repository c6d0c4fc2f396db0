"""What users do: the mix, each answer compared with the one that was computed alone."""

from __future__ import annotations

import asyncio
import base64
import random
import re
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import httpx

from scripts.soak.page import API, AnsweredError, BrokenError, RefusedError, Session, Site, call, file_data
from scripts.soak.photos import Photos

MIX = {"classify": 55, "model switch": 15, "page": 10, "endpoint": 8, "stream": 5, "hostile": 5, "disconnect": 2}
"""Per cent of what users do."""
PAUSE = 0.5
"""Seconds between two actions, in the mean."""
METHODS = ("attention", "rollout", "relevance", "legrad")

BOMB = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x75\x30\0\0\x75\x30\x08\x02\0\0\0\x1d\x1e\xf3\xf0"
    b"\0\0\0\x0cIDATx\x9cc\xf8\xcf\xc0\0\0\x03\x01\x01\0\xc9\xfe\x92\xef\0\0\0\0IEND\xaeB`\x82"
)
"""The header of 30,000 x 30,000 pixels."""


@dataclass(frozen=True)
class Done:
    """One action."""

    kind: str
    at: float
    seconds: float
    outcome: str
    """"right", "wrong", "of another", "refused", "error", "broken" or "gone"."""
    words: str = ""


@dataclass
class Run:
    """What all users share."""

    url: str
    photos: Photos
    site: Site
    done: list[Done] = field(default_factory=list)
    stopping: bool = False
    """The server has been told to end: what it cannot do any more is refused, or nobody answers."""


class User:
    """Does one thing after the other."""

    def __init__(self, run: Run, number: int) -> None:
        self.run, self.number, self.count = run, number, 0
        self.numbers = random.Random(number)
        self.client = httpx.AsyncClient(base_url=run.url, timeout=120, limits=httpx.Limits(max_connections=None))
        self.session = Session(self.client, run.site)
        self.shown: tuple[int, dict[str, Any], list[str]] | None = None
        """The page's photo, as index and value, and the models that are compared."""

    async def live(self) -> None:
        self.session.open()
        actions: dict[str, Callable[[], Coroutine[Any, Any, str]]] = {
            "classify": self.classify,
            "model switch": self.switch,
            "page": self.page,
            "endpoint": self.endpoint,
            "stream": self.stream,
            "hostile": self.hostile,
            "disconnect": self.disconnect,
        }
        while not self.run.stopping:
            (kind,) = self.numbers.choices(list(MIX), list(MIX.values()))
            await self._act(kind, actions[kind])
            await asyncio.sleep(self.numbers.expovariate(1 / PAUSE))
        await self.session.close()
        await self.client.aclose()

    async def _act(self, kind: str, action: Callable[[], Coroutine[Any, Any, str]]) -> None:
        start, words = time.monotonic(), ""
        try:
            outcome = await action()
        except RefusedError as error:
            outcome, words = "refused", str(error)
        except AnsweredError as error:
            outcome, words = "error", str(error)
        except BrokenError as error:
            outcome, words = "broken", str(error)
        except httpx.HTTPError as error:
            # A connection that cannot be made any more is no job that was cut off.
            refused = self.run.stopping and isinstance(error, httpx.ConnectError)
            outcome, words = ("refused" if refused else "broken"), f"{type(error).__name__}: {error}"
        self.run.done.append(Done(kind, start, time.monotonic() - start, outcome, words))

    def _photo(self) -> tuple[int, str, bytes]:
        """A photo's index, a name that nobody else uses, and a file that nobody has seen."""
        self.count += 1
        index = self.numbers.randrange(len(self.run.photos.known))
        return index, f"{self.number}-{self.count}.jpg", self.run.photos.known[index].fresh(self.numbers)

    async def _uploaded(self) -> tuple[int, dict[str, Any]]:
        index, name, data = self._photo()
        return index, file_data(await self.session.upload(name, data), name)

    async def classify(self) -> str:
        """A photo for the page: five models compare it."""
        index, value = await self._uploaded()
        models = self.shown[2] if self.shown else self.run.photos.models
        found = await self.session.ask(self.run.site.event("photo", "change"), {"photo": value, "models": models})
        self.shown = (index, value, models)
        return self._judge(found[0])

    async def switch(self) -> str:
        """Other models for the page's photo."""
        if self.shown is None:
            return await self.classify()
        index, value, before = self.shown
        while (models := self.numbers.sample(self.run.photos.models, self.numbers.randint(1, 4))) == before:
            pass
        found = await self.session.ask(self.run.site.event("models", "change"), {"photo": value, "models": models})
        self.shown = (index, value, models)
        return self._judge(found[0])

    def _judge(self, compared: Any) -> str:
        """The page's photo and models, from what it is given to show."""
        assert self.shown is not None
        index, value, models = self.shown
        if not isinstance(compared, dict) or "panels" not in compared:
            raise BrokenError(f"Not a comparison: {compared!r:.200}")
        if compared["name"] != value["orig_name"]:
            return "of another"
        return self.run.photos.judge(index, compared["panels"], models)

    async def page(self) -> str:
        """Leave, and open the page anew, with its script."""
        await self.session.close()
        self.session, self.shown = Session(self.client, self.run.site), None
        text = (await self.client.get("/")).raise_for_status().text
        self.session.open()
        for source in re.findall(r'<script[^>]+src="(?:\./|/)?([^":]+)"', text)[:3]:
            (await self.client.get(f"/{source}")).raise_for_status()
        return "right" if "What Vision Transformers see" in text else "wrong"

    async def endpoint(self) -> str:
        """As a program: another session each time, and the files of the result."""
        index, value = await self._uploaded()
        name = self.numbers.choice(("classify", "explain", "compare"))
        if name == "explain":
            model, method = self.numbers.choice(self.run.photos.models), self.numbers.choice(METHODS)
            if method != "attention":
                model = "vit-mini"
            entry, picture, _ = await call(self.client, name, {"image": value, "model": model, "method": method})
            await self._download(picture["url"])
            return self._own(index, value, entry, [entry], [model])
        models = self.numbers.sample(self.run.photos.models, 2)
        found = await call(self.client, name, {"image": value, "models": models})
        if name == "compare":
            await self._download(found[1]["url"])
        entry = found[0] if name == "compare" else found[0][0]
        return self._own(index, value, entry, entry["results"], models)

    def _own(self, index: int, value: dict[str, Any], entry: Any, results: list[Any], models: list[str]) -> str:
        if entry["image"] != value["orig_name"]:
            return "of another"
        results = [one if "labels" in one else one["results"][0] for one in results]
        return self.run.photos.judge(index, results, models)

    async def _download(self, url: str) -> None:
        response = await self.client.get(url)
        if response.status_code != 200 or not response.content.startswith(b"\x89PNG"):
            raise BrokenError(f"The overlay could not be fetched: {response.status_code}")

    async def stream(self) -> str:
        """A camera, for some frames."""
        model = self.numbers.choice(self.run.photos.models)
        taken = [self._photo() for _ in range(self.numbers.randint(3, 8))]
        frames = [
            {"image": f"data:image/jpeg;base64,{base64.b64encode(data).decode()}", "number": number}
            for number, (_, _, data) in enumerate(taken)
        ]
        number, worst = 0, "right"
        async for answer in self.session.stream(self.run.site.event("live", "stream"), {"live-model": model}, frames):
            if answer.get("error"):
                raise AnsweredError(answer["error"])
            judged = (
                "of another"
                if answer["number"] != number
                else self.run.photos.judge(taken[number][0], [answer], [model])
            )
            worst = judged if judged != "right" else worst
            number += 1
        return worst if number == len(frames) or self.run.stopping else "wrong"

    async def hostile(self) -> str:
        """What must be refused, in words and soon."""
        _, name, data = self._photo()
        broken = {
            "cut off": data[: len(data) // 2],
            "text": b"<svg onload=alert(1)>" * 50,
            "bomb": BOMB,
            "empty": b"",
        }
        kind = self.numbers.choice([*broken, "path", "model", "option", "route"])
        if kind == "route":
            response = await self.client.get(f"{API}/file=http://127.0.0.1/x.png")
            return "right" if 400 <= response.status_code < 500 else "wrong"
        options: dict[str, Any] = {"model": "vit-mini"}
        if kind == "path":
            options["image"] = file_data("/etc/passwd", "passwd")
        else:
            options["image"] = file_data(await self.session.upload(name, broken.get(kind, data)), name)
            options |= {"model": {"model": "nobody/none"}, "option": {"head": "99"}}.get(kind, {})
        try:
            await call(self.client, "explain", options)
        except AnsweredError as error:
            return "wrong" if "Something went wrong" in str(error) or "/tmp" in str(error) else "right"
        return "wrong"

    async def disconnect(self) -> str:
        """Ask, and be gone."""
        _, value = await self._uploaded()
        gone = Session(self.client, self.run.site)
        await gone.leave(self.run.site.event("photo", "change"), {"photo": value, "models": self.run.photos.models})
        return "gone"
