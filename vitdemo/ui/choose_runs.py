"""Comparisons of models on people's photos: one at a time, in a thread of the server, which shares its models with the page."""

from __future__ import annotations

import itertools
import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitdemo.errors import ChoiceStoppedError, OptionError, ResultExpiredError, VitDemoError
from vitdemo.evaluation.choose import (
    Choice,
    ChooseRequest,
    FeatureStore,
    choose,
    read_labels,
    relabelled,
)
from vitdemo.pipeline import Pipeline
from vitdemo.registry import get_spec
from vitdemo.ui.choose_questions import Questions
from vitdemo.ui.choose_settings import ChooseForm, limits
from vitdemo.ui.choose_visitor import State, Visitor, key_of, put_file, put_photos, reporter
from vitdemo.ui.temporary import folder_beside_uploads

KEPT = 3
"""Visitors whose photos and results are kept."""

MEMORY = 1_000_000_000
"""Bytes of features of all results; older ones go for a new one."""

FORGOTTEN = 7200.0
"""Seconds after its last comparison after which a visitor's photos, features and result are deleted."""

SHORTEST_TOKEN = 16

logger = logging.getLogger("vitdemo")


class ChooseRuns:
    """The comparisons of one server. Safe to use from many threads."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline, self.settings = pipeline, pipeline.settings
        self.limits = limits(pipeline.settings)
        self._visitors: dict[str, Visitor] = {}
        """The one who was here last is the last one."""
        self._guard = threading.Lock()
        self._numbers = itertools.count(1)
        self._folder: Path | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self.questions = Questions()

    @property
    def current(self) -> Visitor | None:
        """Whose comparison is under way."""
        return next((one for one in list(self._visitors.values()) if one.under_way), None)

    def mine(self, owner: str) -> Visitor | None:
        """What this browser has here."""
        return self._visitors.get(key_of(owner))

    def start(self, owner: str, form: ChooseForm, data: Mapping[str, Any], folders: bool) -> Visitor:
        """Begin a comparison.

        Args:
            owner: what its page alone knows, and shows again to stop it.
            data: see `vitdemo.ui.train_data.put_data`; of the kind `same` are the photos of the last comparison. `boxes` and
                `labels` are uploads of their own.
            folders: whether a folder of the server may be named.

        Raises:
            OptionError: another one is running, or something was not chosen.
            InputError: the photos cannot be stored.
        """
        visitor = self._take_place(owner)
        before = visitor.request
        try:
            path, own = put_photos(visitor, data, self.limits.megabytes, folders)
            extra = {name: put_file(visitor, data.get(name), name) for name in ("boxes", "labels")}
            labels: Mapping[str, str] | None = read_labels(extra["labels"]) if extra["labels"] else None
            if data.get("kind") == "same" and before is not None:
                labels, extra["boxes"] = labels or before.labels, extra["boxes"] or before.boxes
        except BaseException as error:
            with self._guard:
                visitor.state, visitor.said = "failed", str(error) if isinstance(error, VitDemoError) else ""
            raise
        visitor.form, visitor.own_store, visitor.labels = form, own, None
        visitor.request = ChooseRequest(
            (path,),
            folds=form.folds,
            k=form.k,
            labels=labels,
            ignore_labels=form.ignore_labels,
            boxes=extra["boxes"],
            most=self.limits.photos,
        )
        self._begin(visitor, self._compare)
        return visitor

    def relabel(self, owner: str, labels: Mapping[str, str]) -> Visitor:
        """Compare anew with other labels, on the features of the last result.

        Raises:
            OptionError: another comparison is running.
            ResultExpiredError: there is no result.
        """
        self.result(owner)
        visitor = self._take_place(owner)
        visitor.labels = labels
        if visitor.request is not None:
            # What is compared on these photos from now on has these labels.
            visitor.request = replace(visitor.request, labels=labels, ignore_labels=False)
        self._begin(visitor, self._relabel)
        return visitor

    def resume(self, owner: str) -> None:
        """Go on with one's own comparison that was stopped or failed: what was computed is not computed again.

        Raises:
            OptionError: there is none, or another one is running.
        """
        visitor = self.mine(owner)
        if visitor is None or visitor.under_way or visitor.request is None:
            raise OptionError("There is no comparison to resume. Start one.")
        visitor = self._take_place(owner)
        self._begin(visitor, self._relabel if visitor.labels is not None else self._compare)

    def stop(self, owner: str) -> None:
        """Ask one's own comparison to end after the present photos.

        Raises:
            OptionError: it is somebody else's, or none is running.
        """
        visitor = self.mine(owner)
        with self._guard:
            if visitor is None or not visitor.under_way:
                raise OptionError("None of your comparisons is running.")
            visitor.state = "stopping"
            visitor.stop.set()

    def result(self, owner: str) -> tuple[Visitor, Choice]:
        """What this browser's last comparison has given.

        Raises:
            ResultExpiredError: it is no longer here.
        """
        visitor = self.mine(owner)
        if visitor is None or visitor.choice is None:
            raise ResultExpiredError(
                "The server no longer has this result: it keeps those of the last visitors, for two hours. Compare again."
            )
        visitor.used = time.monotonic()
        return visitor, visitor.choice

    def close(self) -> None:
        """End what is running, and delete everything: the server ends."""
        with self._guard:
            self._closed = True
            for visitor in self._visitors.values():
                visitor.stop.set()
        self.questions.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(5.0)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _take_place(self, owner: str) -> Visitor:
        """The place in which one comparison runs, for this browser.

        Raises:
            OptionError: it is taken, or the page has no secret.
        """
        if len(owner) < SHORTEST_TOKEN:
            raise OptionError("This page is out of date: reload it.")
        with self._guard:
            if self._closed or self.current is not None:
                raise OptionError(
                    "A comparison is running on this server, and one runs at a time: wait until it has ended, or been stopped."
                )
            key = key_of(owner)
            visitor = self._visitors.pop(key, None) or Visitor(owner, self._place() / key)
            self._visitors[key] = visitor
            visitor.state, visitor.said, visitor.number = "preparing", "", next(self._numbers)
            visitor.stop, visitor.progress, visitor.models = threading.Event(), None, {}
            visitor.used = time.monotonic()
            for old in list(self._visitors)[:-KEPT]:
                self._forget(old)
        visitor.folder.mkdir(parents=True, exist_ok=True)
        return visitor

    def _begin(self, visitor: Visitor, work: Callable[[Visitor], Choice]) -> None:
        with self._guard:
            visitor.state = "stopping" if visitor.stop.is_set() else "running"
            name = f"choose {visitor.number}"
            self._thread = threading.Thread(target=self._run, args=(visitor, work), name=name, daemon=True)
        self._thread.start()

    def _run(self, visitor: Visitor, work: Callable[[Visitor], Choice]) -> None:
        choice: Choice | None = None
        state: State = "done"
        said = ""
        try:
            choice = work(visitor)
        except ChoiceStoppedError as error:
            state, said = "stopped", str(error)
            if not visitor.stop.is_set():
                said = f"The limit of this page, {self.limits.minutes:g} minutes, is reached. {said}"
        except VitDemoError as error:
            state, said = "failed", str(error)
        except Exception:
            logger.exception("A comparison failed")
            state, said = "failed", "Something went wrong on the server. It was logged; please try again."
        with self._guard:
            if choice is not None:
                visitor.choice, visitor.choice_number = choice, visitor.number
                self._make_room(visitor)
            visitor.used = time.monotonic()
            visitor.state, visitor.said = state, said
        if not self._closed:
            later = threading.Timer(FORGOTTEN, self._forget_if_left)
            later.daemon = True
            later.start()

    def _compare(self, visitor: Visitor) -> Choice:
        assert visitor.form is not None
        assert visitor.request is not None
        store = (
            FeatureStore(visitor.folder / "features", int(self.settings.features_mb * 1e6 / KEPT))
            if visitor.own_store
            else FeatureStore.default(self.settings)
        )
        until = time.monotonic() + 60 * self.limits.minutes
        return choose(
            self.pipeline,
            [get_spec(name) for name in visitor.form.models],
            visitor.request,
            store=store,
            report=reporter(visitor),
            stopped=lambda: visitor.stop.is_set() or time.monotonic() > until,
        )

    def _relabel(self, visitor: Visitor) -> Choice:
        assert visitor.choice is not None
        assert visitor.labels is not None
        return relabelled(visitor.choice, visitor.labels, reporter(visitor))

    def _make_room(self, visitor: Visitor) -> None:
        """Older results go, where the features of all take too much memory."""
        for key in [key for key, one in self._visitors.items() if one is not visitor]:
            if sum(one.bytes for one in self._visitors.values()) > MEMORY:
                self._forget(key)

    def _forget(self, key: str) -> None:
        visitor = self._visitors.pop(key)
        visitor.choice = None
        shutil.rmtree(visitor.folder, ignore_errors=True)

    def _forget_if_left(self) -> None:
        with self._guard:
            before = time.monotonic() - FORGOTTEN
            for key in [key for key, one in self._visitors.items() if not one.under_way and one.used <= before]:
                self._forget(key)

    def _place(self) -> Path:
        """Goes with the server."""
        if self._folder is None:
            self._folder = folder_beside_uploads("chosen-", self.close)
        return self._folder
