"""What people do on the page, and what they then see."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from playwright.sync_api import Locator, Page, expect

from tests.browser.static_page import looks
from tests.served import App
from vitdemo.registry import default_models
from vitdemo.settings import Settings
from vitdemo.types import ModelSpec
from vitdemo.ui.examples import examples

MODELS = default_models(Settings())
COUNT = len(MODELS)

OPTION = "[role=listbox] [role=option]"
"""Of an open list of Gradio's; those of the explorer's own lists are no part of one."""


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def result_id(page: Page, tab: str = "compared") -> str:
    return page.locator(f"#{tab} .vd-explorer").get_attribute("data-result") or ""


def wait_for_new_result(page: Page, act: Callable[[], object], tab: str = "compared") -> None:
    before = result_id(page, tab)
    act()
    expect(page.locator(f"#{tab} .vd-explorer")).not_to_have_attribute("data-result", before)


def pictures(page: Page, tab: str = "compared") -> list[str]:
    """What each overlay looks like, when it has been drawn."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.locator(f"#{tab} canvas").first.is_visible()
    return looks(page.locator(f"#{tab} .vd-picture canvas"))


def best_labels(page: Page, tab: str = "compared") -> list[str]:
    return page.locator(f"#{tab} .vd-best .vd-label").all_inner_texts()


def expected_labels(app: App, source: object, models: Sequence[ModelSpec] = MODELS) -> list[str]:
    comparison = app.pipeline.compare(app.pipeline.open(source), models)  # type: ignore[arg-type]
    return [item.prediction.labels[0].label for item in comparison.explanations]


def example(page: Page, number: int) -> Locator:
    """The button of an example."""
    return page.locator("#examples").get_by_role("button", name=examples()[number].title)


def upload(page: Page, name: str, data: bytes) -> None:
    """As a person does: the old photo is taken away, the new one chosen."""
    if page.get_by_label("Remove Image").count():
        page.get_by_label("Remove Image").click()
    page.locator("#photo input[type=file]").set_input_files({"name": name, "mimeType": "", "buffer": data})


def choose(page: Page, elem: str, text: str) -> None:
    """Open a list of Gradio's, and take the entry that begins so."""
    page.locator(f"#{elem} input").click()
    page.locator(OPTION).filter(has_text=re.compile(rf"^\W*{re.escape(text)}")).first.click()


def too_wide(page: Page, selector: str) -> list[str]:
    """What stands out of the screen."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    found: list[str] = page.locator(selector).evaluate_all(
        "(all) => all.filter((one) => one.getBoundingClientRect().right > innerWidth + 1 &&"
        " !one.closest('.vd-examples, details, .vd-film')).map((one) => one.outerHTML.slice(0, 80))"
    )
    return found


def contrast(element: Locator) -> float:
    """Of its words and what is behind them; 4.5 can be read."""
    return float(element.evaluate(_CONTRAST))


_CONTRAST = """(element) => {
    const parse = (text) => text.match(/[\\d.]+/g).map(Number);
    const linear = (c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const weights = [0.2126, 0.7152, 0.0722];
    const light = (rgb) => weights.reduce((sum, weight, i) => sum + weight * linear(rgb[i] / 255), 0);
    let behind = element, back = [0, 0, 0, 0];
    for (; behind && back[3] === 0; behind = behind.parentElement) {
        back = parse(getComputedStyle(behind).backgroundColor);
        if (back.length === 3) back.push(1);
    }
    const pair = [parse(getComputedStyle(element).color), back].map(light);
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
}"""
