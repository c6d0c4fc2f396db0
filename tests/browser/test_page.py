"""What a person does on the page, in a real browser: photos come in by every way, and results are shown."""

from __future__ import annotations

import base64
import http.server
import re
import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.acts import (
    COUNT,
    best_labels,
    choose,
    contrast,
    example,
    expected_labels,
    open_tab,
    pictures,
    result_id,
    too_wide,
    upload,
    wait_for_new_result,
)
from tests.browser.driver import Watched, opened
from tests.hostile import CASES, REFUSED, Case, encode, photo
from tests.served import App
from vitdemo.ui.examples import examples

pytestmark = pytest.mark.browser

CUP = next(example.path for example in examples() if example.label == "cup")


def test_the_first_example_is_there_before_anything_is_asked_for(watched: Watched) -> None:
    page = watched.page
    before = watched.app.forwards
    assert page.locator("#compared .vd-panel").count() == COUNT
    assert best_labels(page) == expected_labels(watched.app, examples()[0].path)
    assert watched.app.forwards == before
    assert len(set(pictures(page))) == COUNT
    # No other host is asked for anything.
    assert watched.requests
    assert all(url.startswith(watched.app.url) for url in watched.requests)


def test_an_uploaded_photo_is_classified_by_every_model(watched: Watched) -> None:
    page = watched.page
    before = watched.app.forwards
    wait_for_new_result(page, lambda: upload(page, "mine.png", encode(photo(300, 200), "PNG")))
    assert watched.app.forwards == before + COUNT
    assert best_labels(page) == expected_labels(watched.app, photo(300, 200))
    assert page.locator("#compared .vd-labels").first.locator("li").count() == 3
    # It stays here: the link does not hold it.
    assert "mine" not in page.url
    assert "image=" not in page.url


@pytest.mark.thorough
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


@pytest.mark.thorough
def test_a_snapshot_of_the_camera_is_classified(watched: Watched) -> None:
    page = watched.page
    page.get_by_label("Remove Image").click()
    page.locator("#photo").get_by_label("Capture from camera").click()
    page.locator("#photo").get_by_text("Click to Access Webcam").click()
    # A frame has been shown, not only announced.
    page.wait_for_function(
        "() => document.querySelector('#photo video')?.getVideoPlaybackQuality().totalVideoFrames > 2"
    )
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


@pytest.mark.thorough
def test_a_pictures_address_is_fetched_and_a_bad_one_is_answered_in_words(
    watched: Watched, picture_server: str
) -> None:
    page = watched.page
    before, labels = result_id(page), best_labels(page)
    for url, words in (
        (f"{picture_server}/gone.jpg", "404"),
        ("http://10.0.0.1/a.png", "not public"),
        ("a picture of a cat", "not a web URL"),
    ):
        enter_address(page, url)
        expect(page.locator("#address-answer .vd-note")).to_contain_text(words)
        assert page.locator(".toast-body").count() == 0
        assert (result_id(page), best_labels(page)) == (before, labels)
    wait_for_new_result(page, lambda: enter_address(page, f"{picture_server}/cup.jpg"))
    assert best_labels(page) == expected_labels(watched.app, CUP)
    # The photo on the page is the very same one: asking again runs no model.
    forwards = watched.app.forwards
    open_tab(page, "Explain")
    expect(page.locator("#explained .vd-best .vd-label")).to_have_text(best_labels(page)[0])
    assert watched.app.forwards == forwards


@pytest.mark.thorough
def test_every_example_can_be_chosen_by_its_name(watched: Watched) -> None:
    for number, one in enumerate(examples()[1:], 1):
        wait_for_new_result(watched.page, example(watched.page, number).click)
        assert best_labels(watched.page) == expected_labels(watched.app, one.path)


def case(file: str) -> Case:
    return next(one for one in CASES if one.file == file)


BAD = ("notes.jpg", "half.jpg", "page.pdf")
REDUCED = ("bomb.png", "wide.png")
"""A browser makes these smaller before they are sent."""


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(BAD, id="a few"),
        pytest.param(
            [one.file for one in REFUSED if one.file not in (*BAD, *REDUCED)],
            id="all others",
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_a_bad_file_gets_its_message_in_its_place_and_costs_nothing(watched: Watched, files: list[str]) -> None:
    page, explorer = watched.page, watched.page.locator("#compared .vd-explorer")
    hint = page.locator("#compared .vd-hint")
    forwards, before = watched.app.forwards, result_id(page)
    for refused in map(case, files):
        page.get_by_label("Remove Image").click()
        expect(hint).to_have_text("Drop a photo, or choose an example. Showing the previous result.")
        upload(page, refused.file, refused.data)
        # Above the last good result, which stays and is greyed.
        expect(hint).to_contain_text(refused.refusal or "")
        expect(hint).to_contain_text("Showing the previous result.")
        expect(explorer).to_have_class(re.compile("vd-stale"))
        assert page.locator("#compared .vd-panel").count() == COUNT
        assert watched.app.forwards == forwards, refused.file
        assert page.locator(".toast-body").count() == 0
        assert result_id(page) == before
    # A browser cannot show such a file either, and says so in its console.
    watched.complaints.clear()
    wait_for_new_result(page, example(page, 1).click)
    expect(explorer).not_to_have_class(re.compile("vd-stale"))
    expect(hint).to_be_hidden()


@pytest.mark.thorough
def test_a_file_of_too_many_pixels_is_reduced_before_it_is_sent(watched: Watched) -> None:
    page = watched.page
    for file, words in (
        ("bomb.png", "from 9000 \xd7 9000 to 4096 \xd7 4096."),
        ("wide.png", "from 16385 \xd7 1 to 4096 \xd7 1."),
    ):
        wait_for_new_result(page, lambda file=file: upload(page, file, case(file).data))  # type: ignore[misc]
        expect(page.locator("#intake .vd-intake")).to_have_text(f"Reduced {words}")


@pytest.mark.thorough
def test_an_unusual_file_is_shown_with_what_there_is_to_say_of_it(watched: Watched) -> None:
    page, unusual = watched.page, case("moving.gif")
    wait_for_new_result(page, lambda: upload(page, unusual.file, unusual.data))
    assert best_labels(page) == expected_labels(watched.app, unusual.data)
    expect(page.locator("#compared .vd-facts").first).to_contain_text(unusual.note or "")


SHIFTS = """() => {
    window.shifts = [];
    new PerformanceObserver((list) => window.shifts.push(...list.getEntries().map((one) => [one.startTime, one.value])))
        .observe({ type: "layout-shift" });
    const root = document.querySelector("#compared .vd-explorer");
    new MutationObserver(() => requestAnimationFrame(() => requestAnimationFrame(() => {
        window.arrived = performance.now();
    }))).observe(root, { attributes: true, attributeFilter: ["data-result"] });
}"""


@pytest.mark.thorough
def test_models_can_be_taken_away_and_added_and_nothing_moves_after_a_result_has_come(watched: Watched) -> None:
    page = watched.page
    for act, count in (
        (page.locator("#models .token-remove").first.click, COUNT - 1),
        (lambda: choose(page, "models", "ViT (vit-mini)"), COUNT),
        (example(page, 2).click, COUNT),
    ):
        page.evaluate(SHIFTS)
        wait_for_new_result(page, act)
        watched.settle()
        assert page.locator("#compared .vd-panel").count() == count
        page.wait_for_function("window.arrived")
        assert page.evaluate("window.shifts.filter(([time]) => time > window.arrived)") == []


def test_a_display_control_moves_every_picture_without_any_request(watched: Watched) -> None:
    page = watched.page
    for tab, name in (("compared", "Compare"), ("explained", "Explain")):
        open_tab(page, name)
        expect(page.locator(f"#{tab} canvas").first).to_be_visible()
        watched.settle()
        forwards, before = watched.app.forwards, pictures(page, tab)
        watched.requests.clear()
        page.locator(f"#{tab} [name=layer]").fill("2")
        page.locator(f"#{tab} [name=head]").select_option("max")
        assert all(old != new for old, new in zip(before, pictures(page, tab), strict=True))
        watched.settle()
        assert (watched.requests, watched.app.forwards) == ([], forwards)
        expect(page).to_have_url(re.compile("layer=2.*head=max"))


TABS = {
    "Compare": ".vd-explorer *, #examples button",
    "Explain": ".vd-explorer *, #method, #target, #resolution",
    "Segment": ".vd-segment *",
    # The steps of the walk are one row on a phone, which is moved sideways.
    "Inside": ".vd-inside > :not(.vd-steps), .vd-figures *",
    "Live": ".vd-live *",
    "Choose": ".vd-choose *",
    "Train": ".vd-train *",
    "Models": "#model-list *, #add-model *",
}


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.thorough)])
@pytest.mark.parametrize("width", [390, pytest.param(1440, marks=pytest.mark.thorough)])
def test_nothing_is_wider_than_the_screen_or_unreadable(browser: Browser, app: App, width: int, scheme: str) -> None:
    with opened(browser, width, 844, color_scheme=scheme, has_touch=True) as context:
        watched = Watched(context.new_page(), app).open()
        page = watched.page
        for tab, parts in TABS.items():
            open_tab(page, tab)
            watched.settle()
            assert too_wide(page, parts) == [], tab
            words = page.locator(parts.partition(" ")[0]).locator("visible=true").first
            assert contrast(words) >= 4.5, tab
        # What is told of the attention of a patch is asked for by a touch.
        open_tab(page, "Explain")
        page.locator("#explained .vd-picture canvas").tap(position={"x": 100, "y": 100})
        expect(page.locator("#explained .vd-text")).to_contain_text("patch in row ")
        assert watched.complaints == []


# Links


def open_again(watched: Watched, url: str) -> Watched:
    """Somebody else opens the link."""
    return Watched(watched.page.context.new_page(), watched.app).open(url.removeprefix(watched.app.url))


@pytest.mark.thorough
def test_a_link_brings_back_model_method_class_and_photo(watched: Watched) -> None:
    page = watched.page
    open_tab(page, "Explain")
    wait_for_new_result(page, example(page, 4).click, "explained")
    wait_for_new_result(page, lambda: choose(page, "method", "Relevance"), "explained")
    wait_for_new_result(page, page.locator("#explained .vd-labels button").nth(1).click, "explained")
    watched.settle()
    url, text = page.url, page.locator("#explained .vd-text").text_content() or ""
    assert "method=relevance" in url
    other = open_again(watched, url)
    expect(other.page.locator("#explained .vd-text")).to_have_text(text)
    assert pictures(other.page, "explained") == pictures(page, "explained")
    assert other.page.url == url
    assert other.complaints == []


@pytest.mark.thorough
def test_a_patch_is_asked_for_once_and_a_link_brings_it_back_with_layer_and_head(watched: Watched) -> None:
    page = watched.page
    open_tab(page, "Explain")
    expect(page.locator("#explained canvas").first).to_be_visible()
    watched.settle()
    page.locator("#explained [name=head]").select_option("3")
    page.locator("#explained [name=layer]").fill("2")
    watched.requests.clear()
    forwards = watched.app.forwards
    page.locator("#explained .vd-picture canvas").click(position={"x": 90, "y": 200})
    expect(page.locator("#explained .vd-text")).to_contain_text("layer 3 of 8, head 4 of 6, patch in row")
    expect(page).to_have_url(re.compile("patch="))
    watched.settle()
    assert ["component_server" in url for url in watched.requests] == [True]
    assert watched.app.forwards == forwards
    page.mouse.move(0, 0)
    other = open_again(watched, page.url)
    expect(other.page.locator("#explained .vd-text")).to_have_text(
        page.locator("#explained .vd-text").text_content() or ""
    )
    assert pictures(other.page, "explained") == pictures(page, "explained")
    assert other.complaints == []


LINKS = {
    "tab=foo&image=nope&models=vit-mini,../../etc,%3Cb%3E&layer=99": (
        "tab=foo; image=nope; models=../../etc; models=<b>; layer=99",
        1,
    ),
    "tab=explain&model=no-such-model&head=12&readout=none&patch=2,2": (
        "model=no-such-model; head=12; readout=none; patch=2,2",
        COUNT,
    ),
    "tab=compare&method=relevance&target=unicorn": ("target=unicorn", COUNT),
    "tab=explain&layer=1e999&head=%3Cscript%3E&patch=a,b&resolution=x": (
        "resolution=x; layer=1e999; head=<script>; patch=a,b",
        COUNT,
    ),
    "image=http://10.0.0.1/a.png": ("image=http://10.0.0.1/a.png (That host is not public", COUNT),
    "layer=last": ("layer=last", COUNT),
}
"""What of it is ignored, and how many models Compare then has."""


@pytest.mark.parametrize(
    "queries",
    [
        pytest.param(list(LINKS)[:1], id="one"),
        pytest.param(list(LINKS)[1:], id="all others", marks=pytest.mark.thorough),
    ],
)
def test_what_a_link_does_not_say_well_is_named_once_and_the_rest_is_followed(
    watched: Watched, queries: list[str]
) -> None:
    for query in queries:
        ignored, models = LINKS[query]
        other = open_again(watched, f"?{query}")
        expect(other.page.locator(".toast-body")).to_have_count(1)
        expect(other.page.locator(".toast-body")).to_contain_text(f"not understood and is ignored: {ignored}")
        if "method=" in query:
            expect(other.page.locator("#compare-method input")).to_have_value("Relevance")
        open_tab(other.page, "Compare")
        expect(other.page.locator("#compared .vd-panel canvas").first).to_be_visible()
        wait_for_new_result(other.page, example(other.page, 3).click)
        other.settle()
        assert other.page.locator("#compared .vd-panel").count() == models
        assert other.complaints == []
        other.page.close()


@pytest.mark.thorough
def test_a_link_to_a_model_without_attention_opens_with_a_method_that_it_has(watched: Watched) -> None:
    other = open_again(watched, "?tab=explain&model=cnn-mini&image=kangaroo").page
    expect(other.locator("#explained .vd-text")).to_contain_text("Grad-CAM for ")
    expect(other.locator("#method input")).to_have_value("Grad-CAM")
    assert other.locator(".toast-body").count() == 0
