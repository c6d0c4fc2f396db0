"""The public endpoint `/segment`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from vitdemo.export.results import segmentation_json
from vitdemo.export.segmentation import archive
from vitdemo.options.explain import parse_point
from vitdemo.options.segment import RESOLUTION, SegmentRequest, parse_head
from vitdemo.pipeline import Pipeline
from vitdemo.pipeline.segment import segment as segment_photos
from vitdemo.registry import get_spec, segmenting_model
from vitdemo.rendering.masks import segmentation_overlay
from vitdemo.types import Photo
from vitdemo.ui.components.photo import required
from vitdemo.ui.errors import user_errors


def add_segment(
    pipeline: Pipeline,
    new_folder: Callable[[], Path],
    trigger: gr.Button,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    options: dict[str, Any],
) -> None:
    """Define `/segment` inside an open `gr.Blocks`, among components that nobody sees.

    Args:
        inputs: those of the photo and the model.
        outputs: of JSON, of a picture and of a file.
    """

    def segment(
        image: Photo | None,
        model: str | None = None,
        method: str = "foreground",
        threshold: float | None = 0.6,
        head: str = "mean",
        objects: int | None = 1,
        tau: float | None = None,
        parts: int | None = 4,
        within: bool = True,
        point: str | None = None,
        matches: int | None = 5,
        refine: bool = False,
        clip: bool = False,
        resolution: int | None = RESOLUTION,
    ) -> tuple[dict[str, Any], str, str]:
        """What one model parts a picture into: the facts as JSON, masks over the picture as PNG, all files as a zip.

        Args:
            image: a picture file, its address, or a data URL.
            model: a name from /models; empty means the first DINO.
            method: such as "foreground" or "parts"; an unknown name is answered with all of them.
            threshold: for attention, share of it that is kept, above 0 and up to 1.
            head: for attention, "mean", "max", "min", a number from 0, or "all" for a mask of each.
            objects: for foreground, at most so many, 1 to 10.
            tau: for foreground, parts and pca, cosine from which patches count as alike, -1 to 1; empty means what suits the model
                and the photo.
            parts: for parts, how many, 1 to 20.
            within: for parts and pca, only inside the foreground.
            point: for similarity, "X,Y" in pixels of the upright photo; empty means the middle.
            matches: for similarity, best places that are boxed, 1 to 50.
            refine: whether masks follow the edges of the photo.
            clip: whether patches of huge features are smoothed over.
            resolution: long side in pixels to enlarge the photo to; empty means the model's own input.
        """
        with user_errors():
            photo = required(image)
            given: dict[str, Any] = {
                "method": method,
                "threshold": threshold,
                "head": parse_head(head),
                "objects": objects,
            }
            given |= {"tau": tau, "parts": parts, "within": within, "point": parse_point(point), "matches": matches}
            given |= {"refine": refine, "clip": clip}
            # Clients send nothing, or an empty text, for what they leave open.
            asked = SegmentRequest(
                **{name: value for name, value in given.items() if value not in (None, "")},
                resolution=resolution or None,
            )
            (found,) = segment_photos(pipeline, [photo], get_spec(model) if model else segmenting_model(), asked)
            folder = new_folder()
            (folder / "segmentation.zip").write_bytes(archive([photo], [found]))
            segmentation_overlay(photo, found).save(folder / "overlay.png")
            entry = {"image": photo.name, **segmentation_json(found)}
            return entry, str(folder / "overlay.png"), str(folder / "segmentation.zip")

    own = SegmentRequest()
    parameters = [
        gr.Textbox(own.method, label="method"),
        gr.Number(own.threshold, label="threshold"),
        gr.Textbox(str(own.head), label="head"),
        gr.Number(own.objects, precision=0, label="objects"),
        gr.Number(own.tau, label="tau"),
        gr.Number(own.parts, precision=0, label="parts"),
        gr.Checkbox(own.within, label="within"),
        gr.Textbox(label="point"),
        gr.Number(own.matches, precision=0, label="matches"),
        gr.Checkbox(own.refine, label="refine"),
        gr.Checkbox(own.clip, label="clip"),
        gr.Number(own.resolution, precision=0, label="resolution"),
    ]
    trigger.click(segment, [*inputs, *parameters], list(outputs), api_name="segment", **options)
