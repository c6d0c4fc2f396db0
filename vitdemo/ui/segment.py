"""The Segment tab: what a transformer parts a photo into, without having been taught to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import gradio as gr

from vitdemo.options.segment import OWN, RESOLUTION, Parameters, default_tau
from vitdemo.pipeline import Pipeline
from vitdemo.registry import get_spec, ready_models
from vitdemo.types import Photo
from vitdemo.ui.components.photo import PhotoInput, Refused
from vitdemo.ui.components.photo_files import PhotoFiles
from vitdemo.ui.components.segments import KEEP_LINK, segments_html
from vitdemo.ui.errors import user_errors
from vitdemo.ui.links import Addresses, image_of, segment_link
from vitdemo.ui.segment_views import Found, Segmenter, empty_view, files_of, heads_of, pictures_of, slider_of, views_of

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
"""Methods that look at several photos together."""

HEADS = ["mean", "max", "min", "all"]


class Asked(NamedTuple):
    """What the controls of the tab ask for."""

    model: str
    beside: str
    method: str
    resolution: float
    refine: bool
    clip: bool
    opacity: float
    threshold: float
    head: str
    objects: float
    tau: float
    parts: float
    within: bool
    matches: float
    point: tuple[float, float] | None
    others: list[tuple[str, str]] | None
    addresses: Addresses

    @property
    def parameters(self) -> Parameters:
        return Parameters(
            method=self.method,
            threshold=self.threshold,
            head=self.head,
            objects=int(self.objects),
            tau=self.tau,
            parts=int(self.parts),
            within=self.within,
            point=self.point,
            matches=int(self.matches),
            refine=self.refine,
            clip=self.clip,
            resolution=int(self.resolution) or None,
        )


class SegmentTab:
    """Built inside an open `gr.Tab`; nothing runs before it is opened. `connect` wires it."""

    def __init__(self, pipeline: Pipeline, model: str, addresses: gr.State) -> None:
        self.segmenter = Segmenter(pipeline)
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
        self.point, self.last = gr.State(None), gr.State(("", "", ""))
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
        self.inputs = [*self.settings.values(), self.point, self.others, addresses]
        self.fitted = [self.model, self.beside, *self.own.values(), self.refine]
        self.more = [self.zip, self.compared, self.slider, self.heads_box, self.heads, self.others_box, self.shared]

    def connect(self, photo: PhotoInput, tab: gr.State, opened: gr.Tab, options: dict[str, Any]) -> None:
        """Let the controls, the photo and a click on the picture make other masks.

        One event for all of them, so that of many changes the last one is what is shown. What is looked at first comes first:
        files and the pictures below follow in a second event.
        """
        quiet = {**options, "show_progress": "hidden"}
        opened.select(lambda: "segment", None, tab, api_visibility="private", show_progress="hidden")
        sliders = (self.resolution, self.threshold, self.objects, self.tau, self.parts, self.matches)
        others = (self.model, self.beside, self.method, self.head, self.refine, self.clip, self.within, self.others)
        triggers = [slider.release for slider in sliders]
        triggers += [control.change for control in (photo, tab, self.point, *others)]
        inputs = [photo, tab, *self.inputs]
        outputs = [*self.views, self.said, self.zip, *self.fitted, self.last, self.point]
        gr.on(triggers, self.on_change, [self.last, *inputs], outputs, show_progress_on=self.views, **options).success(
            self.on_more, inputs, self.more, **quiet
        ).then(None, None, None, js=KEEP_LINK, api_visibility="private")
        self.picture.select(self.on_click, [photo, *self.inputs], self.point, **quiet)
        self.opacity.release(self.on_opacity, [photo, *self.inputs], [*self.views, self.slider], **quiet)

    def on_change(
        self, last: tuple[str, str, str], photo: Photo | Refused | None, tab: str, *controls: Any
    ) -> tuple[Any, ...]:
        """Masks and words. A model runs only where the photo, the model or the resolution are new.

        Args:
            last: model, method and photo of the last time; a photo of "" is one that comes with the controls.
        """
        asked, fitted = Asked(*controls), tuple(gr.skip() for _ in (*self.fitted, self.last, self.point))
        if tab != "segment":
            return (*(gr.skip() for _ in (*self.views, self.said, self.zip)), *fitted)
        with user_errors():
            if not isinstance(photo, Photo):
                why = "Drop a photo, or choose an example." if photo is None else photo.message
                # The last result stays, under the reason.
                return (*(gr.skip() for _ in self.views), segments_html(why), gr.skip(), *fitted)
            spec = get_spec(asked.model)
            if last[0] and asked.model != last[0]:
                # Another model has other heads, and its patches are alike from another cosine on.
                head = asked.head if asked.head in heads_offered(asked.model) else "mean"
                asked = asked._replace(head=head, tau=default_tau(spec.parameters))
            if last[2] and photo.digest != last[2]:
                asked = asked._replace(point=None)
            found = self._found(photo, asked)
            link = segment_link(image_of(photo, asked.addresses), self._said(asked))
            said = segments_html(found.first, found.second, found.failed, link)
            now = (asked.model, asked.method, photo.digest)
            if now != last:
                fitted = (*self.fit(asked), now, asked.point)
            return (*self._pictures(found, asked), said, gr.update(interactive=False), *fitted)

    def fit(self, asked: Asked) -> tuple[Any, ...]:
        """Models that can be had by now, and the controls that the method has, with the heads of the model."""
        own: dict[str, dict[str, Any]] = {name: {"visible": name in OWN[asked.method]} for name in self.own}
        own["head"] |= {"choices": heads_offered(asked.model), "value": asked.head}
        own["tau"] |= {"value": asked.tau}
        refine = gr.update(visible=asked.method in LAYERED)
        lists = gr.update(choices=_models()), gr.update(choices=_others())
        return (*lists, *(gr.update(**update) for update in own.values()), refine)

    def on_click(self, event: gr.SelectData, photo: Photo | Refused | None, *controls: Any) -> Any:
        """The patch that others are compared with. The picture has the size of the crop."""
        asked = Asked(*controls)
        if asked.method != "similarity" or not isinstance(photo, Photo):
            return gr.skip()
        with user_errors():
            x, y = (float(value) for value in event.index)
            left, top, right, bottom = self._found(photo, asked).first.view.crop
            return min(left + x, right - 0.01), min(top + y, bottom - 0.01)

    def on_opacity(self, photo: Photo | Refused | None, *controls: Any) -> tuple[Any, ...]:
        """Nothing is computed again but the pictures."""
        asked = Asked(*controls)
        if not isinstance(photo, Photo):
            return tuple(gr.skip() for _ in (*self.views, self.slider))
        with user_errors():
            found = self._found(photo, asked)
            refined = asked.refine and asked.method in LAYERED and len(found.first.masks) > 0
            return (*self._pictures(found, asked), slider_of(found, asked.opacity) if refined else gr.skip())

    def on_more(self, photo: Photo | Refused | None, tab: str, *controls: Any) -> tuple[Any, ...]:
        """What is below the picture: files, edges, heads and other photos."""
        asked = Asked(*controls)
        if not isinstance(photo, Photo) or tab != "segment":
            return tuple(gr.skip() for _ in self.more)
        with user_errors():
            found = self._found(photo, asked)
            refined = asked.refine and asked.method in LAYERED and len(found.first.masks) > 0
            attends, shares = asked.method == "attention", asked.method in SHARED
            return (
                gr.update(value=files_of(found, self.zip.GRADIO_CACHE), interactive=True),
                gr.update(visible=refined),
                slider_of(found, asked.opacity) if refined else gr.skip(),
                gr.update(visible=attends),
                heads_of(self.segmenter, found, asked.parameters, asked.opacity) if attends else gr.skip(),
                gr.update(visible=shares),
                pictures_of(found, asked.opacity) if shares else gr.skip(),
            )

    def _found(self, photo: Photo, asked: Asked) -> Found:
        others = (asked.others or []) if asked.method in SHARED else []
        return self.segmenter.find(photo, others, asked.model, asked.beside, asked.parameters)

    def _pictures(self, found: Found, asked: Asked) -> tuple[Any, ...]:
        return views_of(found, asked.opacity, asked.method in LAYERED)

    def _said(self, asked: Asked) -> Mapping[str, Any]:
        """What a link says: the controls that the method has."""
        left = {name for name in self.own if name not in OWN[asked.method]} | {"opacity"}
        if asked.method not in LAYERED:
            left.add("refine")
        values = {name: value for name, value in asked._asdict().items() if name in self.settings and name not in left}
        return {**values, "point": asked.point if asked.method == "similarity" else None}


def heads_offered(model: str) -> list[str]:
    """Fusions, all of them, and each."""
    return [*HEADS, *(str(head) for head in range(get_spec(model).num_heads))]


def _models() -> list[tuple[str, str]]:
    """Those with patches."""
    return [(f"{spec.family} ({spec.name})", spec.name) for spec in ready_models() if spec.readouts]


def _others() -> list[tuple[str, str]]:
    return [("none", ""), *_models()]
