"""Trainings of the page: `python -m vitdemo train` as a process of its own, one at a time, so that it can be stopped and the page
stays quick."""

from __future__ import annotations

import hmac
import itertools
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import vitdemo.settings
from vitdemo.engine import Backend
from vitdemo.errors import OptionError, TrainingError, VitDemoError
from vitdemo.interrupt import INTERRUPTED
from vitdemo.registry import add_folder, available_models, forget_folder
from vitdemo.settings import Settings
from vitdemo.training.config import STATE
from vitdemo.types import ModelSpec, Photo
from vitdemo.ui.temporary import folder_beside_uploads
from vitdemo.ui.train_data import put_data, put_photo
from vitdemo.ui.train_log import UNDER_WAY, Run, State, fault, forget_photos
from vitdemo.ui.train_settings import TrainRequest

KEPT = 4
"""Trained models that stay; the oldest goes when another one is trained."""

FORGOTTEN = 7200.0
"""Seconds after which the photos of a training that was stopped are deleted: it cannot be resumed any more."""

GENTLE = 10
"""By how much the training gives way to the page (as `nice` counts)."""

PATIENCE = 20.0
"""Seconds that a training which is told to end with the server may take."""

SHORTEST_TOKEN = 16

logger = logging.getLogger("vitdemo")


class TrainingRuns:
    """The trainings of one server. Safe to use from many threads."""

    def __init__(self, settings: Settings, backend: Backend) -> None:
        self.settings, self.backend = settings, backend
        self.current: Run | None = None
        self._guard = threading.Lock()
        self._numbers = itertools.count(1)
        self._folder: Path | None = None
        self._kept: list[Run] = []
        self._closed = False

    def start(self, owner: str, request: TrainRequest, data: Mapping[str, Any], photo: Photo, folders: bool) -> Run:
        """Begin a training.

        Args:
            owner: what its page alone knows, and shows again to stop it.
            data: see `vitdemo.ui.train_data.put_data`, with `folders`.
            photo: whose attention is watched.

        Raises:
            OptionError: another one is running, or something was not chosen.
            InputError: the photos cannot be stored.
        """
        if len(owner) < SHORTEST_TOKEN:
            raise OptionError("This page is out of date: reload it.")
        with self._guard:
            if self._closed or (self.current is not None and self.current.state in UNDER_WAY):
                raise OptionError(
                    "A training is running on this server, and one runs at a time: wait until it has ended, or been stopped."
                )
            if self.current is not None:
                forget_photos(self.current)
            number = next(self._numbers)
            run = Run(number, self._free_name(), owner, request, self._place() / str(number))
            self.current = run
        try:
            run.data = put_data(data, run.folder / "data", self.settings.train_mb, folders)
            run.photo = put_photo(photo, run.folder / "photo")
        except BaseException:
            with self._guard:
                self.current = None
            shutil.rmtree(run.folder, ignore_errors=True)
            raise
        self._begin(run)
        return run

    def mine(self, owner: str) -> Run | None:
        """The training that this page started, if it is the last one."""
        run = self.current
        return run if run is not None and hmac.compare_digest(run.owner.encode(), owner.encode()) else None

    def stop(self, owner: str) -> None:
        """Ask one's own training to end after its step, and to leave what it has learned.

        Raises:
            OptionError: it is somebody else's, or none is running.
        """
        run = self.mine(owner)
        with self._guard:
            if run is None or run.state not in ("running", "stopping") or run.process is None:
                raise OptionError("None of your trainings is running.")
            run.state = "stopping"
            run.process.send_signal(signal.SIGTERM)

    def resume(self, owner: str) -> None:
        """Go on with one's own training that was stopped.

        Raises:
            OptionError: there is none, or its photos are no longer here.
        """
        run = self.mine(owner)
        with self._guard:
            if run is None or not run.resumable:
                raise OptionError("This training cannot be resumed: it has ended, or its photos are no longer here.")
            run.state, run.said = "preparing", ""
        self._begin(run)

    def archive(self, owner: str, cache: Path) -> Path:
        """The model folder of one's own training, as a new zip file in `cache`.

        Raises:
            OptionError: there is no model yet.
        """
        run = self.mine(owner)
        if run is None or run.model is None:
            raise OptionError("There is no trained model to download yet.")
        path = Path(tempfile.mkdtemp(dir=cache)) / f"{run.name}.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as packed:
            for file in sorted(run.out.iterdir()):
                if file.is_file() and file.name != STATE:
                    packed.write(file, f"{run.name}/{file.name}")
        return path

    def close(self) -> None:
        """End what is running, and delete everything: the server ends."""
        with self._guard:
            self._closed = True
            process = self.current.process if self.current is not None else None
        if process is not None and process.poll() is None:
            process.kill()
            process.wait(PATIENCE)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _begin(self, run: Run) -> None:
        package = str(Path(vitdemo.settings.__file__).resolve().parents[1])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        command = [sys.executable, "-m", "vitdemo", *run.command(self.settings.device == "cpu")]
        try:
            with run.errors.open("wb") as errors:
                process = subprocess.Popen(
                    command,
                    cwd=run.folder,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    # Ctrl-C in the terminal of the server ends the server, which then ends this.
                    start_new_session=True,
                )
        except OSError as error:
            with self._guard:
                run.state = "failed"
            raise TrainingError(f"The training cannot be started: {error.strerror or 'the system refused'}.") from None
        if hasattr(os, "setpriority"):
            with suppress(OSError):  # it may have ended already
                os.setpriority(os.PRIO_PROCESS, process.pid, GENTLE)
        with self._guard:
            run.process, run.state = process, "running"
        threading.Thread(target=self._follow, args=(run, process), name=f"training {run.number}", daemon=True).start()

    def _follow(self, run: Run, process: subprocess.Popen[bytes]) -> None:
        """Wait for the end, and see what has come of it."""
        status = process.wait()
        if self._closed:
            return
        run.log.read()
        said = ""
        state: State = "done" if status == 0 else "stopped"
        model: ModelSpec | None = run.model
        try:
            if status in (0, INTERRUPTED) and run.log.losses:
                model = self._added(run)
            elif status in (INTERRUPTED, -signal.SIGTERM):
                said = "Stopped before the first step."
            else:
                state, said = "failed", fault(run.errors)
                if not said:
                    logger.error("A training failed (%s): %s", status, _tail(run.errors))
                    said = "Something went wrong on the server. It was logged; please try again."
        except VitDemoError as error:
            state, said = "failed", str(error)
        if state == "done":
            # Before it is told: who reads that it has ended may rely on it.
            forget_photos(run)
        with self._guard:
            run.model, run.said, run.state = model, said, state
        if state != "done":
            later = threading.Timer(FORGOTTEN, self._forget_if_left, (run, process))
            later.daemon = True
            later.start()

    def _forget_if_left(self, run: Run, process: subprocess.Popen[bytes]) -> None:
        with self._guard:
            if run.process is process:
                forget_photos(run)

    def _added(self, run: Run) -> ModelSpec:
        """The model among those of the server; one of the same name, before it was resumed, is taken out of memory."""
        if run.model is not None:
            self.backend.unload(run.model)
        model = add_folder(str(run.out))
        with self._guard:
            old = [] if run in self._kept else self._kept[: max(0, len(self._kept) - KEPT + 1)]
            self._kept = [*(one for one in self._kept if one not in (*old, run)), run]
        for one in old:
            if one.model is not None:
                self.backend.unload(one.model)
            forget_folder(one.name)
            shutil.rmtree(one.folder, ignore_errors=True)
        return model

    def _free_name(self) -> str:
        taken = {spec.name for spec in available_models()} | {run.name for run in self._kept}
        return next(name for name in (f"trained-{number}" for number in itertools.count(1)) if name not in taken)

    def _place(self) -> Path:
        """Goes with the server."""
        if self._folder is None:
            self._folder = folder_beside_uploads("trained-", self.close)
        return self._folder


def _tail(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[-2000:]
    except OSError:
        return ""
