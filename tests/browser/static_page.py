"""A component of the page on a page of its own: its markup, its script and its values, and no server behind them.

What its script asks for is answered by Python functions of this process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from playwright.sync_api import BrowserContext, Locator, Page

from vitdemo.types import Explanation, Photo
from vitdemo.ui.components.explorer import explorer, explorer_value
from vitdemo.ui.result_store import Results

ADDRESS = "http://localhost/"
"""Never asked for: Chromium is given the page, and lets pages of this address copy, download and use the camera."""

MOUNT = """([html, css, script]) => {
    document.body.innerHTML = `<style>:root { --color-accent: blue; } #shown { ${css} }</style><div id="shown">${html}</div>`;
    const element = document.querySelector("#shown"), changed = [];
    const props = { value: null };
    const server = new Proxy({}, { get: (_, name) => (what) => window.answer(name, what) });
    const watch = (_, work) => changed.push(work);
    const trigger = async (name, data) => {
        window.triggered.push([name, data]);
        const value = await window.told(name, data ?? {});
        if (value) window.show(value);
    };
    window.vitdemoOpened = true;
    window.triggered = [];
    window.show = (value) => { props.value = value; changed.forEach((work) => work()); };
    window.within = new Function(
        "element", "props", "server", "trigger", "watch", `${script}\\nreturn (code) => eval(code);`
    )(element, props, server, trigger, watch);
}"""
"""As Gradio runs a component's script; `within` evaluates code where its functions are."""

UNFOLD = """(one) => {
    const fold = one.closest("details:not([open])");
    if (fold) fold.open = true;
    return fold;
}"""
"""Opens what a control is folded away in; what is to be closed again."""

LOOK = """(all) => all.map((one) => {
    const { width, height } = one;
    let look = 2166136261;
    for (const pixel of new Uint32Array(one.getContext("2d").getImageData(0, 0, width, height).data.buffer))
        look = Math.imul(look ^ pixel, 16777619);
    return `${width} x ${height}: ${look}`;
})"""


def looks(canvases: Locator) -> list[str]:
    """What is drawn on each of them, in a number that nothing else has."""
    found: list[str] = canvases.evaluate_all(LOOK)
    return found


@dataclass
class StaticPage:
    """A component on its page."""

    page: Page
    component: gr.HTML
    answers: dict[str, Callable[[dict[str, Any]], Any]]
    """What its script may ask of the server, by name."""
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """What it asked."""
    told: Callable[[str, dict[str, Any]], dict[str, Any] | None] = lambda name, data: None
    """What an event that it tells Gradio of changes its value to, if it does."""

    def __post_init__(self) -> None:
        def answer(name: str, what: dict[str, Any]) -> Any:
            self.asked.append((name, what))
            return self.answers[name](what)

        empty = "<!doctype html><title>A component</title>"
        self.page.route("**", lambda route: route.fulfill(body=empty, content_type="text/html"))
        self.page.expose_function("answer", answer)
        self.page.expose_function("told", lambda name, data: self.told(name, data))
        self.page.goto(ADDRESS)
        self.mount()

    def mount(self) -> None:
        """As the page does when it is opened."""
        parts = [self.component.html_template, self.component.css_template, self.component.js_on_load]
        self.page.evaluate(MOUNT, parts)

    def run(self, code: str, *values: Any) -> Any:
        """What an expression of the component's script is worth; `$0`, `$1` ... stand for the values."""
        for number, value in enumerate(values):
            code = code.replace(f"${number}", json.dumps(value))
        return self.page.evaluate("(code) => window.within(code)", code)

    def drawn(self) -> None:
        """Until the frames have been drawn in which what has changed is shown."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def find(self, selector: str) -> Locator:
        return self.page.locator(f"#shown {selector}")

    def set(self, name: str, value: str) -> None:
        """Move a control, and see what it changes drawn."""
        control = self.find(f"[name={name}]")
        folds = control.evaluate_handle(UNFOLD)
        if control.evaluate("(one) => one.tagName") == "SELECT":
            control.select_option(value)
        elif control.get_attribute("type") == "checkbox":
            control.set_checked(value == "on")
        else:
            control.fill(value)
        folds.evaluate("(fold) => { if (fold) fold.open = false; }")
        self.drawn()

    def triggered(self) -> list[Any]:
        """The events that its script told Gradio of."""
        found: list[Any] = self.page.evaluate("window.triggered")
        return found


@dataclass
class StaticExplorer(StaticPage):
    """The attention explorer; without a result until one is shown."""

    results: Results = field(default_factory=Results)

    def value(
        self,
        photo: Photo,
        explanations: Sequence[Explanation],
        *,
        link: dict[str, str] | None = None,
        calls: dict[str, dict[str, str]] | None = None,
        start: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """What an event of Gradio's would bring."""
        key = self.results.keep(photo, explanations)
        return explorer_value(key, photo, explanations, link or {}, calls or {"rows": {}, "patch": {}}, start)

    def show(self, photo: Photo, explanations: Sequence[Explanation], **options: Any) -> None:
        """Show a result: `options` as for `value`."""
        self.page.evaluate("(value) => window.show(value)", self.value(photo, explanations, **options))
        self.page.wait_for_function("() => window.within('photo.complete && photo.naturalWidth > 0')")
        # Words, facts and files of each picture are in a fold.
        self.find(".vd-facts").evaluate_all("(all) => all.forEach((one) => { one.open = true; })")
        self.drawn()

    def pictures(self) -> list[str]:
        """What each overlay looks like, in a number that no other look has."""
        self.drawn()
        return looks(self.find(".vd-picture canvas"))

    def words(self) -> list[str]:
        """What stands under each overlay."""
        self.drawn()
        return self.find(".vd-text").all_inner_texts()


def static_explorer(context: BrowserContext) -> StaticExplorer:
    results = Results()
    functions: dict[str, Callable[..., Any]] = {function.__name__: function for function in results.functions()}
    return StaticExplorer(context.new_page(), explorer(None, [], "shown"), functions, results=results)
