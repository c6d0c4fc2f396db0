"""The Segment tab: what a transformer parts a photo into, without having been taught to."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from PIL import Image

from vitdemo.errors import VitDemoError
from vitdemo.pipeline import Pipeline
from vitdemo.registry import get_spec
from vitdemo.remembered import Remembered
from vitdemo.segmentation import enlarge
from vitdemo.segmenting import RESOLUTION, Parameters, segment
from vitdemo.takeaway import COLOURS, archive, segmentation_overlay
from vitdemo.types import Photo, Segmentation
from vitdemo.ui.components.photo import PhotoInput, Refused
from vitdemo.ui.components.photo_files import PhotoFiles
from vitdemo.ui.components.segments import segments_html
from vitdemo.ui.errors import user_errors
from vitdemo.ui.models import choices

TITLES = {
    "foreground": "Foreground: what stands out",
    "attention": "Attention: patches that hold most of it",
    "parts": "Parts: patches that are alike",
    "pca": "Colours: three principal components",
    "similarity": "Similarity: click on the picture",
}
OWN = {
    "attention": ("threshold", "head"),
    "foreground": ("objects", "tau"),
    "parts": ("parts", "within"),
    "pca": ("within",),
    "similarity": ("matches",),
}
"""The controls that each method has."""


KEPT = 100_000_000
"""Bytes of masks that are remembered: how they are shown changes often, what they are seldom."""


class Asked(NamedTuple):
    """What the controls of the tab ask for."""

    model: str
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


class SegmentTab:
    """Built inside an open `gr.Tab`; nothing runs before it is opened. `connect` wires it."""

    def __init__(self, pipeline: Pipeline, model: str) -> None:
        self.pipeline = pipeline
        self._kept = Remembered(KEPT)
        with gr.Row(equal_height=True):
            self.model = gr.Dropdown(choices(), value=model, label="Model", elem_id="segment-model", min_width=180)
            self.method = gr.Dropdown(
                [(title, name) for name, title in TITLES.items()],
                value="foreground",
                label="Method",
                elem_id="segment-method",
                min_width=240,
            )
            self.resolution = gr.Slider(
                0, 640, RESOLUTION, step=32, label="Resolution", info="Long side in pixels; 0 is the model's own"
            )
        with gr.Row(equal_height=True):
            self.threshold = gr.Slider(0.05, 1, 0.6, step=0.05, label="Share of attention", visible=False)
            self.head = gr.Dropdown(["mean", "max", "min", "all"], value="mean", label="Heads", visible=False)
            self.objects = gr.Slider(1, 5, 1, step=1, label="Objects")
            self.tau = gr.Slider(0, 0.8, Parameters().tau, step=0.05, label="Alike from a cosine of")
            self.parts = gr.Slider(2, 8, 4, step=1, label="Parts", visible=False)
            self.within = gr.Checkbox(True, label="Only in the foreground", visible=False, min_width=200)
            self.matches = gr.Slider(1, 10, 5, step=1, label="Best matches", visible=False)
            self.refine = gr.Checkbox(True, label="Follow the edges of the photo", min_width=220)
            self.clip = gr.Checkbox(False, label="Clip outlier patches", min_width=200)
            self.opacity = gr.Slider(0, 1, 0.6, step=0.05, label="Opacity")
        self.masks = gr.AnnotatedImage(label="Masks", height=520, elem_id="segmented", buttons=["fullscreen"])
        self.picture = gr.Image(
            label="Picture", height=520, interactive=False, visible=False, format="png", elem_id="segment-picture"
        )
        self.said = gr.HTML("", apply_default_css=False, elem_id="segment-said")
        with gr.Row():
            self.zip = gr.DownloadButton(
                "Download all of it (zip)", size="sm", scale=0, min_width=240, elem_id="segment-zip"
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
                label="Other photos", columns=3, height="auto", object_fit="contain", elem_id="segment-shared"
            )
        self.point = gr.State(None)
        own = [self.threshold, self.head, self.objects, self.tau, self.parts, self.within, self.matches]
        self.inputs = [
            *(self.model, self.method, self.resolution, self.refine, self.clip, self.opacity),
            *own,
            *(self.point, self.others),
        ]
        self.outputs = [
            *(self.masks, self.picture, self.said, self.zip, self.compared, self.slider),
            *(self.heads_box, self.heads, self.others_box, self.shared),
        ]
        self.own = dict(zip(("threshold", "head", "objects", "tau", "parts", "within", "matches"), own, strict=True))

    def connect(self, photo: PhotoInput, tab: gr.State, opened: gr.Tab, options: dict[str, Any]) -> None:
        """Let the controls, the photo and a click on the picture make other masks."""
        inputs = [photo, *self.inputs]
        opened.select(lambda: "segment", None, tab, queue=False, api_visibility="private", show_progress="hidden")
        opened.select(self.on_change, inputs, self.outputs, **options)
        photo.change(self.on_photo, [photo, tab, *self.inputs], [*self.outputs, self.point], **options)
        self.method.change(self.on_method, inputs, [*self.outputs, *self.own.values(), self.refine], **options)
        self.model.change(self.on_model, inputs, [*self.outputs, self.head], **options)
        for slider in (self.resolution, self.opacity, self.threshold, self.objects, self.tau, self.parts, self.matches):
            slider.release(self.on_change, inputs, self.outputs, **options)
        for control in (self.head, self.refine, self.clip, self.within, self.others):
            control.change(self.on_change, inputs, self.outputs, **options)
        self.picture.select(self.on_click, inputs, [*self.outputs, self.point], **options)

    def on_photo(self, photo: Photo | Refused | None, tab: str, *controls: Any) -> tuple[Any, ...]:
        """Another photo has other places."""
        if tab != "segment":
            return tuple(gr.skip() for _ in range(len(self.outputs) + 1))
        return (*self.on_change(photo, *Asked(*controls)._replace(point=None)), None)

    def on_method(self, photo: Photo | Refused | None, *controls: Any) -> tuple[Any, ...]:
        method = Asked(*controls).method
        shown = [gr.update(visible=name in OWN[method]) for name in self.own]
        edges = gr.update(visible=method in ("attention", "foreground", "parts"))
        return (*self.on_change(photo, *controls), *shown, edges)

    def on_model(self, photo: Photo | Refused | None, *controls: Any) -> tuple[Any, ...]:
        """Another model may have other heads."""
        asked = Asked(*controls)
        with user_errors():
            heads = ["mean", "max", "min", "all", *(str(head) for head in range(get_spec(asked.model).num_heads))]
        head = asked.head if asked.head in heads else "mean"
        return (*self.on_change(photo, *asked._replace(head=head)), gr.update(choices=heads, value=head))

    def on_click(self, event: gr.SelectData, photo: Photo | Refused | None, *controls: Any) -> tuple[Any, ...]:
        """The patch that others are compared with. The picture has the size of the crop."""
        asked = Asked(*controls)
        if asked.method != "similarity" or not isinstance(photo, Photo):
            return tuple(gr.skip() for _ in range(len(self.outputs) + 1))
        with user_errors():
            x, y = (float(value) for value in event.index)
            left, top, right, bottom = self._segmented(photo, asked)[1][0].view.crop
            point = (min(left + x, right - 0.01), min(top + y, bottom - 0.01))
        return (*self.on_change(photo, *asked._replace(point=point)), point)

    def on_change(self, photo: Photo | Refused | None, *controls: Any) -> tuple[Any, ...]:
        """Whatever is shown. A model runs only where the photo, the model or the resolution are new."""
        asked = Asked(*controls)
        with user_errors():
            if not isinstance(photo, Photo):
                why = "Drop a photo, or choose an example." if photo is None else photo.message
                # The last result stays, under the reason.
                return (gr.skip(), gr.skip(), segments_html(why), *(gr.skip() for _ in range(7)))
            photos, found, failed = self._segmented(photo, asked)
            return self._shown(photos, found, failed, asked)

    def _segmented(self, photo: Photo, asked: Asked) -> tuple[list[Photo], list[Segmentation], list[str]]:
        photos, failed = [photo], []
        if asked.method in ("parts", "pca", "similarity"):
            for name, path in (asked.others or [])[: self.pipeline.settings.max_photos]:
                try:
                    photos.append(replace(self.pipeline.open(Path(path)), name=name))
                except VitDemoError as error:
                    failed.append(f"{name}: {error}")
        parameters = Parameters(
            method=asked.method,
            threshold=asked.threshold,
            head=asked.head,
            objects=int(asked.objects),
            tau=asked.tau,
            parts=int(asked.parts),
            within=asked.within,
            point=asked.point,
            matches=int(asked.matches),
            refine=asked.refine,
            clip=asked.clip,
            resolution=int(asked.resolution) or None,
        )
        spec = get_spec(asked.model)
        key = (tuple(one.digest for one in photos), spec.checkpoint, spec.revision, parameters)
        found = self._kept.get(key)
        if found is None:
            found = segment(self.pipeline, photos, spec, parameters)
            self._kept.put(key, found, sum(one.masks.nbytes for one in found))
        return photos, found, failed

    def _shown(
        self, photos: list[Photo], found: list[Segmentation], failed: list[str], asked: Asked
    ) -> tuple[Any, ...]:
        photo, first = photos[0], found[0]
        layered = asked.method in ("attention", "foreground", "parts")
        masks, picture = gr.update(visible=layered), gr.update(visible=not layered)
        if layered:
            colours = {
                name: COLOURS[(number - 1) % len(COLOURS)]
                for name, number in zip(first.names, first.numbers, strict=True)
            }
            layers = [(mask * asked.opacity, name) for mask, name in zip(first.masks, first.names, strict=True)]
            crop = photo.image.crop(first.view.crop)
            masks = gr.update(value=(crop, layers), color_map=colours, visible=True)
        else:
            picture = gr.update(value=segmentation_overlay(photo, first, asked.opacity), visible=True)
        refined = layered and asked.refine and len(first.masks) > 0
        slider: Any = gr.skip()
        if refined:
            slider = (_plain(photo, first, asked.opacity), segmentation_overlay(photo, first, asked.opacity))
        heads: Any = gr.skip()
        if asked.method == "attention":
            (each,) = segment(
                self.pipeline,
                [photo],
                first.spec,
                Parameters(
                    method="attention", head="all", threshold=asked.threshold, resolution=int(asked.resolution) or None
                ),
            )
            heads = [(_one(photo, each, index, asked.opacity), name) for index, name in enumerate(each.names)]
        shares = asked.method in ("parts", "pca", "similarity")
        shared = [
            (segmentation_overlay(other, result, asked.opacity), other.name)
            for other, result in zip(photos[1:], found[1:], strict=True)
        ]
        return (
            masks,
            picture,
            segments_html(first, failed),
            self._zip(photos, found),
            gr.update(visible=refined),
            slider,
            gr.update(visible=asked.method == "attention"),
            heads,
            gr.update(visible=shares),
            shared if shares else gr.skip(),
        )

    def _zip(self, photos: list[Photo], found: list[Segmentation]) -> str:
        folder = Path(tempfile.mkdtemp(dir=Path(self.picture.GRADIO_CACHE)))
        path = folder / f"{Path(photos[0].name).stem or 'photo'}-{found[0].method}.zip"
        path.write_bytes(archive(photos, found))
        return str(path)


def _plain(photo: Photo, found: Segmentation, opacity: float) -> Image.Image:
    """The same before any refinement."""
    height, width = found.masks.shape[1:]
    rough = np.stack([enlarge(mask, width, height) for mask in found.patches])
    return segmentation_overlay(photo, replace(found, masks=rough), opacity)


def _one(photo: Photo, found: Segmentation, index: int, opacity: float) -> Image.Image:
    part = replace(found, masks=found.masks[index : index + 1], names=found.names[index : index + 1])
    picture = segmentation_overlay(photo, part, opacity)
    picture.thumbnail((360, 360))
    return picture
