"""The Train tab: a network learns on somebody's own photos, and one sees its attention emerge."""

from __future__ import annotations

import html
import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from vitdemo.errors import OptionError, VitDemoError
from vitdemo.pipeline import Pipeline
from vitdemo.training.strip import STRIP, Strip, read_strip, shipped_strip
from vitdemo.types import Photo
from vitdemo.ui.components.photo import PhotoInput
from vitdemo.ui.components.trainer import strip_value, trainer
from vitdemo.ui.errors import user_errors
from vitdemo.ui.examples import examples, opened
from vitdemo.ui.given import number_of
from vitdemo.ui.joining import JoinedTabs
from vitdemo.ui.models import policy_of
from vitdemo.ui.state import Values
from vitdemo.ui.train_log import UNDER_WAY, Run, skipped
from vitdemo.ui.train_settings import MISSING, can_train, offers, read_request
from vitdemo.ui.training_runs import TrainingRuns

PHASES = {
    "preparing": "Storing the photos",
    "running": "Training",
    "stopping": "Stopping after this step, and evaluating",
    "stopped": "Stopped",
    "done": "Trained",
    "failed": "Failed",
}

logger = logging.getLogger("vitdemo")


class TrainTab:
    """Built inside an open `gr.Tab`; `connect` wires it.

    What a browser asks while a training runs passes no queue: it reads what the training has written.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline, self.settings = pipeline, pipeline.settings
        self.runs = TrainingRuns(pipeline.settings, pipeline.backend)
        self.folders = policy_of(pipeline.settings) == "any"
        """Whether a folder of the server may be named: where models in folders of the server may be added, too."""

        def training(query: dict[str, Any]) -> dict[str, Any]:
            return self._answer(query)

        self.view = trainer(offers(pipeline.settings, self.folders), training, elem_id="trainer")
        self._read = threading.Lock()

    def connect(self, photo: PhotoInput, tabs: JoinedTabs) -> None:
        """Watch the page's photo, and let trained models join the other tabs."""
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": 8}

        def on_begin(found: Any, event: gr.EventData) -> dict[str, Any]:
            number = number_of(event)
            try:
                with user_errors():
                    self.begin(found, event)
                return {"number": number, "begun": True}
            except gr.Error as error:
                # In its place on the page: it is text there.
                return {"number": number, "error": html.unescape(error.message)}

        def on_pack(event: gr.EventData) -> dict[str, Any]:
            number = number_of(event)
            try:
                with user_errors():
                    path = self.runs.archive(_token(event), Path(self.view.GRADIO_CACHE))
            except gr.Error as error:
                return {"number": number, "error": html.unescape(error.message)}
            file = {"path": str(path), "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}
            return {"number": number, "file": file}

        def on_join(values: Values, event: gr.EventData) -> Values:
            """What was trained is offered in every tab, and is what Explain and Compare show next."""
            run = self.runs.mine(_token(event))
            if run is None or run.model is None:
                return {tabs.compared: gr.skip()}
            return tabs.join(run.name, values)

        self.view.begin(on_begin, photo, self.view, trigger_mode="multiple", **private)
        self.view.pack(on_pack, None, self.view, trigger_mode="multiple", **private)
        self.view.join(on_join, tabs.inputs, tabs.outputs, trigger_mode="multiple", **private)

    def begin(self, photo: object, event: gr.EventData) -> Run:
        """Start what a page asks for.

        Raises:
            VitDemoError: it cannot be.
        """
        if not can_train():
            raise OptionError(MISSING)
        if not isinstance(photo, Photo):
            raise OptionError("Drop a photo, or choose an example: its attention is watched.")
        given, data = getattr(event, "settings", None), getattr(event, "data", None)
        request = read_request(given if isinstance(given, dict) else {}, self.settings)
        return self.runs.start(_token(event), request, data if isinstance(data, dict) else {}, photo, self.folders)

    def _answer(self, query: Any) -> dict[str, Any]:
        try:
            owner, action = str(query["token"]), query["action"]
            if action == "shipped":
                return self._shipped()
            if action == "stop":
                self.runs.stop(owner)
            elif action == "resume":
                self.runs.resume(owner)
            return self.progress(owner, int(query.get("run") or 0), int(query.get("known") or 0))
        except VitDemoError as error:
            return {"error": str(error)}
        except (KeyError, TypeError, ValueError, AttributeError):
            return {"error": "The question was not understood."}
        except Exception:
            logger.exception("A query of a page failed")
            return {"error": "Something went wrong on the server. It was logged; please try again."}

    def progress(self, owner: str, run: int = 0, known: int = 0) -> dict[str, Any]:
        """How far the training is; of somebody else's only that there is one.

        Args:
            run: the number of the training that the browser shows.
            known: the last step of its strip that the browser has.
        """
        current = self.runs.current
        if current is None:
            return {"run": 0}
        with self._read:
            current.log.read()
            log = current.log
            shown: dict[str, Any] = {"step": log.step, "steps": log.steps, "under_way": current.state in UNDER_WAY}
            if self.runs.mine(owner) is not current:
                return {"run": 0, **(shown if current.state in UNDER_WAY else {})}
            curves = log.curves()
        return {
            "run": current.number,
            **shown,
            "mine": True,
            "state": current.state,
            "phase": _phase(current),
            "said": current.said,
            "classifies": current.request.recipe == "supervised",
            "speed": log.speed,
            "left": log.left,
            "resumable": current.resumable,
            "model": current.name if current.model is not None else "",
            "curves": curves,
            "notes": _notes(current),
            "strip": self._strip(current, known if run == current.number else 0),
        }

    def _strip(self, run: Run, known: int) -> dict[str, Any] | None:
        path = run.out / STRIP
        if not path.exists():
            return None
        watched = self.pipeline.open(run.folder / run.photo) if not known else None
        return strip_value(read_strip(path), replace(watched, name=Path(run.photo).name) if watched else None, known)

    def _shipped(self) -> dict[str, Any]:
        strip = shipped_strip()
        example = next(one for one in examples() if one.path.name == strip.photo)
        return {"strip": strip_value(strip, opened(self.pipeline, example)), "about": provenance(strip)}


def provenance(strip: Strip) -> str:
    """Where the shipped strip comes from, in words."""
    about = strip.about
    return (
        f"Our own run: the ViT written out in plain PyTorch ({about['size']}), from random weights, on {about['photos']:,} "
        f"photos of {about['source']} ({about['license']}) at {about['resolution']} px, recipe {about['recipe']}, batches of "
        f"{about['batch']}, {about['minutes']:g} minutes on {about['machine']}. Only these maps ship, no weights."
    )


def _phase(run: Run) -> str:
    if run.state == "running" and not run.log.losses:
        return "Reading the photos, and measuring the speed of this machine"
    return PHASES[run.state]


def _notes(run: Run) -> list[str]:
    if run.state in UNDER_WAY or not (found := skipped(run.errors)):
        return []
    files = "1 file was" if len(found) == 1 else f"{len(found)} files were"
    return [f"{files} left out: {found[0][:200]}"]


def _token(event: gr.EventData) -> str:
    return str(getattr(event, "token", "") or "")
