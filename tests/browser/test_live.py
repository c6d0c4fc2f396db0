"""A camera before the Live tab, in a real browser whose camera plays the first example."""

from __future__ import annotations

import base64
import io
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Watched
from tests.browser.test_page import _CONTRAST
from tests.served import App, serving
from vitdemo.errors import EngineError, ImageError
from vitdemo.options.explain import ExplainRequest
from vitdemo.pipeline import Pipeline
from vitdemo.registry import get_spec, ready_models
from vitdemo.rendering.overlay import upsample
from vitdemo.types import Explanation
from vitdemo.ui import live as live_module
from vitdemo.ui.examples import examples

pytestmark = pytest.mark.browser

ROOT = "#live .vd-live"
OTHER = "dino-mini"


def open_tab(page: Page) -> None:
    page.get_by_role("tab", name="Live").click()
    expect(page.locator("#live .vd-start")).to_be_visible()


def start(page: Page) -> None:
    """One click, and the first answer."""
    open_tab(page)
    page.locator("#live .vd-start").click()
    wait_for_answers(page, 1)


def answers(page: Page) -> int:
    return int(page.locator(ROOT).get_attribute("data-answers") or 0)


def wait_for_answers(page: Page, more: int) -> None:
    page.wait_for_function(
        "([selector, count]) => Number(document.querySelector(selector).dataset.answers || 0) >= count",
        arg=[ROOT, answers(page) + more],
    )


def words(page: Page) -> Any:
    return expect(page.locator("#live .vd-words"))


def overlay(page: Page) -> str:
    """The map as it lies over the picture."""
    return str(page.locator("#live canvas").evaluate("(canvas) => canvas.toDataURL()"))


def record(page: Page) -> None:
    """Note every answer from now on."""
    page.evaluate(
        """(selector) => {
            const { dataset } = document.querySelector(selector);
            window.recorded = [];
            window.recorder?.disconnect();
            window.recorder = new MutationObserver(() => window.recorded.push({
                at: performance.now(), model: dataset.model, latency: Number(dataset.latency),
                number: Number(dataset.number), sent: Number(dataset.sent),
            }));
            window.recorder.observe(document.querySelector(selector), { attributeFilter: ["data-number"] });
        }""",
        ROOT,
    )


def recorded(page: Page) -> list[dict[str, Any]]:
    return list(page.evaluate("window.recorded"))


def camera_is_on(page: Page) -> bool:
    return bool(page.locator("#live video").evaluate("(video) => Boolean(video.srcObject?.active)"))


def choose_model(page: Page, name: str) -> None:
    page.locator("#live-model input").click()
    page.get_by_role("option").filter(has_text=name).click()


@pytest.fixture(scope="module")
def opened(browser: Browser, app: App) -> Iterator[Watched]:
    """One page for all tests that leave nothing behind: to open it takes longer than most of them."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    context.set_default_timeout(20_000)
    yield Watched(context.new_page(), app).open()
    context.close()


@pytest.fixture
def watched(opened: Watched) -> Iterator[Watched]:
    """The Live tab as a person finds it, the camera off."""
    page = opened.page
    open_tab(page)
    if page.locator(ROOT).get_attribute("data-phase") != "idle":
        page.locator("#live .vd-start").click()
    page.locator("#live [name=camera]").select_option("user")
    if "vit-mini" not in page.locator("#live-model input").input_value():
        choose_model(page, "vit-mini")
    page.locator("#live [name=layer]").fill(page.locator("#live [name=layer]").get_attribute("max") or "")
    page.locator("#live [name=head]").select_option("mean")
    page.locator("#live [name=opacity]").fill("80")
    opened.requests.clear()
    opened.complaints.clear()
    yield opened
    page.evaluate("delete document.hidden; delete navigator.mediaDevices; delete navigator.mediaDevices.getUserMedia")
    assert opened.complaints == []


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
            self._open.wait(20)
        return self._run(*arguments, **options)


@pytest.fixture
def gate(app: App, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(app.pipeline.backend.run)
    monkeypatch.setattr(app.pipeline.backend, "run", gate)
    yield gate
    gate.open()


def hold(page: Page, gate: Gate) -> None:
    """Close the gate, and wait until a frame stands before it and nothing more is answered."""
    gate.close()
    assert gate.held.wait(10)
    page.wait_for_timeout(200)


def test_one_click_and_a_known_photo_before_the_camera_has_its_label(watched: Watched) -> None:
    page = watched.page
    start(page)
    assert any("/queue/join" in url for url in watched.requests)
    best = page.locator("#live .vd-labels li").first
    expect(best.locator(".vd-label")).to_have_text(examples()[0].label or "")
    expect(best.locator(".vd-score")).to_have_text(re.compile(r"^\d+%$"))
    assert page.locator("#live .vd-labels li").count() == 5
    # The picture moves on by itself, under the map.
    position = "(video) => video.currentTime"
    before = page.locator("#live video").evaluate(position)
    page.wait_for_timeout(300)
    assert page.locator("#live video").evaluate(position) > before
    assert len(set(overlay(page))) > 1
    assert page.locator("#live canvas").is_visible()


@pytest.mark.thorough
def test_frames_a_second_and_all_latencies_are_said_and_agree_with_what_is_counted(watched: Watched) -> None:
    page = watched.page
    start(page)
    record(page)
    forwards = watched.app.forwards
    page.wait_for_timeout(4000)
    shown = float(page.locator("#live .vd-rate").inner_text())
    times = [answer["at"] for answer in recorded(page)]
    latest = [at for at in times if times[-1] - at < 3000]
    assert shown == pytest.approx((len(latest) - 1) * 1000 / (latest[-1] - latest[0]), rel=0.5)
    assert watched.app.forwards - forwards == pytest.approx(len(times), abs=2)
    felt = page.locator("#live .vd-latency").inner_text()
    in_model = page.locator("#live .vd-model-time").inner_text()
    assert re.fullmatch(r"\d+ ms", felt)
    assert re.fullmatch(r"\d+ ms", in_model)
    expect(page.locator("#live .vd-where")).to_have_text(re.compile(r"vit-mini: \d+ ms on the server \(cpu, fp32\)"))
    assert int(felt.split()[0]) >= int(in_model.split()[0])


def test_layer_head_and_opacity_change_the_map_without_any_request(watched: Watched, gate: Gate) -> None:
    page = watched.page
    start(page)
    hold(page, gate)
    before, forwards = overlay(page), watched.app.forwards
    watched.requests.clear()
    page.locator("#live [name=layer]").fill("2")
    layer = overlay(page)
    page.locator("#live [name=head]").select_option("3")
    head = overlay(page)
    assert len({before, layer, head}) == 3
    page.locator("#live [name=opacity]").fill("30")
    assert page.locator("#live canvas").evaluate("(canvas) => getComputedStyle(canvas).opacity") == "0.3"
    assert [url for url in watched.requests if "/stream/" not in url] == []
    assert watched.app.forwards == forwards
    gate.open()
    # What was chosen stays chosen for the frames that follow.
    wait_for_answers(page, 2)
    assert page.locator("#live [name=layer]").input_value() == "2"
    assert page.locator("#live [name=head]").input_value() == "3"


@pytest.mark.thorough
def test_the_map_is_the_one_that_python_makes_of_the_same_picture(watched: Watched) -> None:
    page = watched.page
    start(page)
    page.locator("#live [name=layer]").fill("5")
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(overlay(page).partition(",")[2]))).convert("RGBA"))
    film = watched.app.pipeline.open(watched.app.pipeline.open(examples()[0].path).image.resize((640, 640)))
    attribution = watched.app.pipeline.explain(film, get_spec("vit-mini"), ExplainRequest(layer=5)).map
    assert attribution is not None
    expected = upsample(attribution.scaled(), found.shape[1], found.shape[0])
    # Opacity rises with attention. Two JPEGs lie between the pictures.
    assert np.corrcoef(found[:, :, 3].ravel(), expected.ravel())[0, 1] > 0.9
    # From the faintest to nearly the full opacity: no pixel lies in the very middle of a patch.
    assert found[:, :, 3].min() in range(64, 72)
    assert found[:, :, 3].max() in range(225, 256)


def test_another_model_takes_over_while_the_stream_goes_on(watched: Watched) -> None:
    page = watched.page
    start(page)
    watched.requests.clear()
    choose_model(page, OTHER)
    expect(page.locator(ROOT)).to_have_attribute("data-model", OTHER)
    expect(page.locator("#live .vd-where")).to_contain_text(OTHER)
    expect(page.locator("#live .vd-notes")).to_contain_text("linear probe")
    assert not any("/queue/join" in url for url in watched.requests), "the stream was begun anew"


def test_only_models_that_are_here_are_offered(watched: Watched) -> None:
    open_tab(watched.page)
    watched.page.locator("#live-model input").click()
    offered = watched.page.locator("#live-model").get_by_role("option").all_inner_texts()
    assert [re.findall(r"\((.*)\)", text) for text in offered] == [[spec.name] for spec in ready_models()]
    watched.page.keyboard.press("Escape")


def test_frames_that_came_too_late_are_dropped_and_the_newest_is_answered(watched: Watched, gate: Gate) -> None:
    page = watched.page
    start(page)
    hold(page, gate)
    record(page)
    forwards, sent = watched.app.forwards, int(page.locator(ROOT).get_attribute("data-sent") or 0)
    # Meanwhile three newer frames reach the server.
    page.wait_for_function(f"() => Number(document.querySelector('{ROOT}').dataset.sent) >= {sent + 3}")
    page.wait_for_timeout(100)
    newest = int(page.locator(ROOT).get_attribute("data-sent") or 0)
    gate.open()
    wait_for_answers(page, 4)
    page.locator("#live .vd-start").click()
    words(page).to_contain_text("Stopped")
    page.wait_for_timeout(500)
    numbers = [answer["number"] for answer in recorded(page)]
    late, next_one = numbers[:2]
    assert late <= sent, "the frame that was being answered"
    assert next_one >= newest > late + 1, "frames between were answered although newer ones were there"
    # Nobody computes what nobody will see, and when the camera stops, so does everything.
    assert watched.app.forwards - forwards <= len(numbers) + 1
    after = watched.app.forwards
    page.wait_for_timeout(500)
    assert watched.app.forwards == after


@pytest.mark.thorough
def test_a_slow_model_answers_recent_frames(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    run = watched.app.pipeline.backend.run

    def slowed(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.4)
        return run(*arguments, **options)

    monkeypatch.setattr(watched.app.pipeline.backend, "run", slowed)
    page = watched.page
    start(page)
    record(page)
    wait_for_answers(page, 5)
    found = recorded(page)
    # When it is answered, at most one newer frame is on its way.
    assert max(answer["sent"] - answer["number"] for answer in found) <= 1
    between = (found[-1]["at"] - found[0]["at"]) / (len(found) - 1)
    assert between > 400
    assert max(answer["latency"] for answer in found) < 2.5 * between, "frames stand in a line"


def test_a_frozen_frame_becomes_the_photo_and_is_explained_by_the_same_model(watched: Watched) -> None:
    page = watched.page
    start(page)
    choose_model(page, OTHER)
    expect(page.locator(ROOT)).to_have_attribute("data-model", OTHER)
    live = page.locator("#live .vd-label").first.inner_text()
    page.get_by_role("button", name="Freeze into Explain").click()
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
    page.wait_for_timeout(300)
    assert not camera_is_on(page)


def test_leaving_the_tab_ends_the_work_and_coming_back_goes_on_with_one_click(watched: Watched) -> None:
    page = watched.page
    start(page)
    page.get_by_role("tab", name="Compare").click()
    page.wait_for_timeout(500)
    forwards = watched.app.forwards
    page.wait_for_timeout(700)
    assert watched.app.forwards == forwards
    assert not camera_is_on(page)
    page.get_by_role("tab", name="Live").click()
    words(page).to_contain_text("Paused")
    page.get_by_role("button", name="Go on").click()
    wait_for_answers(page, 2)


@pytest.mark.thorough
def test_a_window_in_the_background_runs_no_model_and_goes_on_by_itself(watched: Watched) -> None:
    page = watched.page
    start(page)
    away = """(away) => {
        Object.defineProperty(document, "hidden", { value: away, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    page.evaluate(away, True)
    page.wait_for_timeout(500)
    forwards = watched.app.forwards
    page.wait_for_timeout(700)
    assert watched.app.forwards == forwards
    page.evaluate(away, False)
    wait_for_answers(page, 2)
    words(page).to_be_empty()


@pytest.mark.thorough
def test_a_stream_ends_after_its_time_and_goes_on_with_one_click(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "LIMIT", 2.0)
    context = browser.new_context()
    with serving(tmp_path_factory.mktemp("gradio")) as app:
        watched = Watched(context.new_page(), app).open()
        start(watched.page)
        words(watched.page).to_contain_text("Stopped after 2 seconds")
        assert not camera_is_on(watched.page)
        watched.page.get_by_role("button", name="Go on").click()
        wait_for_answers(watched.page, 2)
        words(watched.page).to_be_empty()
        assert watched.complaints == []
        context.close()


REFUSALS = {
    "NotFoundError": "No camera was found. Plug one in",
    "NotReadableError": "another program may be using it",
    "OverconstrainedError": "Choose another one",
    "NotAllowedError": "Allow it at the sign beside the page's address",
}


def test_a_camera_that_does_not_start_is_explained_in_place_and_can_be_tried_again(watched: Watched) -> None:
    page = watched.page
    page.evaluate(
        """() => {
            const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
            navigator.mediaDevices.getUserMedia = (asked) =>
                window.fault ? Promise.reject(new DOMException("no", window.fault)) : real(asked);
        }"""
    )
    for name, said in REFUSALS.items():
        page.evaluate("(name) => { window.fault = name; }", name)
        page.locator("#live .vd-start").click()
        words(page).to_contain_text(said)
    assert page.locator("#live .vd-words").get_attribute("role") == "status"
    assert page.locator(".toast-body").count() == 0
    page.evaluate("window.fault = null")
    page.locator("#live .vd-start").click()
    wait_for_answers(page, 1)
    words(page).to_be_empty()


@pytest.mark.thorough
def test_an_insecure_page_is_told_how_to_become_a_secure_one(watched: Watched) -> None:
    page = watched.page
    page.evaluate("Object.defineProperty(navigator, 'mediaDevices', { value: undefined, configurable: true })")
    open_tab(page)
    page.locator("#live .vd-start").click()
    port = watched.app.url.rstrip("/").rpartition(":")[2]
    words(page).to_contain_text(f"ssh -L {port}:localhost:{port} 127.0.0.1, then http://localhost:{port}")


@pytest.mark.thorough
def test_the_camera_can_be_changed_while_it_runs(watched: Watched) -> None:
    page = watched.page
    page.evaluate(
        """() => {
            window.asked = [];
            window.tracks = [];
            const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
            navigator.mediaDevices.getUserMedia = async (constraints) => {
                window.asked.push(constraints.video.facingMode.ideal);
                // On a phone only one camera can be open at a time.
                window.open = window.tracks.filter((track) => track.readyState === "live").length;
                const stream = await real(constraints);
                window.tracks.push(...stream.getTracks());
                return stream;
            };
        }"""
    )
    start(page)
    page.locator("#live [name=camera]").select_option("environment")
    page.wait_for_function("() => window.tracks.length === 2")
    wait_for_answers(page, 2)
    assert page.evaluate("window.asked") == ["user", "environment"]
    assert page.evaluate("window.open") == 0
    assert page.evaluate("window.tracks.map((track) => track.readyState)") == ["ended", "live"]
    page.locator("#live .vd-start").click()
    assert not camera_is_on(page)
    assert page.evaluate("window.tracks.every((track) => track.readyState === 'ended')")


@pytest.mark.thorough
def test_a_frame_that_fails_is_said_once_in_place_and_the_stream_goes_on(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = watched.page
    start(page)
    with monkeypatch.context() as patch:

        def failing(*arguments: Any, **options: Any) -> Explanation:
            raise EngineError("The model is <b>gone</b>. Choose another one.")

        patch.setattr(watched.app.pipeline, "explain", failing)
        words(page).to_contain_text("The model is <b>gone</b>. Choose another one.")
        expect(page.locator(ROOT)).to_have_attribute("data-stale", "")
    wait_for_answers(page, 2)
    words(page).to_be_empty()
    assert page.locator(".toast-body").count() == 0


@pytest.mark.thorough
def test_a_model_without_classifier_shows_its_map_and_one_without_attention_its_labels(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, explain = watched.page, watched.app.pipeline.explain
    start(page)

    def nameless(*arguments: Any, **options: Any) -> Explanation:
        found = explain(*arguments, **options)
        return replace(found, prediction=replace(found.prediction, labels=()))

    def blind(*arguments: Any, **options: Any) -> Explanation:
        found = explain(*arguments, **options)
        spec = replace(found.prediction.spec, readouts=())
        return replace(found, map=None, rows={}, prediction=replace(found.prediction, spec=spec))

    monkeypatch.setattr(watched.app.pipeline, "explain", nameless)
    expect(page.locator("#live .vd-labels")).to_contain_text("no classifier")
    assert page.locator("#live canvas").is_visible()
    monkeypatch.setattr(watched.app.pipeline, "explain", blind)
    expect(page.locator("#live .vd-notes")).to_contain_text("no attention to show")
    expect(page.locator("#live canvas")).to_be_hidden()
    expect(page.locator("#live [name=layer]")).to_be_disabled()
    expect(page.locator("#live .vd-label").first).to_have_text(examples()[0].label or "")
    monkeypatch.setattr(watched.app.pipeline, "explain", explain)
    expect(page.locator("#live canvas")).to_be_visible()


@pytest.mark.thorough
def test_two_pages_at_once_get_their_own_answers(browser: Browser, app: App) -> None:
    contexts = [browser.new_context() for _ in range(2)]
    pages = [Watched(context.new_page(), app).open() for context in contexts]
    models = ("vit-mini", OTHER)
    for watched, model in zip(pages, models, strict=True):
        open_tab(watched.page)
        if model == OTHER:
            choose_model(watched.page, model)
        watched.page.locator("#live .vd-start").click()
        expect(watched.page.locator(ROOT)).to_have_attribute("data-model", model)
        record(watched.page)
    for watched in pages:
        wait_for_answers(watched.page, 5)
    for watched, model in zip(pages, models, strict=True):
        assert {answer["model"] for answer in recorded(watched.page)} == {model}
        assert watched.complaints == []
    for context in contexts:
        context.close()


@pytest.mark.thorough
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1440, "dark")])
def test_nothing_moves_overflows_or_fades(browser: Browser, app: App, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)  # type: ignore[arg-type]
    watched = Watched(context.new_page(), app).open()
    page = watched.page
    open_tab(page)
    places = """(all) => all.map((one) => one.getBoundingClientRect())
        .map((box) => [box.x, box.y + scrollY, box.width, box.height])"""
    parts = "#live .vd-controls, #live .vd-bar button, #live .vd-labels, #live .vd-notes, #live .vd-stats"
    # The camera's own shape, here a square, is taken on as it starts; from then on nothing moves.
    page.locator("#live .vd-start").click()
    page.wait_for_function(f"() => document.querySelector('{ROOT}').dataset.phase === 'running'")
    before = page.locator(parts).evaluate_all(places)
    wait_for_answers(page, 1)
    choose_model(page, OTHER)
    expect(page.locator("#live .vd-notes")).not_to_be_empty()
    assert page.locator(parts).evaluate_all(places) == before
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    overflowing = page.locator(f"{ROOT} *").evaluate_all(
        "(all) => all.filter((one) => one.getBoundingClientRect().right > innerWidth + 1 && !one.closest('.vd-film'))"
        ".map((one) => one.outerHTML.slice(0, 80))"
    )
    assert overflowing == []
    for part in (ROOT, "#live .vd-small >> nth=0", "#live .vd-where"):
        assert page.locator(part).evaluate(_CONTRAST) >= 4.5
    assert watched.complaints == []
    context.close()


@pytest.mark.thorough
def test_every_control_is_reached_and_worked_by_keyboard(watched: Watched) -> None:
    page = watched.page
    open_tab(page)
    page.locator("#live .vd-start").focus()
    page.keyboard.press("Enter")
    wait_for_answers(page, 1)
    reached = []
    for _ in range(6):
        reached.append(page.evaluate("document.activeElement.name || document.activeElement.className"))
        ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert ring == "solid", reached[-1]
        page.keyboard.press("Tab")
    assert reached == ["vd-start", "vd-freeze", "camera", "layer", "head", "opacity"]
    page.locator("#live [name=layer]").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#live .vd-controls output").first).to_have_text("6 of 7")


@pytest.mark.parametrize("source", ["/etc/passwd", "http://10.0.0.1/a.png", None, "data:text/plain;base64,AAAA", 3])
def test_only_pictures_are_let_in_never_paths(source: object) -> None:
    with gr.Blocks():
        tab = live_module.LiveTab(Pipeline(), "vit-mini")
    with pytest.raises(ImageError):
        tab.picture(source)
