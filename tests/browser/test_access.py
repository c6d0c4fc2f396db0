"""What axe-core finds on every tab: nothing serious in what is ours, and in Gradio's own parts nothing that they do not bring."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import gradio as gr
import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, Page, expect

from tests.browser.acts import example, open_tab, upload, wait_for_new_result
from tests.browser.driver import Watched, opened
from tests.hostile import REFUSED
from tests.served import App
from vitdemo.ui.app import theme
from vitdemo.ui.examples import examples
from vitdemo.ui.inside_settings import STEPS

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

OURS = ", ".join(
    [
        ".vd-explorer",
        ".vd-examples",
        ".vd-live",
        ".vd-gallery",
        ".vd-models",
        ".vd-curve",
        ".vd-rebuilt",
        ".vd-segment",
        ".vd-inside",
        ".vd-choose",
        "#heading",
        "#footer",
        "#vd-connection",
    ]
)

RUN = """async (ours) => {
    const found = await axe.run(document, { resultTypes: ["violations"] });
    const serious = found.violations.filter((one) => ["serious", "critical"].includes(one.impact));
    return serious.flatMap((one) => one.nodes.map((node) => {
        const element = document.querySelector(node.target[0]);
        const classes = [...element.classList].filter((name) => !name.startsWith("svelte-")).sort().join(".");
        const why = [...node.any, ...node.all, ...node.none].map((check) => check.message).join("; ");
        return {
            rule: one.id,
            kind: `${element.tagName.toLowerCase()}[${element.getAttribute("role") || element.type || ""}].${classes}`,
            ours: Boolean(element.closest(ours)),
            words: `${one.id} at ${node.target[0]}: ${why}`,
        };
    }));
}"""


@dataclass(frozen=True)
class Fault:
    """One serious or critical finding."""

    rule: str
    kind: str
    """Tag, role and classes of its element: what is the same for all components of a kind."""
    ours: bool
    words: str


def faults(page: Page) -> list[Fault]:
    if not page.evaluate("() => Boolean(window.axe)"):
        page.evaluate(AXE_SCRIPT)
    # Colours that are on their way to others have no contrast yet.
    page.evaluate("() => Promise.all(document.getAnimations().map((one) => one.finished.catch(() => {})))")
    return [Fault(**found) for found in page.evaluate(RUN, OURS)]


@pytest.fixture(params=["light", pytest.param("dark", marks=pytest.mark.thorough)])
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[1440, pytest.param(390, marks=pytest.mark.thorough)])
def width(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def watched(browser: Browser, app: App, scheme: str, width: int) -> Iterator[Watched]:
    with opened(browser, width, color_scheme=scheme) as context:
        yield Watched(context.new_page(), app)


@pytest.fixture(scope="module")
def stock() -> Iterator[str]:
    """A page of the stock components that ours is made of, in our colours: its address."""
    with gr.Blocks(title="Stock", analytics_enabled=False) as blocks, gr.Row(), gr.Column():
        gr.Image(label="Photo", sources=["upload", "webcam", "clipboard"], buttons=["fullscreen"])
        with gr.Tabs():
            for name in "Compare", "Explain", "Live", "Models":
                with gr.Tab(name):
                    gr.Textbox(label="Text", info="Words", placeholder="https://…")
                    gr.Dropdown(["a", "b"], value=["a"], multiselect=True, label="Several", info="Words")
                    gr.Dropdown(["a", "b"], label="One", info="Words", allow_custom_value=True)
                    gr.Slider(0, 1, label="Number", info="Words")
                    gr.Checkbox(label="Checked")
                    gr.File(label="Files", file_count="multiple")
                    gr.Button("Go", size="sm")
                    gr.Button("Go", variant="primary")
                    with gr.Accordion("More", open=True):
                        gr.Number(label="Number")
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, theme=theme(), ssr_mode=False)
    yield url
    blocks.close(verbose=False)


def stock_faults(page: Page, url: str) -> set[tuple[str, str]]:
    page.goto(url)
    page.get_by_role("tab", name="Models").wait_for()
    found = set()
    for name in "Compare", "Explain", "Live", "Models":
        page.get_by_role("tab", name=name).click()
        found |= {(fault.rule, fault.kind) for fault in faults(page)}
    return found


def unfolded(watched: Watched, tab: str) -> None:
    """All that can be opened is open."""
    watched.page.locator(f"#{tab} details").evaluate_all("(all) => all.forEach((one) => { one.open = true; })")
    watched.settle()


def doubted(watched: Watched) -> None:
    """A photo of none of the classes."""
    number = next(number for number, one in enumerate(examples()) if one.label is None)
    wait_for_new_result(watched.page, example(watched.page, number).click)
    unfolded(watched, "compared")


def asked(watched: Watched) -> None:
    """A patch that asks where it looks."""
    watched.page.locator("#compared .vd-picture canvas").first.click()
    expect(watched.page.locator("#compared .vd-text").first).to_contain_text("patch in row")


def refused_there(watched: Watched) -> None:
    """The last good result stays, marked as such, beside the reason."""
    upload(watched.page, REFUSED[0].file, REFUSED[0].data)
    expect(watched.page.get_by_text(REFUSED[0].refusal or "").first).to_be_visible()


def explained(watched: Watched) -> None:
    open_tab(watched.page, "Explain")
    expect(watched.page.locator("#explained canvas").first).to_be_visible()
    unfolded(watched, "explained")


def measured(watched: Watched) -> None:
    page = watched.page
    if page.evaluate("innerWidth < 1000"):
        return  # the same curves, and they take seconds
    page.get_by_role("button", name="Measure faithfulness").click()
    expect(page.locator("#curve .vd-curve svg").first).to_be_visible(timeout=90_000)


def segmented(watched: Watched) -> None:
    open_tab(watched.page, "Segment")
    expect(watched.page.locator("#segmented .vd-items")).to_contain_text("of the picture")
    unfolded(watched, "segmented")


def looked_into(step: str) -> Callable[[Watched], object]:
    def at(watched: Watched) -> None:
        open_tab(watched.page, "Inside")
        watched.page.locator(f"#inside .vd-steps [data-step={step}]").click()
        expect(watched.page.locator("#inside .vd-inside")).to_have_attribute("aria-busy", "false")
        unfolded(watched, "inside")

    at.__name__ = f"inside, {step}"
    return at


def live(watched: Watched) -> None:
    open_tab(watched.page, "Live")
    expect(watched.page.locator("#live .vd-start")).to_be_visible()


def running(watched: Watched) -> None:
    watched.page.context.grant_permissions(["camera"])
    watched.page.locator("#live .vd-start").click()
    watched.page.locator("#live [data-model]").first.wait_for()


def choosing(watched: Watched) -> None:
    open_tab(watched.page, "Choose")
    expect(watched.page.locator("#chooser .vd-begin")).to_be_visible()
    unfolded(watched, "chooser")


def chosen(watched: Watched) -> None:
    """A result, with all of its views."""
    page = watched.page
    for name in ("beit-mini", "deit-mini", "hybrid-mini", "mae-mini", "vit-mini"):
        page.locator(f"#chooser [name=model][value={name}]").uncheck()
    page.locator("#chooser .vd-begin").click()
    expect(page.locator("#chooser .vd-verdict")).not_to_be_empty(timeout=90_000)
    expect(page.locator("#chooser .vd-why")).to_have_attribute("aria-busy", "false")
    page.locator("#chooser .vd-map").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator("#chooser .vd-photo .vd-thumb").first).to_be_visible()


def looked_at(view: str) -> Callable[[Watched], object]:
    def at(watched: Watched) -> None:
        page = watched.page
        page.locator(f"#chooser [data-view={view}]").click()
        expect(page.locator("#chooser .vd-why")).to_have_attribute("aria-busy", "false")

    at.__name__ = f"choose, {view}"
    return at


def models(watched: Watched) -> None:
    open_tab(watched.page, "Models")
    expect(watched.page.locator("#model-list h2").first).to_be_visible()


WALK: list[Callable[[Watched], object]] = [
    doubted,
    asked,
    explained,
    measured,
    segmented,
    *map(looked_into, STEPS),
    refused_there,
    live,
    running,
    choosing,
    chosen,
    *map(looked_at, ("differences", "confusions", "clusters", "unusual")),
    models,
]
"""Each goes on where the one before it left the page."""


@pytest.mark.thorough
def test_nothing_serious_is_found_that_gradio_itself_does_not_bring(watched: Watched, stock: str) -> None:
    page = watched.page
    brought = stock_faults(page, stock)
    watched.open()
    found = [
        f"as it opens: {fault.words}" for fault in faults(page) if fault.ours or (fault.rule, fault.kind) not in brought
    ]
    for step in WALK:
        step(watched)
        if step != running:
            watched.settle()
        left = [fault for fault in faults(page) if fault.ours or (fault.rule, fault.kind) not in brought]
        found += [f"{step.__name__}: {fault.words}" for fault in left]
    assert not found, "\n".join(dict.fromkeys(found))


BREAK = {
    "label": (
        "#compared [name=layer]",
        "(one) => { one.removeAttribute('aria-label'); one.closest('label').replaceWith(one); }",
    ),
    "button-name": ("#examples button span", "(one) => one.remove()"),
    "color-contrast": ("#heading h1", "(one) => { one.style.color = '#bbb'; }"),
}
"""A control without a name, a button without a name, pale words: by the rule that finds each."""


@pytest.mark.thorough
@pytest.mark.parametrize("scheme", ["light"], indirect=True)
@pytest.mark.parametrize("width", [1440], indirect=True)
def test_a_fault_of_ours_is_found(watched: Watched) -> None:
    watched.open()
    for selector, act in BREAK.values():
        watched.page.locator(selector).first.evaluate(act)
    assert sorted(fault.rule for fault in faults(watched.page) if fault.ours) == sorted(BREAK)
