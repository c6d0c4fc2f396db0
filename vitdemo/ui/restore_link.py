"""What a link restores when the page is opened with one."""

from __future__ import annotations

from typing import Any

import gradio as gr

from vitdemo.errors import VitDemoError
from vitdemo.pipeline import Pipeline
from vitdemo.types import Photo
from vitdemo.ui.choose import ChooseTab
from vitdemo.ui.compare import CompareTab
from vitdemo.ui.errors import user_errors
from vitdemo.ui.examples import examples, opened
from vitdemo.ui.explain import ExplainTab
from vitdemo.ui.inside import InsideTab
from vitdemo.ui.link_check import is_url, shortened, understood, warning
from vitdemo.ui.links import LinkState, example_called, parse_link
from vitdemo.ui.photos import DecodedPhotos
from vitdemo.ui.segment import SegmentTab
from vitdemo.ui.state import CHOOSE, COMPARE, EXPLAIN, INSIDE, NOTHING, SEGMENT, TRAIN, PageState, Values
from vitdemo.ui.train_settings import may_train


class RestoreLink:
    """Reads the query string, and sets the controls that it names; what is not understood is named, and keeps its default."""

    def __init__(
        self,
        pipeline: Pipeline,
        photos: DecodedPhotos,
        page: tuple[gr.Tabs, gr.Image, gr.State],
        tabs: tuple[CompareTab, ExplainTab, SegmentTab, InsideTab],
        choose: ChooseTab | None,
    ) -> None:
        self.pipeline, self.photos = pipeline, photos
        self.tabs, self.photo, self.state = page
        compare, explain, segment, inside = tabs
        self.compare, self.explain, self.segment, self.inside = tabs
        self.choose = choose
        self.outputs = [
            *(self.tabs, self.photo),
            *(compare.models, compare.method, compare.target, compare.compared),
            *(explain.model, explain.method, explain.target, explain.resolution, explain.point, explain.explained),
            *(explain.fusion, explain.discard, explain.variant),
            segment.view,
            inside.view,
            *([choose.view] if choose else []),
        ]

    def on_load(self, state: PageState, request: gr.Request) -> Values:
        query: dict[str, Any] = dict(request.query_params) if request else {}
        query = {name: str(value) for name, value in query.items()}
        link = parse_link(query)
        absent = [*([] if may_train(self.pipeline.settings) else [TRAIN]), *([] if self.choose else [CHOOSE])]
        link, ignored = understood(link, query, self.compare.default, self.explain.default, absent)
        if link == LinkState():
            if ignored:
                gr.Warning(warning(ignored))
            return NOTHING
        try:
            with user_errors():
                photo, path = self._photo(link.image, state, ignored)
                tab = link.tab or COMPARE
                found: Values = {}
                if tab == EXPLAIN:
                    found = self.explain.follow(link, photo, state)
                elif tab == SEGMENT:
                    found = self.segment.follow(link)
                elif tab == INSIDE:
                    found = self.inside.follow(link)
                elif tab == CHOOSE and self.choose:
                    found = self.choose.follow(link)
                elif tab == COMPARE:
                    found = self.compare.follow(link, photo, state)
        except gr.Error as error:
            gr.Warning(f"This link cannot be followed: {error.message}")
            return NOTHING
        if ignored:
            gr.Warning(warning(ignored))
        state.tab, state.stale = tab, {COMPARE, EXPLAIN} - {tab}
        state.touched = bool(link.image)
        if path:
            state.linked, found[self.photo] = photo.digest, path
        return {**found, self.tabs: gr.update(selected=tab)}

    def _photo(self, image: str, state: PageState, ignored: list[str]) -> tuple[Photo, str]:
        """The photo, and the path that the page's input is to be set to; "" where it has this photo already.

        A URL that gives no image is added to `ignored`.
        """
        example = example_called(image) or examples()[0]
        if is_url(image):
            try:
                path = self.photos.download(image, self.photo.GRADIO_CACHE)
            except VitDemoError as error:
                ignored.append(f"image={shortened(image)} ({error})")
            else:
                photo = self.pipeline.open(path)
                state.urls[photo.digest] = image
                return photo, path
        return opened(self.pipeline, example), "" if example == examples()[0] else str(example.path)
