"""A stand-in for the `spaces` package on ZeroGPU, on CPU tensors: a decorated function runs in a forked process.

It loses what the real one loses (spaces 0.51, `spaces/zero/wrappers.py`): threads, ContextVars, changes, and the message of every
error that is no `gr.Error`; locks that were held at the fork stay held; the process is daemonic; arguments and results are
pickled. No worker is kept warm, so that nothing can be found in it that an earlier call has left.
"""

from __future__ import annotations

import contextvars
import faulthandler
import inspect
import multiprocessing
import os
import pickle
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
import pytest

from vitdemo.models.loading import Classifier

PATIENCE = 30.0
"""Seconds after which a call that has no answer is taken to hang."""


class HangsError(Exception):
    """No answer of the forked process."""


class Spaces(types.ModuleType):
    """What `import spaces` gives."""

    def __init__(self) -> None:
        super().__init__("spaces")
        self.durations: list[float] = []
        """What each call asked for, in seconds."""
        self.decorated = 0
        self.refuse: Exception | None = None
        """What the scheduler says instead of lending a GPU."""
        self.dies = False
        """Whether the worker ends before it answers."""
        self.outside: list[str] = []
        """Models that ran, or were differentiated, in this process."""
        self.before_fork: Callable[[], None] = lambda: None

    def disable_gradio_auto_wrap(self) -> None: ...

    def GPU(  # noqa: N802
        self, task: Callable[..., Any] | None = None, *, duration: Any = None, size: str | None = None
    ) -> Any:
        if task is None:
            return lambda found: self.GPU(found, duration=duration, size=size)
        if inspect.iscoroutinefunction(task):
            raise NotImplementedError
        self.decorated += 1

        def handler(*arguments: Any) -> Any:
            self.durations.append(duration(*arguments) if callable(duration) else duration or 60)
            if self.refuse is not None:
                raise self.refuse
            try:
                return self._forked(task, pickle.dumps(arguments))
            except HangsError:
                # A thread of another test in this process may have held a lock by chance. What always holds one hangs again.
                return self._forked(task, pickle.dumps(arguments))

        return handler

    def _forked(self, task: Callable[..., Any], arguments: bytes) -> Any:
        context = multiprocessing.get_context("fork")
        reader, writer = context.Pipe(duplex=False)
        self.before_fork()
        process = context.Process(target=self._work, args=(task, arguments, writer), daemon=True)
        process.start()
        writer.close()
        try:
            if not reader.poll(PATIENCE):
                process.kill()
                raise HangsError("the forked process hangs: it waits for a lock or a thread of its parent")
            ok, answer = pickle.loads(reader.recv_bytes())
        except EOFError:
            raise gr.Error("GPU task aborted", title="ZeroGPU worker error", print_exception=False) from None
        finally:
            process.join(5)
        if not ok:
            raise gr.Error(answer, title="ZeroGPU worker error", print_exception=False)
        return answer

    def _work(self, task: Callable[..., Any], arguments: bytes, writer: Any) -> None:
        if self.dies:
            os._exit(9)
        # Where it hangs, so that a report of the test says so.
        faulthandler.dump_traceback_later(PATIENCE - 5, file=sys.__stderr__)

        def run() -> None:
            try:
                answer = True, task(*pickle.loads(arguments))
            except Exception as error:
                answer = False, type(error).__name__
            writer.send_bytes(pickle.dumps(answer))

        # In another thread, with a context of nothing.
        thread = threading.Thread(target=lambda: contextvars.Context().run(run))
        thread.start()
        thread.join()


@contextmanager
def standing_in(patch: pytest.MonkeyPatch) -> Iterator[Spaces]:
    """A Space on ZeroGPU: the module, its variables, and a watch on what models do in this process."""
    spaces, parent = Spaces(), os.getpid()
    patch.setitem(sys.modules, "spaces", spaces)
    patch.setenv("SPACES_ZERO_GPU", "true")
    for name in ("forward", "reconstruct", "features"):
        method = getattr(Classifier, name)

        def watched(model: Classifier, *arguments: Any, method: Any = method, **options: Any) -> Any:
            if os.getpid() == parent:
                spaces.outside.append(model.spec.name)
            return method(model, *arguments, **options)

        patch.setattr(Classifier, name, watched)
    yield spaces
