"""How fast the page is here: `python -m scripts.measure_page`. Browser and server share this machine.

Prints the milliseconds of script that one change of a control costs with five panels, and the time from choosing a photo to
all predictions and overlays on screen, beside that of the five forwards alone; both in turn in one process.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image
from playwright.sync_api import Page

from scripts.live_rate import cpu
from tests.browser.driver import Watched, film, launched, opened
from tests.hostile import encode
from tests.served import App, serving
from vitdemo.registry import default_models
from vitdemo.settings import Settings
from vitdemo.types import Capture
from vitdemo.ui.examples import examples

CHANGES = 40
PHOTOS = 9

WATCH = """() => {
    const ask = window.requestAnimationFrame.bind(window);
    window.spent = 0;
    window.requestAnimationFrame = (work) => ask((now) => {
        const start = performance.now();
        work(now);
        window.spent += performance.now() - start;
    });
}"""
"""Counts what is done in animation frames, beside what an event's own handlers take."""

CHANGE = """([name, value]) => new Promise((done) => {
    const control = document.querySelector(`#compared [name=${name}]`);
    window.spent = 0;
    control.value = value;
    const start = performance.now();
    control.dispatchEvent(new Event("input", { bubbles: true }));
    const handled = performance.now() - start;
    setTimeout(() => done(handled + window.spent), 60);
})"""


def controls(page: Page, app: App) -> None:
    """Milliseconds of script a change, and that nothing was asked of the server."""
    values: dict[str, Callable[[int], object]] = {
        "layer": lambda step: step % 8,
        "head": lambda step: step % 6,
        "opacity": lambda step: 20 + step,
        "mass": lambda step: 30 + step,
        "colourMap": lambda step: ("viridis", "inferno")[step % 2],
    }
    forwards, asked = app.forwards, []
    page.on("request", lambda request: asked.append(request.url) if "/heartbeat/" not in request.url else None)
    for name, value in values.items():
        took = [page.evaluate(CHANGE, [name, str(value(step))]) for step in range(CHANGES)]
        print(f"{name:>10}: {median(took):5.1f} ms of script a change, at most {max(took):5.1f}")
    page.evaluate("() => { document.querySelector('#compared [name=mass]').value = 100; }")
    print(f"requests: {len(asked)}, forwards: {app.forwards - forwards}")


def new_photo(seed: int) -> bytes:
    """A photo that nobody has seen, of the size of an example."""
    with Image.open(examples()[seed % len(examples())].path) as picture:
        values = np.asarray(picture.convert("RGB").resize((600, 400)), np.int16)
    noise = np.random.default_rng(seed).integers(-8, 9, values.shape)
    return encode(Image.fromarray(np.clip(values + noise, 0, 255).astype(np.uint8)), "JPEG", quality=92)


def arrivals(watched: Watched, app: App) -> None:
    """From choosing a file to five drawn panels, and the five forwards alone."""
    specs, page = default_models(Settings()), watched.page
    whole, alone = [], []
    for turn in range(PHOTOS):
        page.get_by_label("Remove Image").click()
        root = page.locator("#compared .vd-explorer")
        before = root.get_attribute("data-result")
        watched.settle()
        file = {"name": "new.jpg", "mimeType": "image/jpeg", "buffer": new_photo(turn)}
        page.evaluate(
            """(before) => {
                const root = document.querySelector("#compared .vd-explorer");
                window.arrived = new Promise((done) => new MutationObserver((_, watcher) => {
                    if (root.dataset.result === before) return;
                    watcher.disconnect();
                    requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now())));
                }).observe(root, { attributes: true, attributeFilter: ["data-result"] }));
                // On the window: the page's own handler lets no other one have it.
                window.addEventListener("change", () => { window.chosen = performance.now(); }, { capture: true, once: true });
            }""",
            before,
        )
        page.locator("#photo input[type=file]").set_input_files(file)  # type: ignore[arg-type]
        whole.append(page.evaluate("async () => (await window.arrived) - window.chosen"))
        photo = app.pipeline.open(new_photo(1000 + turn))
        start = time.perf_counter()
        comparison = app.pipeline.compare(photo, specs, capture=Capture(queries=True))
        alone.append(sum(item.prediction.milliseconds for item in comparison.explanations))
        assert time.perf_counter() > start
    ours, forwards = median(whole), median(alone)
    over = median(a - 1.3 * b for a, b in zip(whole, alone, strict=True))
    print(f"from choosing a photo to {len(specs)} overlays: {ours:.0f} ms (at most {max(whole):.0f})")
    print(
        f"the {len(specs)} forwards alone: {forwards:.0f} ms; ratio {ours / forwards:.2f}; over 1.3 times: {over:.0f} ms"
    )


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder, "gradio")) as app,
        launched(film(Path(folder, "film.mjpeg"))) as browser,
        opened(browser) as context,
    ):
        context.add_init_script(f"({WATCH})()")
        watched = Watched(context.new_page(), app).open()
        print(cpu())
        controls(watched.page, app)
        arrivals(watched, app)
    print("Live: python -m scripts.live_rate")


if __name__ == "__main__":
    main()
