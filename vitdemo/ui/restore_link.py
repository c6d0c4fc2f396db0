"""What a link brings back when the page is opened with one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from vitdemo.options.methods import METHODS
from vitdemo.options.segment import default_tau
from vitdemo.pipeline import Pipeline
from vitdemo.registry import get_spec
from vitdemo.types import Photo
from vitdemo.ui.compare import CompareTab
from vitdemo.ui.components.photo import fetch_to_cache
from vitdemo.ui.errors import user_errors
from vitdemo.ui.examples import examples, opened
from vitdemo.ui.explain import ExplainTab, fitting
from vitdemo.ui.links import Wanted, example_called, wanted
from vitdemo.ui.segment import TITLES, SegmentTab, heads_offered

TABS = ("compare", "explain", "segment", "live", "models")


class Opening:
    """Reads the query string, and sets the controls that it names; what is not among the choices keeps its default."""

    def __init__(
        self, pipeline: Pipeline, compare: CompareTab, explain: ExplainTab, segment: SegmentTab, cache: str
    ) -> None:
        self.pipeline, self.cache = pipeline, cache
        self.compare, self.explain, self.segment = compare, explain, segment
        self.outputs = [
            *(compare.models, compare.last, compare.method, compare.target, compare.compared),
            *(explain.model, explain.method, explain.target, explain.resolution, explain.point, explain.explained),
            *(*segment.settings.values(), segment.point, segment.last),
        ]
        """After tabs, tab, stale, photo, addresses, and the photo that was followed."""

    def on_load(self, request: gr.Request) -> tuple[Any, ...]:
        query = dict(request.query_params) if request else {}
        asked = wanted({name: str(value) for name, value in query.items()})
        skipped = tuple(gr.skip() for _ in range(6 + len(self.outputs)))
        if asked == Wanted():
            return skipped
        try:
            with user_errors():
                photo, path, addresses = self._photo(asked.image)
                tab = asked.tab if asked.tab in TABS else "compare"
                compared, explained, segmented = skipped[:5], skipped[:6], skipped[: len(self.segment.settings) + 2]
                if tab == "explain":
                    explained = self._explain(asked, photo, addresses)
                elif tab == "segment":
                    segmented = self._segment(asked.segment)
                elif tab == "compare":
                    compared = self._compare(asked, photo, addresses)
        except gr.Error as error:
            gr.Warning(f"This link cannot be followed: {error.message}")
            return skipped
        stale = {"compare": "explain", "explain": "compare"}.get(tab, "compare explain")
        followed = photo.digest if isinstance(path, str) else ""
        return (gr.update(selected=tab), tab, stale, path, addresses, followed, *compared, *explained, *segmented)

    def _photo(self, image: str) -> tuple[Photo, Any, dict[str, str]]:
        """The photo, what the page's input is set to, and where it came from."""
        example = example_called(image) or examples()[0]
        if image.startswith(("http://", "https://")):
            path = fetch_to_cache(image, self.cache)
            photo = self.pipeline.open(path)
            return photo, path, {photo.digest: image}
        photo = opened(self.pipeline, example)
        return photo, gr.skip() if example == examples()[0] else str(example.path), {}

    def _compare(self, asked: Wanted, photo: Photo, addresses: dict[str, str]) -> tuple[Any, ...]:
        names = list(asked.models) or list(self.compare.default)
        specs = [get_spec(name) for name in names]
        method = asked.method if asked.method in METHODS and asked.method != "similarity" else "attention"
        controls = (names, method, asked.target, addresses)
        value = self.compare.compare(photo, *controls, start=asked.start)
        return (names, names, *self.compare.controls(specs, method, asked.target), value)

    def _explain(self, asked: Wanted, photo: Photo, addresses: dict[str, str]) -> tuple[Any, ...]:
        name = asked.model or self.explain.default
        spec = get_spec(name)
        method = fitting(asked.method, spec)
        point = asked.patch if method == "similarity" else None
        controls = (name, method, asked.target, asked.resolution, point, addresses)
        value = self.explain.explain(photo, *controls, start=asked.start)
        return (name, *self.explain.controls(spec, method, asked.target), asked.resolution, point, value)

    def _segment(self, asked: Mapping[str, Any]) -> tuple[Any, ...]:
        """The controls alone: the tab computes what they ask for when it is opened."""
        own = self.segment
        model = asked.get("model", own.model.value)
        method = asked["method"] if asked.get("method") in TITLES else "foreground"
        head = asked["head"] if asked.get("head") in heads_offered(model) else "mean"
        tau = default_tau(get_spec(model).parameters)
        values = {"tau": tau, **asked, "method": method, "model": model, "head": head}
        updates = [gr.update(value=values[name]) if name in values else gr.skip() for name in own.settings]
        return (*updates, asked.get("point"), (model, method, ""))
