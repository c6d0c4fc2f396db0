"""The attention explorer on a page of its own: its script, its markup and a result, and no server behind them.

What its script asks for is answered by Python functions of this process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import BrowserContext, Locator, Page

from vitdemo.types import Explanation, Photo
from vitdemo.ui.components.explorer import explorer, explorer_value
from vitdemo.ui.result_store import Results

ADDRESS = "http://localhost/"
"""Never asked for: Chromium is given the page, and lets pages of this address copy and download."""

MOUNT = """([html, css, script]) => {
    document.body.innerHTML = `<style>#shown { ${css} }</style><div id="shown">${html}</div>`;
    const element = document.querySelector("#shown"), changed = [];
    const props = { value: null };
    const server = new Proxy({}, { get: (_, name) => (what) => window.answer(name, what) });
    const trigger = (name, data) => window.triggered.push([name, data]);
    const watch = (_, work) => changed.push(work);
    window.vitdemoOpened = true;
    window.triggered = [];
    window.show = (value) => { props.value = value; changed.forEach((work) => work()); };
    window.within = new Function(
        "element", "props", "server", "trigger", "watch", `${script}\\nreturn (code) => eval(code);`
    )(element, props, server, trigger, watch);
}"""
"""As Gradio runs a component's script; `within` evaluates code where its functions are."""


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
class StaticExplorer:
    """The component on its page."""

    page: Page
    results: Results
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """What its script asked the server for: which function, and with what."""
    answer: Callable[[str, dict[str, Any]], dict[str, Any]] | None = None
    """Answers instead of the server."""

    def mount(self) -> None:
        component = explorer(None, [], "shown")
        self.page.evaluate(MOUNT, [component.html_template, component.css_template, component.js_on_load])

    def show(
        self,
        photo: Photo,
        explanations: Sequence[Explanation],
        *,
        link: dict[str, str] | None = None,
        calls: dict[str, dict[str, str]] | None = None,
        start: dict[str, Any] | None = None,
    ) -> None:
        """Show a result, as an event of Gradio's would."""
        key = self.results.keep(photo, explanations)
        value = explorer_value(key, photo, explanations, link or {}, calls or {"rows": {}, "patch": {}}, start)
        self.page.evaluate("(value) => window.show(value)", value)
        self.page.wait_for_function("() => window.within('photo.complete && photo.naturalWidth > 0')")
        self.drawn()

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
        if control.evaluate("(one) => one.tagName") == "SELECT":
            control.select_option(value)
        elif control.get_attribute("type") == "checkbox":
            control.set_checked(value == "on")
        else:
            control.fill(value)
        self.drawn()

    def pictures(self) -> list[str]:
        """What each overlay looks like, in a number that no other look has."""
        self.drawn()
        return looks(self.find(".vd-picture canvas"))

    def words(self) -> list[str]:
        """What stands under each overlay."""
        self.drawn()
        return self.find(".vd-text").all_inner_texts()

    def triggered(self) -> list[Any]:
        """The events that its script told Gradio of."""
        found: list[Any] = self.page.evaluate("window.triggered")
        return found


def static_explorer(context: BrowserContext) -> StaticExplorer:
    """A new page that holds the component; without a result until one is shown."""
    page = context.new_page()
    explorer = StaticExplorer(page, Results())
    functions = {function.__name__: function for function in explorer.results.functions()}

    def answer(name: str, what: dict[str, Any]) -> dict[str, Any]:
        explorer.asked.append((name, what))
        return explorer.answer(name, what) if explorer.answer else functions[name](what)

    page.route(
        "**", lambda route: route.fulfill(body="<!doctype html><title>Explorer</title>", content_type="text/html")
    )
    page.expose_function("answer", answer)
    page.goto(ADDRESS)
    explorer.mount()
    return explorer
