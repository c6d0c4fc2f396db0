"""How fast the Live tab is here: `python -m scripts.live_rate [MODEL [SECONDS]]`.

Starts the app in this process and a headless Chromium whose camera plays the first example; both share this machine. Prints
frames answered a second, and the median time from taking a frame to showing its answer.
"""

from __future__ import annotations

import platform
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from playwright.sync_api import Page

from tests.browser.driver import Watched, film, launched, opened
from tests.served import serving

WARM_UP = 3.0
"""Seconds after the first answer that do not count."""

RECORD = """() => {
    const root = document.querySelector("#live .vd-live");
    window.took = [];
    new MutationObserver(() => window.took.push(Number(root.dataset.latency)))
        .observe(root, { attributeFilter: ["data-number"] });
}"""


def cpu() -> str:
    """The processor's own name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor() or platform.machine()


def measure(page: Page, model: str, seconds: float) -> tuple[float, float]:
    """Frames a second and median milliseconds, on an open page."""
    page.get_by_role("tab", name="Live").click()
    page.locator("#live-model input").click()
    page.get_by_role("option").filter(has_text=model).click()
    page.locator("#live .vd-start").click()
    page.locator(f"#live [data-model='{model}']").wait_for(timeout=60_000)
    page.wait_for_timeout(WARM_UP * 1000)
    page.evaluate(RECORD)
    start = time.perf_counter()
    page.wait_for_timeout(seconds * 1000)
    took = page.evaluate("window.took")
    return len(took) / (time.perf_counter() - start), median(took)


def main(model: str = "vit-mini", seconds: str = "15") -> None:
    with tempfile.TemporaryDirectory() as folder:
        camera = film(Path(folder, "film.mjpeg"), 640, 480)
        with serving(Path(folder, "gradio")) as app, launched(camera) as browser, opened(browser) as context:
            page = Watched(context.new_page(), app).open().page
            rate, milliseconds = measure(page, model, float(seconds))
            where = page.locator("#live .vd-where").inner_text()
            in_model = page.locator("#live .vd-model-time").inner_text()
    print(f"{model}: {rate:.1f} frames a second, {milliseconds:.0f} ms from camera to answer (median of {seconds} s)")
    print(f"{in_model} in the model, {where}; browser and server on {cpu()}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
