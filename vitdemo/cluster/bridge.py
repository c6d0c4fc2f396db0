"""The page's bridge to a Ray cluster: a process of its own, `python -m vitdemo.cluster.bridge`.

Ray ends the process that has joined a cluster when the cluster is gone for a minute ("The program will terminate", ray 2.60),
replaces its handler of SIGTERM, and waits for minutes for an address where nothing answers. None of that may happen to a page. So
this process joins instead; when it ends, the page says so in words, and starts another one for the next job. It has no torch:
what it hands on are bytes.

The page connects once for each of its threads, and sends a request when the answer to the one before has come. A connection that
it closes cancels what is under way.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, Listener
from typing import Any

from vitdemo.cluster.addresses import Cluster, is_reachable, prepare_ray, quiet
from vitdemo.cluster.messages import Failure, Job
from vitdemo.cluster.placement import Placement, Report

LOOK = 2.0
"""Seconds between two looks whether the cluster is there."""
TELL = 10.0
"""Seconds between two looks at what replicas hold: other pages may use them too."""
PAUSE = 0.3
"""Seconds until a job is tried again whose replica was lost, or which then found the queue full."""
AVOIDED = 5.0
"""Seconds in which a replica gets nothing after a job was lost with it."""
AGAIN = 3
"""How often a job is given to another replica: where several are lost at a time, once is too few."""
SLICE = 1.0
"""Seconds between two looks whether the page has given up. Each costs about a millisecond."""


class _LeftError(Exception):
    """Whoever asked has closed the connection."""


class _FailedError(Exception):
    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind)
        self.failure = Failure(kind, detail)


class Bridge:
    """Answers the page's requests with what replicas answer."""

    def __init__(self, handle: Any, hot: int) -> None:
        self.handle = handle
        self.placement = Placement(hot)
        self._lost: dict[str, float] = {}
        """When a job was lost with each replica."""

    def told(self, seconds: float) -> list[Report]:
        """What all replicas that run tell of themselves now."""
        return self._learned(self.handle.broadcast("tell"), seconds)

    def unload(self, packed: bytes, seconds: float) -> list[Report]:
        return self._learned(self.handle.broadcast("unload", packed), seconds)

    def _learned(self, asked: Any, seconds: float) -> list[Report]:
        from ray.serve.exceptions import DeploymentUnavailableError

        try:
            answers = asked.results(timeout_s=seconds, return_exceptions=True)
        except DeploymentUnavailableError:  # no replica runs now
            return []
        found = [one for one in answers if isinstance(one, Report)]
        for report in found:
            self.placement.learned(report)
        return found

    def run(self, job: Job, has_left: Callable[[], bool]) -> list[bytes]:
        """Packed answers in the order of the works, up to the first error of each replica.

        What a replica was doing when it was lost is asked for again: forward passes change nothing. Not for ever, since it may be
        the job that ends them.
        """
        until = time.monotonic() + job.seconds
        answers: dict[int, bytes] = {}
        lost = self._ask(job, range(len(job.works)), until, has_left, answers)
        for _ in range(AGAIN):
            if lost:
                lost = self._again(job, lost, until, has_left, answers)
        if lost:
            raise _FailedError("lost")
        return [answers.get(index, b"") for index in range(len(job.works))]

    def _running(self) -> list[str]:
        from vitdemo.cluster.router import replicas_here

        since = time.monotonic() - AVOIDED
        return [replica for replica in replicas_here() if self._lost.get(replica, 0.0) < since]

    def _again(
        self, job: Job, which: Sequence[int], until: float, has_left: Callable[[], bool], answers: dict[int, bytes]
    ) -> list[int]:
        """As `_ask`, for what was accepted once: it is not refused because there are fewer replicas now.

        While there is none, it waits: Serve would send it to one that has ended, for as long as it has not noticed.
        """
        while True:
            time.sleep(PAUSE)
            if has_left():
                raise _LeftError
            if time.monotonic() > until:
                raise _FailedError("late")
            if not self._running():
                continue
            try:
                return self._ask(job, which, until, has_left, answers)
            except _FailedError as error:
                if error.failure.kind != "busy":
                    raise

    def _ask(
        self, job: Job, which: Sequence[int], until: float, has_left: Callable[[], bool], answers: dict[int, bytes]
    ) -> list[int]:
        """Works whose replica was lost. Each replica gets all of its works in one call."""
        placed = self.placement.place([job.works[index].model for index in which], self._running())
        parts: dict[str, list[int]] = {}
        for index, replica in zip(which, placed, strict=True):
            parts.setdefault(replica, []).append(index)
        method = getattr(self.handle, job.method)
        sent, lost = [], list[int]()
        try:
            for replica, part in parts.items():
                works = [job.works[index].packed for index in part]
                sent.append((part, replica, method.remote(job.version, works, job.pixels, replica=replica)))
            for part, replica, response in sent:
                found = _result(response, until, has_left)
                if found is None:
                    self.placement.lost(replica)
                    self._lost[replica] = time.monotonic()
                    lost += part
                    continue
                packed, report = found
                self.placement.learned(report)
                answers.update(zip(part, packed, strict=False))
        except BaseException:
            for _, _, response in sent:
                # In a thread: it may wait for the router.
                threading.Thread(target=_cancel, args=(response,), daemon=True).start()
            raise
        finally:
            for replica, part in parts.items():
                self.placement.ended(replica, [job.works[index].model for index in part])
        return sorted(lost)


def _result(response: Any, until: float, has_left: Callable[[], bool]) -> tuple[list[bytes], Report] | None:
    """None where the replica was lost."""
    from ray import exceptions
    from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError

    while True:
        try:
            found: tuple[list[bytes], Report] = response.result(
                timeout_s=min(SLICE, max(PAUSE, until - time.monotonic()))
            )
            return found
        except TimeoutError:
            if has_left():
                raise _LeftError from None
            if time.monotonic() > until:
                raise _FailedError("late") from None
        except BackPressureError as error:
            raise _FailedError("busy", str(error.args[0])) from None
        except DeploymentUnavailableError:
            raise _FailedError("absent") from None
        except (
            exceptions.RayActorError,
            exceptions.WorkerCrashedError,
            exceptions.NodeDiedError,
            exceptions.ObjectLostError,
            ReplicaUnavailableError,
        ):
            return None
        except Exception as error:
            raise _FailedError("failed", f"{type(error).__name__}: {error}") from error


def _cancel(response: Any) -> None:
    with contextlib.suppress(Exception):
        response.cancel()


def _serve(bridge: Bridge, connection: Connection) -> None:
    """The requests of one connection, until it is closed."""
    with contextlib.suppress(EOFError, OSError, _LeftError), connection:
        while True:
            request = pickle.loads(connection.recv_bytes())
            try:
                answer: Any = _answered(bridge, request, connection.poll)
            except _FailedError as error:
                answer = error.failure
            except _LeftError:
                raise
            except Exception as error:
                answer = Failure("failed", f"{type(error).__name__}: {error}")
            if isinstance(answer, Failure) and answer.kind == "failed":
                print(answer.detail, file=sys.stderr, flush=True)
            connection.send_bytes(pickle.dumps(answer, pickle.HIGHEST_PROTOCOL))


def _answered(bridge: Bridge, request: Any, has_left: Callable[[], bool]) -> Any:
    if isinstance(request, Job):
        return bridge.run(request, has_left)
    name, *arguments = request
    if name == "reports":
        return bridge.placement.reports()
    return bridge.unload(*arguments) if name == "unload" else bridge.told(*arguments)


def _joined(cluster: Cluster) -> Any:
    """The handle of the service.

    Raises:
        _FailedError: why there is none.
    """
    import ray
    from ray import serve
    from ray.serve.exceptions import RayServeException

    from vitdemo.cluster.router import APP, DEPLOYMENT

    quiet()
    try:
        ray.init(cluster.address, namespace="vitdemo", log_to_driver=False, configure_logging=False)
    except Exception as error:
        words = str(error)
        if "ersion mismatch" in words:
            raise _FailedError(
                "version", " ".join(line.strip() for line in words.splitlines() if "Ray:" in line)
            ) from None
        raise _FailedError("unreached", words.splitlines()[0] if words else type(error).__name__) from None
    try:
        return serve.get_deployment_handle(DEPLOYMENT, APP)
    except (RayServeException, ValueError, KeyError):
        raise _FailedError("absent") from None


def _watch(bridge: Bridge, cluster: Cluster) -> None:
    """End with the cluster, before Ray does."""
    missed, told = 0, time.monotonic()
    while missed < 2:
        time.sleep(LOOK)
        missed = 0 if is_reachable(cluster.address) else missed + 1
        if not missed and time.monotonic() - told > TELL:
            told = time.monotonic()
            with contextlib.suppress(Exception):
                bridge.told(LOOK)
    os._exit(3)


def _end_with_the_page() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    """Read the cluster from the first line of standard input; write one line, `{}` or what failed; serve until input ends."""
    told = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_page, daemon=True).start()
    cluster = Cluster(**told["cluster"])
    prepare_ray(os.environ, cluster)
    try:
        bridge = Bridge(_joined(cluster), told["hot"])
    except _FailedError as error:
        print(json.dumps({"kind": error.failure.kind, "detail": error.failure.detail}), flush=True)
        os._exit(1)
    threading.Thread(target=_watch, args=(bridge, cluster), daemon=True).start()
    with Listener(told["path"], "AF_UNIX", backlog=64) as listener:
        print("{}", flush=True)
        while True:
            threading.Thread(target=_serve, args=(bridge, listener.accept()), daemon=True).start()


if __name__ == "__main__":
    # By its name, so that what it pickles is of the module that the page knows.
    from vitdemo.cluster import bridge as module

    module.main()
