"""Take the documentation's pictures anew: `python -m scripts.screenshots URL` on a running app."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.browser.driver import film, launched, opened
from vitdemo.settings import ASSETS

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
    with tempfile.TemporaryDirectory() as temporary, launched(film(Path(temporary) / "film.mjpeg")) as browser:
        for name, width, height, scheme, tab, example in SHOTS:
            with opened(browser, width, height, color_scheme=scheme) as context:
                page = context.new_page()
                page.goto(f"{url}?tab=explain&model=mae-mini" if name == "mae" else url)
                page.wait_for_function("window.vitdemoOpened")
                page.get_by_role("tab", name=tab).click()
                page.locator("#examples").get_by_role("button", name=example).click()
                page.evaluate("window.settled()")
                if tab == "Live":
                    page.locator("#live .vd-start").click()
                    page.locator("#live [data-model]").wait_for()
                if name == "explain-dark":
                    page.locator("#explained .vd-heads summary").click()
                page.mouse.move(0, 0)
                if name == "mae":
                    page.locator("#rebuilt").scroll_into_view_if_needed()
                # Colours that are on their way to others are not what a person sees.
                page.evaluate("Promise.all(document.getAnimations().map((one) => one.finished.catch(() => {})))")
                page.screenshot(path=folder / f"{name}.png")


if __name__ == "__main__":
    main(sys.argv[1])
