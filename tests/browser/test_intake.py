"""How a photo comes to the page: chosen, dropped or pasted anywhere, reduced where it is too large. In a real browser."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.browser.acts import (
    COUNT,
    best_labels,
    example,
    expected_labels,
    open_tab,
    result_id,
    upload,
    wait_for_new_result,
)
from tests.browser.driver import Watched
from tests.hostile import encode, photo

pytestmark = pytest.mark.browser

GIVE = """([kind, files, text, where]) => {
    const data = new DataTransfer();
    for (const [name, type, base64] of files) {
        data.items.add(new File([Uint8Array.from(atob(base64), (one) => one.charCodeAt(0))], name, { type }));
    }
    for (const [type, value] of Object.entries(text)) data.setData(type, value);
    const target = document.querySelector(where);
    const options = { bubbles: true, cancelable: true };
    if (kind === "paste") target.dispatchEvent(new ClipboardEvent("paste", { ...options, clipboardData: data }));
    else for (const one of [].concat(kind)) target.dispatchEvent(new DragEvent(one, { ...options, dataTransfer: data }));
}"""
"""What a browser tells a page when a person drops or pastes."""


def give(
    page: Page,
    kind: str | list[str],
    *files: tuple[str, str, bytes],
    text: dict[str, str] | None = None,
    where: str = "#footer",
) -> None:
    sent = [[name, kind_of, base64.b64encode(data).decode()] for name, kind_of, data in files]
    page.evaluate(GIVE, [kind, sent, text or {}, where])


def line(page: Page) -> Locator:
    return page.locator("#intake .vd-intake")


@pytest.fixture
def warnings(watched: Watched) -> Iterator[list[str]]:
    """What the page writes to its console; at the end, nothing was found there."""
    found: list[str] = []
    watched.page.on("console", lambda message: found.append(message.text) if message.type == "warning" else None)
    yield found
    assert found == []


@pytest.mark.thorough
def test_one_upload_runs_each_model_of_the_open_tab_once(watched: Watched, warnings: list[str]) -> None:
    page, forwards = watched.page, watched.app.forwards
    page.evaluate(
        """() => {
            window.drawn = [];
            const root = document.querySelector("#compared .vd-explorer");
            new MutationObserver(() => window.drawn.push(root.dataset.result))
                .observe(root, { attributes: true, attributeFilter: ["data-result"] });
        }"""
    )
    # Twelve megapixels, beside which any other event has time to come between.
    data = encode(photo(4000, 3000), "JPEG", quality=95)
    wait_for_new_result(page, lambda: upload(page, "mine.jpg", data))
    watched.settle()
    assert watched.app.forwards == forwards + COUNT
    assert page.evaluate("new Set(window.drawn).size") == 1
    assert best_labels(page) == expected_labels(watched.app, data)
    expect(line(page)).to_have_text("")


def test_a_photo_is_dropped_and_pasted_anywhere_on_the_page(watched: Watched, warnings: list[str]) -> None:
    page = watched.page
    target = page.locator("#vd-drop")
    expect(target).to_be_hidden()
    dropped = ("mine.png", "image/png", encode(photo(200, 140), "PNG"))
    give(page, ["dragenter", "dragover"], dropped)
    expect(target).to_have_text("Drop the photo anywhere")
    box = target.bounding_box() or {}
    assert (box["width"], box["height"]) == (1440, 1000)
    give(page, "dragleave", dropped)
    expect(target).to_be_hidden()
    wait_for_new_result(page, lambda: give(page, ["dragenter", "dragover", "drop"], dropped))
    expect(target).to_be_hidden()
    assert best_labels(page) == expected_labels(watched.app, dropped[2])
    pasted = ("image.png", "image/png", encode(photo(150, 190), "PNG"))
    wait_for_new_result(page, lambda: give(page, "paste", pasted, where="#heading"))
    assert best_labels(page) == expected_labels(watched.app, pasted[2])
    # What is pasted into a text field is that field's.
    before = result_id(page)
    give(page, "paste", pasted, where="#address textarea, #address input")
    give(page, "paste", text={"text/plain": "no URL"})
    watched.settle()
    assert result_id(page) == before


@pytest.mark.thorough
def test_a_pasted_url_is_fetched_and_a_bad_one_is_answered_under_its_field_in_every_tab(watched: Watched) -> None:
    page = watched.page
    answer, field = page.locator("#address-answer .vd-note"), page.locator("#address textarea, #address input")
    for tab in ("Compare", "Explain"):
        open_tab(page, tab)
        give(page, "paste", text={"text/plain": "http://10.0.0.1/<b>.png"}, where="body")
        expect(answer).to_contain_text("not public")
        expect(field).to_have_value("http://10.0.0.1/<b>.png")
        assert page.locator(".toast-body").count() == 0
        under, over = answer.bounding_box() or {}, field.bounding_box() or {}
        assert under["y"] >= over["y"] + over["height"]
        field.fill("http")
        expect(answer).to_have_text("")


def noise(width: int, height: int) -> Image.Image:
    """Nothing that any format can make small."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.thorough
def test_a_photo_over_the_limit_is_reduced_upright_and_a_line_says_so(watched: Watched, warnings: list[str]) -> None:
    page, forwards = watched.page, watched.app.forwards
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side, as phones write it
    data = encode(photo(6000, 4500), "JPEG", exif=exif)
    with page.expect_response(lambda answer: "/upload" in answer.url) as answered:
        wait_for_new_result(page, lambda: upload(page, "large.jpg", data))
    expect(line(page)).to_have_text("Reduced from 4500 \xd7 6000 to 3072 \xd7 4096.")
    with Image.open(answered.value.json()[0]) as image:
        assert image.size == (3072, 4096)
        corner = np.asarray(image.convert("RGB"))
    # The white corner of the picture is where a turn by 90 degrees brings it: on the right.
    assert corner[50, -50].min() > 250
    assert corner[50, 50].min() < 100
    assert watched.app.forwards == forwards + COUNT
    wait_for_new_result(page, example(page, 1).click)
    expect(line(page)).to_have_text("")


@pytest.mark.thorough
def test_files_of_too_many_bytes_are_reduced_too_and_what_no_browser_can_read_is_refused_in_words(
    watched: Watched,
) -> None:
    page = watched.page
    data = encode(noise(2000, 1900), "PNG")
    assert len(data) > 10_000_000
    wait_for_new_result(page, lambda: upload(page, "noise.png", data))
    expect(line(page)).to_have_text("Saved again as JPEG, to fit into 10 MB.")
    before = result_id(page)
    upload(page, "scan.tiff", encode(noise(2000, 1900), "TIFF"))
    expect(line(page)).to_have_text("11.5 MB; the limit is 10 MB. Save the image smaller, or as JPEG.")
    watched.settle()
    assert result_id(page) == before


@pytest.mark.thorough
def test_of_several_photos_those_over_the_limit_are_reduced_chosen_or_dropped(watched: Watched) -> None:
    page = watched.page
    page.get_by_role("button", name="Several photos").click()
    files = {"small.jpg": encode(photo(60, 40), "JPEG"), "noise.png": encode(noise(2000, 1900), "PNG")}
    page.locator("#several-files input[type=file]").set_input_files(
        [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in files.items()]
    )
    rows = page.locator("#several-files tr.file")
    expect(rows).to_have_count(2)
    expect(page.locator("#several-hint")).to_contain_text("1 of 2 photos was reduced to fit the limits.")
    assert [name in rows.nth(n).inner_text() for n, name in enumerate(("small", "noise"))] == [True, True]
    page.locator("#several-files").get_by_label("Clear").click()
    give(page, "drop", ("one.jpg", "image/jpeg", files["small.jpg"]), where="#several-files button")
    expect(rows).to_have_count(1)
    expect(page.locator("#several-hint p")).to_have_text(
        "The chosen models name every photo. Those on which they disagree most come first."
    )
