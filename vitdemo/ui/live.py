"""The Live tab: labels and attention on the moving picture of a camera."""

from __future__ import annotations

import logging
import time
from typing import Any

import gradio as gr
from gradio import processing_utils

from vitdemo.errors import ImageError, VitDemoError
from vitdemo.pipeline import Pipeline
from vitdemo.registry import get_spec
from vitdemo.types import Photo
from vitdemo.ui.components.live import live_value, live_view
from vitdemo.ui.components.photo import PhotoInput
from vitdemo.ui.errors import user_errors
from vitdemo.ui.given import number_of
from vitdemo.ui.models import choices
from vitdemo.ui.state import EXPLAIN, PageState, Values

logger = logging.getLogger("vitdemo")

EVERY = 0.05
"""Shortest time between two frames, in seconds: nobody sees more than 20 per second."""

LIMIT = 300.0
"""Seconds after which the page ends a stream: a forgotten one must not hold its place for ever."""

GRACE = 5.0
"""Seconds after that at which the server ends it, should the page not have done so."""

PLACES = 4
"""Streams that are served at the same time. A stream holds its queue slot for its whole life."""


ABSENT = (
    "<p>There is no Live on this server: its GPU is lent for single calls, out of each visitor's daily quota of minutes, and a "
    "camera would hold one for as long as it runs. Live works where vitdemo runs on a CPU or a GPU of its own: on your "
    "machine, or in a copy of this Space on other hardware.</p>"
)


class LiveTab:
    """Built inside an open `gr.Tab`; `connect` wires it when the rest of the page is there.

    Where a GPU is lent for each call, the tab holds nothing but the reason why.
    """

    def __init__(self, pipeline: Pipeline, model: str) -> None:
        self.pipeline, self.present = pipeline, not pipeline.backend.borrowed
        if not self.present:
            gr.HTML(ABSENT, elem_id="live-absent")
            return
        self.model = gr.Dropdown(choices(), value=model, label="Model", elem_id="live-model")
        self.view = live_view("live", EVERY, LIMIT)

    def connect(self, tab: gr.Tab, photo: PhotoInput, explained: gr.Dropdown, tabs: gr.Tabs, state: gr.State) -> None:
        """Let frames be answered, and a frozen one become the page's photo, explained by this tab's model."""
        if not self.present:
            return
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        # The model is an input of every frame: another one takes effect during the stream.
        streamed = self.view.stream(
            self.on_frame,
            self.model,
            self.view,
            stream_every=EVERY,
            time_limit=LIMIT + GRACE,
            concurrency_id="live",
            concurrency_limit=PLACES,
            **private,
        )
        streamed.success(None, None, self.view, js="() => ({ ended: Date.now() })", **private)
        streamed.failure(None, None, self.view, js="() => ({ failed: Date.now() })", **private)

        def on_freeze(model: str, page_state: PageState, event: gr.EventData) -> Values:
            with user_errors():
                path = self.keep(getattr(event, "image", None), photo.GRADIO_CACHE)
            page_state.tab = EXPLAIN
            return {photo: path, explained: model, tabs: gr.update(selected=EXPLAIN)}

        self.view.freeze(on_freeze, [self.model, state], [photo, explained, tabs], **private)
        tab.select(self.on_open, self.model, self.model, queue=False, **private)

    def on_frame(self, model: str, event: gr.EventData) -> dict[str, Any]:
        """A failure is part of the answer: an error that is raised would end the stream."""
        start = time.perf_counter()
        number = number_of(event)
        try:
            frame = self.picture(getattr(event, "image", None))
            # Every frame is new: it would only evict what is worth keeping.
            value = live_value(frame, self.pipeline.explain(frame, get_spec(model), remember=False))
            return {"number": number, **value, "served": (time.perf_counter() - start) * 1e3}
        except VitDemoError as error:
            return {"number": number, "error": str(error)}
        except Exception:
            logger.exception("A frame failed")
            return {"number": number, "error": "Something went wrong on the server. It was logged; please try again."}

    def on_open(self, model: str) -> Any:
        """Models may have been added or removed since."""
        offered = choices()
        names = [name for _, name in offered]
        kept: dict[str, Any] = {} if model in names else {"value": names[0]}
        return gr.update(choices=offered, **kept)

    def picture(self, source: object) -> Photo:
        """Decode a frame.

        Raises:
            ImageError: see `vitdemo.images.open`; or it is no data URL, and must not be taken for a path of the server.
        """
        if not isinstance(source, str) or not source.startswith("data:image/"):
            raise ImageError("The camera's frame is not a picture.")
        return self.pipeline.open(source)

    def keep(self, source: object, cache: str) -> str:
        """A frame as a file, where Gradio keeps uploads and deletes them again."""
        self.picture(source)
        return str(processing_utils.save_base64_to_cache(str(source), cache_dir=cache, file_name="camera.jpg"))
