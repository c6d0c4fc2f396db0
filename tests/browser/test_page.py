"""What a person does on the page, in a real browser."""

from __future__ import annotations

import base64
import http.server
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Watched
from tests.hostile import ACCEPTED, REFUSED, encode, photo
from tests.served import App
from vitdemo.options.explain import ExplainRequest
from vitdemo.registry import default_models, get_spec
from vitdemo.settings import Settings
from vitdemo.types import ModelSpec
from vitdemo.ui.examples import examples

pytestmark = pytest.mark.browser

MODELS = default_models(Settings())
COUNT = len(MODELS)
CUP = next(example.path for example in examples() if example.label == "cup")


def result_id(page: Page, tab: str = "compared") -> str:
    return page.locator(f"#{tab} .vd-explorer").get_attribute("data-result") or ""


def wait_for_new_result(page: Page, act: Callable[[], object], tab: str = "compared") -> None:
    before = result_id(page, tab)
    act()
    expect(page.locator(f"#{tab} .vd-explorer")).not_to_have_attribute("data-result", before)


def wait_until_drawn(page: Page, tab: str = "compared") -> None:
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.locator(f"#{tab} canvas").first.is_visible()


def pictures(page: Page, tab: str = "compared") -> list[str]:
    """What each overlay looks like."""
    wait_until_drawn(page, tab)
    return page.locator(f"#{tab} .vd-picture canvas").evaluate_all("(all) => all.map((one) => one.toDataURL())")


def best_labels(page: Page, tab: str = "compared") -> list[str]:
    return page.locator(f"#{tab} .vd-best .vd-label").all_inner_texts()


def expected_labels(app: App, source: object, models: Sequence[ModelSpec] = MODELS) -> list[str]:
    comparison = app.pipeline.compare(app.pipeline.open(source), models)  # type: ignore[arg-type]
    return [item.prediction.labels[0].label for item in comparison.explanations]


def upload(page: Page, name: str, data: bytes) -> None:
    """As a person does: the old photo is taken away, the new one chosen."""
    if page.get_by_label("Remove Image").count():
        page.get_by_label("Remove Image").click()
    page.locator("#photo input[type=file]").set_input_files({"name": name, "mimeType": "", "buffer": data})


def test_the_first_example_is_there_before_anything_is_asked_for(watched: Watched) -> None:
    page = watched.page
    before = watched.app.forwards
    page.wait_for_timeout(500)
    assert page.locator("#compared .vd-panel").count() == COUNT
    assert best_labels(page) == expected_labels(watched.app, examples()[0].path)
    assert watched.app.forwards == before
    assert len(set(pictures(page))) == COUNT


def test_the_page_asks_no_other_host_for_anything(watched: Watched) -> None:
    assert watched.requests
    assert all(url.startswith(watched.app.url) for url in watched.requests)


def test_an_uploaded_photo_is_classified_by_every_model(watched: Watched) -> None:
    page = watched.page
    before = watched.app.forwards
    wait_for_new_result(page, lambda: upload(page, "mine.png", encode(photo(300, 200), "PNG")))
    assert watched.app.forwards == before + COUNT
    assert best_labels(page) == expected_labels(watched.app, photo(300, 200))
    assert page.locator("#compared .vd-labels").first.locator("li").count() == 5


def test_a_pasted_photo_is_classified(watched: Watched) -> None:
    page = watched.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=watched.app.url.rstrip("/"))
    page.get_by_label("Remove Image").click()
    page.evaluate(
        """async (text) => {
            const blob = await (await fetch("data:image/png;base64," + text)).blob();
            await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
        }""",
        base64.b64encode(encode(photo(240, 160), "PNG")).decode(),
    )
    wait_for_new_result(page, lambda: page.get_by_label("clipboard").click())
    # The browser's clipboard encodes the picture anew, without loss.
    assert best_labels(page) == expected_labels(watched.app, photo(240, 160))


def test_a_snapshot_of_the_camera_is_classified(watched: Watched) -> None:
    page = watched.page
    page.get_by_label("Remove Image").click()
    page.locator("#photo").get_by_label("Capture from camera").click()
    page.locator("#photo").get_by_text("Click to Access Webcam").click()
    page.wait_for_function("() => document.querySelector('#photo video')?.readyState >= 2")
    page.wait_for_timeout(500)
    wait_for_new_result(page, lambda: page.locator("#photo").get_by_label("capture photo").click())
    assert best_labels(page)[0] == examples()[0].label


@pytest.fixture
def picture_server() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/cup.jpg"
            body = CUP.read_bytes() if found else b"<h1>Not here</h1>"
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def enter_address(page: Page, url: str) -> None:
    page.locator("#address textarea, #address input").fill(url)
    page.locator("#address textarea, #address input").press("Enter")


def test_a_pictures_address_is_fetched_and_classified(watched: Watched, picture_server: str) -> None:
    page = watched.page
    wait_for_new_result(page, lambda: enter_address(page, f"{picture_server}/cup.jpg"))
    assert best_labels(page) == expected_labels(watched.app, CUP)
    # The photo on the page is the very same one: asking again runs no model.
    before = watched.app.forwards
    page.get_by_role("tab", name="Explain").click()
    expect(page.locator("#explained .vd-best .vd-label")).to_have_text(best_labels(page)[0])
    assert watched.app.forwards == before


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("{server}/gone.jpg", "404"),
        ("http://10.0.0.1/a.png", "not public"),
        ("a picture of a cat", "not a web address"),
    ],
)
def test_a_bad_address_is_answered_in_words(watched: Watched, picture_server: str, url: str, words: str) -> None:
    page = watched.page
    before, labels = result_id(page), best_labels(page)
    enter_address(page, url.format(server=picture_server))
    expect(page.locator(".toast-body")).to_contain_text(words)
    assert (result_id(page), best_labels(page)) == (before, labels)


def test_every_example_can_be_chosen_by_its_name(watched: Watched) -> None:
    page = watched.page
    for example in examples()[1:]:
        button = page.locator("#examples").get_by_role("button", name=example.title)
        wait_for_new_result(page, button.click)
        assert best_labels(page) == expected_labels(watched.app, example.path)


CONTROLS: dict[str, Callable[[Page, str], object]] = {
    "layer": lambda page, tab: page.locator(f"#{tab} [name=layer]").fill("2"),
    "one head": lambda page, tab: page.locator(f"#{tab} [name=head]").select_option("3"),
    "max of heads": lambda page, tab: page.locator(f"#{tab} [name=head]").select_option("max"),
    "min of heads": lambda page, tab: page.locator(f"#{tab} [name=head]").select_option("min"),
    "opacity": lambda page, tab: page.locator(f"#{tab} [name=opacity]").fill("30"),
    "colours": lambda page, tab: page.locator(f"#{tab} [name=colourMap]").select_option("viridis"),
    "smooth": lambda page, tab: page.locator(f"#{tab} [name=smooth]").uncheck(),
}


@pytest.mark.parametrize("tab", ["compared", "explained"])
def test_each_display_control_changes_every_overlay_without_any_request(watched: Watched, tab: str) -> None:
    page = watched.page
    if tab == "explained":
        page.get_by_role("tab", name="Explain").click()
    watched.settle()
    forwards = watched.app.forwards
    watched.requests.clear()
    for name, change in CONTROLS.items():
        before = pictures(page, tab)
        change(page, tab)
        assert all(old != new for old, new in zip(before, pictures(page, tab), strict=True)), name
    assert watched.requests == []
    assert watched.app.forwards == forwards


def test_the_read_out_and_the_common_scale_can_be_chosen(watched: Watched) -> None:
    page = watched.page
    page.locator("#compared [name=common]").uncheck()
    before = pictures(page)
    page.locator("#compared [name=readout]").select_option("class")
    after = pictures(page)
    changed = [old != new for old, new in zip(before, after, strict=True)]
    assert changed == [spec.readouts[0] != "class" for spec in MODELS]
    page.locator("#compared [name=common]").check()
    assert pictures(page) != after


def test_the_words_under_a_map_follow_the_controls_and_agree_with_python(watched: Watched) -> None:
    page = watched.page
    page.locator("#compared [name=layer]").fill("3")
    page.locator("#compared [name=head]").select_option("max")
    wait_until_drawn(page)
    comparison = watched.app.pipeline.compare(
        watched.app.pipeline.open(examples()[0].path), MODELS, ExplainRequest(layer=3, head="max")
    )
    shown = page.locator("#compared .vd-text").all_inner_texts()
    for text, explanation in zip(shown, comparison.explanations, strict=True):
        pattern = r"(.*: )(\d+)% of attention on (\d+)% of the picture, (.*)"
        ours, theirs = re.fullmatch(pattern, text), re.fullmatch(pattern, explanation.description)
        assert ours
        assert theirs
        assert (ours[1], ours[4]) == (theirs[1], theirs[4])
        # Bytes in the browser, floats in Python: a patch at the very edge may fall on the other side.
        assert abs(int(ours[2]) - int(theirs[2])) <= 3
        assert abs(int(ours[3]) - int(theirs[3])) <= 1


def test_a_bad_file_gets_its_message_in_its_place_and_costs_nothing(watched: Watched) -> None:
    page = watched.page
    hint = page.locator("#compared .vd-hint")
    for case in REFUSED:
        forwards, before = watched.app.forwards, result_id(page)
        page.get_by_label("Remove Image").click()
        page.locator("#photo input[type=file]").set_input_files(
            {"name": case.file, "mimeType": "image/jpeg", "buffer": case.data}
        )
        # Above the last good result, which stays and is greyed.
        expect(hint).to_contain_text(case.refusal or "")
        expect(hint).to_contain_text("Below is the last result.")
        expect(page.locator("#compared .vd-explorer")).to_have_class(re.compile("vd-stale"))
        assert page.locator("#compared .vd-panel").count() == COUNT
        assert watched.app.forwards == forwards, case.file
        assert page.locator(".toast-body").count() == 0
        assert result_id(page) == before
    # A browser cannot show such a file either, and says so in its console.
    watched.complaints.clear()
    wait_for_new_result(page, lambda: page.locator("#examples").get_by_role("button").nth(1).click())
    expect(page.locator("#compared .vd-explorer")).not_to_have_class(re.compile("vd-stale"))
    expect(hint).to_be_hidden()


def test_an_unusual_file_is_shown_and_classified(watched: Watched) -> None:
    page = watched.page
    # Files, not models, are what this is about: one is enough.
    for _ in MODELS[1:]:
        wait_for_new_result(page, lambda: page.locator("#models .token-remove").first.click())
    for case in ACCEPTED:
        upload(page, case.file, case.data)
        wanted = expected_labels(watched.app, case.data, MODELS[-1:])
        expect(page.locator("#compared .vd-best .vd-label")).to_have_text(wanted)
        if case.note:
            expect(page.locator("#compared .vd-facts").first).to_contain_text(case.note)
    watched.complaints.clear()  # Chromium cannot show a TIFF in the input itself


def test_models_can_be_taken_away_and_added(watched: Watched) -> None:
    page = watched.page
    wait_for_new_result(page, lambda: page.locator("#models .token-remove").first.click())
    assert page.locator("#compared .vd-panel").count() == COUNT - 1
    page.locator("#models input").click()
    wait_for_new_result(page, lambda: page.get_by_role("option").filter(has_text="vit-mini").first.click())
    assert page.locator("#compared .vd-panel").count() == COUNT


def test_explain_shows_the_model_that_is_chosen(watched: Watched) -> None:
    page = watched.page
    page.get_by_role("tab", name="Explain").click()
    page.locator("#model input").click()
    wait_for_new_result(page, lambda: page.get_by_role("option").filter(has_text="dino-mini").click(), "explained")
    expect(page.locator("#explained h2")).to_contain_text("dino-mini")
    expect(page.locator("#explained .vd-facts")).to_contain_text("linear probe")


def test_a_photo_of_no_class_is_doubted_and_the_classes_are_listed(watched: Watched) -> None:
    page = watched.page
    pipeline = watched.app.pipeline
    for example in examples()[1:]:
        compared = pipeline.compare(pipeline.open(example.path), MODELS).explanations
        expected = [item.prediction.spec.name for item in compared if item.prediction.uncovered]
        if 0 < len(expected) < len(compared):
            break
    else:
        pytest.fail("no example is doubted by some models and not by others")
    title = example.title
    wait_for_new_result(page, page.locator("#examples").get_by_role("button", name=title).click)
    panels = page.locator("#compared .vd-panel").filter(has=page.locator(".vd-doubt"))
    assert [panel.get_attribute("aria-label") for panel in panels.all()] == expected
    first = panels.first.locator(".vd-doubt")
    expect(first).to_contain_text(f"Probably not one of this model's {len(get_spec(expected[0]).labels)} classes")
    first.locator("summary").click()
    expect(first.locator("p")).to_contain_text(", ".join(get_spec(expected[0]).labels))


def test_without_a_photo_the_page_says_what_to_do_and_greys_the_last_result(watched: Watched) -> None:
    page = watched.page
    before = pictures(page)
    page.get_by_label("Remove Image").click()
    expect(page.locator("#compared .vd-hint")).to_have_text(
        "Drop a photo, or choose an example. Below is the last result."
    )
    assert (
        float(page.locator("#compared .vd-picture canvas").first.evaluate("(one) => getComputedStyle(one).opacity"))
        < 0.6
    )
    assert pictures(page) == before


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, pytest.param(1440, marks=pytest.mark.thorough)])
def test_nothing_is_wider_than_the_screen_or_unreadable(
    browser: Browser, app: App, width: int, scheme: str, tmp_path: Path
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)  # type: ignore[arg-type]
    watched = Watched(context.new_page(), app).open()
    for tab, elem in (("Compare", "compared"), ("Explain", "explained")):
        watched.page.get_by_role("tab", name=tab).click()
        expect(watched.page.locator(f"#{elem} .vd-panel").first).to_be_visible()
        assert watched.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        overflowing = watched.page.locator(f"#{elem} .vd-explorer *, #examples button").evaluate_all(
            "(all) => all.filter((one) => one.getBoundingClientRect().right > innerWidth + 1 &&"
            " !one.closest('.vd-examples, details')).map((one) => one.outerHTML.slice(0, 80))"
        )
        assert overflowing == []
        assert watched.page.locator(f"#{elem} .vd-explorer").evaluate(_CONTRAST) >= 4.5
    assert watched.complaints == []
    context.close()


_CONTRAST = """(element) => {
    const parse = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
    const light = (rgb) => rgb.map((c) => c / 255).map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const pair = [getComputedStyle(element).color, getComputedStyle(document.body).backgroundColor].map(parse).map(light);
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
}"""
