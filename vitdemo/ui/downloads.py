"""Downloads in the background: two at a time, followed and cancelled by name."""

from __future__ import annotations

import logging
import threading
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
    asked_by: set[str] = field(default_factory=set)
    """Visitors who started it: what fails is told to them."""
    cancel: threading.Event = field(default_factory=threading.Event)

    @property
    def under_way(self) -> bool:
        return self.state in ("waiting", "running")


class Downloads:
    """One job per model, however many people start it. Safe to use from many threads."""

    def __init__(self) -> None:
        self._jobs: dict[str, _Job] = {}
        """In the order in which they were started."""
        self._guard = threading.Lock()

    def start(self, name: str, visitor: str = "") -> None:
        """Download a model, unless that is under way."""
        with self._guard:
            if name not in self._jobs or not self._jobs[name].under_way:
                self._jobs.pop(name, None)
                self._jobs[name] = _Job()
                self._next()
            self._jobs[name].asked_by.add(visitor)

    def cancel(self, name: str) -> None:
        """Stop a download; what has arrived is kept for the next one."""
        with self._guard:
            job = self._jobs.get(name)
            if job is not None:
                job.cancel.set()
                if job.state == "waiting":
                    job.state = "cancelled"

    def forget(self, name: str) -> None:
        """Drop the record of a download that has ended."""
        with self._guard:
            if name in self._jobs and not self._jobs[name].under_way:
                del self._jobs[name]

    def under_way(self, name: str) -> bool:
        """Whether this one is coming, or waits for its turn."""
        with self._guard:
            return name in self._jobs and self._jobs[name].under_way

    @property
    def active(self) -> bool:
        """Whether anything is under way."""
        with self._guard:
            return any(job.under_way for job in self._jobs.values())

    def states(self, visitor: str = "") -> dict[str, dict[str, Any]]:
        """The state of each download, as the page of a visitor shows it: failures are those of the visitor's own."""
        with self._guard:
            return {
                name: _json(job) for name, job in self._jobs.items() if job.state != "failed" or visitor in job.asked_by
            }

    def _next(self) -> None:
        """Start those that have waited longest; to be called with the guard held."""
        free = AT_ONCE - sum(job.state == "running" for job in self._jobs.values())
        waiting = [(name, job) for name, job in self._jobs.items() if job.state == "waiting"]
        for name, job in waiting[:free]:
            job.state = "running"
            # A daemon, unlike an executor's threads: the app ends without waiting for it.
            threading.Thread(target=self._run, args=(name, job), name=f"download {name}", daemon=True).start()

    def _run(self, name: str, job: _Job) -> None:
        def report(progress: Progress) -> None:
            job.progress = progress

        state: Literal["done", "failed", "cancelled"] = "failed"
        try:
            download(name, report, job.cancel)
            state = "done"
        except VitDemoError as error:
            job.error = str(error)
            state = "cancelled" if job.cancel.is_set() else "failed"
        except Exception:
            logger.exception("A download failed")
            job.error = "Something went wrong on the server. It was logged; please try again."
        finally:
            with self._guard:
                job.state = state
                self._next()


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
