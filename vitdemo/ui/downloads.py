"""Downloads that run on while people look at other things: two at a time, watched and cancelled by name."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from vitdemo.errors import VitDemoError
from vitdemo.registry import Progress, download

logger = logging.getLogger("vitdemo")

AT_ONCE = 2


@dataclass
class _Job:
    state: Literal["waiting", "running", "done", "failed", "cancelled"] = "waiting"
    progress: Progress | None = None
    error: str = ""
    cancel: threading.Event = field(default_factory=threading.Event)
    future: Future[None] | None = None


class Downloads:
    """One job a model, however many people ask for it. Safe to use from many threads."""

    def __init__(self) -> None:
        self._jobs: dict[str, _Job] = {}
        self._guard = threading.Lock()
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="download")

    def start(self, name: str) -> None:
        """Fetch a model, unless that is under way."""
        with self._guard:
            job = self._jobs.get(name)
            if job is None or job.state not in ("waiting", "running"):
                job = self._jobs[name] = _Job()
                job.future = self._pool.submit(self._run, name, job)

    def cancel(self, name: str) -> None:
        """Stop a download; what has come is kept for the next one."""
        with self._guard:
            job = self._jobs.get(name)
            if job is not None:
                job.cancel.set()

    def forget(self, name: str) -> None:
        """Drop what is remembered of a download that has ended."""
        with self._guard:
            if name in self._jobs and self._jobs[name].state not in ("waiting", "running"):
                del self._jobs[name]

    @property
    def active(self) -> bool:
        """Whether anything is under way."""
        with self._guard:
            return any(job.state in ("waiting", "running") for job in self._jobs.values())

    def states(self) -> dict[str, dict[str, Any]]:
        """How each download is, as the page shows it."""
        with self._guard:
            return {name: _json(job) for name, job in self._jobs.items()}

    def _run(self, name: str, job: _Job) -> None:
        def report(progress: Progress) -> None:
            job.progress = progress

        job.state = "running"
        try:
            if not job.cancel.is_set():
                download(name, report, job.cancel)
            job.state = "cancelled" if job.cancel.is_set() else "done"
        except VitDemoError as error:
            job.error = str(error)
            job.state = "cancelled" if job.cancel.is_set() else "failed"
        except Exception:
            logger.exception("A download failed")
            job.error = "Something went wrong on the server. It was logged; please try again."
            job.state = "failed"


def _json(job: _Job) -> dict[str, Any]:
    progress = job.progress
    return {
        "state": job.state,
        "error": job.error,
        "stopping": job.cancel.is_set() and job.state == "running",
        "done": progress.done if progress else 0,
        "total": progress.total if progress else 0,
        "speed": progress.speed if progress else 0,
        "remaining": progress.remaining if progress else None,
    }
