"""The backend whose models run in replicas of a service on Ray: see `docs/scale.md`."""

from __future__ import annotations

import atexit
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor

from vitdemo.cluster.addresses import Cluster, named, remembered, require_ray
from vitdemo.cluster.link import GoneError, Link
from vitdemo.cluster.messages import Failure, Job, Work
from vitdemo.cluster.placement import Model, Report
from vitdemo.engine.backend import ModelRun, Request
from vitdemo.engine.counts import Shown, added
from vitdemo.engine.knockouts import resolved
from vitdemo.engine.left import has_left, stop_if_left
from vitdemo.engine.wire import pack, unpack
from vitdemo.errors import BusyError, ClientLeftError, EngineError, ServiceError, VitDemoError
from vitdemo.models.loading import Classifier
from vitdemo.settings import VERSION, Settings
from vitdemo.types import ModelOutput, ModelSpec

logger = logging.getLogger("vitdemo")

Seen = TypeVar("Seen")

START = 300.0
"""Seconds in which a service of this page's own has to run."""
TELL = 10.0
"""Seconds in which replicas have to tell what they hold."""

GONE = (
    "The cluster that runs the models is gone, or does not answer. Try again in a moment; whoever runs it can start it with "
    "`vitdemo serve`."
)


class RayBackend:
    """Hands runs to replicas, each a local backend in a process of its own.

    Nothing of Ray is loaded here: a process beside this one has joined the cluster (`vitdemo.cluster.bridge`). It ends when the
    cluster does; the next job starts another one.

    Raises:
        ServiceError: Ray is not installed, there is no such cluster, or it has no service of this version.
        SettingsError: the address has another form.
    """

    def __init__(self, settings: Settings) -> None:
        require_ray()
        self._settings = settings
        self._own: OwnService | None = None
        self._link: Link | None = None
        self._joining = threading.Lock()
        atexit.register(self.close)
        self._joined()

    @property
    def where(self) -> str:
        reports = self._told()
        places = sorted({report.where for report in reports})
        return f"Ray ({len(reports)} {'replica' if len(reports) == 1 else 'replicas'}, {', '.join(places)})"

    @property
    def borrowed(self) -> bool:
        return False

    @property
    def forwards(self) -> int:
        """Of all replicas that this process has known, for all callers."""
        return sum(report.forwards for report in self._told(now=False))

    @property
    def counts(self) -> RayBackend:
        return self

    def shown(self) -> Shown:
        """See `vitdemo.engine.counts`."""
        return added(report.counts for report in self._told())

    def run(self, spec: ModelSpec, pixel_values: Tensor, request: Request, dtype: str = "auto") -> list[ModelOutput]:
        (found,) = self.run_many([ModelRun(spec, pixel_values, request, dtype)])
        return found

    def run_many(self, runs: Sequence[ModelRun]) -> list[list[ModelOutput]]:
        """As `Backend.run_many`: replicas work on their parts at the same time.

        Raises:
            BusyError: more jobs wait than may.
            ServiceError: the cluster is gone, the replica was lost twice, or was too slow.
        """
        stop_if_left()
        pixels: list[bytes] = []
        places: dict[int, int] = {}
        works = []
        for run in runs:
            request = resolved(run.request, run.spec, run.pixel_values)
            if id(run.pixel_values) not in places:
                places[id(run.pixel_values)] = len(pixels)
                pixels.append(pack(run.pixel_values))
            packed = pack((run.spec, request, run.dtype, places[id(run.pixel_values)]))
            works.append(Work(_model(run.spec), packed))
        return self._do("run", works, pixels)

    def look(self, spec: ModelSpec, at: Callable[[Classifier], Seen]) -> Seen:
        """As `Backend.look`; the function is one of a module, or a `partial` of such a one."""
        stop_if_left()
        found: list[Seen] = self._do("look", [Work(_model(spec), pack((spec, at)))], [])
        return found[0]

    def loaded(self) -> dict[str, int]:
        """In all replicas together."""
        found: dict[str, int] = {}
        for report in self._told():
            for checkpoint, size in report.loaded.items():
                found[checkpoint] = found.get(checkpoint, 0) + size
        return found

    def unload(self, spec: ModelSpec) -> None:
        self._ask(("unload", pack(spec), TELL), TELL + 5)

    def close(self) -> None:
        """End the bridge, and the service if it is this process's own."""
        if self._link is not None:
            self._link.close()
        if self._own is not None:
            self._own.close()

    def _do(self, method: str, works: list[Work], pixels: list[bytes]) -> list[Any]:
        seconds = self._settings.ray_timeout
        answers = self._ask(Job(method, VERSION, works, pixels, seconds), seconds + 5)
        if isinstance(answers, Failure):
            raise self._worded(answers)
        found = []
        # A replica stops at its first error: what comes after it, elsewhere, is not the first that failed.
        for answer in answers:
            value = unpack(answer) if answer else None
            if isinstance(value, VitDemoError):
                raise value
            found.append(value)
        return found

    def _ask(self, request: Any, seconds: float) -> Any:
        """The bridge's answer. One that has ended, or ends, is replaced once."""
        for again in (True, False):
            link = self._joined()
            try:
                answer = link.ask(request, seconds, has_left)
            except GoneError:
                if again and not link.is_open:
                    continue
                raise ServiceError(GONE) from None
            if answer is None:
                raise ClientLeftError("Nobody waits for this result any more. Ask again.")
            return answer
        raise ServiceError(GONE)

    def _told(self, now: bool = True) -> list[Report]:
        """What the replicas that run tell now, or what all that there have been told last."""
        found: list[Report] = self._ask(("tell", TELL) if now else ("reports",), TELL + 5)
        return found if not isinstance(found, Failure) else []

    def _joined(self) -> Link:
        with self._joining:
            if self._link is not None and self._link.is_open:
                return self._link
            if self._link is not None:
                self._link.close()
                self._link = None
            self._link = Link(self._cluster(), self._settings.max_batch)
            told = self._link.ask(("tell", TELL), TELL + 5)
            others = (
                {one.version for one in told if isinstance(one, Report)} - {VERSION}
                if isinstance(told, list)
                else set()
            )
            if others:
                self._link.close()
                raise ServiceError(_other_version(others.pop()))
            return self._link

    def _cluster(self) -> Cluster:
        if self._settings.ray_address:
            return named(self._settings.ray_address)
        if (cluster := remembered()) is not None:
            return cluster
        if self._own is not None:
            self._own.close()
        self._own = OwnService(self._settings)
        return self._own.cluster

    def _worded(self, failure: Failure) -> VitDemoError:
        if failure.kind == "busy":
            jobs = "1 job waits" if failure.detail == "1" else f"{failure.detail} jobs wait"
            return BusyError(f"The server is busy: {jobs}. Try again in a moment.")
        if failure.kind == "late":
            return ServiceError(
                f"The model service did not answer within {self._settings.ray_timeout:g} seconds, and the job was given up. "
                "Try again, or choose a smaller model or resolution."
            )
        if failure.kind == "lost":
            return ServiceError(
                "Several replicas of the model service ended while they worked on this. Try again; if it happens again, choose a "
                "smaller model or resolution."
            )
        if failure.kind == "absent":
            return ServiceError(
                "The model service was taken off its cluster. Whoever runs it can start it with `vitdemo serve`."
            )
        logger.error("The model service failed: %s", failure.detail)
        return EngineError("Something went wrong in the model service. It was logged; please try again.")


class OwnService:
    """A `vitdemo serve` that lasts as long as this process.

    Raises:
        ServiceError: it does not start.
    """

    def __init__(self, settings: Settings) -> None:
        command = [sys.executable, "-m", "vitdemo", "serve", "--owned"]
        environment = {**os.environ, "VITDEMO_RAY_ADDRESS": ""}
        for name in ("device", "dtype", "max_batch", "memory_gb", "max_queue"):
            environment[f"VITDEMO_{name.upper()}"] = str(getattr(settings, name) or "")
        for name in ("replicas", "max_replicas", "cpus", "gpus", "timeout"):
            environment[f"VITDEMO_RAY_{name.upper()}"] = str(getattr(settings, f"ray_{name}") or "")
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        timer = threading.Timer(START, self._process.kill)
        timer.start()
        try:
            assert self._process.stdout is not None
            line = next((line for line in self._process.stdout if line.startswith("{")), "")
        finally:
            timer.cancel()
        if not line or "error" in (told := json.loads(line)):
            self.close()
            reason = json.loads(line)["error"] if line else "It ended, or took too long."
            raise ServiceError(f"A model service could not be started on this machine. {reason}")
        self.cluster = Cluster(**told)

    def close(self) -> None:
        """End it, and its cluster."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _model(spec: ModelSpec) -> Model:
    return Model(spec.checkpoint, spec.parameters)


def _other_version(version: str) -> str:
    return f"The model service runs vitdemo {version}, and this is {VERSION}. Use one version."
