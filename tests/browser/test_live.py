"""A camera before the Live tab, in a real browser whose camera plays the first example: alone on a page, and with the server."""

from __future__ import annotations

import base64
import io
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.acts import open_tab
from tests.browser.driver import Watched, opened
from tests.browser.static_page import StaticPage, looks
from tests.served import App, serving
from vitdemo.errors import EngineError, ImageError
from vitdemo.options.explain import ExplainRequest
from vitdemo.pipeline import Pipeline
from vitdemo.registry import get_spec, ready_models
from vitdemo.rendering.overlay import upsample
from vitdemo.rendering.scale import colour_scale
from vitdemo.types import Explanation
from vitdemo.ui import live as live_module
from vitdemo.ui.components.live import live_view
from vitdemo.ui.examples import examples

pytestmark = pytest.mark.browser

OTHER = "dino-mini"


# Without a server: frames are answered by this process


class Live(StaticPage):
    """The component, and who answers its frames."""

    model = "vit-mini"
    explain: Callable[..., Explanation]
    """As `Pipeline.explain`."""

    @property
    def count(self) -> int:
        return int(self.find(".vd-live").get_attribute("data-answers") or 0)

    def wait(self, more: int = 1) -> None:
        """For so many answers."""
        self.page.wait_for_function(
            "(count) => Number(document.querySelector('.vd-live').dataset.answers || 0) >= count",
            arg=self.count + more,
        )

    def start(self) -> None:
        self.find(".vd-start").click()
        self.wait()

    def says(self, words: str) -> None:
        expect(self.find(".vd-words")).to_contain_text(words)

    def frames(self) -> int:
        return sum(name == "stream" for name, _ in self.triggered())

    def camera_is_on(self) -> bool:
        return bool(self.find("video").evaluate("(video) => Boolean(video.srcObject?.active)"))


@pytest.fixture
def live(bare_context: BrowserContext, pipeline: Pipeline) -> Iterator[Live]:
    with gr.Blocks():
        tab = live_module.LiveTab(pipeline, "vit-mini")
    tab.pipeline = SimpleNamespace(open=pipeline.open, explain=lambda *what, **how: page.explain(*what, **how))  # type: ignore[assignment]
    complaints: list[str] = []
    page = Live(bare_context.new_page(), live_view("shown", live_module.EVERY, live_module.LIMIT), {})
    page.explain = pipeline.explain
    page.told = lambda name, data: tab.on_frame(page.model, SimpleNamespace(**data)) if name == "stream" else None  # type: ignore[arg-type]
    page.page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    page.page.close()
    assert complaints == []


def test_the_map_is_the_one_that_python_makes_of_the_same_picture(live: Live, pipeline: Pipeline) -> None:
    live.start()
    live.set("layer", "5")
    drawn = live.find("canvas").evaluate("(canvas) => canvas.toDataURL()")
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(drawn.partition(",")[2]))).convert("RGBA"))
    film = pipeline.open(pipeline.open(examples()[0].path).image.resize((640, 640)))
    attribution = pipeline.explain(film, get_spec("vit-mini"), ExplainRequest(layer=5)).map
    assert attribution is not None
    values = attribution.values
    expected = colour_scale([values]).shares(upsample(values, found.shape[1], found.shape[0]))
    # Opacity rises with attention. Two JPEGs lie between the pictures.
    assert np.corrcoef(found[:, :, 3].ravel(), expected.ravel())[0, 1] > 0.9
    # From the faintest to nearly the full opacity: no pixel lies in the very middle of a patch.
    assert found[:, :, 3].min() in range(25, 80)
    assert found[:, :, 3].max() in range(225, 256)


@pytest.mark.thorough
def test_layer_head_and_opacity_change_the_map_and_stay_chosen(live: Live) -> None:
    live.start()
    # What a frame looked like must not change meanwhile.
    live.told = lambda name, data: None
    live.drawn()
    frames = [looks(live.find("canvas"))]
    for name, value in {"layer": "2", "head": "3"}.items():
        live.set(name, value)
        frames.append(looks(live.find("canvas")))
    assert len({str(one) for one in frames}) == 3
    live.set("opacity", "30")
    assert live.find("canvas").evaluate("(canvas) => getComputedStyle(canvas).opacity") == "0.3"


@pytest.mark.thorough
def test_of_each_model_the_answer_says_what_it_can(live: Live, pipeline: Pipeline) -> None:
    def nameless(*what: Any, **how: Any) -> Explanation:
        found = pipeline.explain(*what, **how)
        return replace(found, prediction=replace(found.prediction, labels=()))

    def blind(*what: Any, **how: Any) -> Explanation:
        found = pipeline.explain(*what, **how)
        spec = replace(found.prediction.spec, readouts=())
        return replace(found, map=None, rows={}, prediction=replace(found.prediction, spec=spec))

    live.start()
    expect(live.find(".vd-label").first).to_have_text(examples()[0].label or "")
    assert live.find(".vd-labels li").count() == 5
    live.explain = nameless
    expect(live.find(".vd-labels")).to_contain_text("no classifier")
    assert live.find("canvas").is_visible()
    live.explain = blind
    expect(live.find(".vd-notes")).to_contain_text("no attention to show")
    expect(live.find("canvas")).to_be_hidden()
    expect(live.find("[name=layer]")).to_be_disabled()
    expect(live.find(".vd-label").first).to_have_text(examples()[0].label or "")
    live.explain = pipeline.explain
    expect(live.find("canvas")).to_be_visible()


@pytest.mark.thorough
def test_a_frame_that_fails_is_said_once_in_place_and_the_stream_goes_on(live: Live, pipeline: Pipeline) -> None:
    def failing(*what: Any, **how: Any) -> Explanation:
        raise EngineError("The model is <b>gone</b>. Choose another one.")

    live.start()
    live.explain = failing
    live.says("The model is <b>gone</b>. Choose another one.")
    expect(live.find(".vd-live")).to_have_attribute("data-stale", "")
    live.explain = pipeline.explain
    live.wait(2)
    expect(live.find(".vd-words")).to_be_empty()


REFUSALS = {
    "NotFoundError": "No camera was found. Plug one in",
    "NotReadableError": "another program may be using it",
    "OverconstrainedError": "Choose another one",
    "NotAllowedError": "Allow it at the sign beside the page's address",
}


@pytest.mark.thorough
def test_a_camera_that_does_not_start_is_explained_in_place_and_can_be_tried_again(live: Live) -> None:
    live.page.evaluate(
        """() => {
            const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
            navigator.mediaDevices.getUserMedia = (asked) =>
                window.fault ? Promise.reject(new DOMException("no", window.fault)) : real(asked);
        }"""
    )
    for name, said in REFUSALS.items():
        live.page.evaluate("(name) => { window.fault = name; }", name)
        live.find(".vd-start").click()
        live.says(said)
    assert live.find(".vd-words").get_attribute("role") == "status"
    live.page.evaluate("window.fault = null")
    live.start()
    expect(live.find(".vd-words")).to_be_empty()


@pytest.mark.thorough
def test_an_insecure_page_is_told_how_to_become_a_secure_one(live: Live) -> None:
    live.page.evaluate("Object.defineProperty(navigator, 'mediaDevices', { value: undefined, configurable: true })")
    live.find(".vd-start").click()
    live.says("ssh -L 80:localhost:80 localhost, then http://localhost:80")


@pytest.mark.thorough
def test_the_camera_can_be_changed_while_it_runs(live: Live) -> None:
    live.page.evaluate(
        """() => {
            window.wanted = [];
            window.tracks = [];
            const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
            navigator.mediaDevices.getUserMedia = async (constraints) => {
                window.wanted.push(constraints.video.facingMode.ideal);
                // On a phone only one camera can be open at a time.
                window.open = window.tracks.filter((track) => track.readyState === "live").length;
                const stream = await real(constraints);
                window.tracks.push(...stream.getTracks());
                return stream;
            };
        }"""
    )
    live.start()
    live.set("camera", "environment")
    live.page.wait_for_function("() => window.tracks.length === 2")
    live.wait(2)
    assert live.page.evaluate("window.wanted") == ["user", "environment"]
    assert live.page.evaluate("window.open") == 0
    assert live.page.evaluate("window.tracks.map((track) => track.readyState)") == ["ended", "live"]
    live.find(".vd-start").click()
    live.says("Stopped")
    assert not live.camera_is_on()
    assert live.page.evaluate("window.tracks.every((track) => track.readyState === 'ended')")


@pytest.mark.thorough
def test_a_page_in_the_background_sends_nothing_and_goes_on_by_itself(live: Live) -> None:
    away = """(away) => {
        Object.defineProperty(document, "hidden", { value: away, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    live.page.clock.install()
    live.start()
    live.page.evaluate(away, True)
    before = live.frames()
    live.page.clock.run_for(5000)
    assert live.frames() == before
    assert ["close_stream", None] in live.triggered()
    live.page.evaluate(away, False)
    live.page.clock.resume()
    live.wait(2)
    expect(live.find(".vd-words")).to_be_empty()


@pytest.mark.thorough
def test_every_control_is_reached_and_worked_by_keyboard_and_nothing_moves(live: Live) -> None:
    places = """(all) => all.map((one) => one.getBoundingClientRect())
        .map((box) => [box.x, box.y + scrollY, box.width, box.height])"""
    parts = live.find(".vd-controls, #shown .vd-bar button, #shown .vd-labels, #shown .vd-stats")
    live.find(".vd-start").focus()
    live.page.keyboard.press("Enter")
    live.page.wait_for_function("() => document.querySelector('.vd-live').dataset.phase === 'running'")
    # The camera's own shape, here a square, is taken on as it starts; from then on nothing moves.
    before = parts.evaluate_all(places)
    live.wait()
    live.model = OTHER
    expect(live.find(".vd-notes")).not_to_be_empty()
    assert parts.evaluate_all(places) == before
    reached = []
    for _ in range(6):
        reached.append(live.page.evaluate("document.activeElement.name || document.activeElement.className"))
        assert live.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") in ("solid", "auto")
        live.page.keyboard.press("Tab")
    assert reached == ["vd-start", "vd-freeze", "camera", "layer", "head", "opacity"]
    live.find("[name=layer]").focus()
    live.page.keyboard.press("ArrowLeft")
    expect(live.find(".vd-controls output").first).to_have_text("7 of 8")


@pytest.mark.thorough
@pytest.mark.parametrize("source", ["/etc/passwd", "http://10.0.0.1/a.png", None, "data:text/plain;base64,AAAA", 3])
def test_only_pictures_are_let_in_never_paths(source: object) -> None:
    with gr.Blocks():
        tab = live_module.LiveTab(Pipeline(), "vit-mini")
    with pytest.raises(ImageError):
        tab.picture(source)


# With the server

ROOT = "#live .vd-live"


def start(page: Page) -> None:
    """One click, and the first answer."""
    open_tab(page, "Live")
    page.locator("#live .vd-start").click()
    wait_for_answers(page, 1)


def number(page: Page, name: str) -> int:
    return int(page.locator(ROOT).get_attribute(f"data-{name}") or 0)


def wait_for(page: Page, name: str, least: int) -> None:
    """Until a number of the tab is so large."""
    page.wait_for_function(
        "([selector, name, least]) => Number(document.querySelector(selector).dataset[name] || 0) >= least",
        arg=[ROOT, name, least],
    )


def wait_for_answers(page: Page, more: int) -> None:
    wait_for(page, "answers", number(page, "answers") + more)


def words(page: Page) -> Any:
    return expect(page.locator("#live .vd-words"))


def camera_goes_off(page: Page) -> None:
    page.wait_for_function("() => !document.querySelector('#live video').srcObject?.active")


def choose_model(page: Page, name: str) -> None:
    page.locator("#live-model input").click()
    page.get_by_role("option").filter(has_text=name).click()


class Gate:
    """Lets forwards through, or holds them until it is opened."""

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run, self._open, self.held = run, threading.Event(), threading.Event()
        self._open.set()

    def close(self) -> None:
        self.held.clear()
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if not self._open.is_set():
            self.held.set()
            self._open.wait(60)
        return self._run(*arguments, **options)


@pytest.fixture
def gate(app: App, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(app.pipeline.backend.run)
    monkeypatch.setattr(app.pipeline.backend, "run", gate)
    yield gate
    gate.open()


@pytest.mark.thorough
def test_one_click_and_a_known_photo_before_the_camera_has_its_label_from_any_model_that_is_here(
    watched: Watched,
) -> None:
    page = watched.page
    open_tab(page, "Live")
    page.locator("#live-model input").click()
    offered = page.locator("#live-model").get_by_role("option").all_inner_texts()
    assert [re.findall(r"\((.*)\)", text) for text in offered] == [[spec.name] for spec in ready_models()]
    page.keyboard.press("Escape")
    start(page)
    assert any("/queue/join" in url for url in watched.requests)
    best = page.locator("#live .vd-labels li").first
    expect(best.locator(".vd-label")).to_have_text(examples()[0].label or "")
    expect(best.locator(".vd-score")).to_have_text(re.compile(r"^\d+%$"))
    assert page.locator("#live .vd-labels li").count() == 5
    # Another model takes over while the stream goes on.
    watched.requests.clear()
    choose_model(page, OTHER)
    expect(page.locator(ROOT)).to_have_attribute("data-model", OTHER)
    expect(page.locator("#live .vd-where")).to_contain_text(OTHER)
    expect(page.locator("#live .vd-notes")).to_contain_text("linear probe")
    assert not any("/queue/join" in url for url in watched.requests), "the stream was begun anew"


RECORD = """(selector) => {
    const { dataset } = document.querySelector(selector);
    window.recorded = [];
    new MutationObserver(() => window.recorded.push(Number(dataset.number)))
        .observe(document.querySelector(selector), { attributeFilter: ["data-number"] });
}"""


@pytest.mark.thorough
def test_frames_that_came_too_late_are_dropped_and_the_newest_is_answered(watched: Watched, gate: Gate) -> None:
    page = watched.page
    start(page)
    gate.close()
    assert gate.held.wait(60)
    page.evaluate(RECORD, ROOT)
    forwards, sent = watched.app.forwards, number(page, "sent")
    # Meanwhile three newer frames reach the server.
    with page.expect_response(lambda answer: "/stream/" in answer.url and number_of(answer.request) >= sent + 3):
        wait_for(page, "sent", sent + 3)
    newest = number(page, "sent")
    gate.open()
    wait_for_answers(page, 4)
    page.locator("#live .vd-start").click()
    words(page).to_contain_text("Stopped")
    camera_goes_off(page)
    late, next_one, *_ = numbers = page.evaluate("window.recorded")
    assert late <= sent, "the frame that was being answered"
    assert next_one >= newest - 1 > late + 1, "frames between were answered although newer ones were there"
    # Nobody computes what nobody will see.
    watched.settle()
    assert watched.app.forwards - forwards <= len(numbers) + 2


def number_of(request: Any) -> int:
    """Of the frame that a request brings."""
    found = re.search(r'"number":(\d+)', request.post_data or "")
    return int(found[1]) if found else 0


@pytest.mark.thorough
def test_a_frozen_frame_becomes_the_photo_and_is_explained_by_the_same_model(watched: Watched) -> None:
    page = watched.page
    open_tab(page, "Live")
    choose_model(page, OTHER)
    start(page)
    expect(page.locator(ROOT)).to_have_attribute("data-model", OTHER)
    live = page.locator("#live .vd-label").first.inner_text()
    page.get_by_role("button", name="Freeze and explain").click()
    expect(page.get_by_role("tab", name="Explain")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#explained h2")).to_contain_text(OTHER)
    expect(page.locator("#explained .vd-best .vd-label")).to_have_text(live)
    assert OTHER in page.locator("#model input").input_value()
    image = page.locator("#photo img").first
    page.wait_for_function("() => document.querySelector('#photo img')?.naturalWidth === 640")
    data = page.request.get(image.get_attribute("src") or "").body()
    shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((64, 64)), np.float32)
    film = np.asarray(Image.open(examples()[0].path).convert("RGB").resize((64, 64)), np.float32)
    assert np.abs(shown - film).mean() < 10
    # The tab was left: its camera is off.
    camera_goes_off(page)


@pytest.mark.thorough
def test_leaving_the_tab_ends_the_work_and_coming_back_goes_on_with_one_click(watched: Watched) -> None:
    page = watched.page
    start(page)
    open_tab(page, "Compare")
    camera_goes_off(page)
    watched.settle()
    open_tab(page, "Live")
    words(page).to_contain_text("Paused")
    sent = number(page, "sent")
    page.get_by_role("button", name="Resume").click()
    wait_for(page, "sent", sent + 1)
    wait_for_answers(page, 2)


@pytest.mark.thorough
def test_a_stream_ends_after_its_time_and_goes_on_with_one_click(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "LIMIT", 2.0)
    with serving(tmp_path_factory.mktemp("gradio")) as app, opened(browser) as context:
        watched = Watched(context.new_page(), app).open()
        start(watched.page)
        words(watched.page).to_contain_text("Stopped after 2 seconds")
        camera_goes_off(watched.page)
        watched.page.get_by_role("button", name="Resume").click()
        wait_for_answers(watched.page, 2)
        words(watched.page).to_be_empty()
        assert watched.complaints == []


@pytest.mark.thorough
def test_two_pages_at_once_get_their_own_answers(browser: Browser, app: App) -> None:
    with opened(browser) as one, opened(browser) as other:
        pages = [Watched(context.new_page(), app).open() for context in (one, other)]
        models = ("vit-mini", OTHER)
        for watched, model in zip(pages, models, strict=True):
            open_tab(watched.page, "Live")
            if model == OTHER:
                choose_model(watched.page, model)
            watched.page.locator("#live .vd-start").click()
            expect(watched.page.locator(ROOT)).to_have_attribute("data-model", model)
            watched.page.evaluate(
                """(selector) => {
                    const { dataset } = document.querySelector(selector);
                    window.models = new Set();
                    new MutationObserver(() => window.models.add(dataset.model))
                        .observe(document.querySelector(selector), { attributeFilter: ["data-number"] });
                }""",
                ROOT,
            )
        for watched in pages:
            wait_for_answers(watched.page, 5)
        for watched, model in zip(pages, models, strict=True):
            assert watched.page.evaluate("[...window.models]") == [model]
            assert watched.complaints == []
