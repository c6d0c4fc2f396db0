"""The Segment tab: objects and parts of a photo, from a transformer that was never taught to segment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
from gradio.blocks import Block

from vitdemo.options.segment import OWN, RESOLUTION, SegmentRequest, default_tau
from vitdemo.pipeline import Pipeline
from vitdemo.registry import get_spec, ready_models
from vitdemo.types import Photo
from vitdemo.ui.components.photo import RejectedImage
from vitdemo.ui.components.photo_files import PhotoFiles
from vitdemo.ui.components.segments import KEEP_LINK, segments_html
from vitdemo.ui.errors import user_errors
from vitdemo.ui.links import LinkState, image_of, segment_link
from vitdemo.ui.segment_views import Found, Segmenter, empty_view, files_of, heads_of, pictures_of, slider_of, views_of
from vitdemo.ui.state import NOTHING, SEGMENT, PageState, Values

TITLES = {
    "foreground": "Foreground: what stands out",
    "attention": "Attention: patches that hold most of it",
    "parts": "Parts: patches that are alike",
    "pca": "Colours: three principal components",
    "similarity": "Similarity: click on the picture",
}
LAYERED = ("attention", "foreground", "parts")
"""Methods whose masks can follow the edges of the photo."""

SHARED = ("parts", "pca", "similarity")
"""Methods that take several photos together."""

HEADS = ["mean", "max", "min", "all"]


@dataclass(frozen=True)
class Choice:
    """What the controls of the tab are set to."""

    model: str
    beside: str
    """The other model; "" for none."""
    opacity: float
    others: list[tuple[str, str]]
    """Names and paths of other photos."""
    request: SegmentRequest

    @property
    def refined(self) -> bool:
        """Whether masks follow the edges of the photo."""
        return self.request.refine and self.request.method in LAYERED


class SegmentTab:
    """Built inside an open `gr.Tab`; nothing runs before it is opened. `connect` wires it.

    Args:
        state: of the page, a `PageState`.
    """

    def __init__(self, pipeline: Pipeline, model: str, state: gr.State) -> None:
        self.segmenter, self.state = Segmenter(pipeline), state
        tau = default_tau(get_spec(model).parameters)
        with gr.Row(equal_height=True):
            self.model = gr.Dropdown(
                _models(), value=model, label="Model", elem_id="segment-model", scale=3, min_width=190
            )
            self.beside = gr.Dropdown(
                _others(), value="", label="Beside it", elem_id="segment-beside", scale=3, min_width=190
            )
            self.method = gr.Dropdown(
                [(title, name) for name, title in TITLES.items()],
                value="foreground",
                label="Method",
                elem_id="segment-method",
                scale=5,
                min_width=240,
            )
            self.resolution = gr.Slider(
                *(0, 640, RESOLUTION),
                step=32,
                label="Long side",
                info="pixels; 0: the model's own",
                scale=4,
                min_width=200,
            )
        with gr.Row(equal_height=True):
            self.threshold = gr.Slider(0.05, 1, 0.6, step=0.05, label="Attention kept", visible=False, min_width=100)
            self.head = gr.Dropdown(HEADS, value="mean", label="Heads", visible=False, min_width=100)
            self.objects = gr.Slider(1, 5, 1, step=1, label="Objects", min_width=100)
            self.parts = gr.Slider(2, 8, 4, step=1, label="Parts", visible=False, min_width=100)
            self.tau = gr.Slider(0, 0.8, tau, step=0.05, label="Alike from cosine", min_width=100)
            self.matches = gr.Slider(1, 10, 5, step=1, label="Best matches", visible=False, min_width=100)
            with gr.Column(min_width=200):
                self.within = gr.Checkbox(True, label="Only in the foreground", visible=False)
                self.refine = gr.Checkbox(True, label="Follow the photo's edges")
                self.clip = gr.Checkbox(False, label="Clip outlier patches")
            self.opacity = gr.Slider(0, 1, 0.6, step=0.05, label="Opacity", min_width=200)
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
        self.point = gr.State(None)
        self.own = {
            "threshold": self.threshold,
            "head": self.head,
            "objects": self.objects,
            "tau": self.tau,
            "parts": self.parts,
            "within": self.within,
            "matches": self.matches,
        }
        self.settings: dict[str, Any] = {
            "model": self.model,
            "beside": self.beside,
            "method": self.method,
            "resolution": self.resolution,
            "refine": self.refine,
            "clip": self.clip,
            "opacity": self.opacity,
            **self.own,
        }
        """Controls by the names that links have for them."""
        self.controls: set[Block] = {*self.settings.values(), self.point, self.others, state}
        """What a segmentation depends on, beside the photo."""
        self.fitted = [self.model, self.beside, *self.own.values(), self.refine]
        self.more = [self.zip, self.compared, self.slider, self.heads_box, self.heads, self.others_box, self.shared]

    def connect(self, photo: gr.Image, opened: Any, options: dict[str, Any]) -> None:
        """Let the controls, the photo and a click on the picture make other masks.

        One event for all of them, so that of many changes the last one is what is shown. What is seen first comes first:
        files and the pictures below follow in a second event.

        Args:
            opened: the event after which the tab is open.
        """
        sliders = (self.resolution, self.threshold, self.objects, self.tau, self.parts, self.matches)
        others = (self.model, self.beside, self.method, self.head, self.refine, self.clip, self.within, self.others)
        triggers = [slider.release for slider in sliders]
        triggers += [control.change for control in (photo, self.point, *others)]
        self._run_on(triggers, photo, options)
        self._run_on(opened.then, photo, options)

        def on_click(values: Values, event: gr.SelectData) -> Any:
            return self.clicked(values[photo], values, event)

        def on_opacity(values: Values) -> Values:
            return self.redrawn(values[photo], values)

        inputs, quiet = {photo, *self.controls}, {**options, "show_progress": "hidden"}
        self.picture.select(on_click, inputs, self.point, **quiet)
        self.opacity.release(on_opacity, inputs, [*self.views, self.slider], **quiet)

    def follow_up(self, event: Any, photo: gr.Image, options: dict[str, Any]) -> None:
        """Segment after an event that may have opened the tab."""
        self._run_on(event.then, photo, options)

    def _run_on(self, triggers: Any, photo: gr.Image, options: dict[str, Any]) -> None:
        def on_change(values: Values) -> Values:
            return self.update(values[photo], values)

        def on_more(values: Values) -> Values:
            return self.below(values[photo], values)

        inputs: set[Block] = {photo, *self.controls}
        outputs = [*self.views, self.said, self.zip, *self.fitted, self.point]
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
            chosen, (model, _, digest) = self._choice(values), state.segmented
            request, spec = chosen.request, get_spec(chosen.model)
            if model and chosen.model != model:
                # Another model has other heads, and its patches are alike from another cosine on.
                head = request.head if str(request.head) in heads_offered(chosen.model) else "mean"
                request = replace(request, head=head, tau=default_tau(spec.parameters))
            if digest and photo.digest != digest:
                request = replace(request, point=None)
            chosen = replace(chosen, request=request)
            found = self._found(photo, chosen)
            link = segment_link(image_of(photo, state.urls), self._linked(chosen))
            updates: Values = {
                **self._pictures(found, chosen),
                self.said: segments_html(found.first, found.second, found.failed, link),
                self.zip: gr.update(interactive=False),
            }
            now = (chosen.model, request.method, photo.digest)
            if now != state.segmented:
                state.segmented = now
                updates |= {**self.fit(chosen), self.point: request.point}
            return updates

    def follow(self, link: LinkState, state: PageState) -> Values:
        """The controls that a link asks for; the tab computes what they ask for when it is open."""
        given = link.segment
        model = given.get("model", self.model.value)
        method = given["method"] if given.get("method") in TITLES else "foreground"
        head = given["head"] if given.get("head") in heads_offered(model) else "mean"
        tau = default_tau(get_spec(model).parameters)
        wanted = {"tau": tau, **given, "method": method, "model": model, "head": head}
        state.segmented = (model, method, "")
        updates: Values = {control: wanted[name] for name, control in self.settings.items() if name in wanted}
        return {**updates, self.point: given.get("point")}

    def fit(self, chosen: Choice) -> Values:
        """Models that can be had by now, and the controls that the method has, with the heads of the model."""
        method = chosen.request.method
        own: dict[str, dict[str, Any]] = {name: {"visible": name in OWN[method]} for name in self.own}
        own["head"] |= {"choices": heads_offered(chosen.model), "value": str(chosen.request.head)}
        own["tau"] |= {"value": chosen.request.tau}
        return {
            self.model: gr.update(choices=_models()),
            self.beside: gr.update(choices=_others()),
            self.refine: gr.update(visible=method in LAYERED),
            **{self.own[name]: gr.update(**update) for name, update in own.items()},
        }

    def clicked(self, photo: Photo | RejectedImage | None, values: Values, event: gr.SelectData) -> Any:
        """The point whose patch others are compared with. The picture has the size of the crop."""
        chosen = self._choice(values)
        if chosen.request.method != "similarity" or not isinstance(photo, Photo):
            return gr.skip()
        with user_errors():
            x, y = (float(value) for value in event.index)
            left, top, right, bottom = self._found(photo, chosen).first.view.crop
            return min(left + x, right - 0.01), min(top + y, bottom - 0.01)

    def redrawn(self, photo: Photo | RejectedImage | None, values: Values) -> Values:
        """The pictures at another opacity: nothing else is computed again."""
        chosen = self._choice(values)
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
        chosen = self._choice(values)
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

    def _choice(self, values: Values) -> Choice:
        own = {name: values[control] for name, control in self.settings.items()}
        model, beside, opacity = own.pop("model"), own.pop("beside"), own.pop("opacity")
        whole = {name: int(own[name]) for name in ("objects", "parts", "matches")}
        resolution = int(own["resolution"]) or None
        request = SegmentRequest(**{**own, **whole, "resolution": resolution, "point": values[self.point]})
        return Choice(model, beside, opacity, values[self.others] or [], request)

    def _found(self, photo: Photo, chosen: Choice) -> Found:
        others = chosen.others if chosen.request.method in SHARED else []
        return self.segmenter.find(photo, others, chosen.model, chosen.beside, chosen.request)

    def _pictures(self, found: Found, chosen: Choice) -> Values:
        pictures = views_of(found, chosen.opacity, chosen.request.method in LAYERED)
        return dict(zip(self.views, pictures, strict=True))

    def _linked(self, chosen: Choice) -> Mapping[str, Any]:
        """What a link says: the controls that the method has."""
        request = chosen.request
        values = {"model": chosen.model, "beside": chosen.beside, **vars(request)}
        left = {name for name in self.own if name not in OWN[request.method]}
        if request.method not in LAYERED:
            left.add("refine")
        if request.method != "similarity":
            values["point"] = None
        values["resolution"] = request.resolution or 0
        names = (*self.settings, "point")
        return {name: values[name] for name in names if name in values and name not in left}


def heads_offered(model: str) -> list[str]:
    """Fusions, all of them, and each."""
    return [*HEADS, *(str(head) for head in range(get_spec(model).num_heads))]


def _models() -> list[tuple[str, str]]:
    """Those with patches."""
    return [(f"{spec.family} ({spec.name})", spec.name) for spec in ready_models() if spec.readouts]


def _others() -> list[tuple[str, str]]:
    return [("none", ""), *_models()]
