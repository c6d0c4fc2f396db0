"""The page, put together."""

from __future__ import annotations

import html
from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr
from gradio.blocks import Block
from starlette.middleware import Middleware

from vitdemo.images.decode import max_bytes
from vitdemo.pipeline import Pipeline
from vitdemo.registry import default_models, segmenting_model
from vitdemo.settings import ASSETS, VERSION
from vitdemo.types import Photo
from vitdemo.ui import STATIC
from vitdemo.ui.api import INFERENCE, add_endpoints
from vitdemo.ui.batch import SeveralPhotos
from vitdemo.ui.choose import ChooseTab
from vitdemo.ui.choose_settings import may_choose
from vitdemo.ui.compare import CompareTab
from vitdemo.ui.components.examples import example_buttons
from vitdemo.ui.components.explorer import grey_if_unanswered
from vitdemo.ui.components.intake import intake, note
from vitdemo.ui.components.photo import PagePhoto
from vitdemo.ui.errors import Page, user_errors
from vitdemo.ui.examples import example_to_open, examples, opened
from vitdemo.ui.explain import ExplainTab
from vitdemo.ui.head import head
from vitdemo.ui.hosts import guarded
from vitdemo.ui.inside import InsideTab
from vitdemo.ui.intake import PhotoIntake
from vitdemo.ui.joining import JoinedTabs
from vitdemo.ui.live import LiveTab
from vitdemo.ui.mcp_server import McpServer, wanted
from vitdemo.ui.metrics import Metrics
from vitdemo.ui.middleware import Lifespan, body_limit, joined, middleware
from vitdemo.ui.models import ModelsTab
from vitdemo.ui.photos import DecodedPhotos
from vitdemo.ui.picker import ModelPicker
from vitdemo.ui.preview import TITLE
from vitdemo.ui.restore_link import RestoreLink
from vitdemo.ui.result_store import Results
from vitdemo.ui.run_on import RunOn
from vitdemo.ui.segment import SegmentTab
from vitdemo.ui.sessions import CAPACITY, lean_sessions
from vitdemo.ui.state import (
    CHOOSE,
    COMPARE,
    EXPLAIN,
    INSIDE,
    LIVE,
    MODELS,
    NOTHING,
    SEGMENT,
    TABS,
    TRAIN,
    PageState,
    Values,
)
from vitdemo.ui.train import TrainTab
from vitdemo.ui.train_settings import may_train

OPENED = """() => {
  window.vitdemoOpened = true;
  if (location.search) window.dispatchEvent(new Event("vitdemo-opened"));
}"""
"""The page is open; the link that it was opened with, if any, has been followed."""


def build(pipeline: Pipeline | None = None) -> gr.Blocks:
    """The whole page, with the first example already computed."""
    pipeline = pipeline or Pipeline()
    settings = pipeline.settings
    default = [spec.name for spec in default_models(settings)]
    results, photos = Results(), DecodedPhotos(settings)

    def on_photo(values: Values) -> Values:
        """Only the open tab runs its models; the others catch up when they are opened. Segment has an event of its own."""
        page_state, found = values[state], values[photo]
        linked, page_state.linked = page_state.linked, ""
        offered, page_state.offered = page_state.offered, ""
        page_state.touched |= not (isinstance(found, Photo) and found.digest == offered)
        if isinstance(found, Photo) and found.digest == linked:
            return NOTHING
        page_state.stale = {COMPARE, EXPLAIN}
        return refreshed(page_state.tab, values)

    def on_unanswered(page_state: PageState) -> None:
        """What was not computed for this photo is, when its tab is opened again."""
        page_state.stale = {COMPARE, EXPLAIN}

    def refreshed(tab: str, values: Values) -> Values:
        """The new result of a stale tab."""
        stale, other = values[state].stale, {}
        if tab not in stale:
            return NOTHING
        if example := example_to_open(tab, values[photo], values[state].touched):
            other = {photo: str(example.path)}
            values = {**values, photo: opened(pipeline, example)}
            values[state].linked = values[state].offered = values[photo].digest
        # At once, so that no second event computes the same; put back if there is no result.
        stale.discard(tab)
        try:
            return {**other, **(explain if tab == EXPLAIN else compare).update(values[photo], values)}
        except gr.Error:
            stale.add(tab)
            raise

    def on_compare(values: Values) -> Values:
        return refreshed(COMPARE, values)

    def on_explain(values: Values) -> Values:
        return refreshed(EXPLAIN, values)

    def on_open_tab(values: Values) -> Values:
        return refreshed(values[state].tab, values)

    def on_example(page_state: PageState, event: gr.EventData) -> str:
        page_state.touched = True
        with user_errors():
            return str(examples()[event.index].path)

    first = opened(pipeline, examples()[0])
    with Page(title=TITLE, analytics_enabled=False) as page:
        page.photos = photos
        # Shown under "Use via API", and by the Hugging Face Hub.
        page.mcp_server = wanted(settings)
        state = gr.State(PageState())
        gr.HTML(_heading(), elem_id="heading")
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=280, elem_id="source"):
                photo = PagePhoto(
                    str(examples()[0].path),
                    label="Photo",
                    height=250,
                    buttons=["fullscreen"],
                    sources=["upload", "webcam", "clipboard"],
                    alt_text="The current photo",
                    elem_id="photo",
                )
                taken = intake(settings, elem_id="intake")
                address = gr.Textbox(
                    placeholder="Paste an image URL",
                    label="Or paste an image URL",
                    visible=settings.url_input,
                    max_lines=1,
                    elem_id="address",
                )
                answer = note(elem_id="address-answer")
                run_on = RunOn(pipeline)
                gallery = example_buttons(examples(), elem_id="examples")
            with gr.Column(scale=4, min_width=320), gr.Tabs(selected=COMPARE, overflow_behavior="wrap") as tabs:
                with gr.Tab("Compare", id=COMPARE) as compare_tab:
                    compare = CompareTab(pipeline, results, first, default, state)
                    several = SeveralPhotos(pipeline, target="compared")
                with gr.Tab("Explain", id=EXPLAIN) as explain_tab:
                    explain = ExplainTab(pipeline, results, first, default[0], state)
                with gr.Tab("Segment", id=SEGMENT) as segment_tab:
                    segmented = SegmentTab(pipeline, segmenting_model().name, state)
                with gr.Tab("Inside", id=INSIDE) as inside_tab:
                    within = InsideTab(pipeline, default[0], state)
                with gr.Tab("Live", id=LIVE) as live_tab:
                    live = LiveTab(pipeline, default[0])
                with gr.Tab("Choose", id=CHOOSE, visible=may_choose(settings)) as choose_tab:
                    chosen = ChooseTab(pipeline) if may_choose(settings) else None
                with gr.Tab("Train", id=TRAIN, visible=may_train(settings)) as train_tab:
                    trained = TrainTab(pipeline) if may_train(settings) else None
                with gr.Tab("Models", id=MODELS) as models_tab:
                    listed = ModelsTab(pipeline, compare.models, explain.model)
        picker = ModelPicker(listed, compare.models, explain.model, segmented, within, state)
        gr.HTML(_footer(pipeline.backend.where), elem_id="footer")
        add_endpoints(pipeline)

        private: dict[str, Any] = {"api_visibility": "private"}
        quick = {**private, "show_progress": "hidden", "queue": False}
        running = {**private, **INFERENCE, "show_progress": "minimal", "trigger_mode": "always_last"}
        opening = {
            tab: panel.select(_opens(tab), state, None, **quick)
            for tab, panel in zip(
                TABS,
                (compare_tab, explain_tab, segment_tab, inside_tab, live_tab, choose_tab, train_tab, models_tab),
                strict=True,
            )
        }
        inputs: set[Block] = {photo, *compare.controls, *explain.controls}
        changed = photo.change(on_photo, inputs, [compare.compared, explain.explained], **running)
        grey_if_unanswered(changed, compare.compared, explain.explained)
        changed.failure(on_unanswered, state, None, **quick)
        caught: dict[str, Any] = {**running, "show_progress_on": [compare.compared, explain.explained]}
        opened_compare = opening[COMPARE].then(
            on_compare, {photo, *compare.controls}, [compare.compared, photo], **caught
        )
        explained = opening[EXPLAIN].then(on_explain, {photo, *explain.controls}, [explain.explained, photo], **caught)
        grey_if_unanswered(opened_compare, compare.compared)
        grey_if_unanswered(explained, explain.explained)

        def anew(event: gr.events.Dependency) -> None:
            event.then(on_open_tab, inputs, [compare.compared, explain.explained], **running)

        compare.connect(photo, running)
        segmented.connect(photo, running)
        within.connect(photo, running)
        explain.connect(photo, running)
        for event in (changed, explained):
            explain.follow_up(event, photo, {**running, "show_progress": "hidden"})
        run_on.connect(page, state, anew)
        listed.connect(page, models_tab)
        picker.connect([compare.more, explain.more])
        several.connect(compare.models, photo)
        live.connect(live_tab, photo, explain.model, tabs, state)
        joined_tabs = JoinedTabs(compare.models, explain.model, listed, segmented, within, settings.max_models)
        if chosen is not None:
            chosen.connect(photo, tabs, joined_tabs, state)
            page.choosing = chosen.runs
        if trained is not None:
            trained.connect(photo, joined_tabs)
            page.training = trained.runs
        PhotoIntake(photos, photo, taken, address, answer).connect(state, private)
        gallery.select(on_example, state, photo, show_progress="hidden", **private)
        link = RestoreLink(pipeline, photos, (tabs, photo, state), (compare, explain, segmented, within), chosen)
        restored = page.load(link.on_load, state, link.outputs, **running)
        restored.then(None, None, None, js=OPENED, **private)
        page.queue(max_size=settings.max_queue, api_open=False)
    assert isinstance(page, gr.Blocks)
    return page


def _opens(tab: str) -> Callable[[PageState], None]:
    def on_open(state: PageState) -> None:
        state.tab = tab

    return on_open


def launch_options(pipeline: Pipeline) -> dict[str, Any]:
    """What `launch` is to be given: Gradio 6 takes looks and limits there."""
    limit = max_bytes(pipeline.settings)
    layers = middleware(limit, pipeline.settings.max_photos)
    lifespans: list[Lifespan] = [partial(guarded, pipeline.settings), lean_sessions]
    if pipeline.settings.metrics:
        layers.insert(0, Middleware(Metrics, backend=pipeline.backend))
    if wanted(pipeline.settings):
        server = McpServer(pipeline, body_limit(limit))
        lifespans.append(server.lifespan)
        layers.append(Middleware(server.route))
    return {
        "theme": theme(),
        "css_paths": [STATIC / "page.css", STATIC / "controls.css"],
        "head": head(),
        "favicon_path": str(ASSETS / "favicon.svg"),
        "allowed_paths": [str(ASSETS)],
        "max_file_size": limit,
        "show_error": False,
        "enable_monitoring": False,
        "strict_cors": True,
        "ssr_mode": False,
        "run_history": False,
        "footer_links": ["api", "gradio", "settings"],
        # Gradio's own would make a tool of every endpoint.
        "mcp_server": False,
        "app_kwargs": {"middleware": layers, "lifespan": joined(lifespans)},
        "state_session_capacity": CAPACITY,
    }


def theme() -> gr.themes.Base:
    """Fonts of the system: the page asks no other host for anything."""
    look = gr.themes.Default(
        primary_hue="indigo",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    # Stock subdued text is too pale to read on white (2.6:1); this has 4.8:1, and 6.9:1 in the dark. The accent, which is text in
    # the tabs, has 6.3:1 instead of 4.46:1; its dark one is in page.css, since Gradio knows only one.
    return look.set(
        body_text_color_subdued="*neutral_500", body_text_color_subdued_dark="*neutral_400", color_accent="*primary_600"
    )


def _heading() -> str:
    return (
        '<div class="vd-heading"><h1>What Vision Transformers see</h1>'
        "<p>Drop a photo. Several transformers say what's in it and show where each one looked.</p></div>"
    )


def _footer(where: str) -> str:
    return (
        f"<p>Runs on: {html.escape(where)}. "
        "A photo stays on this server while the page works with it: at most two hours as a temporary file, never in "
        "a log. Results are remembered as numbers under a fingerprint of the photo, not as pictures. "
        f"vitdemo {VERSION}. Example photos: see their credits in <code>assets/examples/CREDITS.md</code>.</p>"
    )
