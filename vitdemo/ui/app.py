"""The page, put together."""

from __future__ import annotations

from typing import Any

import gradio as gr

from vitdemo.pipeline import Pipeline
from vitdemo.registry import default_models, segmenting_model
from vitdemo.settings import ASSETS, VERSION
from vitdemo.types import Photo
from vitdemo.ui import STATIC
from vitdemo.ui.api import INFERENCE, add_endpoints
from vitdemo.ui.batch import SeveralPhotos
from vitdemo.ui.compare import CompareTab
from vitdemo.ui.components.examples import example_buttons
from vitdemo.ui.components.photo import PagePhoto, Refused, fetch_to_cache
from vitdemo.ui.errors import Page, user_errors
from vitdemo.ui.examples import examples, opened
from vitdemo.ui.explain import ExplainTab
from vitdemo.ui.live import LiveTab
from vitdemo.ui.middleware import middleware
from vitdemo.ui.models import ModelsTab
from vitdemo.ui.restore_link import Opening
from vitdemo.ui.result_store import Results
from vitdemo.ui.segment import SegmentTab

TITLE = "vitdemo: what Vision Transformers see"
COMPARE, EXPLAIN, SEGMENT, LIVE, MODELS = "compare", "explain", "segment", "live", "models"

Shared = Photo | Refused | None
"""What the page's photo gives to handlers."""


def build(pipeline: Pipeline | None = None) -> gr.Blocks:
    """The whole page, with the first example already computed."""
    pipeline = pipeline or Pipeline()
    settings = pipeline.settings
    default = [spec.name for spec in default_models(settings)]
    results = Results()

    def on_photo(photo: Shared, tab: str, followed: str, *controls: Any) -> tuple[Any, Any, Any, str]:
        """Only the tab that is open runs its models; the others are stale, and catch up when they are opened."""
        if isinstance(photo, Photo) and photo.digest == followed:
            return gr.skip(), gr.skip(), gr.skip(), ""
        if tab == EXPLAIN:
            return gr.skip(), explain.explain(photo, *controls[split:]), COMPARE, ""
        if tab == SEGMENT:
            return gr.skip(), gr.skip(), COMPARE + EXPLAIN, ""
        return compare.compare(photo, *controls[:split]), gr.skip(), EXPLAIN, ""

    def on_compare_tab(photo: Shared, stale: str, *controls: Any) -> tuple[str, Any, Any]:
        if COMPARE not in stale:
            return COMPARE, gr.skip(), gr.skip()
        return COMPARE, compare.compare(photo, *controls), stale.replace(COMPARE, "")

    def on_explain_tab(photo: Shared, stale: str, *controls: Any) -> tuple[str, Any, Any]:
        if EXPLAIN not in stale:
            return EXPLAIN, gr.skip(), gr.skip()
        return EXPLAIN, explain.explain(photo, *controls), stale.replace(EXPLAIN, "")

    def on_address(url: str, addresses: dict[str, str]) -> tuple[str, dict[str, str]]:
        with user_errors():
            path = fetch_to_cache(url.strip(), photo.GRADIO_CACHE)
            return path, {**addresses, pipeline.open(path).digest: url.strip()}

    def on_example(event: gr.EventData) -> str:
        with user_errors():
            return str(examples()[event.index].path)

    first = opened(pipeline, examples()[0])
    with Page(title=TITLE, analytics_enabled=False, delete_cache=(600, 7200)) as page:
        tab, stale, addresses = gr.State(COMPARE), gr.State(""), gr.State({})
        # The photo of a link that was followed is on the page already, with its controls, when its arrival is told.
        followed = gr.State("")
        gr.HTML(_heading(), elem_id="heading")
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=280, elem_id="source"):
                photo = PagePhoto(
                    str(examples()[0].path),
                    label="Photo",
                    height=250,
                    buttons=["fullscreen"],
                    sources=["upload", "webcam", "clipboard"],
                    alt_text="The photo that is looked at",
                    elem_id="photo",
                )
                address = gr.Textbox(
                    placeholder="https://… and Enter",
                    label="Or a picture's address",
                    visible=settings.url_input,
                    max_lines=1,
                    elem_id="address",
                )
                gallery = example_buttons(examples(), elem_id="examples")
            with gr.Column(scale=4, min_width=320), gr.Tabs(selected=COMPARE, overflow_behavior="wrap") as tabs:
                with gr.Tab("Compare", id=COMPARE) as compare_tab:
                    compare = CompareTab(pipeline, results, first, default, addresses)
                    several = SeveralPhotos(pipeline, target="compared")
                with gr.Tab("Explain", id=EXPLAIN) as explain_tab:
                    explain = ExplainTab(pipeline, results, first, default[0], addresses)
                with gr.Tab("Segment", id=SEGMENT) as segment_tab:
                    segmented = SegmentTab(pipeline, segmenting_model().name, addresses)
                with gr.Tab("Live", id=LIVE) as live_tab:
                    live = LiveTab(pipeline, default[0])
                with gr.Tab("Models", id=MODELS) as models_tab:
                    listed = ModelsTab(pipeline)
        gr.HTML(_footer(), elem_id="footer")
        add_endpoints(pipeline)

        private: dict[str, Any] = {"api_visibility": "private"}
        running = {**private, **INFERENCE, "show_progress": "minimal", "trigger_mode": "always_last"}
        split = len(compare.inputs)
        outputs = [compare.compared, explain.explained, stale, followed]
        changed = photo.change(on_photo, [photo, tab, followed, *compare.inputs, *explain.inputs], outputs, **running)
        compare_tab.select(on_compare_tab, [photo, stale, *compare.inputs], [tab, compare.compared, stale], **running)
        explained = explain_tab.select(
            on_explain_tab, [photo, stale, *explain.inputs], [tab, explain.explained, stale], **running
        )
        compare.connect(photo, running)
        segmented.connect(photo, tab, segment_tab, running)
        explain.connect(photo, tab, running)
        for event in (changed, explained):
            event.success(
                explain.on_rebuild,
                [photo, tab, explain.model, explain.share, explain.seed],
                [explain.masked, explain.rebuilt],
                **{**running, "show_progress": "hidden"},
            )
        listed.connect(page, models_tab, compare.models, explain.model)
        several.connect(compare.models, photo)
        live.connect(live_tab, photo, explain.model, [tabs, tab, stale], [gr.update(selected=EXPLAIN), EXPLAIN, ""])
        # A slow address must not keep the others waiting.
        address.submit(
            on_address,
            [address, addresses],
            [photo, addresses],
            show_progress_on=address,
            concurrency_limit=8,
            **private,
        )
        gallery.select(on_example, None, photo, show_progress="hidden", **private)
        opening = Opening(pipeline, compare, explain, segmented, photo.GRADIO_CACHE)
        page.load(
            opening.on_load, None, [tabs, tab, stale, photo, addresses, followed, *opening.outputs], **running
        ).then(None, None, None, js="() => { window.vitdemoOpened = true; }", **private)
        page.queue(max_size=settings.max_queue, api_open=False)
    assert isinstance(page, gr.Blocks)
    return page


def launch_options(pipeline: Pipeline) -> dict[str, Any]:
    """What `launch` is to be given: Gradio 6 takes looks and limits there."""
    limit = pipeline.settings.max_image_mb
    return {
        "theme": theme(),
        "css_paths": [STATIC / "page.css"],
        "head": f"<script>{(STATIC / 'reconnect.js').read_text(encoding='utf-8')}</script>",
        "favicon_path": str(ASSETS / "favicon.svg"),
        "allowed_paths": [str(ASSETS)],
        "max_file_size": int(limit * 1e6),
        "show_error": False,
        "enable_monitoring": False,
        "strict_cors": True,
        "ssr_mode": False,
        "run_history": False,
        "footer_links": ["api", "gradio", "settings"],
        "app_kwargs": {"middleware": middleware(int(limit * 1e6), pipeline.settings.max_photos)},
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
        "<h1>What Vision Transformers see</h1>"
        "<p>Drop a photo. Several transformers name what is on it, and show where each one looked.</p>"
    )


def _footer() -> str:
    return (
        "<p>A photo stays on this server while the page works with it: at most two hours as a temporary file, never in "
        "a log. Results are remembered as numbers under a fingerprint of the photo, not as pictures. "
        f"vitdemo {VERSION}. Example photos: see their credits in <code>assets/examples/CREDITS.md</code>.</p>"
    )
