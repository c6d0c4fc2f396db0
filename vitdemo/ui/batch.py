"""Several photos at once, in a gallery: first those on which the models disagree most."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gradio as gr

from vitdemo.errors import ImageError, OptionError
from vitdemo.pipeline import Pipeline
from vitdemo.pipeline.batch import Row, compare_many
from vitdemo.registry import get_spec
from vitdemo.ui.choices import specs_of
from vitdemo.ui.components.gallery import card, gallery, gallery_value
from vitdemo.ui.components.photo_files import PhotoFiles
from vitdemo.ui.errors import user_errors
from vitdemo.ui.state import NOTHING, Values

ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "survey", "concurrency_limit": 1}
"""Fifty photos hold a slot for a minute: their own one, so that no single photo of anybody waits for it."""


@dataclass(frozen=True)
class Run:
    """One user's photos and models, and the results so far. Kept in the user's session, nowhere else."""

    id: str
    photos: tuple[tuple[str, str], ...]
    """Name and path."""
    models: tuple[str, ...]
    state: str = "waiting"
    rows: tuple[Row, ...] = ()
    cards: tuple[dict[str, Any], ...] = ()
    """With thumbnails, so only until the run ends."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set to end the run. It ends itself then, so that nothing arrives after its end."""

    def shown(self) -> dict[str, Any]:
        return gallery_value(
            self.id, self.state, [name for name, _ in self.photos], len(self.models), self.rows, self.cards
        )


class SeveralPhotos:
    """Built inside the open Compare tab; `connect` wires it when the rest of the page is there."""

    def __init__(self, pipeline: Pipeline, target: str) -> None:
        self.pipeline, self.limit = pipeline, pipeline.settings.max_photos
        with gr.Accordion("Several photos", open=False, elem_id="several"):
            gr.HTML(
                "<p>The chosen models name every photo. Those on which they disagree most come first.</p>",
                elem_id="several-hint",
            )
            self.files = PhotoFiles(
                file_count="multiple",
                file_types=["image"],
                label=f"Up to {self.limit} photos",
                height=150,
                elem_id="several-files",
            )
            with gr.Row(elem_id="several-buttons"):
                self.start = gr.Button(
                    "Compare all", variant="primary", size="sm", scale=0, min_width=180, elem_id="several-start"
                )
                self.stop = gr.Button(
                    "Stop", size="sm", scale=0, min_width=100, interactive=False, elem_id="several-stop"
                )
            self.gallery = gallery("several-gallery", target)
        self.run = gr.State(None)

    def connect(self, models: gr.Dropdown, photo: gr.Image) -> None:
        """Run the `models` that are chosen, and let a click on a thumbnail make it the page's `photo`."""
        # Through the queue: what fails outside of it is not shown. Nothing here waits for a model.
        quick: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": 8}
        outputs = [self.gallery, self.run, self.start, self.stop]
        begun = self.start.click(self.on_start, [self.files, models, self.run], outputs, **quick)
        # Multiple: a run that was stopped while it waited is still in the queue when the next one begins.
        begun.success(
            self.on_run,
            self.run,
            outputs,
            api_visibility="private",
            show_progress="hidden",
            trigger_mode="multiple",
            **ONE_AT_A_TIME,
        )
        self.stop.click(self.on_stop, self.run, outputs, **quick)
        self.gallery.select(self.on_open, self.run, photo, trigger_mode="always_last", **quick)

    def on_start(self, files: list[tuple[str, str]], models: list[str], before: Run | None) -> Values:
        """Reject what cannot be done; else show a place for every photo."""
        with user_errors():
            if not files:
                raise OptionError("Choose the photos first.")
            if len(files) > self.limit:
                raise OptionError(f"{len(files)} photos were chosen; the limit is {self.limit}. Take some away.")
            if not models:
                raise OptionError("Choose at least one model.")
            specs = specs_of(models, self.pipeline.settings)
        if before is not None:
            before.stop.set()
        return self._update(Run(uuid.uuid4().hex, tuple(files), tuple(spec.name for spec in specs)))

    def on_run(self, run: Run) -> Iterator[Values]:
        """Photo by photo; each result is shown at once."""
        # One that was given up while it waited is still in the queue, and finds the next run there, which it runs.
        if run.state != "waiting" or run.stop.is_set():
            yield NOTHING
            return
        with user_errors():
            run = replace(run, state="running")
            yield self._update(run)
            photos = [(name, Path(path)) for name, path in run.photos]
            specs = [get_spec(name) for name in run.models]
            # Not cached: it would evict what the page is about to need again.
            for done in compare_many(self.pipeline, photos, specs, remember=False):
                picture = card(done.row, done.photo.image if done.photo else None)
                run = replace(run, rows=(*run.rows, done.row), cards=(*run.cards, picture))
                if len(run.rows) == len(photos) or run.stop.is_set():
                    break
                yield self._update(run)
            yield self._update(replace(run, state="done" if len(run.rows) == len(photos) else "stopped"))

    def on_stop(self, run: Run | None) -> Values:
        """A run under way ends after the present photo; a waiting one is given up here."""
        if run is None:
            return NOTHING
        run.stop.set()
        if run.state == "waiting":
            return self._update(replace(run, state="stopped"))
        return {self.stop: gr.update(interactive=False)}

    def on_open(self, run: Run | None, event: gr.EventData) -> str:
        """The path of the chosen photo, which came from the session and not from the browser."""
        with user_errors():
            index = int(event.index)
            if run is None or not 0 <= index < len(run.photos) or not Path(run.photos[index][1]).is_file():
                raise ImageError("This photo is no longer on the server. Choose its file again.")
            return run.photos[index][1]

    def _update(self, run: Run) -> Values:
        ended = run.state in ("done", "stopped")
        going = not ended and not run.stop.is_set()
        kept = replace(run, cards=()) if ended else run
        return {
            self.gallery: run.shown(),
            self.run: kept,
            self.start: gr.update(interactive=ended),
            self.stop: gr.update(interactive=going),
        }
