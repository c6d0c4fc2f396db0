"""Take the README's pictures anew: `python -m tests.browser.screenshots URL` on a running app."""

from __future__ import annotations

import sys

from playwright.sync_api import sync_playwright

from tests.browser.conftest import FLAGS, chromium
from vitdemo.settings import ASSETS

SHOTS = [
    ("compare", 1440, 1020, "light", "Compare", "Sunflower"),
    ("explain-dark", 1440, 900, "dark", "Explain", "Pyramid"),
    ("compare-phone", 390, 1500, "light", "Compare", "Crocodile"),
]


def main(url: str) -> None:
    folder = ASSETS / "screenshots"
    folder.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        for name, width, height, scheme, tab, example in SHOTS:
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
            page.goto(url)
            page.wait_for_selector("#compared .vd-panel canvas")
            page.get_by_role("tab", name=tab).click()
            page.locator("#examples").get_by_role("button", name=example).click()
            page.wait_for_timeout(3000)
            page.mouse.move(0, 0)
            page.screenshot(path=folder / f"{name}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
