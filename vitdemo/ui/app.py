"""The page, put together."""

from __future__ import annotations

from typing import Any

import gradio as gr

from vitdemo.pipeline import Pipeline
from vitdemo.registry import default_models, get_spec
from vitdemo.settings import ASSETS, VERSION
from vitdemo.types import Photo
from vitdemo.ui.api import INFERENCE, add_endpoints
from vitdemo.ui.components.examples import example_buttons
from vitdemo.ui.components.explorer import explorer, explorer_value
from vitdemo.ui.components.photo import PhotoInput, fetch_to_cache
from vitdemo.ui.errors import user_errors
from vitdemo.ui.examples import examples
from vitdemo.ui.explain import ExplainTab
from vitdemo.ui.limits import middleware
from vitdemo.ui.models import ModelsTab, choices

TITLE = "vitdemo: what Vision Transformers see"
COMPARE, EXPLAIN, MODELS = "compare", "explain", "models"

Value = dict[str, Any] | None


def build(pipeline: Pipeline | None = None) -> gr.Blocks:
    """The whole page, with the first example already computed."""
    pipeline = pipeline or Pipeline()
    settings = pipeline.settings
    default = [spec.name for spec in default_models(settings)]

    def on_compare(photo: Photo | None, models: list[str]) -> Value:
        with user_errors():
            if photo is None:
                return None
            comparison = pipeline.compare(photo, [get_spec(name) for name in models])
            return explorer_value(photo, comparison.explanations, comparison)

    def on_photo(photo: Photo | None, tab: str, models: list[str], *asked: Any) -> tuple[Any, Any, str]:
        """Only the tab that is open runs its models; the other one is stale, and catches up when it is opened."""
        if tab == COMPARE:
            return on_compare(photo, models), gr.skip(), EXPLAIN
        return gr.skip(), explain.explain(photo, *asked), COMPARE

    def on_compare_tab(photo: Photo | None, models: list[str], stale: str) -> tuple[str, Any, Any]:
        return (COMPARE, on_compare(photo, models), "") if stale == COMPARE else (COMPARE, gr.skip(), gr.skip())

    def on_explain_tab(photo: Photo | None, stale: str, *asked: Any) -> tuple[str, Any, Any]:
        return (EXPLAIN, explain.explain(photo, *asked), "") if stale == EXPLAIN else (EXPLAIN, gr.skip(), gr.skip())

    def on_address(url: str) -> str:
        with user_errors():
            return fetch_to_cache(url.strip(), photo.GRADIO_CACHE)

    def on_example(event: gr.EventData) -> str:
        with user_errors():
            return str(examples()[event.index].path)

    first = pipeline.open(examples()[0].path)
    with gr.Blocks(
        title="vitdemo: what Vision Transformers see", analytics_enabled=False, delete_cache=(600, 7200)
    ) as page:
        tab, stale = gr.State(COMPARE), gr.State("")
        gr.HTML(_heading(), elem_id="heading")
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=280, elem_id="source"):
                photo = PhotoInput(
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
            with gr.Column(scale=4, min_width=320), gr.Tabs(selected=COMPARE):
                with gr.Tab("Compare", id=COMPARE) as compare_tab:
                    models = gr.Dropdown(
                        choices(),
                        value=default,
                        multiselect=True,
                        label="Models",
                        elem_id="models",
                    )
                    compared = explorer(on_compare(first, default), elem_id="compared")
                with gr.Tab("Explain", id=EXPLAIN) as explain_tab:
                    explain = ExplainTab(pipeline, first, default[0])
                with gr.Tab("Models", id=MODELS) as models_tab:
                    listed = ModelsTab(pipeline)
        gr.HTML(_footer(), elem_id="footer")
        add_endpoints(pipeline)

        private: dict[str, Any] = {"api_visibility": "private"}
        running = {**private, **INFERENCE, "show_progress": "minimal", "trigger_mode": "always_last"}
        outputs = [compared, explain.explained, stale]
        changed = photo.change(on_photo, [photo, tab, models, *explain.inputs], outputs, **running)
        # Not only what a person chooses: a model that is removed leaves the choice, too.
        models.change(on_compare, [photo, models], compared, **running)
        compare_tab.select(on_compare_tab, [photo, models, stale], [tab, compared, stale], **running)
        opened = explain_tab.select(
            on_explain_tab, [photo, stale, *explain.inputs], [tab, explain.explained, stale], **running
        )
        explain.connect(photo, tab, running)
        for event in (changed, opened):
            event.success(
                explain.on_rebuild,
                [photo, tab, explain.model, explain.share, explain.seed],
                [explain.masked, explain.rebuilt],
                **{**running, "show_progress": "hidden"},
            )
        listed.connect(page, models_tab, models, explain.model)
        # A slow address must not keep the others waiting.
        address.submit(on_address, address, photo, show_progress_on=address, concurrency_limit=8, **private)
        gallery.select(on_example, None, photo, show_progress="hidden", **private)
        page.queue(max_size=settings.max_queue, api_open=False)
    assert isinstance(page, gr.Blocks)
    return page


def launch_options(pipeline: Pipeline) -> dict[str, Any]:
    """What `launch` is to be given: Gradio 6 takes looks and limits there."""
    limit = pipeline.settings.max_image_mb
    return {
        "theme": theme(),
        "css_paths": [ASSETS / "page.css"],
        "favicon_path": str(ASSETS / "favicon.svg"),
        "allowed_paths": [str(ASSETS)],
        "max_file_size": int(limit * 1e6),
        "show_error": False,
        "enable_monitoring": False,
        "strict_cors": True,
        "ssr_mode": False,
        "run_history": False,
        "footer_links": ["api", "gradio", "settings"],
        "app_kwargs": {"middleware": middleware(int(limit * 1e6))},
    }


def theme() -> gr.themes.Base:
    """Fonts of the system: the page asks no other host for anything."""
    look = gr.themes.Default(
        primary_hue="indigo",
        neutral_hue="slate",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    # Stock subdued text is too pale to read on white (2.6:1); this has 4.8:1, and 6.9:1 in the dark.
    return look.set(body_text_color_subdued="*neutral_500", body_text_color_subdued_dark="*neutral_400")


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
