"""What a page asks of a result, where the answer may take minutes: it asks again until the answer is there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vitdemo.errors import OptionError
from vitdemo.ui.choose_visitor import Visitor

STILL = 1.0
"""Seconds for which an answer is waited for, before the page is told to ask again."""

MOST = 32
"""What one page may have computed at the same time."""


class Questions:
    """Safe to use from many threads."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._workers = ThreadPoolExecutor(2, thread_name_prefix="vitdemo-look")

    def ask(self, visitor: Visitor, question: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `work` returns, or that it is still being computed: a request must not wait for minutes.

        Raises:
            VitDemoError: what `work` raises.
        """
        question = f"{visitor.choice_number} {question}"
        with self._guard:
            if len(visitor.asked) >= MOST and question not in visitor.asked:
                raise OptionError("Too much is being computed for this page already. Wait a moment.")
            future = visitor.asked.get(question) or self._workers.submit(work)
            visitor.asked[question] = future
        try:
            return future.result(STILL)
        except TimeoutError:
            return future.result() if future.done() else {"pending": True}
        finally:
            if future.done():
                with self._guard:
                    visitor.asked.pop(question, None)

    def close(self) -> None:
        self._workers.shutdown(wait=False, cancel_futures=True)
