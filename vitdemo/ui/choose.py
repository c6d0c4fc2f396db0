"""The Choose tab: which of several models suits somebody's own photos, and why."""

from __future__ import annotations

import html
import json
import logging
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import gradio as gr
from gradio import processing_utils

from vitdemo.errors import OptionError, ResultExpiredError, VitDemoError
from vitdemo.evaluation.choose import (
    Choice,
    Progress,
    choice_csv,
    choice_json,
    labels_csv,
    labels_json,
    photos_csv,
    report_html,
)
from vitdemo.images.class_folders import read_file
from vitdemo.pipeline import Pipeline
from vitdemo.ui.choose_probes import Probes
from vitdemo.ui.choose_runs import ChooseRuns
from vitdemo.ui.choose_settings import models_offered, offers, read_form
from vitdemo.ui.choose_views import VIEWS, named, result_view, view_of
from vitdemo.ui.choose_visitor import Visitor
from vitdemo.ui.components.chooser import chooser
from vitdemo.ui.components.photo import PagePhoto
from vitdemo.ui.errors import user_errors
from vitdemo.ui.given import number_of
from vitdemo.ui.joining import JoinedTabs
from vitdemo.ui.links import LinkState
from vitdemo.ui.models import policy_of
from vitdemo.ui.state import COMPARE, PageState, Values
from vitdemo.ui.train_data import safe_name

FILES = {
    "json": ("vitdemo-choice.json", "application/json", lambda choice: _written(choice_json(choice))),
    "csv": ("vitdemo-models.csv", "text/csv", choice_csv),
    "photos": ("vitdemo-photos.csv", "text/csv", photos_csv),
    "report": ("vitdemo-report.html", "text/html", report_html),
}
"""Name, type and content of each file of a result."""

logger = logging.getLogger("vitdemo")


class ChooseTab:
    """Built inside an open `gr.Tab`; `connect` wires it.

    What a browser asks while a comparison runs passes no queue: it reads how far that is, or what it has left.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline, self.settings = pipeline, pipeline.settings
        self.runs, self.probes = ChooseRuns(pipeline), Probes(pipeline.backend)
        self.folders = policy_of(pipeline.settings) == "any"
        """Whether a folder of the server may be named: where models in folders of the server may be added, too."""
        self.offered = offers(pipeline.settings, self.folders, pipeline.backend.borrowed)

        def choosing(query: dict[str, Any]) -> dict[str, Any]:
            return self.answer(query)

        self.view = chooser(self.offered, choosing, elem_id="chooser")

    def connect(self, photo: PagePhoto, tabs: gr.Tabs, joined: JoinedTabs, state: gr.State) -> None:
        """Let photos be handed to Compare, and probes join the other tabs."""
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": 8}
        private |= {"trigger_mode": "multiple"}

        def on_begin(event: gr.EventData) -> dict[str, Any]:
            def begin() -> dict[str, Any]:
                self.begin(event)
                return {"begun": True}

            return _told(event, begin)

        def on_pack(event: gr.EventData) -> dict[str, Any]:
            def pack() -> dict[str, Any]:
                visitor, _ = self.runs.result(_token(event))
                cache = Path(self.view.GRADIO_CACHE)
                source = str(getattr(event, "model", ""))
                path = self.probes.archive(visitor.owner, visitor.choice_number, source, cache)
                return {"file": {"path": str(path), "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}}

            return _told(event, pack)

        def on_probe(values: Values, event: gr.EventData) -> Values:
            """The probe becomes a model, which is offered in every tab, and is what Explain and Compare show next."""
            found: Values = {}

            def probe() -> dict[str, Any]:
                name = self.probe(event)
                found.update(joined.join(name, values))
                return {"probe": name, "models": models_offered()}

            return {self.view: _told(event, probe), **found}

        def on_show(page_state: PageState, event: gr.EventData) -> Values:
            """A photo is looked at in Compare, by the models of the result."""
            found: Values = {}

            def show() -> dict[str, Any]:
                visitor, choice = self.runs.result(_token(event))
                found[photo] = self.file_of(choice, getattr(event, "photo", None), photo.GRADIO_CACHE)
                found.update(joined.compare(visitor.choice.features if visitor.choice else ()))
                found[tabs] = gr.update(selected=COMPARE)
                page_state.tab = COMPARE
                return {"shown": True}

            return {self.view: _told(event, show), **found}

        self.view.begin(on_begin, None, self.view, **private)
        self.view.pack(on_pack, None, self.view, **private)
        self.view.probe(on_probe, joined.inputs, [self.view, *joined.outputs], **private)
        self.view.show(on_show, state, [self.view, photo, joined.compared, tabs], **private)

    def begin(self, event: gr.EventData) -> Visitor:
        """Start what a page asks for.

        Raises:
            VitDemoError: it cannot be.
        """
        if self.offered["missing"]:
            raise OptionError(self.offered["missing"])
        given, data = getattr(event, "settings", None), getattr(event, "data", None)
        form = read_form(given if isinstance(given, dict) else {}, self.settings)
        return self.runs.start(_token(event), form, data if isinstance(data, dict) else {}, self.folders)

    def probe(self, event: gr.EventData) -> str:
        """Fit a model's probe, as a model of the page; its name.

        Raises:
            VitDemoError: it cannot be made.
        """
        visitor, choice = self.runs.result(_token(event))
        place = visitor.folder.parent / "probes"
        source = str(getattr(event, "model", ""))
        return self.probes.make(visitor.owner, choice, visitor.choice_number, source, place).model.name

    def file_of(self, choice: Choice, number: Any, cache: str) -> str:
        """A photo of the result as a file where Gradio keeps uploads, and deletes them again.

        Raises:
            InputError: it is no longer here.
        """
        if not isinstance(number, int) or not 0 <= number < len(choice.photos):
            raise ResultExpiredError("There is no such photo in the result. Compare again.")
        entry = choice.photos[number]
        data = read_file(entry.source, entry.name)
        name = safe_name(PurePosixPath(entry.name).name)
        return str(processing_utils.save_bytes_to_cache(data, name, cache_dir=cache))

    def follow(self, link: LinkState) -> Values:
        """The models that a link names."""
        names = [one["name"] for one in models_offered()]
        chosen = [name for name in link.models if name in names]
        unknown = [name for name in link.models if name not in names]
        said = f"Not on this server, and left out: {', '.join(unknown)}." if unknown else ""
        return {self.view: {"offered": self.offered, "start": {"models": chosen, "said": said}}}

    def answer(self, query: Any) -> dict[str, Any]:
        """What a question of the page is answered with; a failure is worded in `error`."""
        try:
            return self._answer(str(query["token"]), str(query["action"]), query)
        except VitDemoError as error:
            return {"error": str(error)}
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            return {"error": "The question was not understood."}
        except Exception:
            logger.exception("A query of a page failed")
            return {"error": "Something went wrong on the server. It was logged; please try again."}

    def _answer(self, owner: str, action: str, query: Mapping[str, Any]) -> dict[str, Any]:
        if action in ("look", "stop", "resume"):
            if action != "look":
                (self.runs.stop if action == "stop" else self.runs.resume)(owner)
            return self.progress(owner)
        if action == "models":
            return {"models": models_offered()}
        visitor, choice = self.runs.result(owner)
        if action == "result":
            return result_view(choice, visitor.choice_number)
        # Of the result that the browser shows, and of no later one.
        if int(query["number"]) != visitor.choice_number:
            raise ResultExpiredError("This result was replaced by a later one. Reload the page.")
        if action in VIEWS:
            question = json.dumps({key: value for key, value in query.items() if key != "token"}, sort_keys=True)
            return self.runs.questions.ask(visitor, question, lambda: view_of(choice, query))
        if action == "relabel":
            self.runs.relabel(owner, named(choice, query))
            return self.progress(owner)
        if action == "labels":
            labels, kind = named(choice, query), str(query["kind"])
            written = labels_csv(labels) if kind == "csv" else labels_json(labels)
            return {"name": f"vitdemo-labels.{'csv' if kind == 'csv' else 'json'}", "text": written}
        if action == "file":
            name, kind, write = FILES[str(query["kind"])]
            question = f"file {name}"
            return self.runs.questions.ask(
                visitor, question, lambda: {"name": name, "type": kind, "text": write(choice)}
            )
        raise KeyError(action)

    def progress(self, owner: str) -> dict[str, Any]:
        """How far a comparison is; of somebody else's only that there is one."""
        visitor, current = self.runs.mine(owner), self.runs.current
        if visitor is None:
            return {"mine": False, "under_way": current is not None, "result": 0}
        own = visitor.progress
        return {
            "mine": True,
            "under_way": visitor.under_way,
            "taken": current is not None and current is not visitor,
            "state": visitor.state,
            "phase": _phase(visitor, own),
            "share": own.share if own else 0.0,
            "left": own.seconds_left if own and visitor.state == "running" else None,
            "models": {name: list(done) for name, done in visitor.models.items()},
            "said": visitor.said,
            "resumable": visitor.state in ("stopped", "failed") and visitor.request is not None,
            "same": visitor.request is not None,
            "result": visitor.choice_number if visitor.choice is not None else 0,
        }


def _phase(visitor: Visitor, progress: Progress | None) -> str:
    if visitor.state == "stopping":
        return "Stopping after these photos"
    if visitor.state in ("stopped", "failed"):
        return visitor.state.capitalize()
    if visitor.state == "done":
        return ""
    if progress is None or (progress.stage == "reading" and not progress.total):
        return "Storing the photos" if visitor.state == "preparing" else "Listing the photos"
    done, total = f"{progress.done:,}", f"{progress.total:,}"
    return {
        "reading": f"Reading the photos: {done} of {total}",
        "features": f"{progress.model}: {done} of {total} photos",
        "timing": f"Measuring time and memory: {done} of {total} models",
        "probes": f"Fitting the linear probes: {done} of {total} models",
        "boxes": f"{progress.model}: how well its maps stay on the objects, {done} of {total} photos",
    }[progress.stage]


def _told(event: gr.EventData, work: Any) -> dict[str, Any]:
    """What an event is answered with. A failure is shown in its place on the page: it is text there."""
    number = number_of(event)
    try:
        with user_errors():
            return {"number": number, **work()}
    except gr.Error as error:
        return {"number": number, "error": html.unescape(error.message)}


def _written(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def _token(event: gr.EventData) -> str:
    return str(getattr(event, "token", "") or "")
