"""The Segment tab: objects and parts of a photo, from a transformer that was never taught to segment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr
from gradio.blocks import Block

from vitdemo.options.segment import default_tau
from vitdemo.pipeline import Pipeline
from vitdemo.registry import get_spec
from vitdemo.types import Photo
from vitdemo.ui.components.photo import RejectedImage
from vitdemo.ui.components.photo_files import PhotoFiles
from vitdemo.ui.components.segments import KEEP_LINK, segments_html
from vitdemo.ui.errors import user_errors
from vitdemo.ui.links import image_of, segment_link
from vitdemo.ui.segment_controls import LAYERED, SHARED, Choice, SegmentControls, heads_offered
from vitdemo.ui.segment_views import Found, Segmenter, empty_view, files_of, heads_of, pictures_of, slider_of, views_of
from vitdemo.ui.state import NOTHING, SEGMENT, PageState, Values


class SegmentTab:
    """Built inside an open `gr.Tab`; nothing runs before it is opened. `connect` wires it.

    Args:
        state: of the page, a `PageState`.
    """

    def __init__(self, pipeline: Pipeline, model: str, state: gr.State) -> None:
        self.segmenter, self.state = Segmenter(pipeline), state
        self.controls = SegmentControls(model)
        with gr.Row():
            # Of the model, and of the one beside it.
            masks, self.picture = empty_view("segment-first", visible=True)
            self.views = [masks, self.picture, *empty_view("segment-second", visible=False)]
        self.said = gr.HTML("", apply_default_css=False, elem_id="segment-said")
        with gr.Row():
            self.zip = gr.DownloadButton(
                "Download all of it (zip)", size="sm", scale=0, min_width=240, interactive=False, elem_id="segment-zip"
            )
        with gr.Accordion("Before and after the edges", open=False) as self.compared:
            self.slider = gr.ImageSlider(
                label="Patches, pixels", interactive=False, height=420, elem_id="segment-slider"
            )
        with gr.Accordion("Each head", open=False, visible=False) as self.heads_box:
            self.heads = gr.Gallery(label="Heads", columns=6, height=240, object_fit="contain", elem_id="segment-heads")
        with gr.Accordion("The same in other photos", open=False, visible=False) as self.others_box:
            self.others = PhotoFiles(
                file_count="multiple", file_types=["image"], label="Other photos", elem_id="segment-others"
            )
            self.shared = gr.Gallery(
                label="Other photos", columns=2, height="auto", object_fit="contain", elem_id="segment-shared"
            )
        self.inputs: set[Block] = {*self.controls.settings.values(), self.controls.point, self.others, state}
        """What a segmentation depends on, beside the photo."""
        self.more = [self.zip, self.compared, self.slider, self.heads_box, self.heads, self.others_box, self.shared]

    def connect(self, photo: gr.Image, opened: Any, options: dict[str, Any]) -> None:
        """Let the controls, the photo and a click on the picture make other masks.

        One event for all of them, so that of many changes the last one is what is shown. What is seen first comes first:
        files and the pictures below follow in a second event.

        Args:
            opened: the event after which the tab is open.
        """
        own = self.controls
        sliders = (own.resolution, own.threshold, own.objects, own.tau, own.parts, own.matches)
        others = (own.model, own.beside, own.method, own.head, own.refine, own.clip, own.within, self.others)
        triggers = [slider.release for slider in sliders]
        triggers += [control.change for control in (photo, own.point, *others)]
        self._run_on(triggers, photo, options, changed=True)
        self._run_on(opened.then, photo, options)

        def on_click(values: Values, event: gr.SelectData) -> Any:
            return self.clicked(values[photo], values, event)

        def on_opacity(values: Values) -> Values:
            return self.redrawn(values[photo], values)

        inputs, quiet = {photo, *self.inputs}, {**options, "show_progress": "hidden"}
        self.picture.select(on_click, inputs, self.controls.point, **quiet)
        own.opacity.release(on_opacity, inputs, [*self.views, self.slider], **quiet)

    def follow_up(self, event: Any, photo: gr.Image, options: dict[str, Any]) -> None:
        """Segment after an event that may have opened the tab."""
        self._run_on(event.then, photo, options)

    def _run_on(self, triggers: Any, photo: gr.Image, options: dict[str, Any], changed: bool = False) -> None:
        def on_change(values: Values) -> Values:
            state: PageState = values[self.state]
            if changed and state.is_arriving(values):
                return NOTHING
            return self.update(values[photo], values if changed else state.with_link(values))

        def on_more(values: Values) -> Values:
            return self.below(values[photo], values)

        inputs: set[Block] = {photo, *self.inputs}
        outputs = [*self.views, self.said, self.zip, *self.controls.fitted, self.controls.point]
        wiring: dict[str, Any] = {"show_progress_on": self.views, **options}
        if isinstance(triggers, list):
            event = gr.on(triggers, on_change, inputs, outputs, **wiring)
        else:
            event = triggers(on_change, inputs, outputs, **wiring)
        event.success(on_more, inputs, self.more, **{**options, "show_progress": "hidden"}).then(
            None, None, None, js=KEEP_LINK, api_visibility="private"
        )

    def update(self, photo: Photo | RejectedImage | None, values: Values) -> Values:
        """Masks and words. A model runs only where the photo, the model or the resolution are new."""
        state: PageState = values[self.state]
        if state.tab != SEGMENT:
            return NOTHING
        with user_errors():
            if not isinstance(photo, Photo):
                why = "Drop a photo, or choose an example." if photo is None else photo.message
                # The last result stays, under the reason.
                return {self.said: segments_html(why)}
            chosen, (model, _, digest) = self.controls.choice(values, values[self.others]), state.segmented
            request, spec = chosen.request, get_spec(chosen.model)
            if model and chosen.model != model:
                # Another model has other heads, and its patches are alike from another cosine on.
                head = request.head if str(request.head) in heads_offered(chosen.model) else "mean"
                request = replace(request, head=head, tau=default_tau(spec.parameters))
            if digest and photo.digest != digest:
                request = replace(request, point=None)
            chosen = replace(chosen, request=request)
            found = self._found(photo, chosen)
            link = segment_link(image_of(photo, state.urls), self.controls.linked(chosen))
            updates: Values = {
                **self._pictures(found, chosen),
                self.said: segments_html(found.first, found.second, found.failed, link),
                self.zip: gr.update(interactive=False),
            }
            now = (chosen.model, request.method, photo.digest)
            if now != state.segmented:
                state.segmented = now
                updates |= {**self.controls.fit(chosen), self.controls.point: request.point}
            return updates

    def clicked(self, photo: Photo | RejectedImage | None, values: Values, event: gr.SelectData) -> Any:
        """The point whose patch others are compared with. The picture has the size of the crop."""
        chosen = self.controls.choice(values, values[self.others])
        if chosen.request.method != "similarity" or not isinstance(photo, Photo):
            return gr.skip()
        with user_errors():
            x, y = (float(value) for value in event.index)
            left, top, right, bottom = self._found(photo, chosen).first.view.crop
            return min(left + x, right - 0.01), min(top + y, bottom - 0.01)

    def redrawn(self, photo: Photo | RejectedImage | None, values: Values) -> Values:
        """The pictures at another opacity: nothing else is computed again."""
        chosen = self.controls.choice(values, values[self.others])
        if not isinstance(photo, Photo):
            return NOTHING
        with user_errors():
            found = self._found(photo, chosen)
            updates = self._pictures(found, chosen)
            if chosen.refined and len(found.first.masks):
                updates[self.slider] = slider_of(found, chosen.opacity)
            return updates

    def below(self, photo: Photo | RejectedImage | None, values: Values) -> Values:
        """What is below the picture: files, edges, heads and other photos."""
        chosen = self.controls.choice(values, values[self.others])
        if not isinstance(photo, Photo) or values[self.state].tab != SEGMENT:
            return NOTHING
        with user_errors():
            found, method, opacity = self._found(photo, chosen), chosen.request.method, chosen.opacity
            refined = chosen.refined and len(found.first.masks) > 0
            updates: Values = {
                self.zip: gr.update(value=files_of(found, self.zip.GRADIO_CACHE), interactive=True),
                self.compared: gr.update(visible=refined),
                self.heads_box: gr.update(visible=method == "attention"),
                self.others_box: gr.update(visible=method in SHARED),
            }
            if refined:
                updates[self.slider] = slider_of(found, opacity)
            if method == "attention":
                updates[self.heads] = heads_of(self.segmenter, found, chosen.request, opacity)
            if method in SHARED:
                updates[self.shared] = pictures_of(found, opacity)
            return updates

    def _found(self, photo: Photo, chosen: Choice) -> Found:
        others = chosen.others if chosen.request.method in SHARED else []
        return self.segmenter.find(photo, others, chosen.model, chosen.beside, chosen.request)

    def _pictures(self, found: Found, chosen: Choice) -> Values:
        pictures = views_of(found, chosen.opacity, chosen.request.method in LAYERED)
        return dict(zip(self.views, pictures, strict=True))
