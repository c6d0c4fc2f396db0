"""Take the documentation's pictures anew: `python -m scripts.screenshots URL` on a running app."""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.browser.conftest import FLAGS, chromium
from vitdemo.settings import ASSETS
from vitdemo.ui.examples import examples

SHOTS = [
    ("compare", 1440, 1020, "light", "Compare", "Sunflower"),
    ("compare-dark", 1440, 1020, "dark", "Compare", "Kangaroo"),
    ("compare-phone", 390, 1500, "light", "Compare", "Crocodile"),
    ("explain-dark", 1440, 1000, "dark", "Explain", "Pyramid"),
    ("explain-phone", 390, 1500, "dark", "Explain", "Crab"),
    ("mae", 1440, 1000, "light", "Explain", "Sunflower"),
    ("segment", 1440, 1000, "light", "Segment", "Sunflower"),
    ("segment-phone", 390, 1500, "dark", "Segment", "Sunflower"),
    ("live", 1440, 900, "light", "Live", "Sunflower"),
    ("models", 1440, 900, "light", "Models", "Sunflower"),
]


def main(url: str) -> None:
    folder = ASSETS / "screenshots"
    folder.mkdir(exist_ok=True)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as temporary:
        film = Path(temporary) / "film.mjpeg"
        with Image.open(examples()[0].path) as picture:
            buffer = io.BytesIO()
            picture.convert("RGB").resize((640, 640)).save(buffer, format="JPEG", quality=92)
        film.write_bytes(buffer.getvalue() * 20)
        flags = [*FLAGS, f"--use-file-for-fake-video-capture={film}"]
        browser = playwright.chromium.launch(executable_path=chromium(), args=flags)
        for name, width, height, scheme, tab, example in SHOTS:
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
            page.goto(f"{url}?tab=explain&model=mae-mini" if name == "mae" else url)
            page.wait_for_function("window.vitdemoOpened")
            page.get_by_role("tab", name=tab).click()
            page.locator("#examples").get_by_role("button", name=example).click()
            if tab == "Live":
                page.locator("#live .vd-start").click()
            if name == "explain-dark":
                page.wait_for_timeout(1500)
                page.locator("#explained .vd-heads summary").click()
            page.wait_for_timeout(3000)
            page.mouse.move(0, 0)
            if name == "mae":
                page.locator("#rebuilt").scroll_into_view_if_needed()
            page.screenshot(path=folder / f"{name}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
